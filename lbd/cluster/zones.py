"""Zones: how much of its traffic an lbd keeps in its own.

Another zone costs time and, in most clouds, money; but endpoints here must not drown while others are idle there. So requests
stay as long as those that are up here are as large a part of all as one zone should carry, `overprovision` times less at the least; below
that the rest goes to the other zones, in proportion. It is Envoy's zone-aware routing with one difference: Envoy is told how many of its
own kind there are in each zone, lbd takes it that each zone with endpoints gets the same traffic.
"""

from __future__ import annotations

__all__ = ["local_share"]


def local_share(local: int, up: int, zones: int, overprovision: float) -> float:
    """Of a zone's requests those that stay, 0 to 1: `local` of the `up` endpoints are here, and the endpoints stand in so many zones.

    With a third of the traffic in each of three zones, local endpoints get the load of all others while they are a third of them.
    """
    if local == 0:
        return 0.0
    if local == up:
        return 1.0
    return min(1.0, overprovision * zones * local / up)
