"""Listening sockets that somebody else has opened for us: systemd's LISTEN_FDS (sd_listen_fds(3)), or any parent's `fd:N`."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = ["Inherited"]

FIRST = 3  # SD_LISTEN_FDS_START
LONGEST_COUNT = 10  # digits: more than any limit on open files has


class Inherited:
    """What was open when the program started. Made before anything else is opened: a number that we gave to a file of our own
    must not pass for a socket of our parent's."""

    def __init__(self, environ: Mapping[str, str], pid: int, besides: Collection[int] = ()) -> None:
        """`besides`: descriptors that came for another purpose."""
        open_now = {int(name) for name in os.listdir("/proc/self/fd") if int(name) >= FIRST and _is_open(int(name))}
        self._open = open_now - set(besides)
        self.names: dict[str, list[int]] = {}
        if environ.get("LISTEN_PID") == str(pid):
            names = environ.get("LISTEN_FDNAMES", "").split(":")
            count = _count(environ.get("LISTEN_FDS", ""))
            # Whatever the number says, it brought what is open: a descriptor that somebody has closed on the way is no reason to die.
            for fd in sorted(fd for fd in self._open if fd < FIRST + count):
                self.names.setdefault(names[fd - FIRST] if fd - FIRST < len(names) else "", []).append(fd)
        for fd in self._open:
            os.set_inheritable(fd, False)

    def open(self, word: str) -> socket.socket:
        """A copy of the listening socket with this number or name. EnvironmentFault: there is none."""
        fd = int(word) if word.isdecimal() else self._number(word)
        if fd not in self._open or not _is_open(fd):
            raise EnvironmentFault(f"descriptor {fd} was not open when lbd started; {self._offer()}")
        copy = os.dup(fd)
        try:
            sock = socket.socket(fileno=copy)
        except OSError:
            os.close(copy)
            raise EnvironmentFault(f"descriptor {fd} is not a socket; {self._offer()}") from None
        if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.close()
            raise EnvironmentFault(f"descriptor {fd} is not a listening stream socket; its opener must bind it and listen on it")
        sock.setblocking(False)
        return sock

    def _number(self, name: str) -> int:
        fds = self.names.get(name, [])
        if len(fds) != 1:
            raise EnvironmentFault(f'{len(fds) or "no"} sockets came with the name "{name}"; {self._offer()}')
        return fds[0]

    def _offer(self) -> str:
        if not self.names:
            return "no sockets came with LISTEN_FDS (is lbd.socket started, and LISTEN_PID ours?)"
        return "LISTEN_FDS brought " + ", ".join(f"fd:{fd} ({name})" for name, fds in self.names.items() for fd in fds)

    def close(self) -> None:
        """Our parent's copies too: when we stop, the port must be free unless somebody else holds it."""
        for fd in self._open:
            if _is_listening(fd):
                os.close(fd)
        self._open.clear()


def _count(text: str) -> int:
    """0 for what is no number of descriptors."""
    return int(text) if text.isdecimal() and len(text) <= LONGEST_COUNT else 0


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_listening(fd: int) -> bool:
    try:
        sock = socket.socket(fileno=fd)
    except OSError:
        return False
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    finally:
        sock.detach()
