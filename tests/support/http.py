"""HTTP/1 over a raw socket, for tests that must see the bytes.

Independent of lbd's own codec on purpose: what tests believe about a message must not come from the code under test. Lenient
where a test wants to look at something wrong, strict about lengths.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Answer", "Downstream", "Ended", "Message", "Reader", "get", "request_bytes"]


class Ended(Exception):
    """The other side closed in the middle of something; `got` is what came before."""

    def __init__(self, got: bytes) -> None:
        super().__init__(f"closed after {len(got)} bytes: {got[-200:]!r}")
        self.got = got


@dataclass(slots=True)
class Message:
    """A request or a response as read; `raw` is every byte of it, framing included."""

    start: bytes
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    raw: bytes = b""

    def get(self, name: str, default: str = "") -> str:
        """The first value of that field."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), default)

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    @property
    def method(self) -> str:
        return self.start.split(b" ")[0].decode()

    @property
    def target(self) -> str:
        return self.start.split(b" ")[1].decode("latin-1")


class Answer(Message):
    """A response."""

    __slots__ = ()

    @property
    def status(self) -> int:
        return int(self.start.split(b" ", 2)[1])

    @property
    def reason(self) -> str:
        return self.start.split(b" ", 2)[2].decode("latin-1")

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.fields} {len(self.body)} bytes {self.body[:80]!r}>"


class Reader:
    """Buffered reads from a blocking socket, remembering the bytes of the message being read."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.raw = bytearray()

    def more(self) -> bool:
        """False at the end of the stream."""
        data = self.sock.recv(262_144)
        self.buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        self.raw += data
        return data

    def until(self, mark: bytes) -> bytes:
        while (place := self.buffer.find(mark)) < 0:
            if not self.more():
                raise Ended(bytes(self.raw) + self.buffer)
        return self.take(place + len(mark))

    def exactly(self, count: int) -> bytes:
        parts: list[bytes] = []
        missing = count
        while missing:
            if not self.buffer and not self.more():
                raise Ended(bytes(self.raw))
            parts.append(self.take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def to_end(self) -> bytes:
        while self.more():
            pass
        return self.take(len(self.buffer))

    def fields(self) -> list[tuple[str, str]]:
        """Lines up to the empty one."""
        found: list[tuple[str, str]] = []
        while (line := self.until(b"\r\n")) != b"\r\n":
            name, _, value = line[:-2].decode("latin-1").partition(":")
            found.append((name, value.strip()))
        return found

    def chunks(self, message: Message) -> None:
        parts = []
        while size := int(self.until(b"\r\n").split(b";")[0], 16):
            parts.append(self.exactly(size))
            if self.exactly(2) != b"\r\n":
                raise ValueError("a chunk must end with CRLF")
        message.body = b"".join(parts)
        message.trailers = self.fields()

    def has_next(self) -> bool:
        """False when the other side closed between messages."""
        return bool(self.buffer) or self.more()

    def head(self) -> Message:
        """A start line and fields; the body is still to be read."""
        self.raw.clear()
        start = self.until(b"\r\n")[:-2]
        return Message(start, self.fields())

    def request_body(self, message: Message) -> Message:
        if "chunked" in message.get("transfer-encoding").lower():
            self.chunks(message)
        else:
            message.body = self.exactly(int(message.get("content-length", "0")))
        message.raw = bytes(self.raw)
        return message

    def response(self, method: str = "GET") -> Answer:
        """The next response, 1xx included."""
        head = self.head()
        answer = Answer(head.start, head.fields)
        if method == "HEAD" or answer.status < 200 or answer.status in (204, 304):
            pass
        elif "chunked" in answer.get("transfer-encoding").lower():
            self.chunks(answer)
        elif answer.get("content-length"):
            answer.body = self.exactly(int(answer.get("content-length")))
        else:
            answer.body = self.to_end()
        answer.raw = bytes(self.raw)
        return answer


def request_bytes(method: str, target: str, fields: dict[str, str] | None = None, body: bytes = b"") -> bytes:
    """A request with Host, and Content-Length when there is a body, unless `fields` says otherwise."""
    lines = {"Host": "test", **({"Content-Length": str(len(body))} if body else {}), **(fields or {})}
    return f"{method} {target} HTTP/1.1\r\n{''.join(f'{k}: {v}{chr(13)}{chr(10)}' for k, v in lines.items())}\r\n".encode("latin-1") + body


class Downstream:
    """One connection to a balancer."""

    def __init__(self, address: int | str | socket.socket, timeout: float = PATIENCE) -> None:
        """`address` is a port of 127.0.0.1, the path of a unix socket, or what is connected already."""
        if isinstance(address, socket.socket):
            self.sock = address
        elif isinstance(address, int):
            self.sock = socket.create_connection(("127.0.0.1", address), timeout)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(address)
        self.reader = Reader(self.sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def send(self, data: bytes) -> Self:
        self.sock.sendall(data)
        return self

    def ask(self, method: str, target: str, fields: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        """Sends a request and reads its final response."""
        self.send(request_bytes(method, target, fields, body))
        return self.final(method)

    def response(self, method: str = "GET") -> Answer:
        return self.reader.response(method)

    def final(self, method: str = "GET") -> Answer:
        """The next response that is not interim."""
        while (answer := self.response(method)).status < 200:
            pass
        return answer

    def end(self) -> None:
        """No more from us: half-close."""
        self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """A reset, as from a machine that fell over."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    def is_closed_by_peer(self, timeout: float = PATIENCE) -> bool:
        """Waits for the end of the stream; False when bytes or nothing at all came instead."""
        self.sock.settimeout(timeout)
        try:
            return not self.reader.buffer and self.sock.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self.sock.close()


def get(address: int | str, target: str = "/", fields: dict[str, str] | None = None, timeout: float = PATIENCE) -> Answer:
    """One GET on a connection of its own."""
    with Downstream(address, timeout) as downstream:
        return downstream.ask("GET", target, fields)
