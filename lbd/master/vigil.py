"""Watches over workers that serve: one that gives no sign of life any more is asked what it is doing, and replaced.

A worker beats about once a second, from a fiber that a task of trio has spawned (worker/pulse.py); one that loops, waits for a lock or a
disk, or was stopped, does not. Pings over the control channel (slot.py) find the same, later: they are for workers that start.

Only time in which we were awake ourselves counts. When the machine was suspended, or all of lbd stopped, nobody has beaten meanwhile,
and a long pause between two looks says no more about the worker than a short one. Nor does time in which a worker wants a CPU and has none,
on a machine with too much to do or in a container that is throttled: killing it would be the last thing such a machine needs.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from lbd.master.slot import PING_INTERVAL, SILENCE_LIMIT
from lbd.master.states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.master.slot import Slot
    from lbd.master.supervisor import Supervisor

__all__ = ["LOOK", "Silence", "Vigil", "cpu_seconds"]

LOOK = 1.0  # seconds between two looks

log = logging.getLogger("lbd.master")


class Silence:
    """How long one worker has not beaten, as far as we have seen."""

    def __init__(self, now: float, cpu: Callable[[int], float | None] = lambda _pid: None) -> None:
        """`cpu(pid)`: how long it has run, as long as it wants to; None while it waits for something else."""
        self.seconds = 0.0
        self._cpu = cpu
        self._ran: float | None = None
        self._pid = 0
        self._beat = -1
        self._looked = now

    def look(self, pid: int, beat: int, now: float) -> float:
        """`pid` is 0 while there is nobody to watch."""
        passed = min(now - self._looked, LOOK)
        is_news = pid == 0 or (pid, beat) != (self._pid, self._beat)
        self._pid, self._beat, self._looked = pid, beat, now
        if is_news:
            self.seconds, self._ran = 0.0, None
            return 0.0
        before, self._ran = self._ran, self._cpu(pid)
        if before is not None and self._ran is not None:
            passed = min(passed, self._ran - before)
        self.seconds += passed
        return self.seconds


class Vigil:
    """`beat(slot)` is what the board says, `limit()` the setting, 0 for none; `dump(slot)` gives the lines for the log."""

    def __init__(self, beat: Callable[[int], int], limit: Callable[[], float], dump: Callable[[Slot], Awaitable[list[str]]]) -> None:
        self.hangs = 0
        self._beat = beat
        self._limit = limit
        self._dump = dump

    async def run(self, supervisor: Supervisor) -> None:
        """Until cancelled."""
        now = trio.current_time()
        silences = [(slot, Silence(now, cpu_seconds)) for slot in supervisor.slots]
        while True:
            await trio.sleep(LOOK)
            now = trio.current_time()
            for slot, silence in silences:
                pid = slot.pid if slot.state.now is WorkerState.SERVING else 0
                silence.look(pid, self._beat(slot.number), now)
            async with trio.open_nursery() as nursery:
                for slot, silence in silences:
                    if self._is_hung(slot, silence.seconds):
                        nursery.start_soon(self._end, slot, silence.seconds)

    def _is_hung(self, slot: Slot, silence: float) -> bool:
        """One that applies a configuration, which may be huge, has as long as a ping."""
        limit = self._limit()
        if slot.is_applying:
            limit = max(limit, PING_INTERVAL * SILENCE_LIMIT)
        return 0 < limit <= silence

    async def _end(self, slot: Slot, silence: float) -> None:
        self.hangs += 1
        pid = slot.pid
        log.error("worker %d (pid %d) hangs: no sign of life for %.0f s; killing it, after asking what it does", slot.number, pid, silence)
        for line in await self._dump(slot):
            log.error("worker %d (pid %d) | %s", slot.number, pid, line)
        if slot.pid == pid:
            slot.end(f"it hung: no sign of life for {silence:.0f} s")


def cpu_seconds(pid: int, proc: Path = Path("/proc")) -> float | None:
    """How long a process has run, when it runs or waits for a CPU; None when it waits for something else, or is not ours to look at."""
    try:
        text = (proc / str(pid) / "stat").read_text()
    except OSError:
        return None
    state, *fields = text.rpartition(")")[2].split()  # proc(5): the third and what follows; the name before may have blanks and brackets
    return (int(fields[10]) + int(fields[11])) / os.sysconf("SC_CLK_TCK") if state == "R" else None
