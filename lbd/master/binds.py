"""One bind address becomes listening sockets.

    10.0.0.1:80, [::]:80, localhost:80    one SO_REUSEPORT socket for each worker slot: the kernel spreads connections over them
    unix:/run/lbd.sock                    one socket for all workers; the file's mode is set before anybody can connect
    fd:3, fd:web                          somebody else's socket (inherited.py), for all workers

SO_REUSEPORT lets every process of our user share a port, so a second lbd started by mistake would take half of the first one's
connections. A probe without it comes first: bind() then fails if anybody listens. A worker whose master was killed closes its
sockets when it notices, milliseconds later; so the probe tries for half a second, as nginx does (for 2.5 s).

IPv6 sockets take IPv6 only: `[::]:80` and `0.0.0.0:80` are two binds, whatever net.ipv6.bindv6only says. A host name is bound
at its first address, IPv4 before IPv6.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

import trio

from lbd.errors import EnvironmentFault
from lbd.master.holder import holder_of_port, holder_of_unix

if TYPE_CHECKING:
    from lbd.config.positions import KeyPath
    from lbd.master.claims import Claims
    from lbd.master.inherited import Inherited
    from lbd.master.upgrade import Handover

__all__ = ["BindPolicy", "Bound", "FileId", "adopt_bind", "file_id", "open_bind"]

FileId = tuple[int, int]  # device and inode

TRIES = 6
PAUSE = 0.1  # seconds between tries
# What is said of a socket to close(2): whoever queues in it then gets a reset, with the request that was sent already. So a socket
# that is to go first takes no more SYNs (the rest of TCP passes), then its queue is emptied, then it is closed: whoever comes in
# between knocks again a second later, and is refused.
ATTACH_FILTER, DETACH_FILTER = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER of asm-generic/socket.h
NO_SYN = b"".join(
    struct.pack("HBBI", *step)
    for step in (
        (0x30, 0, 0, 13),  # load the byte of TCP's header that has the flags
        (0x45, 0, 1, 0x02),  # SYN?
        (0x06, 0, 0, 0),  # drop
        (0x06, 0, 0, 0xFFFFFFFF),  # pass
    )
)
PATH_LIMIT = 107  # bytes of sun_path, without its zero

log = logging.getLogger("lbd.master")


class BindPolicy(NamedTuple):
    """What is asked for: the address, the key that asks for it, and its settings."""

    bind: str
    path: KeyPath = ()
    backlog: int = 128
    mode: str = "0660"

    @property
    def port(self) -> int:
        """0 for a bind that has none."""
        port = self.bind.rpartition(":")[2]
        return 0 if self.bind.startswith(("unix:", "fd:")) or not port.isdecimal() else int(port)

    def fault(self, sentence: str) -> EnvironmentFault:
        return EnvironmentFault(f"cannot listen on {self.bind}: {sentence}", self.path)


class Bound:
    """The listening sockets of one bind, one for each slot or one for all.

    Those of a predecessor are on loan from it until we serve: if that comes to nothing, a unix socket's file is still its own.
    """

    def __init__(self, policy: BindPolicy, sockets: list[socket.socket], path: str = "", handover: Handover | None = None) -> None:
        self.policy = policy
        self._sockets = sockets
        self._path = path
        self._handover = handover
        # A socket holds on to its file, so that nobody else's gets the same number while ours is open.
        self._file = file_id(path) if path else None

    def __repr__(self) -> str:
        return f"<Bound {self.policy.bind}>"

    def fd(self, slot: int) -> int:
        return self._sockets[slot if len(self._sockets) > 1 else 0].fileno()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        return tuple(self._sockets)

    @property
    def file(self) -> FileId | None:
        """The one that we made of a unix socket's, whoever has its path by now."""
        return self._file

    @property
    def is_lost(self) -> bool:
        """The file of our unix socket has gone, or is another's: nobody finds us any more."""
        return bool(self._path) and file_id(self._path) != self._file

    def apply(self, policy: BindPolicy) -> None:
        """Settings that may change while it listens. EnvironmentFault: the mode cannot be set, and will be tried again."""
        if policy.backlog != self.policy.backlog and not policy.bind.startswith("fd:"):
            for sock in self._sockets:
                sock.listen(policy.backlog)
        mode = self.policy.mode
        self.policy = policy
        if policy.mode != mode and self._path:
            try:
                _set_mode(self._path, self._file, policy.mode)
            except OSError as error:
                self.policy = policy._replace(mode=mode)
                raise EnvironmentFault(f"the mode of {policy.bind} stays {mode}: {error.strerror}", (*policy.path[:2], "mode")) from error

    def deafen(self) -> None:
        """Lets nobody else in, whoever has a copy of these sockets; who is in the queue stays there. TCP sockets of our own only."""
        program = array.array("B", NO_SYN)
        option = struct.pack("HP", len(NO_SYN) // 8, program.buffer_info()[0])
        self._set(ATTACH_FILTER, option)

    def hear(self) -> None:
        """Takes deafen() back."""
        self._set(DETACH_FILTER, b"\0\0\0\0")

    def _set(self, option: int, value: bytes) -> None:
        for sock in self._sockets if self.policy.port else ():
            with contextlib.suppress(OSError):  # where the kernel cannot, a connection may be lost, as it is with others
                sock.setsockopt(socket.SOL_SOCKET, option, value)

    def close(self, *, keep_file: bool = False) -> None:
        """Closes our copies and takes a unix socket's file away, if it is still the one we made."""
        is_on_loan = self._handover is not None and self._handover.is_upgrade
        if self._path and not keep_file and not is_on_loan and not self.is_lost:
            try:
                os.unlink(self._path)
            except OSError as error:  # it is stale then, and replaced when somebody listens there
                log.warning("the file %s stays: %s", self._path, error.strerror)
        for sock in self._sockets:
            sock.close()


async def open_bind(policy: BindPolicy, slots: int, inherited: Inherited, claims: Claims, *, is_ours: bool = False) -> Bound:
    """Listening sockets for a bind, or EnvironmentFault and nothing is open. `is_ours`: we hold the port already, at another address."""
    scheme, _, rest = policy.bind.partition(":")
    if scheme == "unix":
        return _open_unix(policy, rest)
    if scheme == "fd":
        return _open_inherited(policy, rest, inherited, claims)
    family, address = await _resolve(policy)
    claims.claim_address(policy, family, *address)
    if not is_ours:
        await _probe(policy, family, address)
    return _open_tcp(policy, family, address, slots)


def adopt_bind(policy: BindPolicy, sockets: list[socket.socket], slots: int, handover: Handover, claims: Claims) -> Bound:
    """A bind whose sockets a predecessor has opened; with more of them when there are more slots than it had."""
    scheme, _, path = policy.bind.partition(":")
    made = handover.file_of(policy.bind)
    if scheme == "unix" and made is not None and file_id(path) != made:  # our predecessor's has gone
        for sock in sockets:
            sock.close()
        return _open_unix(policy, path)
    try:
        if scheme != "unix":
            claims.claim(policy, sockets[0])
        if scheme not in ("unix", "fd"):
            while len(sockets) < slots:
                sockets.append(_new_socket(sockets[0].family, sockets[0].getsockname(), shared=True))
        if scheme != "fd":
            for sock in sockets:
                sock.listen(policy.backlog)
        if scheme == "unix":
            _set_mode(path, file_id(path), policy.mode)
    except (OSError, EnvironmentFault) as error:
        for sock in sockets:
            sock.close()
        if isinstance(error, EnvironmentFault):
            raise
        raise policy.fault(f"its predecessor's socket cannot be used: {error.strerror}") from error
    return Bound(policy, sockets, path if scheme == "unix" else "", handover)


async def _resolve(policy: BindPolicy) -> tuple[int, tuple[str, int]]:
    host, _, port = policy.bind.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise policy.fault(f"{host} does not resolve ({reason}); write an address") from None
    family, _, _, _, address = min(found, key=lambda item: item[0] != socket.AF_INET)
    return family, (str(address[0]), int(address[1]))


async def _probe(policy: BindPolicy, family: int, address: tuple[str, int]) -> None:
    for attempt in range(TRIES):
        try:
            _new_socket(family, address).close()
            return
        except OSError as error:
            if error.errno != errno.EADDRINUSE or attempt == TRIES - 1:
                raise policy.fault(_why(error, policy)) from error
            await trio.sleep(PAUSE)


def _new_socket(family: int, address: tuple[str, int], *, shared: bool = False) -> socket.socket:
    """Bound, not listening."""
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the last run in TIME_WAIT do not matter
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_tcp(policy: BindPolicy, family: int, address: tuple[str, int], slots: int) -> Bound:
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < slots:
            sockets.append(_new_socket(family, address, shared=True))
        for sock in sockets:  # only when all are bound: what listens gets connections
            sock.listen(policy.backlog)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise policy.fault(_why(error, policy)) from error
    return Bound(policy, sockets)


def _why(error: OSError, policy: BindPolicy) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            holder = holder_of_port(policy.port)
            return f"the port is in use{' by ' + holder if holder else ''}; stop what uses it, or choose another port"
        case errno.EACCES:
            return "this port needs root or the capability CAP_NET_BIND_SERVICE"
        case errno.EADDRNOTAVAIL:
            return "no interface of this machine has this address; see `ip address`"
        case errno.EMFILE | errno.ENFILE:
            return "too many open files; raise `ulimit -n`"
    return f"{error.strerror}"


def _open_inherited(policy: BindPolicy, word: str, inherited: Inherited, claims: Claims) -> Bound:
    try:
        sock = inherited.open(word)
    except EnvironmentFault as fault:
        raise policy.fault(str(fault)) from None
    try:
        claims.claim(policy, sock)
    except EnvironmentFault:
        sock.close()
        raise
    return Bound(policy, [sock])


def _open_unix(policy: BindPolicy, path: str) -> Bound:
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise policy.fault(f"the path is longer than {PATH_LIMIT} bytes")
    try:
        _remove_stale(policy, path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.bind(path)
            os.chmod(path, int(policy.mode, 8))  # before listen(): until then nobody can connect
            sock.listen(policy.backlog)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        place = f"the directory {os.path.dirname(path) or '.'}" if error.errno in (errno.ENOENT, errno.EACCES) else path
        raise policy.fault(f"{error.strerror}: {place}") from error
    return Bound(policy, [sock], path)


def _remove_stale(policy: BindPolicy, path: str) -> None:
    """A socket file that nobody listens on is what a killed process has left."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise policy.fault("the file exists and is not a socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        code = probe.connect_ex(path)
        if code in (0, errno.EAGAIN):  # EAGAIN: a full backlog is a backlog
            holder = holder_of_unix(probe) if code == 0 else ""
            raise policy.fault(f"{holder or 'another process'} listens on it; stop it, or choose another path")
        if code != errno.ECONNREFUSED:
            raise policy.fault(f"the file exists, and whether it is in use cannot be told: {os.strerror(code)}")
    os.unlink(path)


def file_id(path: str) -> FileId | None:
    """None: there is no such file."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _set_mode(path: str, file: FileId | None, mode: str) -> None:
    """Of this file, and of no other that may have its path by now. OSError: it has gone, or its mode cannot be changed."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != file:
            raise FileNotFoundError(errno.ENOENT, "another file has its path")
        os.chmod(f"/proc/self/fd/{fd}", int(mode, 8))
    finally:
        os.close(fd)
