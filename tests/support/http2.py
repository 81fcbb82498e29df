"""HTTP/2 clients: the h2 package on a scripted end of the playbook, or on a socket.

    them = Http2End(play.downstream)            with Http2Socket(port) as them:
    number = them.get("/a")                         answer = them.answer(them.get("/a"))
    ...
    answer = await them.answer(number)

GOAWAY is kept from h2, which would take it for the end; `goaways` has them, (last stream, code) each.
"""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import h2.config
import h2.connection
import h2.events
import trio

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.script import End

    Wrap = Callable[[socket.socket], socket.socket]

__all__ = ["Answered", "Http2Client", "Http2End", "Http2Socket", "client", "pseudo"]

GOAWAY = 7
Fields = list[tuple[bytes, bytes]]


def client() -> h2.connection.H2Connection:
    """Greeted."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding=None, validate_outbound_headers=False, normalize_outbound_headers=False)
    )
    connection.initiate_connection()
    return connection


@dataclass
class Answered:
    """What has come on a stream."""

    status: int = 0
    fields: Fields = field(default_factory=list)
    body: bytes = b""
    trailers: Fields = field(default_factory=list)
    informational: list[tuple[int, Fields]] = field(default_factory=list)
    reset: int = -1  # the code of an RST_STREAM
    has_ended: bool = False

    def field(self, name: bytes) -> bytes | None:
        return dict(self.fields).get(name)


class Http2Client:
    """What both have: requests out, answers in. `reads_bodies`: windows open as bodies come; otherwise take() does it."""

    def __init__(self, *, reads_bodies: bool) -> None:
        self.connection = client()
        self.answers: dict[int, Answered] = {}
        self.goaways: list[tuple[int, int]] = []
        self.pongs = 0
        self.reads_bodies = reads_bodies
        self.has_ended = False
        self._data = b""

    def flush(self) -> None:
        """Sends what the connection has to say."""
        raise NotImplementedError

    def get(self, path: str = "/", *more: tuple[bytes, bytes], method: bytes = b"GET") -> int:
        return self.request([*pseudo(method, path), *more])

    def post(self, path: str = "/", *more: tuple[bytes, bytes]) -> int:
        """A body follows: send()."""
        return self.request([*pseudo(b"POST", path), *more], ends=False)

    def request(self, fields: Sequence[tuple[bytes, bytes]], *, ends: bool = True) -> int:
        number = self.connection.get_next_available_stream_id()
        self.connection.send_headers(number, fields, end_stream=ends)
        self.answers[number] = Answered()
        self.flush()
        return number

    def send(self, number: int, data: bytes, *, ends: bool = False) -> None:
        """Within the window."""
        while len(data) > 16384:
            self.connection.send_data(number, data[:16384])
            data = data[16384:]
        self.connection.send_data(number, data, end_stream=ends)
        self.flush()

    def reset(self, number: int, code: int = 8) -> None:
        self.connection.reset_stream(number, code)
        self.flush()

    def take(self, number: int, size: int) -> None:
        """Opens the windows by what was read."""
        self.connection.acknowledge_received_data(size, number)
        self.flush()

    def feed(self, data: bytes) -> None:
        """What has come; b"" is the end."""
        if not data:
            self.has_ended = True
            return
        for event in self.connection.receive_data(self._without_goaways(self._data + data)):
            self._heard(event)
        self.flush()

    def is_answered(self, number: int) -> bool:
        return self.answers[number].has_ended or self.answers[number].reset >= 0

    def _without_goaways(self, data: bytes) -> bytes:
        kept = []
        while len(data) >= 9 and len(data) >= 9 + (size := int.from_bytes(data[:3], "big")):
            frame, data = data[: 9 + size], data[9 + size :]
            if frame[3] == GOAWAY:
                self.goaways.append((int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")))
            else:
                kept.append(frame)
        self._data = data
        return b"".join(kept)

    def _heard(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.InformationalResponseReceived(stream_id=number, headers=headers):
                self.answers[number].informational.append((int(dict(headers)[b":status"]), list(headers[1:])))
            case h2.events.ResponseReceived(stream_id=number, headers=headers):
                self.answers[number].status = int(dict(headers)[b":status"])
                self.answers[number].fields = list(headers[1:])
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=size):
                self.answers[number].body += data
                if self.reads_bodies:
                    self.connection.acknowledge_received_data(size, number)
            case h2.events.TrailersReceived(stream_id=number, headers=headers):
                self.answers[number].trailers = list(headers)
            case h2.events.StreamEnded(stream_id=number):
                self.answers[number].has_ended = True
            case h2.events.StreamReset(stream_id=number, error_code=code):
                self.answers[number].reset = int(code)
            case h2.events.PingAckReceived():
                self.pongs += 1


class Http2End(Http2Client):
    """On a scripted end."""

    def __init__(self, end: End, *, reads_bodies: bool = True) -> None:
        super().__init__(reads_bodies=reads_bodies)
        self.end = end
        self.flush()

    def flush(self) -> None:
        data = self.connection.data_to_send()
        if data:
            self.end >> data

    async def send_all(self, number: int, data: bytes) -> None:
        """As fast as lbd takes it, to the end of the stream."""
        while data:
            room = min(self.connection.local_flow_control_window(number), 16384, len(data))
            if room:
                self.connection.send_data(number, data[:room])
                data = data[room:]
                await self.end.send(self.connection.data_to_send())
            else:
                await self.pump()
        self.connection.end_stream(number)
        self.flush()

    async def answer(self, number: int, seconds: float = 5.0) -> Answered:
        """Once it has ended, or has been reset."""
        await self.until(lambda: self.is_answered(number), seconds)
        return self.answers[number]

    async def until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        with trio.move_on_after(seconds):
            while not condition():
                await self.pump()
            return
        raise AssertionError(f"did not happen within {seconds} s: {self.answers}, {self.goaways}")

    async def pump(self, nap: float = 0.001) -> bool:
        """Takes what is there after a nap; whether there was something."""
        await trio.sleep(nap)
        stream = self.end.stream
        stream.may_read = True
        data = stream.recv(1 << 20)
        if data is not None:
            self.feed(data)
        return data is not None


class Http2Socket(Http2Client):
    """On a socket, blocking."""

    def __init__(self, port: int, *, reads_bodies: bool = True, timeout: float = PATIENCE, wrap: Wrap | None = None) -> None:
        """`wrap`: TLS, for instance."""
        super().__init__(reads_bodies=reads_bodies)
        plain = socket.create_connection(("127.0.0.1", port), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = wrap(plain) if wrap is not None else plain
        self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def flush(self) -> None:
        data = self.connection.data_to_send()
        if data:
            self.socket.sendall(data)

    def answer(self, number: int) -> Answered:
        self.until(lambda: self.is_answered(number))
        return self.answers[number]

    def until(self, condition: Callable[[], object]) -> None:
        """TimeoutError: nothing has come for as long as the socket waits."""
        while not condition():
            assert not self.has_ended, f"closed early: {self.answers}, {self.goaways}"
            self.feed(self.socket.recv(1 << 18))

    def listen(self, seconds: float) -> None:
        """Takes what comes in that time."""
        before = self.socket.gettimeout()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and not self.has_ended:
            self.socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                self.feed(self.socket.recv(1 << 18))
        self.socket.settimeout(before)

    def send_all(self, number: int, data: bytes) -> None:
        """As fast as lbd takes it, to the end of the stream; or until no more of it is wanted."""
        rest = memoryview(data)
        while rest:
            if self.answers[number].reset >= 0:
                return
            assert not self.has_ended, f"closed early: {self.answers[number]}, {self.goaways}"
            room = min(self.connection.local_flow_control_window(number), 16384, len(rest))
            if room:
                self.connection.send_data(number, bytes(rest[:room]))
                rest = rest[room:]
                self.flush()
            else:
                self.feed(self.socket.recv(1 << 18))
        self.connection.end_stream(number)
        self.flush()


def pseudo(method: bytes, path: str) -> list[tuple[bytes, bytes]]:
    return [(b":method", method), (b":scheme", b"http"), (b":path", path.encode()), (b":authority", b"example.com")]
