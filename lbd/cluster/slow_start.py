"""Slow start: an endpoint that comes back gets its share little by little.

Its caches are cold, its code is not compiled yet, its pools are empty: with its whole share at once it may fall over again. So its
weight grows from a tenth to all of it in `slow_start` seconds, in a straight line. Those on trial stay at the tenth (outlier.py).

Who comes back: whoever is in now and was not when this was looked at last, while others were. Not who is there from the beginning: at a
cluster's first start everybody is new, and there is nobody to spare them; those that had to pass a check first have just done so.

Nobody is spared after a panic, for as long as that takes: those that had been held for down were in use all the time, and they are
needed. (In a simulation seven of ten came back from checks that had been wrong, with a tenth of their weight; the other three fell over.)

Selectors know whole weights only, and need nothing else: while somebody comes back everybody's weight is multiplied by GRAIN, and a
worker looks again every second. So choosing costs what it always does; only the ratios of weights mean anything, and it does not matter
that all grow. Everybody is weighed anew when the first one comes back and when the last one is in; in between those that grow are, so
that in a cluster of thousands the flip of one costs no more than in a small one. For hashes weights are places on a ring: a share that
grew would move keys all the while, so they come back at once.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lbd.cluster.endpoint import Endpoint
    from lbd.core.board import Segment

__all__ = ["SlowStart"]

LEAST = 0.1
GRAIN = 20


class SlowStart:
    """Sets the weights of one cluster's endpoints in this worker."""

    __slots__ = (
        "_began", "_clock", "_in", "_is_grained", "_is_hash", "_needed_until", "_on_trial", "_segment", "_told", "_waiting", "seconds",
    )  # fmt: skip

    def __init__(self, seconds: float, clock: Callable[[], float], segment: Segment | None = None) -> None:
        """`seconds`: 0 is at once."""
        self.seconds = seconds
        self._clock = clock
        self._segment = segment
        self._told: set[Endpoint] = set()  # on the segment
        self._in: set[Endpoint] = set()
        self._waiting: set[Endpoint] | None = None  # there from the beginning, and not in yet; None: before the beginning
        self._began: dict[Endpoint, float] = {}  # who comes back, and since when
        self._on_trial: set[Endpoint] = set()
        self._is_grained = False  # everybody's weight is multiplied
        self._is_hash = False
        self._needed_until = -inf  # everybody, after a panic

    @property
    def is_at_work(self) -> bool:
        """Weights are not what they will be."""
        return bool(self._began)

    def settle(self, endpoints: Sequence[Endpoint], *, is_hash: bool, was_panicking: bool = False) -> None:
        """These are the endpoints now, and anything of them may have changed. `was_panicking`: up to now health was ignored."""
        self._is_hash = is_hash
        self._end_panic(was_panicking)
        self._note(endpoints)
        self._weigh_all(endpoints)

    def flipped(self, endpoint: Endpoint, endpoints: Sequence[Endpoint], *, was_panicking: bool = False) -> None:
        """As settle(), where nothing has changed but that this one has gone out, on trial, or in."""
        self._end_panic(was_panicking)
        self._note_one(endpoint)
        if self._is_hash:
            self._began.clear()
        elif self._is_grained != bool(self._began or self._on_trial):
            self._weigh_all(endpoints)
        elif self._is_grained:
            self._weigh(endpoint, self._share(endpoint))
        self._tell([endpoint])

    def grow(self, endpoints: Sequence[Endpoint]) -> None:
        """Time has passed."""
        growing = tuple(self._began)
        for endpoint in growing:
            self._weigh(endpoint, self._share(endpoint))
        self._tell(growing)
        if not (self._began or self._on_trial):
            self._weigh_all(endpoints)

    def _end_panic(self, was_panicking: bool) -> None:
        if was_panicking:
            self._needed_until = self._clock() + self.seconds

    def _note(self, endpoints: Sequence[Endpoint]) -> None:
        """Who has come and gone."""
        now_in = {endpoint for endpoint in endpoints if endpoint.up and not endpoint.trial}
        self._on_trial = {endpoint for endpoint in endpoints if endpoint.trial}
        if self._waiting is None and endpoints:
            self._waiting, self._in = set(endpoints), now_in
        came = now_in - self._in
        if self._in:
            self._begin(came - (self._waiting or set()))
        for endpoint in self._began.keys() - now_in:
            del self._began[endpoint]
        if self._waiting:
            self._waiting &= set(endpoints) - now_in - self._on_trial
        self._in = now_in

    def _note_one(self, endpoint: Endpoint) -> None:
        """The same of one that stays."""
        is_in = endpoint.up and not endpoint.trial
        waiting = self._waiting or set()
        if endpoint.trial:
            self._on_trial.add(endpoint)
        else:
            self._on_trial.discard(endpoint)
        if not is_in:
            self._began.pop(endpoint, None)
            self._in.discard(endpoint)
        elif endpoint not in self._in:
            if self._in and endpoint not in waiting:
                self._begin([endpoint])
            self._in.add(endpoint)
        if is_in or endpoint.trial:
            waiting.discard(endpoint)

    def _begin(self, came: Iterable[Endpoint]) -> None:
        now = self._clock()
        if self.seconds > 0 and now >= self._needed_until:
            self._began.update(dict.fromkeys(came, now))

    def _weigh_all(self, endpoints: Sequence[Endpoint]) -> None:
        if self._is_hash:
            self._began.clear()
        slow = () if self._is_hash else (*self._began, *self._on_trial)
        shares = {endpoint: share for endpoint in slow if (share := self._share(endpoint)) < 1.0}
        self._is_grained = bool(shares)
        for endpoint in endpoints:
            endpoint.weigh(endpoint.own_weight * GRAIN if shares else endpoint.own_weight)
        for endpoint, share in shares.items():
            self._weigh(endpoint, share)
        self._tell(self._told | self._began.keys())

    def _tell(self, endpoints: Iterable[Endpoint]) -> None:
        """For people: why somebody who is up gets little. These may have begun to come back, or be in."""
        for endpoint in endpoints:
            is_coming = endpoint in self._began
            if is_coming != (endpoint in self._told):
                (self._told.add if is_coming else self._told.discard)(endpoint)
                if self._segment is not None:
                    cell = self._segment.series(metrics.SLOW_STARTS.number, (endpoint.cluster_name, endpoint.address), 1)
                    self._segment.put(cell, int(is_coming))

    def _weigh(self, endpoint: Endpoint, share: float) -> None:
        endpoint.weigh(max(1, round(endpoint.own_weight * GRAIN * share)))

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
