"""An origin that speaks HTTP/2 with prior knowledge, by the h2 package under trio in a thread of its own.

It does what the path asks for (BEHAVIOURS), several streams at a time; `requests` has what came, `connections` how many there were.
"""

from __future__ import annotations

import hashlib
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

__all__ = ["Http2Origin", "bytes_of"]


def bytes_of(size: int, seed: int) -> bytes:
    """What /bytes/SIZE/SEED answers."""
    return random.Random(seed).randbytes(size)


@dataclass(slots=True)
class Received:
    """A request, and on which connection it came (the first is 1)."""

    fields: dict[bytes, bytes]
    connection: int
    stream: int

    @property
    def path(self) -> str:
        return self.fields[b":path"].decode()


class Http2Origin:
    """Listens on 127.0.0.1; with port 0 wherever there is room."""

    def __init__(self, port: int = 0, *, max_streams: int = 100, name: str = "origin") -> None:
        self.port = port
        self.name = name
        self.max_streams = max_streams
        self.requests: list[Received] = []
        self.resets: list[tuple[int, int]] = []  # (stream, code) that came
        self.connections = 0
        self.refusals = 0  # so many streams are refused still
        self.released = threading.Event()  # for /hold
        self._links: set[Link] = set()
        self._ready = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=trio.run, args=(self._serve,), daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """At once, whatever is being answered."""
        self.released.set()
        if self._token is not None and self._thread.is_alive():
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(PATIENCE)

    def leave(self) -> None:
        """Accepts no more, and says so on every connection: the requests that are here are the last."""
        assert self._token is not None
        trio.from_thread.run(self._leave, trio_token=self._token)

    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    async def _leave(self) -> None:
        for listener in self._listeners:
            await listener.aclose()
        for link in list(self._links):
            await link.go_away()

    async def _serve(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            self._listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1")
            self.port = self._listeners[0].socket.getsockname()[1]
            self._ready.set()
            try:
                async with trio.open_nursery() as nursery:
                    for listener in self._listeners:
                        nursery.start_soon(self._accept, listener, nursery)
                    await trio.sleep_forever()
            finally:
                for listener in self._listeners:
                    listener.socket.close()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            nursery.start_soon(self._take, stream)

    async def _take(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        link = Link(self, stream, self.connections)
        self._links.add(link)
        try:
            async with stream, trio.open_nursery() as nursery:
                await link.serve(nursery)
                nursery.cancel_scope.cancel()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, ProtocolError):
            pass  # the other side has gone, or has ended the stream
        finally:
            self._links.discard(link)


class Link:
    """One accepted connection."""

    def __init__(self, origin: Http2Origin, stream: trio.SocketStream, number: int) -> None:
        self.origin = origin
        self.number = number
        self.highest = 0
        self.has_gone = False
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = origin.max_streams
        self.h2.local_settings.acknowledge()
        self.bodies: dict[int, bytearray] = {}
        self.ended: dict[int, trio.Event] = {}
        self.heads: set[int] = set()  # asked by HEAD
        self.unread: set[int] = set()  # of whose bodies nothing is acknowledged by itself
        self.trailers: dict[int, list[tuple[bytes, bytes]]] = {}
        self.news = trio.Event()  # replaced each time it is set
        self._stream = stream
        self._lock = trio.Lock()

    async def flush(self) -> None:
        async with self._lock:
            if data := self.h2.data_to_send():
                await self._stream.send_all(data)

    async def serve(self, nursery: trio.Nursery) -> None:
        self.h2.initiate_connection()
        await self.flush()
        while data := await self._stream.receive_some(65536):
            for event in self.h2.receive_data(data):
                match event:
                    case RequestReceived(stream_id=stream):
                        self.begin(stream, dict(event.headers), nursery)
                    case DataReceived(stream_id=stream):
                        self.bodies[stream] += event.data
                        if stream not in self.unread:
                            self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                    case TrailersReceived(stream_id=stream):
                        self.trailers[stream] = list(event.headers)
                    case StreamEnded(stream_id=stream):
                        self.ended[stream].set()
                    case StreamReset(stream_id=stream):
                        self.origin.resets.append((stream, int(event.error_code)))
                    case WindowUpdated():
                        pass
                    case ConnectionTerminated():
                        return
            self.news.set()
            self.news = trio.Event()
            await self.flush()

    def begin(self, stream: int, fields: dict[bytes, bytes], nursery: trio.Nursery) -> None:
        if self.has_gone:
            self.bodies[stream], self.ended[stream] = bytearray(), trio.Event()
            return  # as it said
        self.highest = stream
        self.bodies[stream] = bytearray()
        self.ended[stream] = trio.Event()
        if self.origin.refusals:
            self.origin.refusals -= 1
            self.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
            return
        if fields[b":method"] == b"HEAD":
            self.heads.add(stream)
        if fields[b":path"].startswith(b"/late/"):
            self.unread.add(stream)
        received = Received(fields, self.number, stream)
        self.origin.requests.append(received)
        name, *arguments = received.path.partition("?")[0].strip("/").split("/")
        nursery.start_soon(self.answer, BEHAVIOURS.get(name, small), stream, arguments)

    async def answer(self, behaviour: Callable[..., Awaitable[None]], stream: int, arguments: list[str]) -> None:
        try:
            await behaviour(self, stream, *arguments)
        except ProtocolError:
            pass  # the stream was reset under our hands

    async def head(self, stream: int, *fields: tuple[bytes, bytes], status: int = 200, ended: bool = False) -> None:
        origin = [(b"x-origin", self.origin.name.encode()), (b"x-connection", b"%d" % self.number)]
        self.h2.send_headers(stream, [(b":status", b"%d" % status), *origin, *fields], end_stream=ended)
        await self.flush()

    async def send(self, stream: int, body: bytes, *, ended: bool = True, stalls: random.Random | None = None) -> None:
        rest = memoryview(body)
        while rest:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(rest))
            if room <= 0:
                await self.news.wait()
                continue
            self.h2.send_data(stream, bytes(rest[:room]))
            rest = rest[room:]
            await self.flush()
            if stalls is not None and stalls.random() < 0.02:
                await trio.sleep(stalls.random() * 0.05)
        if ended:
            self.h2.end_stream(stream)
            await self.flush()

    async def whole(self, stream: int, body: bytes, *fields: tuple[bytes, bytes]) -> None:
        is_head = stream in self.heads
        await self.head(stream, (b"content-length", b"%d" % len(body)), *fields, ended=is_head)
        if not is_head:
            await self.send(stream, body)

    async def go_away(self, last: int = -1) -> None:
        """By hand: h2 takes it for the end. The last stream is the last that has come, or this one."""
        if not self.has_gone:
            self.has_gone = True
            last = self.highest if last < 0 else last
            async with self._lock:
                goaway = b"\0\0\x08\x07\0\0\0\0\0" + last.to_bytes(4, "big") + b"\0\0\0\0"
                await self._stream.send_all(self.h2.data_to_send() + goaway)


async def small(link: Link, stream: int, *_: str) -> None:
    await link.whole(stream, link.origin.name.encode())


async def in_bytes(link: Link, stream: int, size: str, seed: str, stalls: str = "") -> None:
    body = bytes_of(int(size), int(seed))
    await link.head(stream, (b"content-length", size.encode()))
    await link.send(stream, body, stalls=random.Random(int(seed)) if stalls else None)


async def hashed(link: Link, stream: int, *_: str) -> None:
    """Of the request's body."""
    await link.ended[stream].wait()
    await link.whole(stream, hashlib.sha256(link.bodies[stream]).hexdigest().encode())


async def late(link: Link, stream: int, seconds: str) -> None:
    """Reads nothing of the body for so long; then as hashed."""
    await trio.sleep(float(seconds))
    held = len(link.bodies[stream])
    opened = 0
    while not link.ended[stream].is_set():
        came = len(link.bodies[stream])
        if came > opened:
            link.h2.acknowledge_received_data(came - opened, stream)
            opened = came
            await link.flush()
        with trio.move_on_after(0.01):
            await link.news.wait()
    await link.whole(stream, hashlib.sha256(link.bodies[stream]).hexdigest().encode(), (b"x-held", b"%d" % held))


async def trailing(link: Link, stream: int, *_: str) -> None:
    await link.ended[stream].wait()
    await link.head(stream)
    await link.send(stream, b"body", ended=False)
    link.h2.send_headers(stream, [(b"x-sum", b"4"), *link.trailers.get(stream, [])], end_stream=True)
    await link.flush()


async def hold(link: Link, stream: int, *_: str) -> None:
    while not link.origin.released.is_set():  # noqa: ASYNC110 - set by another thread
        await trio.sleep(0.01)
    await small(link, stream)


async def early(link: Link, stream: int, *_: str) -> None:
    """An answer before the body has come, and no more of the body, please (RFC 9113 8.1)."""
    await link.head(stream, (b"content-length", b"9"), status=413)
    await link.send(stream, b"too large")
    link.h2.reset_stream(stream, ErrorCodes.NO_ERROR)
    await link.flush()


async def leaving(link: Link, stream: int, *_: str) -> None:
    """A GOAWAY that names the stream before this one."""
    await link.go_away(max(0, stream - 2))


async def broken(link: Link, stream: int, *_: str) -> None:
    """In the middle of a body."""
    await link.head(stream, (b"content-length", b"100"))
    await link.send(stream, b"half", ended=False)
    link.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
    await link.flush()


BEHAVIOURS: dict[str, Callable[..., Awaitable[None]]] = {
    "small": small,
    "bytes": in_bytes,
    "hash": hashed,
    "late": late,
    "trailers": trailing,
    "hold": hold,
    "early": early,
    "goaway": leaving,
    "broken": broken,
}
