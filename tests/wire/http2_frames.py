"""HTTP/2 frames made and read without lbd's code: by hand, by hyperframe and by hpack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hpack.hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from lbd.wire.http2 import Http2Codec
from lbd.wire.http2_limits import Http2Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 1, 1, 4, 8, 0x20
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR = range(7)
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM = range(7, 12)

REQUEST = ((":method", "GET"), (":scheme", "https"), (":path", "/"), (":authority", "example.com"))
POST = ((":method", "POST"), *REQUEST[1:])
RESPONSE = ((":status", "200"),)


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame, however wrong."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block(fields: Iterable[tuple[str | bytes, str | bytes]]) -> bytes:
    """Fields that leave the dynamic table as it is: blocks may then come in any order."""
    encoded = Encoder()
    return b"".join(encoded.add((as_bytes(name), as_bytes(value)), True) for name, value in fields)


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


def headers(stream: int, fields: Iterable[tuple[str | bytes, str | bytes]] = REQUEST, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return raw(HEADERS, flags, stream, block(fields))


def settings(*pairs: tuple[int, int]) -> bytes:
    return raw(SETTINGS, 0, 0, b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs))


def window(stream: int, increment: int) -> bytes:
    return raw(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return raw(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: int = NO_ERROR) -> bytes:
    return raw(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big"))


def frames_of(data: bytes) -> list[Any]:
    """What lbd sends, read by hyperframe."""
    data = data.removeprefix(PREFACE)
    found: list[Any] = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        found.append(frame)
        data = data[9 + length :]
    return found


def resets_of(frames: Iterable[Any]) -> list[tuple[int, int]]:
    """(stream, code)"""
    return [(frame.stream_id, frame.error_code) for frame in frames if isinstance(frame, RstStreamFrame)]


def goaways_of(frames: Iterable[Any]) -> list[int]:
    return [frame.error_code for frame in frames if isinstance(frame, GoAwayFrame)]


def greeted(*, is_downstream: bool = True, limits: Http2Limits | None = None) -> Http2Codec:
    """A codec whose other side has sent its preface, and acknowledged ours."""
    codec = Http2Codec(is_downstream=is_downstream, limits=limits or Http2Limits())
    codec.receive((PREFACE if is_downstream else b"") + settings() + raw(SETTINGS, ACK, 0), 0.0)
    codec.take()
    return codec
