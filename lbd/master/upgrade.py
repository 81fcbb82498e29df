"""A new program in the place of the old one, without a refused connection: SIGUSR2.

The old master starts a new one, with the words it was started with itself, and hands it the listening sockets: as inherited
descriptors, listed in $LBD_UPGRADE by their binds, and what it has learned (heritage.py). Both serve from the same queues until the
new one says, through a socket, that all its workers do; then the old one tells the service manager who the main process is, closes its
end of the socket, and drains. From then on the manager listens to the new one, which waits for that moment to speak. If the new one ends
before it is ready, or is not ready in time, the old one stays as if nothing had been.

- Sockets that the new configuration does not name are closed by the new master only when it is ready, and the old one takes what
  queues in them while it drains. So are those of worker slots that the new one does not have.
- When the old one dies in the middle of it, the new one goes too, once it has finished what it took: whoever looks after the daemon,
  systemd above all, has seen the old one die and starts another, which could not have the ports.
- What is not handed on: numbers (counters begin at 0 again, as after a restart), connections.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lbd.master.binds import file_id
from lbd.master.process import describe_exit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbd.master.binds import FileId

__all__ = ["STATE_LOCK", "VARIABLE", "Handover", "Successor", "start_successor"]

VARIABLE = "LBD_UPGRADE"
STATE_LOCK = "state lock"  # among the binds, but none: the descriptor that keeps others out of the state directory
# Of the old one alone: sockets come by VARIABLE, and the watchdog is whoever is the main process.
OLD_ONLY = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class Handover:
    """What a predecessor has handed to us, if there is one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        handed = json.loads(environ.get(VARIABLE, "{}"))
        self._sockets: dict[str, list[int]] = handed.get("sockets", {})
        self._files: dict[str, list[int]] = handed.get("files", {})
        self._ready: int = handed.get("ready", -1)
        self._heritage: int = handed.get("heritage", -1)
        self._has_finished = False
        for fd in self.fds:
            os.set_inheritable(fd, False)

    @property
    def is_upgrade(self) -> bool:
        """Until finish()."""
        return self._ready >= 0 and not self._has_finished

    @property
    def fds(self) -> set[int]:
        """Not yet taken."""
        return {fd for fds in self._sockets.values() for fd in fds} | {fd for fd in (self._ready, self._heritage) if fd >= 0}

    @property
    def binds(self) -> list[str]:
        return list(self._sockets)

    def take(self, bind: str, count: int) -> list[socket.socket]:
        """The sockets of a bind, ours now, `count` at most; [] when it was not handed over. Sockets beyond stay for finish()."""
        fds = self._sockets.pop(bind, [])
        if fds[count:]:
            self._sockets[f"{bind} (more)"] = fds[count:]
        return [socket.socket(fileno=fd) for fd in fds[:count]]

    def file_of(self, bind: str) -> FileId | None:
        """What it made of a unix socket's; None when it did not say."""
        file = self._files.get(bind)
        return (file[0], file[1]) if file else None

    def take_lock(self) -> int:
        """That of the state directory, ours now; -1 when there is none."""
        return next(iter(self._sockets.pop(STATE_LOCK, [])), -1)

    def take_heritage(self) -> int:
        """Its descriptor, ours now; -1 when there is none."""
        fd, self._heritage = self._heritage, -1
        return fd

    def finish(self) -> bool:
        """We are ready: the predecessor may go, and what nobody took is closed. False: it has died meanwhile."""
        if self.is_upgrade:
            for bind, fds in self._sockets.items():
                path = bind.removeprefix("unix:")
                if path != bind and self.file_of(bind) in (None, file_id(path)):
                    _remove(path)
                for fd in fds:
                    os.close(fd)
            self._sockets, self._has_finished = {}, True
            try:
                os.write(self._ready, b"ready")
            except OSError:
                return False
        return True

    async def wait_alone(self) -> None:
        """Until the predecessor has left its place to us; at once without one."""
        if self._ready >= 0:
            await trio.lowlevel.wait_readable(self._ready)
            os.close(self._ready)
            self._ready = -1


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # somebody else has


class Successor:
    """A new master that serves."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self._channel = channel

    def reload(self) -> None:
        """Asks it to read its configuration again."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGHUP)

    def release(self) -> None:
        """It is alone from now on, or the main one."""
        self._channel.close()


async def start_successor(
    sockets: Mapping[str, list[int]], files: Mapping[str, FileId], heritage: int, environ: Mapping[str, str], patience: float
) -> tuple[Successor | None, str]:
    """Starts a new master with these descriptors and waits until it serves, `patience` seconds at most: (it, ""), or (None, why not)."""
    ours, theirs = socket.socketpair()
    fds = [fd for handed in sockets.values() for fd in handed]
    kept = {name: value for name, value in environ.items() if name not in OLD_ONLY}
    kept[VARIABLE] = json.dumps({"sockets": dict(sockets), "files": dict(files), "ready": theirs.fileno(), "heritage": heritage})
    try:
        with theirs:
            command = [sys.executable, *sys.orig_argv[1:]]
            process = await trio.lowlevel.open_process(command, env=kept, pass_fds=[*fds, heritage, theirs.fileno()])
    except OSError as error:
        ours.close()
        return None, f"could not be started: {error.strerror}"
    ready = False
    try:
        ours.setblocking(False)
        with trio.move_on_after(patience) as waiting:
            await trio.lowlevel.wait_readable(ours)
            ready = ours.recv(1) != b""
    finally:
        if not ready:
            ours.close()
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    if ready:
        return Successor(process.pid, ours), ""
    if waiting.cancelled_caught:
        return None, f"was not ready within {patience:g} s and has been killed"
    return None, f"{describe_exit(process.returncode or 0)} before it was ready"
