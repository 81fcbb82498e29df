"""WebSockets over TLS and over HTTP/2 with real ends, in front of and behind lbd: the `websockets` package, its protocol over a stream of
the h2 package's, and a browser."""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
from websockets.frames import Opcode
from websockets.protocol import Protocol, Side

from tests.support.certificates import Authority, client_context
from tests.support.http import get
from tests.support.http2 import Http2Socket
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until, whole_lines
from tests.support.websocket import open_socket, random_bytes, serving

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterator
    from pathlib import Path

PAGE = """\
<!DOCTYPE html><html><head><title>a page</title></head><body><script>
const socket = new WebSocket("wss://localhost:{port}/echo?browser");
const tell = text => {{ fetch("/told?" + encodeURIComponent(text)); }};
socket.onopen = () => socket.send("gr\u00fc\u00df dich");
socket.onmessage = event => {{ tell(event.data + " " + performance.getEntriesByType("navigation")[0].nextHopProtocol); }};
socket.onerror = () => tell("an error");
</script></body></html>
"""


class Lab:
    """Plain, with TLS, and (lbd behind lbd) with an endpoint that speaks HTTP/2; one origin of HTTP/1 behind all of them."""

    def __init__(self, directory: Path, *, pure: bool) -> None:
        self.directory = directory
        self.authority = Authority(directory)
        self.authority.issue("a", "localhost", "127.0.0.1")
        self.plain, self.tls, self.h2, self.auto, self.secret, self.admin, self.origin, self.secure_origin = free_ports(8)
        page = json.dumps(PAGE.format(port=self.tls))
        self.lbd: LbdDaemon = start_lbd(self.text(page), directory, pure=pure)

    def text(self, page: str) -> str:
        return f"""
[lbd]
workers = 2
[log]
access = "{self.directory}/access.log"
[admin]
bind = "127.0.0.1:{self.admin}"

[listener.plain]
bind = "127.0.0.1:{self.plain}"
cluster = "web"

[listener.tls]
bind = "127.0.0.1:{self.tls}"
cluster = "web"
tls = {{ cert = "a.pem", key = "a.key" }}
[[listener.tls.route]]
path_exact = "/page"
respond = {{ body = {page}, content_type = "text/html; charset=utf-8" }}
[[listener.tls.route]]
path_exact = "/told"
respond = {{ status = 204 }}

[listener.h2]
bind = "127.0.0.1:{self.h2}"
cluster = "myself"

[listener.auto]
bind = "127.0.0.1:{self.auto}"
cluster = "any-version"

[listener.secret]
bind = "127.0.0.1:{self.secret}"
cluster = "secret"

[cluster.web]
endpoints = ["127.0.0.1:{self.origin}"]

[cluster.myself]
endpoints = ["127.0.0.1:{self.plain}"]
protocol = "h2"

[cluster.any-version]
endpoints = ["127.0.0.1:{self.tls}"]
protocol = "auto"
tls = {{ ca = "ca.pem", sni = "localhost" }}

[cluster.secret]
endpoints = ["127.0.0.1:{self.secure_origin}"]
tls = {{ ca = "ca.pem", sni = "localhost" }}
"""

    def wrap(self, plain: socket.socket) -> ssl.SSLSocket:
        return client_context(self.authority.file, alpn=("h2",)).wrap_socket(plain, server_hostname="localhost")

    def lines(self, start: str) -> list[dict[str, Any]]:
        """Of the access log, whose target begins so."""
        path = self.directory / "access.log"
        lines = [json.loads(line) for line in whole_lines(path)] if path.exists() else []
        return [line for line in lines if line["target"].startswith(start)]

    def told(self) -> list[str]:
        return [line["target"] for line in self.lines("/told?")]


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    started = Lab(tmp_path_factory.mktemp("versions"), pure=request.param)
    with started.lbd:
        yield started


async def test_over_tls(lab: Lab) -> None:
    context = client_context(lab.authority.file)
    async with (
        serving(lab.origin),
        open_socket(lab.tls, "/echo", scheme="wss", ssl=context, server_hostname="localhost", compression=None) as client,
    ):
        for size in (0, 100, 70_000, 3 << 20):
            await client.send(random_bytes(size))
            assert await client.recv() == random_bytes(size)
        await client.aclose(4001, "done")
        assert client.close_code == 4001


async def test_to_an_endpoint_with_tls(lab: Lab) -> None:
    server = lab.authority.server_context("a")
    async with serving(lab.secure_origin, ssl=server), open_socket(lab.secret, "/echo", compression=None) as client:
        for size in (0, 100, 70_000, 3 << 20):
            await client.send(random_bytes(size))
            assert await client.recv() == random_bytes(size)


async def test_from_http1_to_an_endpoint_that_speaks_http2(lab: Lab) -> None:
    """Through lbd twice: an upgrade, a CONNECT between the two, and an upgrade again."""
    async with serving(lab.origin), open_socket(lab.h2, "/echo", compression="deflate") as client:
        for size in (0, 100, 70_000, 3 << 20):
            await client.send(random_bytes(size))
            assert await client.recv() == random_bytes(size)
        await client.aclose(4001, "done")
        assert client.close_code == 4001
    async with serving(lab.origin), open_socket(lab.h2, "/close/4321") as client:
        with pytest.raises(Exception, match="4321"):
            await client.recv()


async def test_to_an_endpoint_that_speaks_both(lab: Lab) -> None:
    """Requests go by HTTP/2, WebSockets by HTTP/1.1: few endpoints take them otherwise."""
    async with serving(lab.origin):
        for number in range(2):
            answer = await trio.to_thread.run_sync(get, lab.auto, f"/page?{number}")
            assert answer.status == 200
            async with open_socket(lab.auto, f"/echo?auto{number}", compression=None) as client:
                await client.send(random_bytes(100_000))
                assert await client.recv() == random_bytes(100_000)
    expected = [("/echo?auto0", "HTTP/1.1"), ("/echo?auto1", "HTTP/1.1"), ("/page?0", "HTTP/2"), ("/page?1", "HTTP/2")]

    def heard() -> list[tuple[str, str]]:
        lines = [*lab.lines("/echo?auto"), *lab.lines("/page?")]
        return sorted((line["target"], line["protocol"]) for line in lines if line["listener"] == "tls")

    # Of all four: each worker writes its own lines, and not in the order of the others'.
    await trio.to_thread.run_sync(wait_until, lambda: len(heard()) == len(expected), "the lines of all four")
    assert heard() == expected


@pytest.mark.parametrize("kind", ["plain", "tls", "h2"])
async def test_streams_of_a_client_that_speaks_http2(lab: Lab, kind: str) -> None:
    async with serving(lab.origin, compression=None):
        await trio.to_thread.run_sync(talk_over_http2, lab, kind)


def talk_over_http2(lab: Lab, kind: str) -> None:
    """Three WebSockets and a request on one connection."""
    port = {"plain": lab.plain, "tls": lab.tls, "h2": lab.h2}[kind]
    with Http2Socket(port, wrap=lab.wrap if kind == "tls" else None) as them:
        them.until(lambda: them.connection.remote_settings.enable_connect_protocol)
        scheme = b"https" if kind == "tls" else b"http"
        fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", scheme), (b":path", b"/echo"), (b":authority", b"a")]
        talks = {
            them.request([*fields, (b"sec-websocket-version", b"13")], ends=False): Protocol(Side.CLIENT, max_size=None) for _ in range(3)
        }
        them.until(lambda: all(them.answers[number].status == 200 for number in talks))
        for number, protocol in talks.items():
            protocol.send_binary(random_bytes(40_000, number))
            for data in protocol.data_to_send():
                them.send(number, data)
        for number, protocol in talks.items():
            answer = them.answers[number]
            them.until(partial(lambda answer: len(answer.body) >= 40_004, answer))
            protocol.receive_data(answer.body)
            (frame,) = protocol.events_received()
            assert (frame.opcode, frame.data) == (Opcode.BINARY, random_bytes(40_000, number))  # type: ignore[union-attr]
            answer.body = b""
            protocol.send_close(1000)
            for data in protocol.data_to_send():
                them.send(number, data)
            assert them.answer(number).reset < 0  # the end of the stream is the other side's, behind its close frame
            protocol.receive_data(answer.body)
            assert protocol.close_rcvd is not None
            assert protocol.close_rcvd.code == 1000
            them.send(number, b"", ends=True)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
async def test_a_browser(lab: Lab, tmp_path: Path) -> None:
    """It asks for the page by HTTP/2, opens its WebSocket as a stream beside it, and tells what it has heard by a request."""
    command = [
        "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}/profile",
        "--ignore-certificate-errors", "--remote-debugging-port=0", f"https://localhost:{lab.tls}/page",
    ]  # fmt: skip
    told = partial(trio.to_thread.run_sync, lab.told)
    async with serving(lab.origin), trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.run_process, command, capture_stdout=True, capture_stderr=True, check=False))
        with trio.move_on_after(45):
            while not await told():  # noqa: ASYNC110 - it is a log that tells
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert lab.told() == ["/told?gr%C3%BC%C3%9F%20dich%20h2"]
    await trio.to_thread.run_sync(wait_until, lambda: bool(lab.lines("/echo?browser")), "the line of the browser's WebSocket")
    (line,) = lab.lines("/echo?browser")
    assert (line["protocol"], line["status"]) == ("HTTP/2", 200)


def test_nothing_went_wrong_meanwhile(lab: Lab) -> None:
    assert lab.lbd.metric("lbd_faults_total") == 0
    wait_until(lambda: lab.lbd.metric("lbd_tunnels") == 0, "the tunnels' end")
    lines = lab.lines("/echo")
    assert {line["protocol"] for line in lines} == {"HTTP/1.1", "HTTP/2"}
    assert {line["method"] for line in lines} == {"GET"}
    # Whoever closes its connection takes its streams along; with something unread in it, by a reset.
    assert {line["reason"] for line in lines} <= {"", "downstream_closed", "downstream_reset"}
