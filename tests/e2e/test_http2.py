"""HTTP/2 in plain text with programs that people use, and with the h2 package on a socket: curl, nghttp, h2load; attackers too."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import random
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest

from tests.e2e.test_proxy import curl, digest, needs, run
from tests.support import procfs
from tests.support.certificates import Authority
from tests.support.http2 import Http2Socket
from tests.support.origins import NginxOrigin, ScriptedOrigin
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until
from tests.wire.http2_frames import ENHANCE_YOUR_CALM, PREFACE, frames_of, goaways_of, headers, raw, reset, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Lab:
    """lbd before a scripted origin and an nginx with files; one listener has raised limits."""

    lbd: LbdDaemon
    origin: ScriptedOrigin | StallingEcho
    port: int
    wide_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def config(origin: ScriptedOrigin | StallingEcho, files: NginxOrigin, directory: Path, ports: list[int]) -> str:
    routes = [
        f'[[listener.{name}.route]]\npath_exact = "/{path}"\ncluster = "files"'
        for name in ("web", "wide")
        for path in ("126", "1m", "100m")
    ]
    return f"""
[lbd]
workers = 1
drain_timeout = "8s"
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{ports[2]}"
[listener.web]
bind = "127.0.0.1:{ports[0]}"
cluster = "web"
http2 = {{ max_resets = 200 }}
[listener.wide]
bind = "127.0.0.1:{ports[1]}"
cluster = "web"
http2 = {{ max_streams = 1000, connection_window = "64MiB" }}
{chr(10).join(routes)}
[cluster.web]
endpoints = ["{origin.address}"]
[cluster.files]
endpoints = ["127.0.0.1:{files.port}"]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxOrigin]:
    with NginxOrigin(tmp_path_factory.mktemp("files")) as started:
        yield started


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, files: NginxOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with started(files, tmp_path_factory.mktemp("lbd"), pure=request.param) as lab:
        yield lab


@pytest.fixture(params=[False, True], ids=["compiled", "pure"])
def fresh(request: pytest.FixtureRequest, files: NginxOrigin, tmp_path: Path) -> Iterator[Lab]:
    """For one test alone: memory that others have given back would hide what this one takes."""
    with started(files, tmp_path, pure=request.param) as lab:
        yield lab


@contextlib.contextmanager
def started(files: NginxOrigin, directory: Path, origin: ScriptedOrigin | StallingEcho | None = None, *, pure: bool) -> Iterator[Lab]:
    ports = free_ports(3)
    with contextlib.ExitStack() as stack:
        origin = origin or stack.enter_context(ScriptedOrigin())
        lbd = stack.enter_context(start_lbd(config(origin, files, directory, ports), directory, pure=pure))
        lbd.growth = 32 << 20  # a thousand streams at once, and bodies of megabytes on hundreds
        yield Lab(lbd, origin, ports[0], ports[1])
        assert lbd.metric("lbd_faults_total") == 0
        wait_until(lambda: lbd.metric("lbd_http2_streams") == 0, "the last stream to end")


# Programs


@needs("curl")
def test_curl_gets(lab: Lab) -> None:
    out = curl("--http2-prior-knowledge", f"{lab.url}/", "-H", "x-id: seven", "-w", " %{http_code} %{http_version}")
    assert out == b"seven 200 2"
    wait_until(lambda: '"protocol":"HTTP/2"' in (lab.lbd.directory / "access.log").read_text(), "the line in the log")


@needs("curl")
@pytest.mark.parametrize("how", ["--data-binary", "-T"])
def test_curl_uploads(lab: Lab, tmp_path: Path, how: str) -> None:
    """With and without a length, 10 MB up and down again."""
    sent, came = tmp_path / "sent", tmp_path / "came"
    sent.write_bytes(os.urandom(10 << 20))
    body = f"@{sent}" if how == "--data-binary" else "-"
    curl("--http2-prior-knowledge", how, body, "-o", came, f"{lab.url}/echo", stdin=sent.read_bytes() if how == "-T" else b"")
    assert digest(came.read_bytes()) == digest(sent.read_bytes())


@needs("curl")
def test_curl_sees_hints_and_trailers(lab: Lab) -> None:
    assert "< HTTP/2 103" in run("curl", "-sSv", "--http2-prior-knowledge", f"{lab.url}/hints").stderr.decode()
    dialogue = run("curl", "-sSv", "--http2-prior-knowledge", f"{lab.url}/stream/3/0.01")
    assert b"< x-sum: 3" in dialogue.stderr
    assert dialogue.stdout == b"chunk 0\nchunk 1\nchunk 2\n"


@needs("curl")
def test_curl_that_asks_to_upgrade_gets_an_answer_in_http_1(lab: Lab) -> None:
    assert curl("--http2", f"{lab.url}/", "-w", " %{http_code} %{http_version}") == b"ok 200 1.1"


@needs("nghttp")
def test_nghttp(lab: Lab) -> None:
    out = run("nghttp", "-v", "-n", f"{lab.url}/bytes/100000", f"{lab.url}/126").stdout.decode()
    assert out.count(":status: 200") == 2
    assert "GOAWAY" not in out.replace("send GOAWAY", "")


@needs("nghttp")
def test_nghttp_with_padding_continuation_and_trailers(lab: Lab, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"x" * 100_000)
    out = run("nghttp", "-b", "255", "--continuation", "--trailer", "x-last: 1", "-d", body, "-s", f"{lab.url}/echo").stdout.decode()
    assert re.search(r" 200 +97K ", out), out


@needs("h2load")
def test_h2load(lab: Lab) -> None:
    out = run("h2load", "-n", "3000", "-c", "10", "-m", "30", f"{lab.url}/126").stdout.decode()
    assert "3000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    assert "status codes: 3000 2xx" in out


@needs("h2load")
def test_1000_streams_on_one_connection(fresh: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab, before = fresh, memory_of(fresh)
    out = run(
        "h2load", "-n", "5000", "-c", "1", "-m", "1000", "-w", "20", "-W", "26", f"http://127.0.0.1:{lab.wide_port}/126"
    ).stdout.decode()
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    grown = memory_of(lab) - before
    with capsys.disabled():
        print(f"\n1,000 streams on one connection: {grown:.1f} MB more than before, {memory_of(lab):.1f} MB")
    assert grown < 16


def test_1000_streams_at_once_each_with_half_a_body(fresh: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them are there at the same time, with an upstream connection each."""
    lab, before = fresh, memory_of(fresh)
    with Http2Socket(lab.wide_port) as them:
        numbers = [them.post("/echo", (b"content-length", b"8")) for _ in range(1000)]
        for number in numbers:
            them.send(number, b"%04d" % (number % 10_000))
        wait_until(lambda: lab.lbd.metric("lbd_endpoint_inflight", cluster="web") == 1000, "all to be at the origin")
        assert lab.lbd.metric("lbd_http2_streams", listener="wide") == 1000
        grown = memory_of(lab) - before
        for number in numbers:
            them.send(number, b"done", ends=True)
        for number in numbers:
            assert them.answer(number).body == b"%04ddone" % (number % 10_000)
    with capsys.disabled():
        print(f"\n1,000 streams at once: {grown:.1f} MB more than before, {grown:.0f} KB each")
    assert grown < 24


@needs("h2load")
def test_1000_connections(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    before = memory_of(lab)
    out = run("h2load", "-n", "5000", "-c", "1000", "-m", "2", f"{lab.url}/126").stdout.decode()
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    grown = memory_of(lab) - before
    assert grown < 64
    with capsys.disabled():
        print(f"\n1,000 connections of HTTP/2: {grown:.1f} MB more than before, {grown:.0f} KB each")


def memory_of(lab: Lab) -> float:
    return max(procfs.rss_of(pid) for pid in lab.lbd.workers()) / 1e6


# TLS


@pytest.fixture(scope="module")
def secure(files: NginxOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port, and the authority's certificate."""
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    cert, key = authority.issue("localhost", "localhost")
    ports = free_ports(3)
    with ScriptedOrigin() as origin:
        text = config(origin, files, directory, ports)
        text = text.replace("http2 = { max_resets", f'tls = {{ cert = "{cert}", key = "{key}" }}\nhttp2 = {{ max_resets')
        with start_lbd(text, directory) as lbd:
            yield ports[0], authority.file
            assert lbd.metric("lbd_faults_total") == 0


@needs("curl")
def test_curl_over_tls_many_at_once(secure: tuple[int, Path]) -> None:
    port, authority = secure
    urls = [f"https://localhost:{port}/bytes/{size}" for size in (1, 10_000, 300_000)]
    out = curl("--cacert", authority, "-Z", *urls, *["-o", "/dev/null"] * 3, "-w", "%{http_version} %{size_download}\n")
    assert sorted(line for line in out.splitlines() if line.startswith(b"2 ")) == [b"2 1", b"2 10000", b"2 300000"]


@needs("curl")
def test_curl_over_tls_uses_its_connection_again(secure: tuple[int, Path]) -> None:
    port, authority = secure
    urls = [f"https://localhost:{port}/bytes/{size}" for size in (1, 10_000, 300_000)]
    out = curl("--cacert", authority, *urls, *["-o", "/dev/null"] * 3, "-w", "%{num_connects} %{size_download}\n")
    assert out == b"1 1\n0 10000\n0 300000\n"


@needs("curl")
def test_curl_over_tls_uploads(secure: tuple[int, Path], tmp_path: Path) -> None:
    port, authority = secure
    sent, came = tmp_path / "sent", tmp_path / "came"
    sent.write_bytes(os.urandom(10 << 20))
    curl("--cacert", authority, "--data-binary", f"@{sent}", "-o", came, f"https://localhost:{port}/echo")
    assert digest(came.read_bytes()) == digest(sent.read_bytes())


@needs("h2load")
def test_h2load_over_tls(secure: tuple[int, Path]) -> None:
    out = run("h2load", "-n", "2000", "-c", "10", "-m", "20", f"https://localhost:{secure[0]}/126").stdout.decode()
    assert "2000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    assert "Application protocol: h2" in out


# Flow control


def test_a_slow_reader_holds_up_nobody_and_no_memory(lab: Lab) -> None:
    """100 MB that nobody reads, beside requests of the same connection that are answered."""
    with Http2Socket(lab.port, reads_bodies=False) as them:
        them.answer(them.get("/126"))
        before = memory_of(lab)
        slow = [them.get("/100m") for _ in range(20)]
        them.until(lambda: sum(len(them.answers[number].body) for number in slow) >= 65535 - 126)
        them.connection.increment_flow_control_window(64 << 20)
        them.flush()
        them.until(lambda: all(len(them.answers[number].body) == 65535 for number in slow))
        for _ in range(50):
            assert them.answer(them.get("/126")).status == 200
        assert memory_of(lab) - before < 20


@pytest.mark.parametrize("pure", [False, True], ids=["compiled", "pure"])
def test_10_mb_both_ways_with_random_stalls(files: NginxOrigin, tmp_path: Path, pure: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Three uploads at once that come back while they go, and both ends read and write in fits: the same bytes, and lbd holds no more than
    windows of them."""
    chance = random.Random(20)
    bodies = [chance.randbytes(10 << 20) for _ in range(3)]
    with (
        StallingEcho() as origin,
        started(files, tmp_path, origin, pure=pure) as lab,
        Http2Socket(lab.port, reads_bodies=False) as them,
    ):
        assert them.answer(them.get("/126")).status == 200
        before = most = memory_of(lab)
        them.connection.increment_flow_control_window(1 << 20)  # of all together, else they take turns
        fits = [Fit(them, body) for body in bodies]
        them.socket.settimeout(0.005)
        may_read = [False] * 200  # at first they only write, until all that can be held is held
        while not all(fit.is_done() for fit in fits):
            one = chance.choice(fits)
            one.write(chance.randint(1, 1 << 18))
            with contextlib.suppress(TimeoutError):
                them.feed(them.socket.recv(chance.randint(1, 1 << 18)))
            if not may_read:
                may_read = [chance.random() < 0.7] * chance.randint(1, 40)
            if may_read.pop():
                one.read()
            elif chance.random() < 0.1:
                time.sleep(chance.uniform(0.0, 0.05))
            if len(may_read) % 20 == 0:
                most = max(most, memory_of(lab))
        assert [fit.came.digest() for fit in fits] == [hashlib.sha256(body).digest() for body in bodies]
    with capsys.disabled():
        print(f"\n3 times 10 MB both ways, with stalls: at most {most - before:.1f} MB more than before")
    assert most - before < 4, "each may hold a window of 64 KiB, in each direction"


class StallingEcho:
    """An origin that sends back what comes, as it comes, in fits."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):  # else the kernel would hold most of what lbd might
            self._listener.setsockopt(socket.SOL_SOCKET, buffer, 1 << 16)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _begin(self, task: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=task, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            for number in itertools.count():
                self._begin(self._echo, self._listener.accept()[0], random.Random(number))

    def _echo(self, client: socket.socket, chance: random.Random) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1)
            length = int(re.findall(rb"(?i)content-length: (\d+)", head)[0])
            client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % length)
            while length and (data := client.recv(chance.randint(1, 1 << 16))):
                client.sendall(data)
                length -= len(data)
                if chance.random() < 0.1:
                    time.sleep(chance.uniform(0.0, 0.05))


class Fit:
    """An upload to /echo, and what comes back."""

    def __init__(self, them: Http2Socket, body: bytes) -> None:
        self._them = them
        self._number = them.post("/echo", (b"content-length", b"%d" % len(body)))
        self._rest = memoryview(body)
        self.came = hashlib.sha256()

    def write(self, most: int) -> None:
        """So much of it, as far as windows go."""
        connection = self._them.connection
        while self._rest and most > 0 and (room := min(connection.local_flow_control_window(self._number), 16384, most, len(self._rest))):
            connection.send_data(self._number, bytes(self._rest[:room]), end_stream=room == len(self._rest))
            self._rest = self._rest[room:]
            most -= room
        self._them.flush()

    def read(self) -> None:
        """All that has come, and there is room for more."""
        answer = self._them.answers[self._number]
        self.came.update(answer.body)
        if answer.body and not answer.has_ended:
            self._them.take(self._number, len(answer.body))
        answer.body = b""

    def is_done(self) -> bool:
        answer = self._them.answers[self._number]
        assert answer.reset in (-1, 0), answer.reset
        return answer.has_ended and not answer.body


# Ends


def test_a_drain_loses_no_stream(files: NginxOrigin, tmp_path: Path) -> None:
    ports = free_ports(3)
    with ScriptedOrigin() as origin, start_lbd(config(origin, files, tmp_path, ports), tmp_path) as lbd, Http2Socket(ports[0]) as them:
        numbers = [them.get("/slow/1.5"), them.get("/stream/20/0.1"), them.get("/126")]
        them.answer(numbers[2])
        lbd.signal(lbd.stop_signal)
        them.until(lambda: them.goaways)
        assert them.goaways[0] == (MOST, 0)
        them.until(lambda: len(them.goaways) == 2)
        assert them.goaways[1] == (numbers[-1], 0)
        assert [them.answer(number).status for number in numbers] == [200, 200, 200]
        assert them.answers[numbers[1]].trailers == [(b"x-sum", b"20")]
        them.listen(1.0)
        assert them.has_ended
        them.socket.close()
        assert lbd.wait() == 0


def test_a_reload_keeps_connections_and_is_seen_by_the_next_stream(files: NginxOrigin, tmp_path: Path) -> None:
    ports = free_ports(3)
    with (
        ScriptedOrigin() as origin,
        start_lbd(text := config(origin, files, tmp_path, ports), tmp_path) as lbd,
        Http2Socket(ports[0]) as them,
    ):
        slow = them.get("/slow/1")
        assert them.answer(them.get("/126")).status == 200
        route = '[[listener.web.route]]\npath_exact = "/new"\nrespond = { status = 418 }\n'
        lbd.reload(text.replace("[cluster.web]", route + "[cluster.web]"))
        assert them.answer(them.get("/new")).status == 418
        assert them.answer(slow).status == 200
        assert them.goaways == []


# Attackers


def attack(port: int, frames: list[bytes]) -> list[int]:
    """Sends until it is cut off; the codes of the GOAWAYs that came."""
    with socket.create_connection(("127.0.0.1", port), 10) as attacker:
        got = bytearray()

        def listen() -> None:
            try:
                while data := attacker.recv(1 << 16):
                    got.extend(data)
            except OSError:
                pass

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            attacker.sendall(PREFACE + settings())
            for frame in frames:
                attacker.sendall(frame)
        except OSError:
            pass
        listener.join(10)
    return goaways_of(frames_of(whole_frames(bytes(got))))


def whole_frames(data: bytes) -> bytes:
    at = 0
    while at + 9 <= len(data) and at + 9 + int.from_bytes(data[at : at + 3], "big") <= len(data):
        at += 9 + int.from_bytes(data[at : at + 3], "big")
    return data[:at]


ATTACKS = {
    "rapid reset": [headers(number) + reset(number) for number in range(1, 4000, 2)],
    "resets that we are made to send": [headers(number) + raw(8, 0, number, bytes(4)) for number in range(1, 4000, 2)],
    "pings": [raw(6, 0, 0, bytes(8)) * 1000] * 40,
    "settings": [settings((4, 65535)) * 1000] * 40,
    "empty data": [headers(1, flags=4), *[raw(0, 0, 1) * 1000] * 40],
    "continuation": [raw(1, 0, 1, b""), *[raw(9, 0, 1, b"") * 1000] * 10],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attackers_are_cut_off_and_others_are_served(lab: Lab, name: str) -> None:
    with Http2Socket(lab.port) as them:
        assert them.answer(them.get("/126")).status == 200
        assert attack(lab.port, ATTACKS[name]) == [ENHANCE_YOUR_CALM]
        assert them.answer(them.get("/126")).status == 200
    assert lab.lbd.metric("lbd_rejected_total", reason="http2_flood") > 0
    wait_until(lambda: lab.lbd.metric("lbd_http2_streams") == 0, "the attacker's streams to end")
