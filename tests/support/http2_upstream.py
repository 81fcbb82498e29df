"""The far end of one of lbd's upstream connections that speaks HTTP/2: the h2 package's, so that it is not lbd's own code that judges.

async with Playbook(clusters=(h2_cluster(),)) as play:
    play.downstream >> b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
    origin = await Http2Far.of(play)
    request = await origin.next(RequestReceived)
    origin.respond(request.stream_id, b"ok")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, RequestReceived, StreamEnded
from h2.settings import SettingCodes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.script import End, Playbook

__all__ = ["Http2Far"]

E = TypeVar("E", bound=Event)
Fields = list[tuple[bytes, bytes]]


class Http2Far:
    """`events` are those that nobody has asked for yet."""

    def __init__(self, end: End, settings: dict[SettingCodes | int, int] | None = None, *, greets: bool = True) -> None:
        self.end = end
        self.events: list[Event] = []
        self.reads = 0
        self.unsent = b""
        self.h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self.h2.local_settings.update(settings or {})
        self.h2.local_settings.acknowledge()
        if greets:
            self.h2.initiate_connection()
            self.flush()

    @classmethod
    async def of(cls, play: Playbook, **settings: int) -> Self:
        """The next connection that lbd has made; settings by their names in lower case."""
        return cls(await play.upstream(), {SettingCodes[name.upper()]: value for name, value in settings.items()})

    def flush(self) -> None:
        """Sends what h2 has to say."""
        self.unsent += self.h2.data_to_send()
        self.unsent = self.unsent[self.end.stream.send(self.unsent) :] if self.unsent else b""

    async def flushed(self) -> None:
        """As flush(), until everything is sent."""
        self.flush()
        while self.unsent:
            await trio.sleep(0.001)
            self.flush()

    async def receive(self, seconds: float = 5.0) -> None:
        """What comes next, to this task or to another one that waits."""
        stream, before, nap = self.end.stream, self.reads, 0.001
        with trio.move_on_after(seconds):
            while self.reads == before:
                stream.may_read = True
                data = stream.recv(1 << 20)
                if data is None:
                    await trio.sleep(nap)
                    nap = min(2 * nap, 0.1)
                    continue
                assert data, "lbd closed the connection"
                self.reads += 1
                self.events += self.h2.receive_data(data)
                self.flush()
            return
        raise AssertionError(f"nothing came within {seconds} s")

    async def next(self, kind: type[E], stream: int = 0, seconds: float = 5.0) -> E:
        """The next event of this kind (of this stream); others stay."""
        while True:
            for event in self.events:
                if isinstance(event, kind) and (not stream or event.stream_id == stream):  # type: ignore[attr-defined]
                    self.events.remove(event)
                    return event
            await self.receive(seconds)

    async def requests(self, count: int) -> list[int]:
        """The streams of so many requests."""
        return [(await self.next(RequestReceived)).stream_id for _ in range(count)]

    async def body(self, stream: int) -> bytes:
        """A request's, up to its end, with windows opened as it comes."""
        pieces = []
        while True:
            for event in list(self.events):
                if isinstance(event, DataReceived) and event.stream_id == stream:
                    self.events.remove(event)
                    pieces.append(event.data)
                    self.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, StreamEnded) and event.stream_id == stream:
                    self.events.remove(event)
                    return b"".join(pieces)
            self.flush()
            await self.receive()

    def head(self, stream: int, fields: Iterable[tuple[bytes, bytes]] = (), *, status: int = 200, ended: bool = False) -> None:
        self.h2.send_headers(stream, [(b":status", b"%d" % status), *fields], end_stream=ended)
        self.flush()

    def respond(self, stream: int, body: bytes = b"ok", fields: Iterable[tuple[bytes, bytes]] = (), *, status: int = 200) -> None:
        """A whole response, as far as windows have room for it."""
        self.h2.send_headers(stream, [(b":status", b"%d" % status), (b"content-length", b"%d" % len(body)), *fields])
        self.h2.send_data(stream, body, end_stream=True)
        self.flush()

    async def send_body(self, stream: int, body: bytes, *, ended: bool = True) -> None:
        """As windows allow; what comes meanwhile is kept in `events`."""
        rest = memoryview(body)
        while rest:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size, len(rest))
            if room == 0:
                await self.receive(60.0)
                continue
            self.h2.send_data(stream, bytes(rest[:room]))
            rest = rest[room:]
            await self.flushed()
        if ended:
            self.h2.end_stream(stream)
            self.flush()

    def reset(self, stream: int, code: int) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()

    def go_away(self, last: int, code: int = 0) -> None:
        """h2 would close the connection with it: a frame by hand."""
        payload = last.to_bytes(4, "big") + code.to_bytes(4, "big")
        self.end >> len(payload).to_bytes(3, "big") + b"\x07\x00" + b"\0\0\0\0" + payload

    async def expect_quiet(self, seconds: float) -> None:
        """Nothing but acknowledgements and windows for so long."""
        with trio.move_on_after(seconds):
            while True:
                await self.receive(seconds + 1.0)
