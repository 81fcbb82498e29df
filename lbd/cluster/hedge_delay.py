"""After how long an attempt is hedged: a fixed time, or a quantile of what the latest answers have taken.

Buckets whose bounds grow by GROWTH count the answers; after RECENT of them all counts are halved, so that what was long ago fades. The
quantile is the upper bound of its bucket: never below the true one, and by less than GROWTH above it. It moves slowly, and is looked up
only now and then.
"""

from __future__ import annotations

from math import log

from lbd.cluster.retry_policy import parse_hedge

__all__ = ["ENOUGH", "HedgeDelay"]

ENOUGH = 100  # answers, before anything is said of them: p95 is then the fifth slowest
RECENT = 2000
SELDOM = 20
SHORTEST = 0.001  # seconds; the reactor's time has no finer grain
LONGEST = 600.0
GROWTH = 1.1
BUCKETS = int(log(LONGEST / SHORTEST) / log(GROWTH)) + 2


class HedgeDelay:
    """Of one cluster in one worker, as `hedge_after` has it. `seconds` is 0 while it is not known."""

    __slots__ = ("_counts", "_share", "_total", "seconds")

    def __init__(self, text: str) -> None:
        self.seconds, self._share = parse_hedge(text)
        self._counts = [0] * BUCKETS
        self._total = 0

    def observe(self, seconds: float) -> None:
        """An answer has come after so long, or none for so long."""
        if not self._share:
            return
        self._counts[bucket_of(seconds)] += 1
        self._total += 1
        if self._total >= RECENT:
            self._counts = [count // 2 for count in self._counts]
            self._total = sum(self._counts)
        if self._total >= ENOUGH and self._total % SELDOM == 0:
            self.seconds = self._quantile()

    def _quantile(self) -> float:
        wanted = self._share * self._total
        for index, count in enumerate(self._counts):
            wanted -= count
            if wanted <= 0:
                return SHORTEST * GROWTH**index
        return LONGEST


def bucket_of(seconds: float) -> int:
    """The first whose upper bound is not below."""
    if seconds <= SHORTEST:
        return 0
    return min(BUCKETS - 1, int(log(seconds / SHORTEST) / log(GROWTH)) + 1)
