"""What a slow, a greedy or a merely silent downstream costs: memory stays bounded, and others do not wait for it."""

from __future__ import annotations

import hashlib
import resource
import socket
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from tests.bench.cases import run_loader
from tests.bench.loader import hold_connections
from tests.support import procfs
from tests.support.http import Downstream, Ended, Reader, get, request_bytes
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import Link, NginxOrigin, ScriptedOrigin, answer_bytes
from tests.support.ports import free_port, free_ports
from tests.support.processes import ROOT, Daemon, LbdDaemon, start_lbd, start_nginx, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http import Message

SIZE = 20 << 20
GROWTH = 1 << 20  # bytes that a worker may grow by for one slow connection: two windows of 64 KiB, and what an allocator rounds up
MANY = 10_000


class Reluctant:
    """An origin that takes a connection, and nothing from it until it is told to."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # the kernel's own are large enough for a whole upload
        self.port = self.listener.getsockname()[1]
        self.willing = threading.Event()
        self.has_come = threading.Event()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        try:
            sock, _ = self.listener.accept()
        except OSError:  # shut down before anybody came
            return
        with sock:
            self.has_come.set()
            self.willing.wait(30)
            reader = Reader(sock)
            try:
                message = reader.request_body(reader.head())
                sock.sendall(answer_bytes(200, hashlib.sha256(message.body).hexdigest().encode()))
            except (Ended, OSError):
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.willing.set()
        self.listener.shutdown(socket.SHUT_RDWR)  # wakes the thread, which close alone does not
        self.listener.close()
        self.thread.join(5.0)


def in_chunks(link: Link, message: Message) -> bool:
    """SIZE bytes, each piece as large as a careless application makes it."""
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"%x\r\n%b\r\n" % (1 << 20, b"c" * (1 << 20))
    for _ in range(SIZE >> 20):
        link.send(piece)
    link.send(b"0\r\n\r\n")
    return True


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    files: NginxOrigin
    scripted: ScriptedOrigin
    reluctant: Reluctant
    port: int

    @property
    def worker(self) -> int:
        (worker,) = self.lbd.workers()
        return worker


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NginxOrigin]]:
    directory = tmp_path_factory.mktemp("files")
    with NginxOrigin(directory, name="quick") as quick, NginxOrigin(directory, name="files") as files:
        yield [quick, files]


@pytest.fixture(params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, origins: list[NginxOrigin], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    port, admin = free_ports(2)
    quick, files = origins
    with ScriptedOrigin(behave=in_chunks) as scripted, Reluctant() as reluctant:
        text = f"""
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "files"
[[listener.web.route]]
path = "/quick"
rewrite = {{ path = "/126" }}
cluster = "quick"
[[listener.web.route]]
path = "/chunks"
cluster = "scripted"
[[listener.web.route]]
path = "/reluctant"
cluster = "reluctant"
[cluster.files]
endpoints = ["127.0.0.1:{files.port}"]
[cluster.quick]
endpoints = ["127.0.0.1:{quick.port}"]
[cluster.scripted]
endpoints = ["{scripted.address}"]
[cluster.reluctant]
endpoints = ["127.0.0.1:{reluctant.port}"]
"""
        with start_lbd(text, tmp_path_factory.mktemp("lbd"), pure=request.param) as lbd:
            assert get(port, "/1m").status == 200  # what is loaded on the first request is not the price of the second
            yield Lab(lbd, files, scripted, reluctant, port)
            assert lbd.metric("lbd_faults_total") == 0


in_one_mode = pytest.mark.parametrize("lab", [False], ids=["compiled"], indirect=True)  # they take ten seconds each


@pytest.mark.parametrize("path", ["/100m", "/chunks"])
def test_a_slow_reader(lab: Lab, path: str) -> None:
    """lbd takes from the origin only what the downstream has room for."""
    with Downstream(lab.port, timeout=30) as warm:
        warm.ask("GET", path)
    before = procfs.rss_of(lab.worker)
    with ExitStack() as stack:
        slow = [stack.enter_context(Downstream(lab.port, timeout=30)) for _ in range(4)]
        for downstream in slow:
            downstream.send(request_bytes("GET", path))
        time.sleep(0.5)
        grown = procfs.rss_of(lab.worker) - before
        print(f"{grown >> 10} KiB for four")
        assert grown < 4 * GROWTH
        assert get(lab.port).status == 200
        body = slow[0].final().body
    if path == "/100m":
        assert body == (lab.files.directory / "files" / "100m").read_bytes()
    else:
        assert body == b"c" * SIZE
    assert procfs.rss_of(lab.worker) - before < 4 * GROWTH


@pytest.mark.parametrize("is_chunked", [False, True], ids=["sized", "chunked"])
def test_a_slow_origin(lab: Lab, is_chunked: bool) -> None:
    """Which does not take the upload: the downstream is held up, and nothing is piled up."""
    body = b"u" * SIZE
    with Downstream(lab.port, timeout=30) as warm:
        assert warm.ask("POST", "/sink", {}, body).status == 200
    before = procfs.rss_of(lab.worker)
    with Downstream(lab.port, timeout=30) as downstream:
        downstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        sender = threading.Thread(target=upload, args=(downstream, body, is_chunked))
        sender.start()
        assert lab.reluctant.has_come.wait(5.0)
        time.sleep(0.5)
        grown = procfs.rss_of(lab.worker) - before
        print(f"{grown >> 10} KiB")
        assert sender.is_alive()  # held up
        assert grown < GROWTH
        assert get(lab.port).status == 200
        lab.reluctant.willing.set()
        assert downstream.final().body.decode() == hashlib.sha256(body).hexdigest()
        sender.join(10)


def upload(downstream: Downstream, body: bytes, is_chunked: bool) -> None:
    if not is_chunked:
        downstream.send(request_bytes("POST", "/reluctant", {}, body))
        return
    downstream.send(b"POST /reluctant HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    for place in range(0, len(body), 1 << 20):
        downstream.send(b"%x\r\n%b\r\n" % (1 << 20, body[place : place + (1 << 20)]))
    downstream.send(b"0\r\n\r\n")


def test_a_pipeline_that_nobody_reads(lab: Lab) -> None:
    """Requests are taken as answers leave: no more of them lie in memory than a window's worth."""
    before = procfs.rss_of(lab.worker)
    with Downstream(lab.port, timeout=30) as downstream:
        sender = threading.Thread(target=flood, args=(downstream,))
        sender.start()
        time.sleep(1.0)
        grown = procfs.rss_of(lab.worker) - before
        print(f"{grown >> 10} KiB")
        assert grown < GROWTH
        assert get(lab.port).status == 200
    sender.join(10)
    wait_until(lambda: lab.lbd.metric("lbd_downstream_connections", listener="web") == 0, "the end of it")


def flood(downstream: Downstream) -> None:
    try:
        for _ in range(5_000):
            downstream.send(request_bytes("GET", "/10k"))
    except OSError:  # closed by the test, while we are held up
        return


NGINX = """\
daemon off;
pid nginx.pid;
worker_processes 1;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000;
    proxy_http_version 1.1;
    proxy_max_temp_file_size 0;
    proxy_set_header Connection "";
    upstream files {{ server 127.0.0.1:{files}; keepalive 20; }}
    upstream quick {{ server 127.0.0.1:{quick}; keepalive 20; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://files; }}
        location = /quick {{ proxy_pass http://quick/126; }}
    }}
}}
"""


@pytest.mark.alone
@in_one_mode
@pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)
def test_the_greedy_do_not_starve_the_others(lab: Lab, origins: list[NginxOrigin], tmp_path: Path) -> None:
    """One connection downloads as fast as it can, eight pipeline; others ask now and then, and wait hardly longer than with nginx.

    Only the balancer's fairness is meant: those who ask have an origin of their own. A machine with little time to give makes
    everybody wait, so nginx is the measure, in turns.
    """
    port = free_port()
    quick, files = origins
    text = NGINX.format(directory=tmp_path, port=port, files=files.port, quick=quick.port)
    waits: dict[str, list[float]] = {"lbd alone": [], "lbd": [], "nginx": []}
    with start_nginx(text, tmp_path, port):
        for _ in range(2):
            waits["lbd alone"].append(p99_of(lab.port))
            for name, which in (("lbd", lab.port), ("nginx", port)):
                with greed(which, tmp_path):
                    waits[name].append(p99_of(which))
    print(", ".join(f"{name}: {' '.join(f'{seconds * 1000:.1f}' for seconds in of)} ms" for name, of in waits.items()))
    assert min(waits["lbd"]) < max(5 * min(waits["lbd alone"]), 3 * max(waits["nginx"]))


def p99_of(port: int) -> float:
    return run_loader("paced", port, path="/quick", rate=200, seconds=1.5, connections=4)["p99"] / 1e6


@contextmanager
def greed(port: int, directory: Path) -> Iterator[None]:
    downloading = [sys.executable, "-m", "tests.bench.loader", "drain", "--port", str(port), "--path", "/100m", "--connections", "1"]
    with (
        Daemon([*downloading, "--seconds", "30"], directory, name="drain", environment={"PYTHONPATH": str(ROOT)}),
        IdLoad(port, connections=8, pipeline=100) as load,
    ):
        yield
    load.counts().assert_clean()


@pytest.mark.alone
@in_one_mode
@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * MANY, reason=f"this machine allows fewer than {2 * MANY} descriptors"
)
def test_ten_thousand_idle_connections(lab: Lab) -> None:
    """All are held, all are still answered, and they cost little."""
    lab.lbd.growth = 48 << 20  # what held them is kept for the next ones
    before = procfs.rss_of(lab.worker)
    with hold_connections(lab.port, MANY) as held:
        each = (procfs.rss_of(lab.worker) - before) / MANY / 1024
        print(f"{each:.1f} KiB each")
        assert lab.lbd.metric("lbd_downstream_connections", listener="web") == MANY
        assert {downstream.ask("GET", "/").status for downstream in held[::37]} == {200}
        assert get(lab.port).status == 200
        assert each < 8.0
    wait_until(lambda: lab.lbd.metric("lbd_downstream_connections", listener="web") == 0, "their end", 30.0)
    assert get(lab.port).status == 200
