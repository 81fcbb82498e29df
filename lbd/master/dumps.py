"""What workers write down when they are asked what they are doing (worker/dump.py): one file in memory for each slot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lbd.worker.dump import END, SIGNAL

if TYPE_CHECKING:
    from lbd.master.slot import Slot

__all__ = ["Dumps"]

PATIENCE = 2.0  # seconds for both handlers; one that is stuck in C answers by half, in milliseconds
POLL = 0.02
LIMIT = 256 * 1024  # bytes; a worker is not trusted to write less


class Dumps:
    """Owns the files."""

    def __init__(self, slots: int) -> None:
        self._fds = [os.memfd_create(f"lbd-dump-{slot}", os.MFD_CLOEXEC) for slot in range(slots)]

    def fd(self, slot: int) -> int:
        """For the slot's worker."""
        return self._fds[slot]

    async def ask(self, slot: Slot) -> list[str]:
        """Lines; what the kernel knows first."""
        fd = self._fds[slot.number]
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)  # the worker's too: it is the same open file
        slot.signal(SIGNAL)
        text = ""
        with trio.move_on_after(PATIENCE):
            while END not in text:
                await trio.sleep(POLL)
                text = os.pread(fd, LIMIT, 0).decode(errors="replace")
        return [*_of_kernel(slot.pid), *text.splitlines()]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []


def _of_kernel(pid: int, proc: Path = Path("/proc")) -> list[str]:
    """Whether it runs, sleeps, waits for a disk (D) or has been stopped (T), and where in the kernel."""
    lines = []
    try:
        status = (proc / str(pid) / "status").read_text()
        lines += [line.replace("\t", " ") for line in status.splitlines() if line.startswith(("State:", "VmRSS:", "Threads:"))]
        lines.append(f"Kernel: {(proc / str(pid) / 'wchan').read_text() or 'none of its functions'}")
    except OSError:
        pass  # gone, or another user's
    return lines
