"""HTTP/2's frames as bytes, and what its numbers mean (RFC 9113, 4, 6 and 7)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from lbd.wire.frame_bytes import frame

__all__ = [
    "ACK",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONTINUATION",
    "DATA",
    "DEFAULT_FRAME",
    "DEFAULT_WINDOW",
    "ENABLE_CONNECT_PROTOCOL",
    "ENABLE_PUSH",
    "END_HEADERS",
    "END_STREAM",
    "ENHANCE_YOUR_CALM",
    "FLOW_CONTROL_ERROR",
    "FRAME_SIZE_ERROR",
    "GOAWAY",
    "HEADERS",
    "HEADER_TABLE_SIZE",
    "HTTP_1_1_REQUIRED",
    "INITIAL_WINDOW_SIZE",
    "INTERNAL_ERROR",
    "MAX_CONCURRENT_STREAMS",
    "MAX_FRAME_SIZE",
    "MAX_HEADER_LIST_SIZE",
    "MOST",
    "NO_ERROR",
    "PADDED",
    "PING",
    "PREFACE",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PROTOCOL_ERROR",
    "PUSH_PROMISE",
    "REFUSED_STREAM",
    "RST_STREAM",
    "SETTINGS",
    "STREAM_CLOSED",
    "WINDOW_UPDATE",
    "ConnectionFault",
    "Flood",
    "StreamFault",
    "checked_settings",
    "code_label",
    "code_name",
    "frame",
    "goaway_frame",
    "head_frames",
    "reset_frame",
    "settings_frame",
    "window_frame",
    "without_padding",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DEFAULT_FRAME = 16 * 1024  # the largest frame before anybody allows more; we never do, and never send a larger one
DEFAULT_WINDOW = 65535
MOST = 2**31 - 1  # of a window, and of streams' numbers

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITY_FLAG = 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8  # RFC 8441

CODES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED", "FRAME_SIZE_ERROR",
    "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM", "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = 0, 1, 2, 3
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 5, 6, 7, 8, 9, 11
HTTP_1_1_REQUIRED = 13

SETTING = struct.Struct(">HI")


class ConnectionFault(Exception):
    """RFC 9113, 5.4.1: the connection is of no more use."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Flood(ConnectionFault):
    """The other side asks too much of us: 10.5. `kind` is of resets, frames, head."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(ENHANCE_YOUR_CALM, message)
        self.kind = kind


class StreamFault(Exception):
    """5.4.2: one stream is of no more use."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Payload(NamedTuple):
    data: bytes
    padding: int  # bytes of the frame that are none of its content


def code_name(code: int) -> str:
    return CODES[code] if code < len(CODES) else f"0x{code:x}"


def code_label(code: int) -> str:
    """For metrics: who sends a code must not choose how many there are."""
    return CODES[code] if code < len(CODES) else "other"


def settings_frame(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join([SETTING.pack(key, value) for key, value in values.items()]))


def window_frame(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def reset_frame(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway_frame(last: int, code: int, message: bytes) -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + message)


def head_frames(stream: int, block: bytes, has_ended: bool) -> bytes:
    """HEADERS, and CONTINUATION for what does not fit."""
    flags = END_STREAM if has_ended else 0
    if len(block) <= DEFAULT_FRAME:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[at : at + DEFAULT_FRAME] for at in range(0, len(block), DEFAULT_FRAME)]
    frames = [frame(HEADERS, flags, stream, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    frames.append(frame(CONTINUATION, END_HEADERS, stream, pieces[-1]))
    return b"".join(frames)


def without_padding(payload: bytes, flags: int) -> Payload:
    """The content of a DATA or HEADERS frame."""
    if not flags & PADDED:
        return Payload(payload, 0)
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "a padded frame without the length of its padding")
    padding = payload[0]
    if padding >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "padding that is longer than its frame")
    return Payload(payload[1 : len(payload) - padding], padding + 1)


def checked_settings(payload: bytes, is_from_server: bool) -> list[tuple[int, int]]:
    """(setting, value) in order; ConnectionFault for a value that must not be."""
    if len(payload) % SETTING.size:
        raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
    settings: list[tuple[int, int]] = []
    for key, value in SETTING.iter_unpack(payload):
        if key == ENABLE_PUSH and (value > 1 or (value == 1 and is_from_server)):
            raise ConnectionFault(PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")
        if key == INITIAL_WINDOW_SIZE and value > MOST:
            raise ConnectionFault(FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE of {value}")
        if key == MAX_FRAME_SIZE and not DEFAULT_FRAME <= value < 1 << 24:
            raise ConnectionFault(PROTOCOL_ERROR, f"MAX_FRAME_SIZE of {value}")
        if key == ENABLE_CONNECT_PROTOCOL and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, f"ENABLE_CONNECT_PROTOCOL of {value}")
        settings.append((key, value))
    return settings
