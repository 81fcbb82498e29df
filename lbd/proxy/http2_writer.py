"""Frames on their way to the socket, of either side of a proxied HTTP/2 connection: many in one write, and what it does not take."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.core.stream import Stream
    from lbd.wire.http2 import Http2Codec

__all__ = ["FrameWriter"]

MOST = 128 * 1024  # bytes in frames that wait for the socket; beyond it nobody adds bodies
BACKLOG = 2 * MOST  # beyond it nothing is read from the other side: answers to what comes would pile up


class FrameWriter:
    """Between a connection's codec and its stream."""

    __slots__ = ("_codec", "_stream", "_unsent")

    def __init__(self, codec: Http2Codec, stream: Stream) -> None:
        self._codec = codec
        self._stream = stream
        self._unsent: bytes | memoryview = b""

    def backlog(self) -> int:
        """Bytes in frames that the socket has not taken."""
        return self._codec.pending + len(self._unsent)

    def room(self) -> int:
        """Bytes of bodies that may be added; it may be below 0."""
        return MOST - self.backlog()

    def is_over(self) -> bool:
        """There is so much of it that nothing more may come in."""
        return self.backlog() >= BACKLOG

    def is_stuck(self) -> bool:
        """The socket takes no more for now."""
        return bool(self._unsent)

    def write(self) -> bool:
        """Once, as much as the socket takes; whether it has taken all of it, and there was something. OSError: it is gone."""
        if not self._unsent:
            if not self._codec.pending:
                return False
            self._unsent = self._codec.take()
        sent = self._stream.send(self._unsent)
        if sent < len(self._unsent):
            self._unsent = memoryview(self._unsent)[sent:]
            return False
        self._unsent = b""
        return True
