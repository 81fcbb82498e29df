"""HTTP/2 in plain text with programs that people use, and with the h2 package on a socket: curl, nghttp, h2load; attackers too."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_proxy import curl, digest, needs, run
from tests.support import procfs
from tests.support.certificates import Authority
from tests.support.http2 import Http2Socket
from tests.support.origins import NginxOrigin, ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until
from tests.wire.http2_frames import ENHANCE_YOUR_CALM, PREFACE, frames_of, goaways_of, headers, raw, reset, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Lab:
    """lbd before a scripted origin and an nginx with files; one listener has raised limits."""

    lbd: LbdDaemon
    origin: ScriptedOrigin
    port: int
    wide_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def config(origin: ScriptedOrigin, files: NginxOrigin, directory: Path, ports: list[int]) -> str:
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
    directory = tmp_path_factory.mktemp("lbd")
    ports = free_ports(3)
    with ScriptedOrigin() as origin, start_lbd(config(origin, files, directory, ports), directory, pure=request.param) as lbd:
        yield Lab(lbd, origin, ports[0], ports[1])
        assert lbd.metric("lbd_faults_total") == 0
        assert lbd.metric("lbd_http2_streams") == 0


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
def test_1000_streams_on_one_connection(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    before = memory_of(lab)
    out = run(
        "h2load", "-n", "5000", "-c", "1", "-m", "1000", "-w", "20", "-W", "26", f"http://127.0.0.1:{lab.wide_port}/126"
    ).stdout.decode()
    assert "5000 succeeded, 0 failed, 0 errored, 0 timeout" in out
    with capsys.disabled():
        print(f"\n1,000 streams on one connection: {memory_of(lab) - before:.1f} MB more than before, {memory_of(lab):.1f} MB")


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


def test_bodies_both_ways_with_stalls(lab: Lab) -> None:
    """Ten uploads at once that come back, read and written in fits: the same bytes."""
    sent = {}
    with Http2Socket(lab.port) as them:
        for index in range(5):
            body = os.urandom(2 << 20)
            number = them.post("/echo")
            sent[number] = hashlib.sha256(body).digest()
            them.send_all(number, body)
            time.sleep(0.05 * index)
        for number, wanted in sent.items():
            assert hashlib.sha256(them.answer(number).body).digest() == wanted


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
