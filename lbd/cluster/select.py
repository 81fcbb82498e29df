"""The balances by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.least_requests import LeastRequests
from lbd.cluster.lottery import Drawn, PeakEwma, PowerOfTwo
from lbd.cluster.maglev import MaglevTable
from lbd.cluster.ring import KetamaRing
from lbd.cluster.round_robin import RoundRobin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.selector import Selector

__all__ = ["HASHES", "SELECTORS", "build_selector"]

SELECTORS: Mapping[str, type[Selector]] = {
    "round-robin": RoundRobin,
    "least-requests": LeastRequests,
    "power-of-two": PowerOfTwo,
    "random": Drawn,
    "consistent-hash": KetamaRing,
    "maglev": MaglevTable,
    "peak-ewma": PeakEwma,
}
HASHES = ("consistent-hash", "maglev")  # these are built from all endpoints, the unhealthy too: a key's place must not move


def build_selector(balance: str, endpoints: Sequence[Endpoint], random: Random) -> Selector:
    """`endpoints` must not be empty."""
    return SELECTORS[balance](endpoints, random)
