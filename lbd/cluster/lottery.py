"""Selectors that draw lots: random, power-of-two, peak-ewma.

All draw with the weights as odds, from an alias table (Walker 1974, in Vose's form): one random number and one comparison,
however many endpoints there are and however unequal their weights.

power-of-two draws two and takes the one with fewer requests for its weight. That is nearly as even as looking at all of them, and,
unlike that, workers that look at the same moment do not all fall upon the same idle endpoint (Mitzenmacher 2001; nginx's
`random two`, HAProxy's default). peak-ewma compares in the same way what a request would cost: latency times requests ahead of it.
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING

from lbd.cluster.endpoint import FADING
from lbd.cluster.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["Drawn", "Lottery", "PeakEwma", "PowerOfTwo"]


class Lottery:
    """Numbers 0 .. n - 1, each with odds in proportion to its weight.

    Numbers of the same weight are a class, and every class has a bin of the same size. Of one whose odds are less than a bin, the rest is
    filled up with another class. Where in its part of the bin the lot falls says which number of the class it is. Weights are few, mostly
    all the same, or those of who comes back (slow_start.py): so the table of thousands is made anew in a fraction of a millisecond, each
    time that one of them flips. (With a bin for each number it took two.)
    """

    __slots__ = ("_count", "classes", "fill", "own")

    def __init__(self, weights: Sequence[int]) -> None:
        if weights.count(weights[0]) == len(weights):
            by_weight = {weights[0]: list(range(len(weights)))}
        else:
            by_weight = {}
            for number, weight in enumerate(weights):
                by_weight.setdefault(weight, []).append(number)
        total = sum(weights)
        self.classes = list(by_weight.values())
        count = self._count = len(self.classes)
        self.own = [1.0] * count  # the part of the bin that is its own class's
        self.fill = list(range(count))  # whose the rest is
        odds = [weight * len(members) * count / total for weight, members in by_weight.items()]  # 1.0 is a bin full
        scarce = [i for i in range(count) if odds[i] < 1.0]
        ample = [i for i in range(count) if odds[i] >= 1.0]
        while scarce and ample:
            small, large = scarce.pop(), ample[-1]
            self.own[small] = odds[small]
            self.fill[small] = large
            odds[large] -= 1.0 - odds[small]
            if odds[large] < 1.0:
                scarce.append(ample.pop())

    def draw(self, x: float) -> int:
        """For x evenly distributed in [0, 1)."""
        x *= self._count
        number = int(x)
        x -= number
        own: float = self.own[number]
        if x < own:
            x /= own
        else:
            number = self.fill[number]
            x = (x - own) / (1.0 - own)
        members: list[int] = self.classes[number]
        return members[min(int(x * len(members)), len(members) - 1)]  # x may have been rounded up to 1


class Drawn(Selector):
    """random"""

    __slots__ = ("_lottery",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        self._lottery = Lottery([endpoint.weight for endpoint in endpoints])

    def first(self, key: bytes) -> Endpoint:
        return self.endpoints[self._lottery.draw(self.random.random())]


class PowerOfTwo(Drawn):
    __slots__ = ()

    def first(self, key: bytes) -> Endpoint:
        one = self._lottery.draw(self.random.random())
        other = self._lottery.draw(self.random.random())
        if one == other:  # its neighbour: as good as any, and no loop to draw in
            other = (one + 1) % len(self.endpoints)
        return self._better(self.endpoints[one], self.endpoints[other])

    def _better(self, one: Endpoint, other: Endpoint) -> Endpoint:
        """Of two, which may be the same. The one drawn first when they are equal: so the odds stay those of the weights."""
        return other if other.load() * one.weight < one.load() * other.weight else one


class PeakEwma(PowerOfTwo):
    __slots__ = ("_usual",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        self._usual = sum(endpoint.weight for endpoint in endpoints) / len(endpoints)

    def _better(self, one: Endpoint, other: Endpoint) -> Endpoint:
        """A latency that has not been observed yet is taken to be the other's: requests decide, and nobody new is flooded."""
        if one.observed_at < 0.0 or other.observed_at < 0.0:
            return PowerOfTwo._better(self, one, other)  # super() works in no compiled method but __init__
        one_costs, other_costs = one.latency * self._queue(one), other.latency * self._queue(other)
        # Both fade alike, so it is enough to let the older one fade up to the younger one's time (endpoint.py).
        gap = one.observed_at - other.observed_at
        if gap < 0.0:
            one_costs *= exp(gap / FADING)
        else:
            other_costs *= exp(-gap / FADING)
        return other if other_costs < one_costs else one

    def _queue(self, endpoint: Endpoint) -> float:
        """This request and those ahead of it, for an endpoint of the usual weight. The draw has seen to the weights of idle ones."""
        return endpoint.load() * self._usual / endpoint.weight + 1.0
