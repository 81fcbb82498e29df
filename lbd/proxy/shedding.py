"""Overload: when a worker has more to do than it can, which requests are refused so that the others are served.

Two things are watched. The *lag* is how long something that has come waits until it is looked at (core/lag.py). What counts is the
least of the readings of half a second: a burst or a stall makes single ones large, a queue that stands makes all of them so (that is
CoDel's insight, RFC 8289 3.1). *Memory* is what the worker has resident, against its share of what there is.

Out of both comes the pressure, from 0 to 3. Its whole part is how many priorities are refused altogether, the lowest first; its
fraction is the share that the next one loses. So it is felt by few at first, and a priority that nearly everything has does not come
and go as a whole. Lag above the limit lets it rise, the faster the further above; below half of the limit it falls, slower than it
rose; in between it stays: that is what keeps it from swinging. What is critical is never refused.

It decides only. Refusing costs lbd a tenth of what proxying costs, and the client learns at once that it had better come back later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Duration, Size

__all__ = ["RETRY_AFTER", "OverloadPolicy", "Shedding"]


@dataclass(frozen=True, slots=True)
class OverloadPolicy:
    """`[lbd.overload]`."""

    # A thousand busy connections on one worker wait for a tenth of a second and lose nothing by it; who has waited for a second
    # before the first byte was read is about to give up.
    lag: Annotated[float, Duration(0.0, zero="never")] = 1.0
    memory: Annotated[int, Size(zero="nine tenths of the machine's, or of its container's, shared by all workers")] = 0  # of a worker


CRITICAL = 3  # of routing/route.py: PRIORITIES
WINDOW = 0.5  # seconds of readings, and at least two of them: one alone may be a stall
RISE, FALL = 0.2, 0.04  # of the pressure, a window
STEEPEST = 5.0  # times RISE, however large the lag
STALE = 2.0  # seconds without a reading, after which there is nothing to do
TIGHT, EASED = 0.9, 0.95  # shares of the memory: from here on it presses; below this it is accepted again
RETRY_AFTER = 2.0  # seconds, for who is refused: some windows


class Shedding:
    """`level` is above 0 while anything is refused: all that the hot path looks at. Times are the reactor's.

    `may_accept` is False while memory is used up: new connections had better wait in the kernel's queue.
    """

    __slots__ = (
        "_by_lag", "_by_memory", "_heard_at", "_least", "_limit", "_memory", "_owed", "_readings", "_since", "lag", "level", "may_accept",
        "policy", "pressure", "refused",
    )  # fmt: skip

    def __init__(self, policy: OverloadPolicy | None = None) -> None:
        self.lag = 0.0  # of the last window
        self.level = 0
        self.may_accept = True
        self.pressure = 0.0
        self.refused = 0  # by sheds(), since the start
        self._by_lag = 0.0
        self._by_memory = 0.0
        self._heard_at = float("-inf")
        self._since = float("-inf")  # the window's beginning
        self._least = float("inf")  # of its readings
        self._readings = 0
        self._owed = [0.0, 0.0, 0.0]  # for each priority, what has been let through and should not have been
        self.obey(policy or OverloadPolicy())

    def __repr__(self) -> str:
        return f"<Shedding, pressure {self.pressure:.2f}, lag {self.lag:.3f} s>"

    def obey(self, policy: OverloadPolicy) -> None:
        """With a memory, as the master has made it out; without one memory does not press."""
        self.policy = policy
        self._limit = policy.lag
        self._memory = policy.memory
        if self._limit == 0:
            self._by_lag = 0.0
        self._settle()

    # What is measured

    def heard(self, lag: float, now: float, *, has_come: bool = True) -> None:
        """Something has waited for so long, until now; it may still do so, and then a short time says nothing."""
        if not has_come and lag <= self._limit:
            return
        if now - lag - self._heard_at > STALE:
            self._begin_window(now)
        self._heard_at = now
        self._least = min(self._least, lag)
        self._readings += 1
        if self._readings >= 2 and now - self._since >= WINDOW and self._limit > 0:
            self._weigh_lag(self._least)
            self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        self._since, self._least, self._readings = now, float("inf"), 0

    def _weigh_lag(self, lag: float) -> None:
        self.lag = lag
        if lag > self._limit:
            self._by_lag = min(3.0, self._by_lag + RISE * min(STEEPEST, lag / self._limit))
        elif lag < self._limit / 2:
            self._by_lag = max(0.0, self._by_lag - FALL)
        self._settle()

    def weighed(self, resident: int) -> None:
        """So many bytes does the worker have resident; once a second."""
        share = resident / self._memory if self._memory else 0.0
        self._by_memory = min(3.0, max(0.0, (share - TIGHT) / (1.0 - TIGHT) * 3.0))
        self.may_accept = share < (1.0 if self.may_accept else EASED)
        self._settle()

    def rested(self, now: float) -> None:
        """There was too little to do for a reading: what was is over."""
        if now - self._heard_at > STALE and self._by_lag:
            self._by_lag = self.lag = 0.0
            self._settle()

    def _settle(self) -> None:
        self.pressure = max(self._by_lag, self._by_memory)
        self.level = int(-(-self.pressure // 1))
        if self.level == 0:
            self._owed = [0.0, 0.0, 0.0]

    # What is decided

    def sheds(self, rank: int) -> bool:
        """Whether the next request of this priority is refused: of a share of 0.3, three in ten, evenly."""
        if rank >= CRITICAL:
            return False
        share = min(1.0, max(0.0, self.pressure - rank))
        if share < 1.0:
            self._owed[rank] += share
            if self._owed[rank] < 1.0:
                return False
            self._owed[rank] -= 1.0
        self.refused += 1
        return True
