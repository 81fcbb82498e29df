"""Origins that write down every byte they get, and answer with whatever bytes they are told: for tests of smuggling.

Both read by somebody else's strict parser (h11, the h2 package), and a request that it does not take is a fault of lbd's: `faults`.
What is answered stands in `answers` by the request's target; any other request is answered with its own target as the body.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import h2.events
import h11
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import ProtocolError, StreamClosedError

from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = ["CLOSE", "Http1Recorder", "Http2Recorder", "Seen"]

CLOSE = None  # the end of the connection, among the steps of an answer
Step = bytes | float | None  # what is sent; seconds of silence; the end


@dataclass(slots=True)
class Seen:
    """A request, as the origin's parser reads it."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    connection: int = 0
    stream: int = 0

    @property
    def meaning(self) -> tuple[bytes, bytes, bytes]:
        return self.method, self.target, self.body


class Recorder:
    """A thread for each connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answers: dict[bytes, Sequence[Step]] = {}
        self.greeting = b""  # what is sent before anything was asked
        self.seen: list[Seen] = []
        self.raw: dict[int, bytearray] = {}  # by connection
        self.faults: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.close()

    def forget(self) -> None:
        self.seen.clear()
        self.faults.clear()
        self.answers.clear()
        self.greeting = b""

    def meanings(self) -> list[tuple[bytes, bytes, bytes]]:
        return [seen.meaning for seen in self.seen]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                number = len(self.raw) + 1
                self.raw[number] = bytearray()
                threading.Thread(target=self._serve_safely, args=(sock, number), daemon=True).start()

    def _serve_safely(self, sock: socket.socket, number: int) -> None:
        with sock, contextlib.suppress(OSError, TimeoutError):
            sock.settimeout(30)
            self._serve(sock, number)

    def _serve(self, sock: socket.socket, number: int) -> None:
        raise NotImplementedError

    def _recv(self, sock: socket.socket, number: int) -> bytes:
        data = sock.recv(1 << 16)
        self.raw[number] += data
        return data

    def _play(self, sock: socket.socket, steps: Sequence[Step]) -> bool:
        """False: the connection is to end."""
        for step in steps:
            if step is CLOSE:
                return False
            if isinstance(step, bytes):
                sock.sendall(step)
            else:
                time.sleep(step)
        return True


class Http1Recorder(Recorder):
    """`answers_early`: targets that are answered when their head has come, whatever is behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.answers_early: set[bytes] = set()

    def _serve(self, sock: socket.socket, number: int) -> None:
        if self.greeting:
            sock.sendall(self.greeting)
        reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        seen: Seen | None = None
        while True:
            try:
                event = reader.next_event()
            except h11.RemoteProtocolError as error:
                self.faults.append(f"{error}: {bytes(self.raw[number])!r}")
                return
            if event is h11.NEED_DATA:
                if reader.they_are_waiting_for_100_continue:
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                    reader.send(h11.InformationalResponse(status_code=100, headers=[]))
                if not (data := self._recv(sock, number)):
                    return  # in the middle of a request too: it was never whole
                reader.receive_data(data)
            elif isinstance(event, h11.Request):
                seen = Seen(event.method, event.target, list(event.headers.raw_items()), connection=number)
                if event.target in self.answers_early and not self._play(sock, self.answers[event.target]):
                    return
            elif isinstance(event, h11.Data):
                assert seen is not None
                seen.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                assert seen is not None
                self.seen.append(seen)
                answer = self.answers.get(seen.target) or [ok(seen.target, b"" if seen.method == b"HEAD" else seen.target)]
                if seen.target not in self.answers_early and not self._play(sock, answer):
                    return
                rest = reader.trailing_data[0]
                reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)  # what is kept alive is lbd's business
                if rest:
                    reader.receive_data(rest)
            else:
                return  # the end


def ok(target: bytes, body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), body)


class Http2Recorder(Recorder):
    """`answers` are frames; %d of a stream cannot be known, so each is a template: NUMBER stands for the stream's four bytes."""

    NUMBER = b"\x7f\xff\xff\x77"

    def _serve(self, sock: socket.socket, number: int) -> None:
        reader = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        reader.initiate_connection()
        sock.sendall(reader.data_to_send())
        open_streams: dict[int, Seen] = {}
        while data := self._recv(sock, number):
            try:
                events = reader.receive_data(data)
            except ProtocolError as error:
                self.faults.append(f"{type(error).__name__} {error}: {bytes(self.raw[number])!r}")
                return
            sock.sendall(reader.data_to_send())
            for event in events:
                if isinstance(event, h2.events.RequestReceived):
                    assert event.headers is not None
                    fields = [(bytes(name), bytes(value)) for name, value in event.headers]
                    named = dict(fields)
                    open_streams[event.stream_id] = Seen(
                        named[b":method"], named[b":path"], fields, connection=number, stream=event.stream_id
                    )
                elif isinstance(event, h2.events.DataReceived):
                    open_streams[event.stream_id].body += event.data
                    reader.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    sock.sendall(reader.data_to_send())
                elif isinstance(event, h2.events.StreamEnded) and not self._answer(sock, reader, open_streams.pop(event.stream_id)):
                    return

    def _answer(self, sock: socket.socket, reader: H2Connection, seen: Seen) -> bool:
        self.seen.append(seen)
        steps = self.answers.get(seen.target)
        if steps is not None:
            number = seen.stream.to_bytes(4, "big")
            return self._play(sock, [step.replace(self.NUMBER, number) if isinstance(step, bytes) else step for step in steps])
        body = b"" if seen.method == b"HEAD" else seen.target
        with contextlib.suppress(StreamClosedError):  # who asked has gone meanwhile
            reader.send_headers(seen.stream, [(b":status", b"200"), (b"content-length", b"%d" % len(seen.target))], end_stream=not body)
            if body:
                reader.send_data(seen.stream, body, end_stream=True)
        sock.sendall(reader.data_to_send())
        return True
