"""How many requests a cluster can take at once, found out from how fast it answers.

A server with room for more answers as fast as ever; one without lets requests wait, so that they take longer. The gradient is the
latency that there was with few requests, divided by the latency now: 1 while there is room, less when there is none. Every window the
limit is multiplied with it, and some room is added, the square root of the limit, so that it grows as long as nothing is lost by it
(Envoy's adaptive concurrency, and Netflix's Gradient2 before it).

What is compared are medians of windows, not single requests, which differ for reasons of their own; with a tolerance, for the same
reason. The latency with few requests changes: every `remeasure`, give or take a fifth so that workers do not do it together, the limit
goes down to `min` for a window, and what is seen then holds. A request that runs into its timeout has no latency, or too good a one:
it makes the limit smaller at once.

It decides only, on the clock that comes with each sample. Each worker has its own limit, of its own requests: what it sees is what all
workers together make of the cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Annotated

from lbd.policy import Count, Duration, Ratio

if TYPE_CHECKING:
    from random import Random

__all__ = ["AdaptivePolicy", "Gradient"]


@dataclass(frozen=True, slots=True)
class AdaptivePolicy:
    """`[cluster.NAME.adaptive]`: limits of each worker for the whole cluster. Envoy has much the same defaults."""

    enabled: bool = False
    min: Annotated[int, Count(1, 1_000_000)] = 3  # requests at once, however slow it is
    max: Annotated[int, Count(1, 1_000_000)] = 1000
    initial: Annotated[int, Count(1, 1_000_000)] = 20  # until something is known
    window: Annotated[float, Duration(0.01, 60.0)] = 0.1  # of samples for one decision
    remeasure: Annotated[float, Duration(1.0, 86400.0)] = 60.0  # between two looks at how fast it is with few requests
    tolerance: Annotated[float, Ratio(1.0, 10.0)] = 1.5  # how much slower than with few requests is still as fast as ever


SAMPLES = 20  # of a window at least; fewer are one request's mood. A window goes on until it has them, ten times as long at most
PATIENCE = 10
JITTER = 0.2
FIRST = 2.0  # seconds to the first look with few requests: what was seen at the start may have been a queue already
DROP = 0.9  # what a timeout leaves of the limit, once a window
STEEPEST = 0.5  # what one window leaves of it at least


class Gradient:
    """`limit` is how many may be at work."""

    __slots__ = (
        "_before", "_began", "_dropped", "_is_measuring", "_least", "_next_measure", "_peak", "_random", "_samples", "_skipped",
        "limit", "policy",
    )  # fmt: skip

    def __init__(self, policy: AdaptivePolicy, random: Random) -> None:
        self.policy = policy
        self.limit = policy.initial
        self._random = random
        self._samples: list[float] = []
        self._began = -1.0  # the window; -1: it begins with the first sample
        self._dropped = False
        self._peak = 0  # requests that were at work in it
        self._least = 0.0  # seconds that it takes with few requests; 0: not known yet
        self._is_measuring = False
        self._before = 0  # the limit before it went down for that
        self._skipped = 0  # samples that are still to be left out
        self._next_measure = -1.0
        self.obey(policy)

    def __repr__(self) -> str:
        return f"<Gradient {self.limit}, {self._least * 1000:.1f} ms with few{', measuring' if self._is_measuring else ''}>"

    def obey(self, policy: AdaptivePolicy) -> None:
        """From now on; what has been learnt stays."""
        self.policy = policy
        self.limit = min(max(self.limit, policy.min), policy.max)

    def took(self, seconds: float, inflight: int, now: float) -> None:
        """A request was answered after so long, when so many were at work."""
        if self._began < 0:
            self._begin(now)
        if self._skipped:  # it may have begun when there were more
            self._skipped -= inflight <= self.limit
            self._began = now
            return
        self._samples.append(seconds)
        self._peak = max(self._peak, inflight)
        spent = now - self._began
        if spent >= self.policy.window and (len(self._samples) >= SAMPLES or spent >= PATIENCE * self.policy.window):
            self._decide(now)

    def dropped(self, now: float) -> None:
        """A request ran into a timeout."""
        if self._began < 0 or now - self._began >= PATIENCE * self.policy.window:
            self._begin(now)
        if self._dropped:
            return
        self._dropped = True
        if self._is_measuring:
            self._before = int(self._before * DROP)
        else:
            self._set(self.limit * DROP)

    def _begin(self, now: float) -> None:
        self._began, self._samples, self._peak, self._dropped = now, [], 0, False
        if self._next_measure < 0:
            self._plan(now, min(FIRST, self.policy.remeasure))

    def _decide(self, now: float) -> None:
        median = sorted(self._samples)[len(self._samples) // 2]
        was_full, dropped = 2 * self._peak >= self.limit, self._dropped
        self._begin(now)
        if self._is_measuring:
            self._is_measuring = False
            self._least = median
            self._set(self._before)
            self._plan(now, self.policy.remeasure)
            return
        if self._least == 0 or median < self._least:
            self._least = median
        elif now >= self._next_measure:
            self._is_measuring = True
            self._before = self.limit
            self._set(self.policy.min)
            self._skipped = 2 * self.limit
            return
        if dropped:
            return
        gradient = max(STEEPEST, min(1.0, self.policy.tolerance * self._least / median)) if median > 0 else 1.0
        if gradient < 1.0 or was_full:  # a limit that nobody comes near to is not known to be too low
            self._set(self.limit * gradient + sqrt(self.limit))

    def _plan(self, now: float, pause: float) -> None:
        self._next_measure = now + pause * (1.0 + JITTER * (2.0 * self._random.random() - 1.0))

    def _set(self, limit: float) -> None:
        self.limit = int(min(max(limit, self.policy.min), self.policy.max))
