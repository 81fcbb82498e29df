"""Pieces of a body that have come over HTTP/2, and wait to be taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import deque

__all__ = ["gather"]

SMALL = 4096  # bytes up to which pieces are joined: to copy them costs less than another turn for each


def gather(chunks: deque[bytes], data: bytes) -> None:
    """A window counts bytes, but a piece of two bytes takes fifty: full of them, it would hold 25 times its size in memory."""
    if chunks and len(chunks[-1]) + len(data) <= SMALL:
        chunks[-1] += data
    else:
        chunks.append(data)
