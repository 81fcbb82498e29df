"""The admin listener on the wire: keep-alive, limits, timeouts, and one connection's trouble staying its own."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from trio.testing import memory_stream_pair

from lbd.admin import server
from lbd.admin.pages import Pages
from lbd.admin.server import serve_admin
from tests.admin.views import FakeView

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from trio.testing import MockClock

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
Stream = trio.abc.HalfCloseableStream


class Hall:
    """An admin listener on memory streams."""

    def __init__(self, nursery: trio.Nursery, view: FakeView, token: str = "") -> None:
        self.nursery = nursery
        self.admin = server._Admin(Pages(view, token))

    def connect(self) -> Stream:
        ours, theirs = memory_stream_pair()
        self.nursery.start_soon(self.admin.serve, theirs)
        return ours


@asynccontextmanager
async def open_hall(view: FakeView | None = None) -> AsyncIterator[Hall]:
    async with trio.open_nursery() as nursery:
        yield Hall(nursery, view or FakeView())
        nursery.cancel_scope.cancel()


async def read_answer(stream: Stream, *, has_body: bool = True) -> tuple[bytes, bytes]:
    """(head, body) of one answer with a Content-Length; (b"", b"") at the end of the stream."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some(1)
        if not more:
            return data, b""
        data += more
    length = int(next(line for line in data.lower().split(b"\r\n") if line.startswith(b"content-length:")).partition(b":")[2])
    body = b""
    while has_body and len(body) < length:
        more = await stream.receive_some(length - len(body))
        assert more, "cut short"
        body += more
    return data, body


async def test_keep_alive_serves_one_request_after_the_other(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        for _ in range(3):
            await stream.send_all(GET)
            head, body = await read_answer(stream)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b"ok\n"


async def test_pipelined_requests_are_answered_in_order(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(GET + GET.replace(b"/healthz", b"/readyz") + GET)
        assert [(await read_answer(stream))[1] for _ in range(3)] == [b"ok\n", b"ready\n", b"ok\n"]


@pytest.mark.parametrize(
    ("target", "answer"),
    [
        (b"/healthz?from=probe", b"HTTP/1.1 200 OK\r\n"),
        (b"http://localhost:9901/healthz", b"HTTP/1.1 200 "),
        (b"http://localhost:9901", b"HTTP/1.1 404 "),
        (b"//localhost/healthz", b"HTTP/1.1 404 "),
        (b"HTTP://[", b"HTTP/1.1 404 "),
        (b"*", b"HTTP/1.1 404 "),
    ],
)
async def test_targets_of_every_form(autojump_clock: MockClock, target: bytes, answer: bytes) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(GET.replace(b"/healthz", target))
        assert (await read_answer(stream))[0].startswith(answer)


@pytest.mark.parametrize(
    "request_",
    [GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), GET.replace(b"HTTP/1.1", b"HTTP/1.0"), b"GET /healthz HTTP/1.0\r\n\r\n"],
)
async def test_the_connection_closes_when_asked(autojump_clock: MockClock, request_: bytes) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(request_)
        head, body = await read_answer(stream)
        assert b"connection: close" in head.lower()
        assert body == b"ok\n"
        assert await stream.receive_some(1) == b""


async def test_head_has_the_length_and_no_body(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(GET.replace(b"GET", b"HEAD"))
        head, _ = await read_answer(stream, has_body=False)
        assert b"content-length: 3" in head.lower()
        await stream.send_all(GET)
        assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 200 "), "the next answer starts right behind the head"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"GET /" + b"a" * 2 * server.HEAD_LIMIT + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70_000, b"413"),
        (b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"403"),
    ],
)
async def test_bad_requests_are_told_so(autojump_clock: MockClock, request_: bytes, status: bytes) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        hall.nursery.start_soon(send_quietly, stream, request_)
        head, body = await read_answer(stream)
        assert head.startswith(b"HTTP/1.1 " + status)
        assert body


async def send_quietly(stream: Stream, data: bytes) -> None:
    try:
        await stream.send_all(data)
    except trio.BrokenResourceError:
        pass


async def test_a_body_within_bounds_is_read_and_ignored(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert (await stream.receive_some(1000)).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(b"{}" + GET)
        assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 200 ")
        assert (await read_answer(stream))[1] == b"ok\n"


async def test_a_command_is_read_from_the_body(autojump_clock: MockClock) -> None:
    view = FakeView()
    path = b"/api/v1/clusters/web/endpoints/10.0.0.1:80/drain"
    fields = b" HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer t\r\n"
    async with trio.open_nursery() as nursery:
        stream = Hall(nursery, view, "t").connect()
        await stream.send_all(b"POST " + path + fields + b"Transfer-Encoding: chunked\r\n\r\n4\r\nfor=\r\n2\r\n1h\r\n0\r\n\r\n")
        assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 200 ")
        await stream.send_all(b"POST " + path + fields + b"Content-Length: 0\r\n\r\n")
        assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()
    assert [command.seconds for command in view.commands] == [3600.0, 0.0]


async def test_an_idle_connection_is_closed_in_time(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        await stream.send_all(GET)
        await read_answer(stream)
        before = trio.current_time()
        assert await stream.receive_some(1) == b""
        assert trio.current_time() - before == server.IDLE_TIMEOUT


async def test_a_request_that_trickles_is_cut_off(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        stream = hall.connect()
        before = trio.current_time()

        async def trickle() -> None:
            for byte in GET * 10:
                await trio.sleep(1)
                await send_quietly(stream, bytes([byte]))

        hall.nursery.start_soon(trickle)
        head, _ = await read_answer(stream)
        assert head.startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - before == 1 + server.REQUEST_TIMEOUT


async def test_a_bug_is_admitted_to_a_head_without_a_body(autojump_clock: MockClock) -> None:
    class Broken(FakeView):
        def status(self) -> dict[str, Any]:
            raise RuntimeError("a bug")

    async with open_hall(Broken()) as hall:
        stream = hall.connect()
        await stream.send_all(b"HEAD /api/v1/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, _ = await read_answer(stream, has_body=False)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert await stream.receive_some(1) == b""


async def test_a_bug_in_a_page_ends_its_connection_only(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async def reload() -> dict[str, Any]:
        raise RuntimeError("a bug")

    async with open_hall(FakeView(on_reload=reload)) as hall:
        other, stream = hall.connect(), hall.connect()
        await stream.send_all(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
        head, body = await read_answer(stream)
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"bug" in body
        assert await stream.receive_some(1) == b""
        await other.send_all(GET)
        assert (await read_answer(other))[1] == b"ok\n"
    assert [record.levelno for record in caplog.records if record.name == "lbd.admin"] == [logging.ERROR]


async def test_a_downstream_that_vanishes_leaves_nothing(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    async with open_hall() as hall:
        for sent in (b"", GET[:10], GET):
            stream = hall.connect()
            if sent:
                await stream.send_all(sent)
            await stream.aclose()
        await trio.sleep(1)
        assert hall.admin.open == 0
        assert not hall.admin.waiting
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_the_longest_idle_connection_makes_room(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        streams = [hall.connect() for _ in range(server.CONNECTION_LIMIT)]
        for stream in streams:
            await stream.send_all(GET)
            await read_answer(stream)
        await streams[0].send_all(GET)  # the first is the youngest now
        await read_answer(streams[0])
        late = hall.connect()
        await late.send_all(GET)
        assert (await read_answer(late))[1] == b"ok\n"
        assert await streams[1].receive_some(1) == b""
        await streams[0].send_all(GET)
        assert (await read_answer(streams[0]))[1] == b"ok\n"


async def test_requests_that_are_never_finished_keep_nobody_out(autojump_clock: MockClock) -> None:
    async with open_hall() as hall:
        for _ in range(server.CONNECTION_LIMIT):
            await hall.connect().send_all(GET[:20])
        await trio.testing.wait_all_tasks_blocked()
        late = hall.connect()
        await late.send_all(GET)
        assert (await read_answer(late))[1] == b"ok\n"
        assert trio.current_time() == 0


async def test_a_full_house_says_so(autojump_clock: MockClock) -> None:
    async def reload() -> dict[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async with open_hall(FakeView(on_reload=reload)) as hall:
        for _ in range(server.CONNECTION_LIMIT):
            await hall.connect().send_all(b"POST /api/v1/reload HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked()
        assert (await read_answer(hall.connect()))[0].startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
async def test_on_real_sockets(family: socket.AddressFamily, tmp_path: Path, no_leaked_fds: None) -> None:
    is_unix, view = family == socket.AF_UNIX, FakeView()
    listener = socket.create_server(str(tmp_path / "admin.sock") if is_unix else ("127.0.0.1", 0), family=family)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_admin, [listener], "", view)
        address = listener.getsockname()
        stream: Stream = await trio.open_unix_socket(address) if is_unix else await trio.open_tcp_stream(*address)
        await stream.send_all(b"GET /api/v1/status HTTP/1.1\r\nHost: lbd-on-unix\r\nConnection: close\r\n\r\n")
        head, body = await read_answer(stream)
        assert head.startswith(b"HTTP/1.1 200 " if is_unix else b"HTTP/1.1 403 ")
        assert body.startswith(b"{")
        await stream.aclose()
        if is_unix:
            stream = await trio.open_unix_socket(address)
            await stream.send_all(b"POST /api/v1/clusters/web/endpoints/a:1/enable HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await read_answer(stream))[0].startswith(b"HTTP/1.1 200 ")
            await stream.aclose()
            assert [command.who for command in view.commands] == ["root" if os.getuid() == 0 else f"uid {os.getuid()}"]
        nursery.cancel_scope.cancel()
