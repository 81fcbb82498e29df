"""Bounded loads: a hash may send an endpoint so much more than its share, and no more.

With `bound = 1.25` an endpoint that has 25 % more requests in flight than the mean is passed over, and the key goes to the next one on
the ring (Mirrokni, Thorup, Zadimoghaddam: Consistent Hashing with Bounded Loads, 2016; HAProxy's hash-balance-factor). The request
about to be placed counts, and rounding is upwards, so at low load nobody is passed over and at least one endpoint always has room.

The mean needs everybody's load. Reading the board for all endpoints for each request would cost O(n); so each question refreshes a few,
in turn, and the one asked about: with up to STEPS endpoints the mean is exact, with n it is at most n / STEPS requests old.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbd.cluster.endpoint import Endpoint

__all__ = ["LoadBound"]

STEPS = 8


class LoadBound:
    """Holds for these endpoints (not empty); `factor` below 1 would leave some request without a place and counts as 1."""

    __slots__ = ("_endpoints", "_factor", "_loads", "_place", "_total", "_weights")

    def __init__(self, endpoints: Sequence[Endpoint], factor: float) -> None:
        self._endpoints = tuple(endpoints)
        self._factor = max(factor, 1.0)
        self._weights = sum(endpoint.weight for endpoint in endpoints)
        self._loads = {endpoint: endpoint.load() for endpoint in endpoints}
        self._total = sum(self._loads.values())
        self._place = 0

    def allows(self, endpoint: Endpoint) -> bool:
        """May it take one more request? An endpoint that the bound does not hold for may."""
        if endpoint not in self._loads:
            return True
        for _ in range(min(STEPS, len(self._endpoints))):
            self._refresh(self._endpoints[self._place])
            self._place = (self._place + 1) % len(self._endpoints)
        load = self._refresh(endpoint)
        return load < ceil(self._factor * (self._total + 1) * endpoint.weight / self._weights)

    def _refresh(self, endpoint: Endpoint) -> int:
        load = endpoint.load()
        self._total += load - self._loads[endpoint]
        self._loads[endpoint] = load
        return load
