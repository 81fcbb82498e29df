"""Slow start: an endpoint that comes back gets its share little by little.

Its caches are cold, its code is not compiled yet, its pools are empty: with its whole share at once it may fall over again. So its
weight grows from a tenth to all of it in `slow_start` seconds, in a straight line. Those on trial stay at the tenth (outlier.py).

Who comes back: whoever is in now and was not when this was looked at last, while others were. Not who is there from the beginning: at a
cluster's first start everybody is new, and there is nobody to spare them; those that had to pass a check first have just done so.

Nobody is spared after a panic, for as long as that takes: those that had been held for down were in use all the time, and they are
needed. (In a simulation seven of ten came back from checks that had been wrong, with a tenth of their weight; the other three fell over.)

Selectors know whole weights only, and need nothing else: while somebody comes back everybody's weight is multiplied by GRAIN, and a
worker looks again every second. So choosing costs what it always does; only the ratios of weights mean anything, and it does not matter
that all grow. For hashes weights are places on a ring: a share that grew would move keys all the while, so they come back at once.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbd.cluster.endpoint import Endpoint
    from lbd.core.board import Segment

__all__ = ["SlowStart"]

LEAST = 0.1
GRAIN = 20


class SlowStart:
    """Sets the weights of one cluster's endpoints in this worker."""

    __slots__ = ("_began", "_clock", "_in", "_needed_until", "_segment", "_told", "_waiting", "seconds")

    def __init__(self, seconds: float, clock: Callable[[], float], segment: Segment | None = None) -> None:
        """`seconds`: 0 is at once."""
        self.seconds = seconds
        self._clock = clock
        self._segment = segment
        self._told: set[Endpoint] = set()  # on the segment
        self._in: set[Endpoint] = set()
        self._waiting: set[Endpoint] | None = None  # there from the beginning, and not in yet; None: before the beginning
        self._began: dict[Endpoint, float] = {}  # who comes back, and since when
        self._needed_until = -inf  # everybody, after a panic

    @property
    def is_at_work(self) -> bool:
        """Weights are not what they will be."""
        return bool(self._began)

    def settle(self, endpoints: Sequence[Endpoint], *, is_hash: bool, was_panicking: bool = False) -> None:
        """Something has changed about these, or time has passed. `was_panicking`: up to now health was ignored."""
        if was_panicking:
            self._needed_until = self._clock() + self.seconds
        self._note(endpoints)
        if is_hash:
            self._began.clear()
        shares = {} if is_hash else {endpoint: share for endpoint in endpoints if (share := self._share(endpoint)) < 1.0}
        for endpoint in endpoints:
            if shares:
                endpoint.weigh(max(1, round(endpoint.own_weight * GRAIN * shares.get(endpoint, 1.0))))
            else:
                endpoint.weigh(endpoint.own_weight)
        if self._told != self._began.keys():
            self._tell()

    def _tell(self) -> None:
        """For people: why somebody who is up gets little."""
        changed, self._told = self._told ^ self._began.keys(), set(self._began)
        if self._segment is not None:
            for endpoint in changed:
                cell = self._segment.series(metrics.SLOW_STARTS.number, (endpoint.cluster_name, endpoint.address), 1)
                self._segment.put(cell, int(endpoint in self._began))

    def _note(self, endpoints: Sequence[Endpoint]) -> None:
        """Who has come and gone."""
        now_in = {endpoint for endpoint in endpoints if endpoint.up and not endpoint.trial}
        if self._waiting is None and endpoints:
            self._waiting, self._in = set(endpoints), now_in
        came = now_in - self._in
        if self.seconds > 0 and self._in:
            now = self._clock()
            for endpoint in came - (self._waiting or set()) if now >= self._needed_until else ():
                self._began[endpoint] = now
        for endpoint in self._began.keys() - now_in:
            del self._began[endpoint]
        if self._waiting:
            self._waiting &= set(endpoints) - now_in - {endpoint for endpoint in endpoints if endpoint.trial}
        self._in = now_in

    def _share(self, endpoint: Endpoint) -> float:
        if endpoint.trial:
            return LEAST
        began = self._began.get(endpoint)
        if began is None:
            return 1.0
        passed = (self._clock() - began) / self.seconds if self.seconds > 0 else 1.0
        if passed >= 1.0:
            del self._began[endpoint]
            return 1.0
        return LEAST + (1.0 - LEAST) * passed
