"""A frame of HTTP/2 as bytes (RFC 9113, 4.1). frame_bytes.pyx is the same in C."""

from __future__ import annotations

import struct

__all__ = ["frame"]

HEAD = struct.Struct(">HBBBI")  # 24 bits of length, type, flags, stream


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload
