"""The calls into the kernel that every request makes, on plain file descriptors; the twin of syscalls.pyx, in Python.

A result of None or 0 means "would block", and so does BlockingIOError. Whatever else goes wrong is the OSError that the kernel named.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["MOST_PARTS", "Poller", "accept", "fence", "is_readable", "recv", "resume", "send", "send_gathered"]

MOST_PARTS = 16  # of one gathered send; what a caller has more stays unsent


# At most so many bytes of a descriptor; b"" at the end of the stream. And how many bytes the kernel took. (CPython ignores SIGPIPE: EPIPE
# is raised.) "Would block" is BlockingIOError here, rarely: four calls of Python less for each request.
recv: Callable[[int, int], bytes | None] = os.read
send: Callable[[int, bytes | memoryview], int] = os.write


def send_gathered(fd: int, parts: list[bytes]) -> int:
    """As send(), of several pieces at once."""
    try:
        return os.writev(fd, parts[:MOST_PARTS])
    except BlockingIOError:
        return 0


def is_readable(fd: int) -> bool:
    """Whether data, the end of the stream or an error waits to be read."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def accept(fd: int) -> tuple[int, str] | None:
    """One connection of a listening socket: its descriptor, non-blocking, and the peer's address without its port.

    The peer of a unix socket is "unix:".
    """
    listening = socket.socket(fileno=fd)
    try:
        accepted, address = listening.accept()
    except BlockingIOError:
        return None
    finally:
        listening.detach()
    accepted.setblocking(False)
    return accepted.detach(), address[0] if isinstance(address, tuple) else "unix:"


def fence() -> None:
    """What was written before is seen before what is written after; nothing between two steps of an interpreter moves."""


def resume(coroutine: Coroutine[Any, None, None]) -> bool:
    """Runs a coroutine up to its next wait; True when it has ended. RuntimeError: it waits for something that is not ours."""
    try:
        what = coroutine.send(None)
    except StopIteration:
        return True
    if what is not None:
        coroutine.close()  # now, while whatever it has entered is still there to be left
        raise RuntimeError(f"a fiber awaits {what!r}: use Reactor.in_trio() for what is trio's")
    return False


class Poller:
    """An epoll descriptor and the events of its last poll()."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        self._epoll = select.epoll()
        self._events: list[tuple[int, int]] = []
        self.fd = -1
        self.events = 0

    def fileno(self) -> int:
        return self._epoll.fileno()

    def add(self, fd: int, events: int) -> None:
        self._epoll.register(fd, events)

    def remove(self, fd: int) -> None:
        """Closing a descriptor does this by itself only where nobody else holds the same open file."""
        self._epoll.unregister(fd)

    def poll(self, milliseconds: int) -> int:
        """Waits; gives the number of events, which take() tells of."""
        self._events = self._epoll.poll(milliseconds / 1000, self._batch)
        return len(self._events)

    def take(self, i: int) -> None:
        """Puts the i-th into `fd` and `events`."""
        self.fd, self.events = self._events[i]

    def close(self) -> None:
        self._epoll.close()
