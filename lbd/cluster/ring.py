"""Ketama: the ring that nginx builds for `hash KEY consistent`, point for point.

Each endpoint has 160 points on a ring of 2^32 for each unit of its weight; where points coincide the one configured first has it. A
key belongs to the first point at or after its crc32. tests/e2e/test_ketama.py asks a real nginx.

Three things differ. nginx puts a name with several addresses on the ring as one server, and takes turns among the addresses; here
each address has its own points (hashed.py). When 20 points in a row are of servers that are down nginx takes turns; here the search goes
on. And beyond MOST_POINTS everybody gets fewer points: weights of 65535 would make ten million an endpoint. Half as many, or a quarter,
and so on, but not in proportion: every endpoint that came or went would change the points of all, and move keys that are not its own.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING
from zlib import crc32

from lbd.cluster.hashed import Hashed, standing_names
from lbd.cluster.points import build_points

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["KetamaRing", "point_counts"]

POINTS = 160
MOST_POINTS = 1 << 21  # 13,107 endpoints of weight 1; 16 MB. No round number, which many a cluster would sit on the edge of
OWNER = 0xFFFFFFFF


def point_counts(weights: Sequence[int]) -> list[int]:
    """How many points each endpoint has. A whole number of halvings apart, fewer points are some of those that more would be."""
    halvings = 0
    while POINTS * sum(weights) >> halvings > MOST_POINTS:
        halvings += 1
    return [max(1, POINTS * weight >> halvings) for weight in weights]


class KetamaRing(Hashed):
    """`points` are sorted, 64 bits each: the point, and the number of its endpoint."""

    __slots__ = ("points",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        self.points = build_points(standing_names(endpoints), point_counts([endpoint.weight for endpoint in endpoints]))
        self.places = len(self.points)

    def place(self, key: bytes) -> int:
        place = bisect_left(self.points, crc32(key) << 32)
        return 0 if place == self.places else place

    def owner(self, place: int) -> Endpoint:
        return self.endpoints[self.points[place] & OWNER]
