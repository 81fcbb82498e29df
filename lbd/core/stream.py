"""Sockets as streams of bytes: try now, then wait.

    while (data := stream.recv(65536)) is None:
        await stream.readable

A Stream owns one file descriptor, not a socket object: half the memory, and no method call in the way of the system call.
core/memory.py has the twin without a socket; whoever runs a proxy on virtual time uses that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

from lbd.core.reactor import Pollable, Reactor
from lbd.core.syscalls import MOST_PARTS, accept, is_readable, recv, send, send_gathered

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.core.fiber import Fiber

__all__ = ["Acceptor", "Stream", "addresses_of", "connect", "send_buffer_of", "unsent_bytes_of"]

SIOCOUTQ = 0x5411  # linux/sockios.h


class Stream(Pollable):
    """One connection. `peer` is the other side's address, without the port for those who came to us."""

    __slots__ = ("peer",)

    can_splice = True  # its bytes are a socket's own

    def __init__(self, reactor: Reactor, fd: int, peer: str) -> None:
        Pollable.__init__(self, reactor, fd)
        self.peer = peer
        try:
            reactor.watch(self)
        except BaseException:
            os.close(fd)
            raise

    def recv(self, limit: int) -> bytes | None:
        """At most `limit` bytes; b"" at the end of the stream; None when nothing is there yet.

        OSError: the connection broke.
        """
        if not self.may_read:
            return None
        try:
            data = recv(self.fd, limit)
        except BlockingIOError:
            data = None
        # Less than asked for means that the socket is drained, and the next byte will be a new edge (epoll(7)); that saves
        # the call which would say so. The end of a stream that was announced already makes no new edge.
        if data is None or (len(data) < limit and not self.hung_up):
            self.may_read = False
        return data

    def send(self, data: bytes | memoryview) -> int:
        """How many bytes were taken; 0 when none can be taken now. OSError: the connection broke."""
        if not self.may_write:
            return 0
        try:
            sent = send(self.fd, data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self.may_write = False
        return sent

    def send_gathered(self, parts: list[bytes]) -> int:
        """As send(), of several pieces in one call."""
        if not self.may_write:
            return 0
        size = sum(map(len, parts))
        sent = send_gathered(self.fd, parts)
        if sent < size and len(parts) <= MOST_PARTS:
            self.may_write = False
        return sent

    async def send_all(self, data: bytes) -> None:
        """Sends everything, waiting as often as the peer makes it wait."""
        sent = self.send(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        while rest:
            while not (sent := self.send(rest)):
                await self.writable
            rest = rest[sent:]

    def send_eof(self) -> None:
        """No more will be sent; the other direction stays open."""
        if not self.is_closed:
            _shutdown(self.fd)

    def ended_whole(self) -> bool:
        """After the end of the stream: whether the other side put it there. TCP takes anybody's word for that; TLS does not."""
        return True

    def hand_over(self, successor: Stream) -> None:
        """A stream on top of this one hears of its events from now on."""
        self.reactor.hand_over(self, successor)

    def is_fresh(self) -> bool:
        """For a connection that should be silent: whether neither side closed it and the other wrote nothing into it."""
        return not self.hung_up and not self.may_read and not self.is_closed

    def is_fresh_now(self) -> bool:
        """As is_fresh(), asking the kernel, which may know more than the last poll told."""
        return not self.hung_up and not self.is_closed and not is_readable(self.fd)

    def untaken(self) -> int:
        """Bytes sent but not yet acknowledged by the other side: a slow reader shows here first. OSError: it is closed."""
        return unsent_bytes_of(self)

    def reset(self) -> None:
        """Closes so that the peer sees a reset, not an orderly end: what it got is not whole."""
        if not self.is_closed:
            _set_linger_zero(self.fd)
            self.close()


class Acceptor(Pollable):
    """A listening socket."""

    __slots__ = ("fiber", "name", "owner", "port")

    def __init__(self, reactor: Reactor, fd: int, name: str) -> None:
        Pollable.__init__(self, reactor, fd)
        self.name = name
        self.owner: Any = None  # whose connections these are, and the fiber that takes them: its keeper's business
        self.fiber: Fiber | None = None
        os.set_blocking(fd, False)
        self.port = _prepare_listening(fd)  # 0 for a unix socket
        reactor.watch(self)

    def accept(self) -> Stream | None:
        """One connection; None when nobody waits. OSError: EMFILE and its like, or a connection that is gone already."""
        if not self.may_read:
            return None
        accepted = accept(self.fd)
        if accepted is None:
            self.may_read = False
            return None
        fd, peer = accepted
        return Stream(self.reactor, fd, peer)

    def close(self) -> None:
        self.reactor.unwatch(self)  # the master has it too, and after an upgrade the next one
        Pollable.close(self)


async def connect(reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> Stream:
    """A connection to a literal address. OSError when refused or unreachable; the deadline is the fiber's own."""
    connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_UNIX:
            connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = connecting.connect_ex(address)
        # EAGAIN: a unix socket's backlog is full. There is no event that tells when it is not; it counts as refused.
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
    except BaseException:
        connecting.close()
        raise
    stream = Stream(reactor, connecting.detach(), name)
    stream.may_read = False  # until the next poll tells: what is there already makes an event of being watched
    try:
        if code == errno.EINPROGRESS:
            stream.may_write = False
            while not stream.may_write:
                await stream.writable
            if stream.broken and (code := _with_socket(stream.fd, _pending_error)):
                raise OSError(code, os.strerror(code))
        return stream
    except BaseException:
        stream.close()
        raise


def addresses_of(stream: Stream) -> tuple[tuple[str, int], tuple[str, int]]:
    """The other side's address and our own, with ports; of a unix socket "unix:" and its path. ("", 0) where there is none."""
    pair = [("", 0), ("", 0)]

    def ask(connection: socket.socket) -> int:
        for index, address in enumerate((connection.getpeername(), connection.getsockname())):
            pair[index] = (address[0], address[1]) if isinstance(address, tuple) else ("unix:" + os.fsdecode(address), 0)
        return 0

    try:
        _with_socket(stream.fd, ask)
    except OSError:
        pass  # gone already, or a stream without a socket
    return pair[0], pair[1]


def send_buffer_of(stream: Stream) -> int:
    """How many bytes the kernel takes for it at most, now; it grows with a fast reader."""
    return _with_socket(stream.fd, _send_buffer)


def unsent_bytes_of(stream: Stream) -> int:
    """Bytes sent but not yet acknowledged by the other side: a slow reader shows here first."""
    if stream.fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    return int(struct.unpack("i", fcntl.ioctl(stream.fd, SIOCOUTQ, b"\0\0\0\0"))[0])


def _send_buffer(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


def _with_socket(fd: int, ask: Callable[[socket.socket], int]) -> int:
    if fd < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    borrowed = socket.socket(fileno=fd)
    try:
        return ask(borrowed)
    finally:
        borrowed.detach()


def _pending_error(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _shutdown(fd: int) -> None:
    def shut(connection: socket.socket) -> int:
        connection.shutdown(socket.SHUT_WR)
        return 0

    try:
        _with_socket(fd, shut)
    except OSError:
        pass  # not connected any more: there is nobody to tell


def _set_linger_zero(fd: int) -> None:
    def set_option(connection: socket.socket) -> int:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        return 0

    _with_socket(fd, set_option)


def _prepare_listening(fd: int) -> int:
    """Sets what accepted sockets inherit; gives the port, 0 for a unix socket."""

    def prepare(listening: socket.socket) -> int:
        if listening.family == socket.AF_UNIX:
            return 0
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return int(listening.getsockname()[1])

    return _with_socket(fd, prepare)
