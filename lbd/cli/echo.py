"""WebSockets for the demo's origins: whatever comes goes back (RFC 6455)."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from io import BufferedIOBase

__all__ = ["accept_key", "echo_frames"]

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CLOSE, PING, PONG = 0x8, 0x9, 0xA
LARGEST = 1 << 24  # bytes of one frame


class Frame(NamedTuple):
    head: int  # FIN, reserved bits and opcode
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.head & 0xF


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept, for a client's Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()


def read_frame(source: BufferedIOBase) -> Frame | None:
    """None at the end, and for what no client sends."""
    start = source.read(2)
    if len(start) < 2 or not start[1] & 0x80:  # a client's frames are masked
        return None
    size = start[1] & 0x7F
    if size >= 126:
        size = int.from_bytes(source.read(2 if size == 126 else 8), "big")
    if size > LARGEST:
        return None
    mask, masked = source.read(4), source.read(size)
    if len(masked) < size:
        return None
    pad = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return Frame(start[0], (int.from_bytes(masked, "big") ^ pad).to_bytes(size, "big"))


def written(frame: Frame) -> bytes:
    size = len(frame.payload)
    if size < 126:
        length = bytes((size,))
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes((frame.head,)) + length + frame.payload


def echo_frames(source: BufferedIOBase, sink: BufferedIOBase) -> None:
    """Until the client closes."""
    while (frame := read_frame(source)) is not None:
        if frame.opcode == PONG:
            continue
        sink.write(written(frame._replace(head=0x80 | PONG) if frame.opcode == PING else frame))
        if frame.opcode == CLOSE:
            return
