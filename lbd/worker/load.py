"""What a worker's load is: how late its reactor runs and how much memory it has, told to those who refuse requests because of it.

Nothing is measured while there is little to do: readings of the lag are taken only while the reactor is busy, and an idle worker sleeps.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.core.lag import take_readings

if TYPE_CHECKING:
    from lbd.core.board import Segment
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.proxy.room import Room
    from lbd.proxy.shedding import Shedding

__all__ = ["LoadWatch"]

BUSY = 0.3  # of its time: a reactor that works less than this keeps nobody waiting
PAGE = os.sysconf("SC_PAGE_SIZE")


class LoadWatch:
    """Obeys by itself what is said of `room`: no more connections while memory is used up."""

    def __init__(self, reactor: Reactor, shedding: Shedding, room: Room, segment: Segment, slot: int) -> None:
        self._reactor = reactor
        self._shedding = shedding
        self._room = room
        self._segment = segment
        self._level = segment.series(metrics.SHED_LEVEL.number, (f"worker-{slot}",), 1)
        self._lag = segment.series(metrics.LAG.number, (f"worker-{slot}",), 1)
        self._work = segment.series(metrics.LOOP_LAG.number, (), metrics.LOOP_LAG.width) + metrics.LOOP_LAG.width - 1
        self._done = segment.value(self._work)  # microseconds of work, as of the last look
        self._looked_at = reactor.clock()
        self._is_busy = False
        self._readings: Fiber | None = None

    def look(self) -> None:
        """Once a second."""
        reactor, shedding, segment = self._reactor, self._shedding, self._segment
        now, done = reactor.clock(), segment.value(self._work)
        self._is_busy = (done - self._done) / metrics.LOOP_LAG.scale > BUSY * (now - self._looked_at)
        self._looked_at, self._done = now, done
        if self._is_busy:
            if self._readings is None or self._readings.coroutine is None:
                self._readings = reactor.spawn(take_readings(reactor, lambda: self._is_busy, shedding.heard), "lag")
        else:
            shedding.rested(now)
        shedding.weighed(resident_bytes())
        self._room.may_accept = shedding.may_accept
        segment.put(self._level, int(shedding.pressure * metrics.SHED_LEVEL.scale))
        segment.put(self._lag, int(shedding.lag * metrics.LAG.scale))


def resident_bytes() -> int:
    """Of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE
