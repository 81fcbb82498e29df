"""A cluster's circuit breaker: when most of what is tried fails, trying on helps nobody.

    CLOSED ──`share` of the attempts of the last `window` failed──> OPEN ──`open` has passed──> HALF_OPEN ──`probes` successes──> CLOSED
                                                                     ^                             │
                                                                     └──────── one failure ────────┘

While it is open requests are refused at once, with the time after which to come again. It is for services that are dragged down further by
those who try; it is off unless it is configured, for a balancer that refuses everything by itself is the last thing that most want.
Single endpoints have circuits of their own (outlier.py).

Each worker has its own breaker and counts its own attempts: they see the same service, and open within an instant of each other.
Failures are those that tell against an endpoint (endpoint.py), gateway failures, not errors. The window is cut in SLICES, so that it
moves on without a list of attempts.

Who is let through while it is half-open is counted by what is in flight: the requests that are there beyond those of before. So a probe's
place is free again when its attempt ends, however it ends: most of the ends that there are (a client that leaves, a race that is lost, a
retry that finds no room) tell nothing of the service. How many of those from before are left nobody counts; it is never more than the
least that has been in flight since.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Annotated

from lbd.policy import Count, Duration, Ratio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Breaker", "BreakerPolicy", "BreakerState"]

SLICES = 10


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """`[cluster.NAME.breaker]`: without this table there is none."""

    share: Annotated[float, Ratio(0.01, 1.0)] = 0.5  # of the attempts that fail, from which on it opens
    window: Annotated[float, Duration(0.1)] = 10.0
    volume: Annotated[int, Count(1)] = 20  # attempts in the window, in a worker, below which a share says nothing
    open: Annotated[float, Duration(0.1)] = 5.0
    probes: Annotated[int, Count(1, 10_000)] = 3  # requests at once while it is half-open, and successes that close it


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """`on_move(old)` hears of each new state."""

    __slots__ = (
        "_clock",
        "_elders",
        "_failures",
        "_on_move",
        "_proved",
        "_slice",
        "_totals",
        "_until",
        "failed",
        "policy",
        "state",
        "total",
    )

    def __init__(self, policy: BreakerPolicy, clock: Callable[[], float], on_move: Callable[[BreakerState], None]) -> None:
        self.policy = policy
        self.state = BreakerState.CLOSED
        self.total = 0  # attempts in the window; when it opened, once it has
        self.failed = 0
        self._clock = clock
        self._on_move = on_move
        self._totals = [0] * SLICES
        self._failures = [0] * SLICES
        self._slice = 0  # the number of the slice that counts now, from the clock's beginning on
        self._until = 0.0  # OPEN: when it ends
        self._elders = 0  # HALF_OPEN: at most so many of the requests in flight are no probes
        self._proved = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}, {self.failed} of {self.total} failed>"

    @property
    def wait(self) -> float:
        """Seconds after which it is worth to come again."""
        return max(0.0, self._until - self._clock()) if self.state is BreakerState.OPEN else self.policy.open

    @property
    def is_half_open(self) -> bool:
        return self.state is BreakerState.HALF_OPEN

    @property
    def is_shut(self) -> bool:
        """Nobody passes, however little is in flight."""
        return self.state is BreakerState.OPEN and self._clock() < self._until

    def why(self) -> str:
        """For people: what opened it."""
        return f"{self.failed} of {self.total} attempts failed within {self.policy.window:g} s"

    def obey(self, policy: BreakerPolicy) -> None:
        """After a reload: another policy, the same state."""
        self.policy = policy

    def lets_through(self, inflight: int) -> bool:
        """Whether one more request may be tried beside those that are `inflight` in the cluster, while it is not closed."""
        now = self._clock()
        if self.state is BreakerState.OPEN and now >= self._until:
            self._elders, self._proved = inflight, 0
            self._move(BreakerState.HALF_OPEN)
        if self.state is not BreakerState.HALF_OPEN:
            return self.state is BreakerState.CLOSED
        self._elders = min(self._elders, inflight)
        if inflight - self._elders >= self.policy.probes:
            if now < self._until:
                return False
            self._elders = inflight  # those who have been silent for so long do not stand in the way for ever
        self._until = now + self.policy.open
        return True

    def record(self, is_failure: bool) -> None:
        """How an attempt went."""
        if self.state is BreakerState.CLOSED:
            self._count(is_failure)
        elif self.state is BreakerState.HALF_OPEN:
            if is_failure:
                self._open()
                return
            self._proved += 1
            if self._proved >= self.policy.probes:
                self._totals, self._failures = [0] * SLICES, [0] * SLICES
                self.total = self.failed = 0
                self._move(BreakerState.CLOSED)

    def _count(self, is_failure: bool) -> None:
        number = int(self._clock() * SLICES / self.policy.window)
        for passed in range(min(number - self._slice, SLICES)):  # those since the latest attempt are of the window before
            old = (number - passed) % SLICES
            self.total -= self._totals[old]
            self.failed -= self._failures[old]
            self._totals[old] = self._failures[old] = 0
        self._slice = number
        self.total += 1
        self._totals[number % SLICES] += 1
        if is_failure:
            self.failed += 1
            self._failures[number % SLICES] += 1
            if self.total >= self.policy.volume and self.failed >= self.policy.share * self.total:
                self._open()

    def _open(self) -> None:
        self._until = self._clock() + self.policy.open
        self._move(BreakerState.OPEN)

    def _move(self, state: BreakerState) -> None:
        old, self.state = self.state, state
        self._on_move(old)
