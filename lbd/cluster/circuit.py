"""A cluster's breaker at work: what it has seen is told, and while it is not closed nothing passes but what it lets through."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.cluster.breaker import Breaker, BreakerState

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.cluster.breaker import BreakerPolicy
    from lbd.cluster.selection import Roster
    from lbd.core.board import Segment

__all__ = ["Circuit"]

logger = logging.getLogger("lbd.health")


class Circuit:
    """`breaker` is None where the configuration has none. The roster hears of one that is not closed, and selections ask it."""

    __slots__ = ("_clock", "_name", "_roster", "_segment", "breaker")

    def __init__(self, roster: Roster, segment: Segment | None, clock: Callable[[], float]) -> None:
        self._roster = roster
        self._segment = segment
        self._clock = clock
        self._name = roster.policy.name
        self.breaker: Breaker | None = None
        self.obey(roster.policy.breaker)

    @property
    def is_closed(self) -> bool:
        return self.breaker is None or self.breaker.state is BreakerState.CLOSED

    def obey(self, policy: BreakerPolicy | None) -> None:
        """At the start, and after a reload: what it has seen is kept."""
        if policy is None:
            if self.breaker is not None:
                self._gauge(None)
            self.breaker = self._roster.breaker = None
            return
        if self.breaker is None:
            self.breaker = Breaker(policy, self._clock, self._moved)
        self.breaker.obey(policy)
        self._gauge(self.breaker.state)

    def _moved(self, old: BreakerState) -> None:
        breaker = self.breaker
        assert breaker is not None
        state = breaker.state
        if state is BreakerState.OPEN and self._segment is not None:
            self._segment.add(self._segment.series(metrics.BREAKER_TRIPS.number, (self._name,), 1), 1)
        if state is BreakerState.OPEN and old is BreakerState.CLOSED:
            logger.warning("cluster %s: the breaker opens, requests are refused: %s", self._name, breaker.why())
        elif state is BreakerState.CLOSED:
            logger.info("cluster %s: the breaker closes: %d requests have succeeded", self._name, breaker.policy.probes)
        self._roster.breaker = None if state is BreakerState.CLOSED else breaker
        self._roster.revise()
        self._gauge(state)

    def _gauge(self, now: BreakerState | None) -> None:
        if self._segment is not None:
            for state in BreakerState:
                self._segment.put(self._segment.series(metrics.BREAKER_STATE.number, (self._name, state.value), 1), int(state is now))
