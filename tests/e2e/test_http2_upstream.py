"""lbd before endpoints that speak HTTP/2: nginx's, the h2 package's, and lbd's own."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.certificates import Authority
from tests.support.http import Downstream, get, request_bytes
from tests.support.http2_origin import Http2Origin, bytes_of
from tests.support.origins import BODIES, NginxOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import LbdDaemon, find_program, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SIZE = 10 << 20


def config(port: int, *endpoints: int, http2: str = "", cluster: str = "", lbd: str = "workers = 1") -> str:
    addresses = ", ".join(f'"127.0.0.1:{endpoint}"' for endpoint in endpoints)
    return f"""\
[lbd]
{lbd}

[admin]
bind = "127.0.0.1:{free_port()}"

[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"

[cluster.web]
endpoints = [{addresses}]
protocol = "h2"
{cluster}

[cluster.web.http2]
{http2}
"""


@pytest.fixture
def origin() -> Iterator[Http2Origin]:
    with Http2Origin() as origin:
        yield origin


@pytest.fixture
def port() -> int:
    return free_port()


def curl(*arguments: str) -> bytes:
    program = find_program("curl")
    if program is None:
        pytest.skip("needs curl")
    done = subprocess.run([program, "-sS", "--max-time", "30", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def test_methods_bodies_and_trailers(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    with start_lbd(config(port, origin.port), tmp_path), Downstream(port) as downstream:
        assert downstream.ask("GET", "/small").body == b"origin"
        assert downstream.ask("HEAD", "/small").get("content-length") == "6"
        body = bytes_of(200_000, 1)
        assert downstream.ask("POST", "/hash", body=body).body.decode() == digest(body)
        downstream.send(b"PUT /trailers HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Mine: 1\r\n\r\n")
        answer = downstream.final()
        assert (answer.body, answer.trailers) == (b"body", [("x-sum", "4"), ("x-mine", "1")])
        assert downstream.ask("POST", "/early", body=body).status == 413
        assert origin.connections == 1


@pytest.mark.parametrize("downstream_is_http2", [False, True])
def test_ten_megabytes_both_ways_with_stalls(downstream_is_http2: bool, origin: Http2Origin, port: int, tmp_path: Path) -> None:
    flag = "--http2-prior-knowledge" if downstream_is_http2 else "--http1.1"
    body = bytes_of(SIZE, 7)
    (tmp_path / "body").write_bytes(body)
    with start_lbd(config(port, origin.port), tmp_path) as lbd:
        url = f"http://127.0.0.1:{port}"
        assert digest(curl(flag, f"{url}/bytes/{SIZE}/3/stalls")) == digest(bytes_of(SIZE, 3))
        assert curl(flag, "--data-binary", f"@{tmp_path}/body", "-H", "Expect:", f"{url}/hash").decode() == digest(body)
        assert curl(flag, "-T", f"{tmp_path}/body", f"{url}/late/0.3").decode() == digest(body)
        assert lbd.metric("lbd_faults_total") == 0


def test_many_at_once_over_one_connection_each_with_its_own_bytes(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    with start_lbd(config(port, origin.port), tmp_path) as lbd:
        failures: list[str] = []

        def fetch(seed: int) -> None:
            dice = random.Random(seed)
            with Downstream(port, timeout=30.0) as downstream:
                for _ in range(5):
                    size = dice.randrange(300_000)
                    if dice.random() < 0.5:
                        body = downstream.ask("GET", f"/bytes/{size}/{seed}/stalls").body
                        if digest(body) != digest(bytes_of(size, seed)):
                            failures.append(f"GET {size} {seed}")
                    else:
                        sent = bytes_of(size, seed)
                        if downstream.ask("POST", "/hash", body=sent).body.decode() != digest(sent):
                            failures.append(f"POST {size} {seed}")

        run_all([lambda seed=seed: fetch(seed) for seed in range(40)])  # type: ignore[misc]
        assert not failures
        assert origin.connections == 1
        assert lbd.metric("lbd_upstream_connections_opened_total", cluster="web") == 1


def run_all(functions: list[Callable[[], None]]) -> None:
    """Each in a thread; the first error of any is raised."""
    errors: list[BaseException] = []

    def run(function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    if errors:
        raise errors[0]


def test_a_slow_reader_stops_only_its_own_stream_and_costs_a_window(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    with start_lbd(config(port, origin.port), tmp_path) as lbd, socket.create_connection(("127.0.0.1", port)) as slow:
        get(port, "/small")
        (worker,) = lbd.workers()
        before = procfs.rss_of(worker)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        slow.sendall(request_bytes("GET", f"/bytes/{4 * SIZE}/1"))
        time.sleep(1.0)
        for seed in range(20):
            assert digest(get(port, f"/bytes/100000/{seed}").body) == digest(bytes_of(100_000, seed))
        grown = procfs.rss_of(worker) - before
        print(f"a slow reader of {4 * SIZE} bytes: {grown / 1024:.0f} KiB")
        assert grown < 4 << 20
        assert origin.connections == 1


def test_a_downstream_that_goes_away_cancels_its_stream_only(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    with start_lbd(config(port, origin.port), tmp_path):
        with Downstream(port) as downstream:
            downstream.send(request_bytes("GET", "/hold"))
            wait_until(lambda: "/hold" in origin.paths(), "the request")
        wait_until(lambda: origin.resets == [(1, 8)], "CANCEL")
        assert get(port, "/small").body == b"origin"
        assert origin.connections == 1


def test_goaway_in_mid_flight_loses_nothing(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    """A POST that was not looked at is sent again, what was looked at ends where it is."""
    with start_lbd(config(port, origin.port), tmp_path) as lbd, Downstream(port) as held, Downstream(port) as other:
        held.send(request_bytes("GET", "/hold"))
        wait_until(lambda: "/hold" in origin.paths(), "the request")
        other.send(request_bytes("POST", "/goaway", body=b"hi"))  # each connection but a fresh one answers it with a GOAWAY
        wait_until(lambda: origin.connections >= 2, "another connection")
        origin.released.set()
        assert held.final().body == b"origin"
        assert get(port, "/small").status == 200
        assert lbd.metric("lbd_retries_total", reason="upstream_refused") >= 1


def test_refused_streams_are_sent_again(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    with start_lbd(config(port, origin.port), tmp_path) as lbd, Downstream(port) as downstream:
        assert downstream.ask("GET", "/small").status == 200
        origin.refusals = 1
        assert downstream.ask("POST", "/hash", body=b"hi").body.decode() == digest(b"hi")
        assert lbd.metric("lbd_retries_total", reason="upstream_refused") == 1


def test_full_connections_lead_to_more(port: int, tmp_path: Path) -> None:
    with Http2Origin(max_streams=4) as origin, start_lbd(config(port, origin.port), tmp_path) as lbd:
        downstreams = [Downstream(port, timeout=20.0) for _ in range(18)]
        for downstream in downstreams:
            downstream.send(request_bytes("GET", "/hold"))
        wait_until(lambda: origin.paths().count("/hold") == 18, "all requests")
        assert origin.connections == 5
        wait_until(lambda: lbd.metric("lbd_upstream_connections", cluster="web", state="active") == 5, "the gauge")
        origin.released.set()
        for downstream in downstreams:
            assert downstream.final().status == 200
            downstream.close()
        wait_until(lambda: lbd.metric("lbd_upstream_connections", cluster="web", state="idle") == 0, "the idle timeout")


def test_an_origin_that_restarts_fails_no_get(port: int, tmp_path: Path) -> None:
    """It leaves as it should: GOAWAY, then it finishes; the new one is there before."""
    first, second = Http2Origin(name="first"), Http2Origin(name="second")
    text = config(port, first.port, second.port)
    statuses: list[int] = []
    is_over = threading.Event()

    def load() -> None:
        with Downstream(port) as downstream:
            while not is_over.is_set():
                statuses.append(downstream.ask("GET", "/small").status)

    with first, second, start_lbd(text, tmp_path):
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(0.3)
            old_port = first.port
            first.leave()
            time.sleep(0.1)
            first.stop()
            time.sleep(0.1)  # nobody is there: the other one serves
            first = Http2Origin(old_port, name="first")
        time.sleep(0.3)
        is_over.set()
        for thread in threads:
            thread.join(10.0)
        first.stop()
    assert len(statuses) > 200
    assert set(statuses) == {200}


def test_an_origin_that_is_killed_fails_no_get(port: int, tmp_path: Path) -> None:
    with NginxOrigin(tmp_path / "nginx", 2, options="http2") as nginx, start_lbd(config(port, *nginx.ports), tmp_path) as lbd:
        statuses: list[int] = []
        is_over = threading.Event()

        def load() -> None:
            with Downstream(port) as downstream:
                while not is_over.is_set():
                    statuses.append(downstream.ask("GET", "/").status)

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(0.3)
        assert nginx.daemon is not None
        for worker in nginx.daemon.workers():  # its master starts another one, with the same sockets
            os.kill(worker, signal.SIGKILL)
        time.sleep(0.5)
        is_over.set()
        thread.join(10.0)
        assert set(statuses) == {200}
        assert lbd.metric("lbd_faults_total") == 0


@pytest.mark.parametrize("is_http2", [False, True])
def test_nginx_that_ends_connections_after_few_requests(is_http2: bool, port: int, tmp_path: Path) -> None:
    """With GOAWAY after each 50, while others are under way."""
    h2load = find_program("h2load")
    if h2load is None:
        pytest.skip("needs h2load")
    settings = "keepalive_requests 50; http2_max_concurrent_streams 16;"
    how = ["-c2", "-m30"] if is_http2 else ["--h1", "-c50"]
    with NginxOrigin(tmp_path / "nginx", options="http2", settings=settings) as nginx, start_lbd(config(port, nginx.port), tmp_path) as lbd:
        done = subprocess.run([h2load, "-n4000", *how, f"http://127.0.0.1:{port}/"], capture_output=True, check=True, text=True)
        assert "4000 succeeded, 0 failed" in done.stdout
        assert lbd.metric("lbd_upstream_connections_opened_total", cluster="web") > 70
        assert lbd.metric("lbd_retries_total", reason="upstream_refused") < 100  # after the second time the limit is known
        assert digest(get(port, "/1m").body) == digest((tmp_path / "nginx/files/1m").read_bytes())
        assert len(get(port, "/10k").body) == BODIES["10k"]


@pytest.mark.alone
def test_a_thousand_streams_on_one_connection_up_and_down(port: int, tmp_path: Path) -> None:
    h2load = find_program("h2load")
    if h2load is None:
        pytest.skip("needs h2load")
    settings = "keepalive_requests 1000000; http2_max_concurrent_streams 1000;"
    back = free_port()
    text = config(port, back, http2="max_streams = 1000") + "\n[listener.web.http2]\nmax_streams = 1000\n"
    nginx = NginxOrigin(tmp_path / "nginx", ports=[back], options="http2", settings=settings)
    with nginx, start_lbd(text, tmp_path) as lbd:
        lbd.growth = 64 << 20  # what is bounded below, at its height; allocators may keep it
        (worker,) = lbd.workers()
        before = procfs.rss_of(worker)
        for path, count, streams in (("/", 5000, 1000), ("/1m", 300, 100)):
            arguments = [h2load, f"-n{count}", "-c1", f"-m{streams}", f"http://127.0.0.1:{port}{path}"]
            done = subprocess.run(arguments, capture_output=True, check=True, text=True)
            assert f"{count} succeeded, 0 failed" in done.stdout
        grown = procfs.rss_of(worker) - before
        print(f"1,000 streams, then 100 with bodies of 1 MiB: {grown >> 20} MiB more")
        assert grown < 64 << 20
        assert lbd.metric("lbd_upstream_connections_opened_total", cluster="web") <= 2


@pytest.mark.parametrize(
    ("protocol", "options", "is_shared"), [("h2", "ssl http2", True), ("auto", "ssl http2", True), ("auto", "ssl", False)]
)
def test_what_endpoints_choose_by_alpn(protocol: str, options: str, is_shared: bool, port: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("nginx", "127.0.0.1")
    settings = f"ssl_certificate {cert}; ssl_certificate_key {key};"
    with NginxOrigin(tmp_path / "nginx", options=options, settings=settings) as nginx:
        text = config(port, nginx.port, cluster=f'tls = {{ ca = "{authority.file}" }}').replace('"h2"', f'"{protocol}"')
        with start_lbd(text, tmp_path) as lbd, ExitStack() as stack:
            downstreams = [stack.enter_context(Downstream(port)) for _ in range(10)]
            for _ in range(3):
                for downstream in downstreams:
                    downstream.send(request_bytes("GET", "/1m"))
                for downstream in downstreams:
                    assert digest(downstream.final().body) == digest((tmp_path / "nginx/files/1m").read_bytes())
            body = bytes_of(1_000_000, 3)
            assert downstreams[0].ask("POST", "/sink", body=body).status == 200
            opened = lbd.metric("lbd_upstream_connections_opened_total", cluster="web")
            assert opened == 1 if is_shared else 1 < opened <= 10  # an early answer leaves its connection to a late request


def test_h2_is_not_spoken_with_whom_does_not_choose_it(port: int, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    cert, key = authority.issue("nginx", "127.0.0.1")
    settings = f"ssl_certificate {cert}; ssl_certificate_key {key};"
    back = free_port()
    text = config(port, back, cluster=f'tls = {{ ca = "{authority.file}" }}')
    with NginxOrigin(tmp_path / "nginx", ports=[back], options="ssl", settings=settings), start_lbd(text, tmp_path) as lbd:
        assert get(port, "/").status == 502
        lbd.wait_for_log('"reason":"upstream_tls_failed"')  # nginx refuses whom it has no protocol in common with


def test_a_chain_of_two(origin: Http2Origin, tmp_path: Path) -> None:
    """HTTP/1 or HTTP/2 to the first, HTTP/2 between the two, HTTP/2 to the origin."""
    front, back = free_ports(2)
    body = bytes_of(1_000_000, 5)
    (tmp_path / "body").write_bytes(body)
    with start_lbd(config(back, origin.port), tmp_path / "back"), start_lbd(config(front, back), tmp_path / "front"):
        for flag in ("--http1.1", "--http2-prior-knowledge"):
            url = f"http://127.0.0.1:{front}"
            assert curl(flag, "--data-binary", f"@{tmp_path}/body", "-H", "Expect:", f"{url}/hash").decode() == digest(body)
            assert digest(curl(flag, f"{url}/bytes/1000000/4/stalls")) == digest(bytes_of(1_000_000, 4))
        with Downstream(front) as downstream:
            assert downstream.ask("GET", "/trailers").trailers == [("x-sum", "4")]
        assert origin.connections == 1


def test_a_reload_keeps_connections_and_a_change_of_them_keeps_requests(origin: Http2Origin, port: int, tmp_path: Path) -> None:
    text = config(port, origin.port)
    with start_lbd(text, tmp_path) as lbd, Downstream(port) as held:
        held.send(request_bytes("GET", "/hold"))
        wait_until(lambda: "/hold" in origin.paths(), "the request")
        lbd.reload(text.replace("workers = 1", 'workers = 1\ndrain_timeout = "20s"'))
        assert get(port, "/small").get("x-connection") == "1"
        lbd.reload(text.replace("[cluster.web.http2]", "[cluster.web.http2]\nmax_streams = 7"))
        assert get(port, "/small").get("x-connection") == "2"
        origin.released.set()
        assert held.final().get("x-connection") == "1"
        assert get(port, "/small").get("x-connection") == "2"


def test_an_endpoint_that_speaks_no_http2_is_named_as_such(port: int, tmp_path: Path) -> None:
    with NginxOrigin(tmp_path / "nginx") as nginx, start_lbd(config(port, nginx.port), tmp_path) as lbd:
        assert get(port, "/").status == 502
        lbd.wait_for_log('"reason":"connect_failed"')
        lbd.wait_for_log("no HTTP/2 connection")
        assert isinstance(lbd, LbdDaemon)
