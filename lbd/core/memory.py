"""Streams without sockets: two ends in memory, on any clock.

They keep every promise of Stream, the kernel's habits included: short reads, a bounded buffer that makes the sender wait,
half-close, resets. tests/core/test_streams.py runs one suite on both.
"""

from __future__ import annotations

import errno
import os
from select import EPOLLERR, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING

from lbd.core.reactor import Pollable
from lbd.core.stream import Stream

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor

__all__ = ["MemoryStream", "memory_stream_pair"]

BUFFER = 64 * 1024


class MemoryStream(Stream):
    """One end. What it has received and nobody has read yet lies in `inbox`."""

    __slots__ = ("_buffer", "_has_ended", "_is_reset", "_is_shut", "_other", "_successor", "inbox")

    can_splice = False

    def __init__(self, reactor: Reactor, peer: str, buffer: int) -> None:
        Pollable.__init__(self, reactor, -1)
        self.peer = peer
        self.inbox = bytearray()
        self.may_read = False
        self._other: MemoryStream | None = None  # until one of the two is closed
        self._successor: Stream | None = None  # who hears of events in our place
        self._buffer = buffer
        self._has_ended = False  # the other end will send no more
        self._is_shut = False  # nor will this one
        self._is_reset = False

    def recv(self, limit: int) -> bytes | None:
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self.may_read:
            return None
        if self.inbox:
            data = bytes(self.inbox[:limit])
            del self.inbox[:limit]
            self._tell_other(EPOLLOUT)
        elif self._is_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        elif self._has_ended:
            return b""
        else:
            self.may_read = False
            return None
        if len(data) < limit and not self.hung_up:
            self.may_read = False
        return data

    def send(self, data: bytes | memoryview) -> int:
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._is_reset:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        other = self._other
        if other is None or self._is_shut:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        sent = min(len(data), max(0, self._buffer - len(other.inbox)))
        if sent < len(data):
            self.may_write = False
        if sent:
            other.inbox += data[:sent]
            self._tell_other(EPOLLIN)
        return sent

    def send_gathered(self, parts: list[bytes]) -> int:
        return self.send(b"".join(parts))

    def send_eof(self) -> None:
        other = self._other
        if other is not None and not self._is_shut:
            self._is_shut = True
            other._has_ended = True
            self._tell_other(EPOLLRDHUP | EPOLLIN)

    def hand_over(self, successor: Stream) -> None:
        self._successor = successor
        self.reactor.hand_over(self, successor)

    def is_fresh_now(self) -> bool:
        return not self.hung_up and not self.is_closed and not self.inbox and not self._has_ended and not self._is_reset

    def close(self) -> None:
        """With bytes unread the other end is reset, as by the kernel."""
        if not self.is_closed:
            if self.inbox:
                self._break_other()
            self.send_eof()
            self._tell_other(EPOLLOUT)
            self._part()
            Pollable.close(self)

    def untaken(self) -> int:
        return 0 if self._other is None else len(self._other.inbox)

    def reset(self) -> None:
        if not self.is_closed:
            self._break_other()
            self._part()
            Pollable.close(self)

    def _break_other(self) -> None:
        other = self._other
        if other is not None:
            other._is_reset = True
            self._tell_other(EPOLLERR | EPOLLHUP | EPOLLRDHUP | EPOLLIN)

    def _part(self) -> None:
        """The two ends refer to each other, and who is on top to what is below: cycles, unless somebody lets go."""
        self._successor = None
        other, self._other = self._other, None
        if other is not None:
            other._other = None

    def _tell_other(self, events: int) -> None:
        other = self._other
        if other is not None:
            other.reactor.announce(other if other._successor is None else other._successor, events)


def memory_stream_pair(
    reactor: Reactor, *, names: tuple[str, str] = ("left", "right"), buffer: int = BUFFER
) -> tuple[MemoryStream, MemoryStream]:
    """Two connected ends; each end's `peer` is the other's name."""
    left, right = MemoryStream(reactor, names[1], buffer), MemoryStream(reactor, names[0], buffer)
    left._other, right._other = right, left
    return left, right
