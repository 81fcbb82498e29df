"""Ketama: the ring that nginx builds for `hash KEY consistent`, point for point.

Each endpoint has 160 points on a ring of 2^32 for each unit of its weight; where points coincide the one configured first has it. A
key belongs to the first point at or after its crc32. tests/e2e/test_ketama.py asks a real nginx.

Three things differ. nginx puts a name with several addresses on the ring as one server, and takes turns among the addresses; here
each address has its own points (hashed.py). When 20 points in a row are of servers that are down nginx takes turns; here the search goes
on. And beyond MOST_POINTS everybody gets fewer points in proportion: weights of 65535 would make ten million an endpoint.
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

__all__ = ["KetamaRing"]

POINTS = 160
MOST_POINTS = 1_600_000  # 10,000 endpoints of weight 1; 13 MB
OWNER = 0xFFFFFFFF


class KetamaRing(Hashed):
    """`points` are sorted, 64 bits each: the point, and the number of its endpoint."""

    __slots__ = ("points",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        share = POINTS * min(1.0, MOST_POINTS / (POINTS * sum(endpoint.weight for endpoint in endpoints)))
        counts = [max(1, int(endpoint.weight * share)) for endpoint in endpoints]
        self.points = build_points(standing_names(endpoints), counts)
        self.places = len(self.points)

    def place(self, key: bytes) -> int:
        place = bisect_left(self.points, crc32(key) << 32)
        return 0 if place == self.places else place

    def owner(self, place: int) -> Endpoint:
        return self.endpoints[self.points[place] & OWNER]
