"""Round-robin: every endpoint in its turn, the heavier ones more often, nobody in bursts.

Endpoints of one weight form a lap: a plain ring, the next turn is the next place. With one weight in all, which is usual, there
is one lap and a turn costs a step. Several laps take turns by earliest deadline: a lap of total weight w is due every 1/w, so a turn
costs O(log of the number of different weights), however many endpoints there are. Within a lap the turns are evenly spread, and
in any stretch of time each lap gets its share to within one turn: weights 5, 1, 1 give a a b a a a c, not a a a a a b c.

Each selector starts at a random place in every lap: otherwise all workers would send their first request after a reload to the
same endpoint, and march in step from there.
"""

from __future__ import annotations

from heapq import heapify, heapreplace
from typing import TYPE_CHECKING

from lbd.cluster.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["RoundRobin"]

LONGEST = 1024.0  # deadlines are set back when they pass this: a float's grain must stay small against 1/weight


class Lap:
    """Endpoints of the same weight."""

    __slots__ = ("_endpoints", "_place", "stride")

    def __init__(self, endpoints: list[Endpoint], place: int) -> None:
        self._endpoints = endpoints
        self._place = place
        self.stride = 1.0 / (endpoints[0].weight * len(endpoints))

    def turn(self) -> Endpoint:
        place = self._place
        endpoint = self._endpoints[place]
        place += 1
        self._place = 0 if place == len(self._endpoints) else place
        return endpoint


class RoundRobin(Selector):
    __slots__ = ("_due", "_only")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        by_weight: dict[int, list[Endpoint]] = {}
        for endpoint in endpoints:
            by_weight.setdefault(endpoint.weight, []).append(endpoint)
        laps = [Lap(group, random.randrange(len(group))) for group in by_weight.values()]
        self._only = laps[0] if len(laps) == 1 else None
        # A heap: (deadline, a number that settles ties, lap).
        self._due = [(random.random() * lap.stride, number, lap) for number, lap in enumerate(laps)]
        heapify(self._due)

    def first(self, key: bytes) -> Endpoint:
        lap = self._only
        if lap is None:
            deadline, number, lap = self._due[0]
            if deadline > LONGEST:
                # Everybody's deadline is at most 1, the longest stride, beyond the first; the order stays, so it is still a heap.
                self._due = [(due - deadline, n, other) for due, n, other in self._due]
                deadline = 0.0
            heapreplace(self._due, (deadline + lap.stride, number, lap))
        return lap.turn()
