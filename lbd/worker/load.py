"""What a worker's load is: how late its reactor runs and how much memory it has, told to those who refuse requests because of it, and,
when that begins and ends, to the log.

Nothing is measured while there is little to do: readings of the lag are taken only while the reactor is busy, and an idle worker sleeps.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.core.lag import take_readings
from lbd.proxy.shedding import TIGHT

if TYPE_CHECKING:
    from lbd.core.board import Segment
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.proxy.room import Room
    from lbd.proxy.shedding import Shedding

__all__ = ["LoadWatch"]

CALM = 30.0  # seconds without a refusal, after which the log says that it is over: pressure comes and goes
BUSY = 0.3  # of its time: a reactor that works less than this keeps nobody waiting
PAGE = os.sysconf("SC_PAGE_SIZE")

log = logging.getLogger("lbd.worker")


class LoadWatch:
    """Obeys by itself what is said of `room`: no more connections while memory is used up, and no counting on workers that are dead."""

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
        self._began = -1.0  # when the log was told of an overload that it has not been told the end of; -1: it has
        self._pressed_at = 0.0  # the last look at which there was pressure
        self._refused = 0  # before it began

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
        shedding.weighed(resident := resident_bytes())
        self._room.may_accept = shedding.may_accept
        self._room.look()
        segment.put(self._level, int(shedding.pressure * metrics.SHED_LEVEL.scale))
        segment.put(self._lag, int(shedding.lag * metrics.LAG.scale))
        self._tell(now, resident)

    def _tell(self, now: float, resident: int) -> None:
        shedding = self._shedding
        if shedding.level:
            self._pressed_at = now
            if self._began < 0:
                self._began, self._refused = now, shedding.refused
                log.warning("overloaded, requests that matter least are refused (503 overloaded): %s", why(shedding, resident))
        elif self._began >= 0 and now >= self._pressed_at + CALM:
            refused, seconds = shedding.refused - self._refused, self._pressed_at - self._began
            log.info("no longer overloaded: %d requests were refused within %.0f s", refused, seconds)
            self._began = -1.0


def why(shedding: Shedding, resident: int) -> str:
    """What presses."""
    policy, causes = shedding.policy, []
    if policy.memory and resident > TIGHT * policy.memory:
        causes.append(f"{resident >> 20} MiB of memory are in use, of {policy.memory >> 20} (lbd.overload.memory)")
    if shedding.lag > policy.lag or not causes:
        causes.append(f"what comes has to wait for {shedding.lag:.2g} s, more than {policy.lag:g} s (lbd.overload.lag)")
    return " and ".join(causes)


def resident_bytes() -> int:
    """Of this process."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * PAGE
