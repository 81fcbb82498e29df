"""A new program in the place of the old one, without a refused connection: SIGUSR2.

The old master starts a new one, with the words it was started with itself, and hands it the listening sockets: as inherited
descriptors, listed in $LBD_UPGRADE by their binds. Both serve from the same queues until the new one says, through a pipe, that all
its workers do; then the old one drains. If the new one ends before it has said so, the old one stays as if nothing had been.

- Sockets that the new configuration does not name are closed by the new master only when it is ready, and the old one takes what
  queues in them while it drains. So are those of worker slots that the new one does not have.
- What is not handed on: numbers (counters begin at 0 again, as after a restart), what was learned about health, connections.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING

import trio

from lbd.master.process import describe_exit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["STATE_LOCK", "VARIABLE", "Handover", "start_successor"]

VARIABLE = "LBD_UPGRADE"
STATE_LOCK = "state lock"  # among the binds, but none: the descriptor that keeps others out of the state directory
PATIENCE = 60.0  # seconds for the new master to get ready
# Of the old one alone: sockets come by VARIABLE, and the watchdog is whoever is the main process.
OLD_ONLY = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")


class Handover:
    """What a predecessor has handed to us, if there is one."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        handed = json.loads(environ.get(VARIABLE, "{}"))
        self._sockets: dict[str, list[int]] = handed.get("sockets", {})
        self._ready: int = handed.get("ready", -1)
        for fd in self.fds:
            os.set_inheritable(fd, False)

    @property
    def is_upgrade(self) -> bool:
        return self._ready >= 0

    @property
    def fds(self) -> set[int]:
        """Not yet taken."""
        return {fd for fds in self._sockets.values() for fd in fds} | ({self._ready} if self.is_upgrade else set())

    @property
    def binds(self) -> list[str]:
        return list(self._sockets)

    def take(self, bind: str, count: int) -> list[socket.socket]:
        """The sockets of a bind, ours now, `count` at most; [] when it was not handed over. Sockets beyond stay for finish()."""
        fds = self._sockets.pop(bind, [])
        if fds[count:]:
            self._sockets[f"{bind} (more)"] = fds[count:]
        return [socket.socket(fileno=fd) for fd in fds[:count]]

    def take_lock(self) -> int:
        """That of the state directory, ours now; -1 when there is none."""
        return next(iter(self._sockets.pop(STATE_LOCK, [])), -1)

    def finish(self) -> None:
        """We are ready: the predecessor may go, and what nobody took is closed."""
        if self.is_upgrade:
            for bind, fds in self._sockets.items():
                if bind.startswith("unix:"):
                    _remove(bind.removeprefix("unix:"))
                for fd in fds:
                    os.close(fd)
            os.write(self._ready, b"ready")
            os.close(self._ready)
            self._sockets, self._ready = {}, -1


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # somebody else has


async def start_successor(sockets: Mapping[str, list[int]], environ: Mapping[str, str]) -> tuple[int, str]:
    """Starts a new master with these sockets and waits until it serves: (its pid, ""), or (0, why it does not)."""
    reader, writer = os.pipe()
    fds = [fd for handed in sockets.values() for fd in handed]
    kept = {name: value for name, value in environ.items() if name not in OLD_ONLY}
    kept[VARIABLE] = json.dumps({"sockets": dict(sockets), "ready": writer})
    try:
        process = await trio.lowlevel.open_process([sys.executable, *sys.orig_argv[1:]], env=kept, pass_fds=[*fds, writer])
    except OSError as error:
        os.close(reader)
        return 0, f"could not be started: {error.strerror}"
    finally:
        os.close(writer)
    async with trio.lowlevel.FdStream(reader) as ready:
        said = b""
        try:
            with trio.move_on_after(PATIENCE):
                said = await ready.receive_some()
        finally:
            if not said:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
    return (process.pid, "") if said else (0, f"{describe_exit(process.returncode or 0)} before it was ready")
