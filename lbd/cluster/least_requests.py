"""Least requests: whoever has the fewest in flight for its weight.

Loads are those of all workers and change without telling: a request that ends elsewhere is just another number on the board. Looking at
every endpoint for every request would be exact and O(n). Here a heap holds what is known, and knowledge is kept fresh enough:

- the top is looked at again before it is taken, and goes down if it has got more: nobody is taken for idle who is not;
- each choice looks at STEPS others, in turn: who has got less is noticed at most n / STEPS choices later. With up to
  STEPS endpoints that is all of them each time, and the choice is exact.

So a choice costs O(log n) for each load that has changed since the last one, and at most STEPS more.

Among equals (all idle: the usual case at low load) the turn goes by weighted round-robin, otherwise the first endpoint would get
everything: each choice moves an endpoint's deadline on by 1/weight, and one that was busy for long has nothing to catch up on.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING

from lbd.cluster.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

    Entry = tuple[float, float, int]  # requests for the weight, deadline, number of the endpoint

__all__ = ["LeastRequests"]

STEPS = 8
LONGEST = 1e6  # deadlines are set back when they pass this: a float's grain must stay small against 1/weight


class LeastRequests(Selector):
    __slots__ = ("_entries", "_heap", "_place", "_time")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        # The first turns at random, so that workers do not march in step.
        deadlines = [random.random() / endpoint.weight for endpoint in self.endpoints]
        self._entries: list[Entry] = [(self._score(number), deadline, number) for number, deadline in enumerate(deadlines)]
        self._heap = self._entries.copy()  # and old entries, which count for nothing: those that are not in _entries
        heapify(self._heap)
        self._place = 0
        self._time = 0.0  # the deadline of the latest turn

    def _score(self, number: int) -> float:
        endpoint = self.endpoints[number]
        return endpoint.load() / endpoint.weight

    def first(self, key: bytes) -> Endpoint:
        for _ in range(min(STEPS, len(self.endpoints))):
            self._refresh(self._place)
            self._place = (self._place + 1) % len(self.endpoints)
        if self._time > LONGEST or len(self._heap) > 2 * len(self.endpoints) + STEPS:
            self._tidy()
        while True:
            entry = self._heap[0]
            score, deadline, number = entry
            if self._entries[number] is not entry:
                heappop(self._heap)
                continue
            known, score = score, self._score(number)
            if score == known:
                heapreplace(self._heap, self._turn(score, deadline, number))
                return self.endpoints[number]
            self._entries[number] = (score, deadline, number)
            heapreplace(self._heap, self._entries[number])

    def candidates(self, key: bytes) -> Iterator[Endpoint]:
        """The others from fresh loads, all of them: this is for when the first choice could not be used."""
        first = self.first(key)
        yield first
        heap = [(self._score(number), deadline, number) for _, deadline, number in self._entries]
        heapify(heap)
        while heap:
            score, deadline, number = heappop(heap)
            if self.endpoints[number] is not first:
                heappush(self._heap, self._turn(score, deadline, number))
                yield self.endpoints[number]

    def _turn(self, score: float, deadline: float, number: int) -> Entry:
        """It was this one's turn: its entry from now on."""
        self._time = max(self._time, deadline)
        entry = self._entries[number] = (score, self._time + 1.0 / self.endpoints[number].weight, number)
        return entry

    def _refresh(self, number: int) -> None:
        score, deadline, _ = self._entries[number]
        now = self._score(number)
        if now != score:
            self._entries[number] = (now, deadline, number)
            heappush(self._heap, self._entries[number])

    def _tidy(self) -> None:
        """Drops old entries: O(n), once in n of them."""
        self._entries = [(score, max(0.0, deadline - self._time), number) for score, deadline, number in self._entries]
        self._time = 0.0
        self._heap = self._entries.copy()
        heapify(self._heap)
