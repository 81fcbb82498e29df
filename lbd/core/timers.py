"""Deadlines, in a coarse wheel: a dict of buckets, one bucket a tick.

Arming is the most frequent thing a proxy does with a deadline, expiry the rarest. So a deadline that moves later only
stores a number: the entry stays in its old bucket, and is looked at and moved on when that bucket's tick comes. A connection
that serves a thousand requests a second touches the wheel once per timeout, not once per request.

Far deadlines lie in earlier, wider buckets and move to their own when those come. Otherwise an hour's timeout would make
230,000 buckets, and most of them, by the time it passes, empty.

A deadline is never early and at most two ticks late.
"""

from __future__ import annotations

from heapq import heappop, heappush
from operator import attrgetter

__all__ = ["NEVER", "SOON", "Timed", "TimerWheel"]

NEVER = float("inf")
SOON = 0.001  # seconds: for who wants no time at all, where a deadline of 0 would be none
TICKS = 64.0  # a second
FAR = 1e15  # NEVER, and whatever else does not fit a tick
WIDE, WIDER = 64, 4096  # ticks: buckets of a second and of a minute, for what is four of them away

DEADLINE = attrgetter("deadline")


class Timed:
    """Something with a deadline; `tick` is the bucket it lies in, 0 when it lies in none, and `due` the time when that is looked at."""

    __slots__ = ("deadline", "due", "tick")

    def __init__(self) -> None:
        self.deadline = NEVER
        self.due = NEVER
        self.tick = 0


class TimerWheel:
    __slots__ = ("_buckets", "_current", "_ticks")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Timed, None]] = {}
        self._ticks: list[int] = []  # a heap of the buckets' keys
        self._current = 0  # the last tick that was looked at

    def arm(self, timed: Timed, deadline: float) -> None:
        """Sets the deadline, NEVER included, in place of the earlier one."""
        timed.deadline = deadline
        if deadline < timed.due and deadline < FAR:
            self._move(timed, int(deadline * TICKS) + 1)

    def forget(self, timed: Timed) -> None:
        timed.deadline = NEVER
        if timed.tick:
            del self._buckets[timed.tick][timed]
            timed.tick = 0
            timed.due = NEVER

    def _move(self, timed: Timed, tick: int) -> None:
        if timed.tick:
            del self._buckets[timed.tick][timed]
        ahead = tick - self._current
        if ahead >= 4 * WIDE:
            tick -= tick % (WIDER if ahead >= 4 * WIDER else WIDE)
        bucket = self._buckets.get(tick)
        if bucket is None:
            bucket = self._buckets[tick] = {}
            heappush(self._ticks, tick)
        bucket[timed] = None
        timed.tick = tick
        timed.due = (tick - 1) / TICKS

    def expired(self, now: float) -> list[Timed]:
        """What is due, in order of deadlines; no longer in the wheel."""
        due: list[Timed] = []
        self._current = int(now * TICKS)
        while self._ticks and self._ticks[0] <= self._current:
            for timed in self._buckets.pop(heappop(self._ticks)):
                timed.tick = 0
                timed.due = NEVER
                if timed.deadline <= now:
                    due.append(timed)
                else:
                    self.arm(timed, timed.deadline)
        if len(due) > 1:
            due.sort(key=DEADLINE)
        for timed in due:
            timed.deadline = NEVER
        return due

    def next_at(self) -> float:
        """When expired() may have something next; NEVER for an empty wheel."""
        while self._ticks and not self._buckets[self._ticks[0]]:
            del self._buckets[heappop(self._ticks)]
        return self._ticks[0] / TICKS if self._ticks else NEVER
