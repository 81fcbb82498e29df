"""A worker as an operating-system process: how it is started, and what the supervisor may do to it."""

from __future__ import annotations

import os
import signal
import site
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import trio

import lbd
from lbd.worker.control import ControlChannel
from lbd.worker.messages import Applied, Drained, Pong, Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Channel", "WorkerProcess", "describe_exit", "launch_worker", "worker_environment"]

# What a worker may say; its master builds nothing else out of what a worker sends (worker/control.py).
ANSWERS = (Applied, Drained, Pong, Suspect)

KEPT = ("PATH", "HOME", "LANG", "LANGUAGE", "TZ", "LBD_PURE", "LD_LIBRARY_PATH", "LD_PRELOAD", "GLIBC_TUNABLES")
KEPT_PREFIXES = ("LC_", "PYTHON", "MALLOC_")


class Channel(Protocol):
    """The master's end of the control channel."""

    async def send(self, message: object, fds: Sequence[int] = ()) -> None: ...

    async def receive(self) -> tuple[object, list[int]] | None: ...

    def close(self) -> None: ...


class WorkerProcess(Protocol):
    """A started worker."""

    @property
    def pid(self) -> int: ...

    @property
    def channel(self) -> Channel: ...

    async def wait(self) -> int:
        """Its exit code, or the negative number of the signal that killed it."""

    def signal(self, number: int) -> None:
        """Does nothing to one that has ended."""

    def kill(self) -> None:
        """At once; likewise."""


class _Process:
    def __init__(self, process: trio.Process, channel: ControlChannel) -> None:
        self.pid = process.pid
        self.channel = channel
        self._process = process

    async def wait(self) -> int:
        return await self._process.wait()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def kill(self) -> None:
        self._process.kill()


def worker_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a worker needs: how to find lbd and how to speak; no secrets that ${ENV} put into the configuration."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith(KEPT_PREFIXES)}
    home = str(Path(lbd.__file__).resolve().parent.parent)
    if home not in site.getsitepackages():  # where it is found anyhow, and after the standard library
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [home, kept.get("PYTHONPATH", "")]))
    return kept


async def launch_worker(environment: Mapping[str, str]) -> WorkerProcess:
    """Starts `python -m lbd.worker FD`. Standard output and error stay ours: a crash's last words go there."""
    ours, theirs = socket.socketpair()
    try:
        # -P: the working directory is no place to import from.
        process = await trio.lowlevel.open_process(
            [sys.executable, "-P", "-m", "lbd.worker", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=dict(environment),
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return _Process(process, ControlChannel(trio.socket.from_stdlib_socket(ours), ANSWERS))


def describe_exit(code: int) -> str:
    """`was killed by SIGKILL`, `exited with 1`."""
    if code >= 0:
        return f"exited with {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
