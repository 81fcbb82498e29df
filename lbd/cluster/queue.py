"""Who waits for room in a cluster, and whose turn it is.

Higher rank first, and among equals whoever has been here longest: a retry goes by when its request came, so that it is not sent to
the end for the endpoint's failure. A full queue takes in whoever ranks above its last one, who then has to go.

It is a list in that order. Somebody who leaves from the middle costs a move of what is behind, a microsecond for a thousand places.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Protocol

from lbd.policy import Count, Duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.cluster.endpoint import Endpoint

__all__ = ["Place", "Queue", "QueuePolicy"]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """`[cluster.NAME.queue]`: requests wait here for endpoints that have as many as they may."""

    # For each worker. A request that waits holds a connection of its client and some 10 KiB; at 1,000 requests a second
    # this is the queue's timeout full, and who comes then would wait for nothing.
    size: Annotated[int, Count(0, 1_000_000, zero="nobody waits")] = 1024
    # Long enough for a burst to pass, short enough that who is answered 503 may still try elsewhere.
    timeout: Annotated[float, Duration(0.001)] = 1.0


class Place(Protocol):
    """Somebody who waits. `rank` is the higher the sooner, `since` a moment of the reactor's clock."""

    rank: int
    since: float

    @property
    def kin(self) -> object:
        """When one finds no endpoint, others of the same kin find none either."""

    def pick(self) -> Endpoint | None:
        """An endpoint that has room for it now."""

    def grant(self, endpoint: Endpoint) -> None:
        """Its request has begun there; it is out of the queue."""

    def turn_away(self, reason: str) -> None:
        """It is out of the queue, and need not wait any longer: one of proxy/reasons.py."""


class Queue:
    def __init__(self, size: int) -> None:
        self.size = size
        self.is_watched = False  # somebody looks for room that other workers make
        self._places: list[Place] = []

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Place]:
        """In their order; whoever leaves meanwhile does no harm."""
        return iter(self._places[:])

    def enter(self, place: Place) -> bool:
        """False when it is full of those who come first. Whoever had to go for it was turned away."""
        if len(self._places) >= self.size:
            if not self._places or self._places[-1].rank >= place.rank:
                return False
            self._places.pop().turn_away("queue_full")
        insort(self._places, place, key=turn)
        return True

    def leave(self, place: Place) -> None:
        """Idempotent."""
        if place in self._places:
            self._places.remove(place)

    def shrink(self, size: int) -> None:
        """After a reload: who has no place any more has to go."""
        self.size = size
        while len(self._places) > size:
            self._places.pop().turn_away("queue_full")


def turn(place: Place) -> tuple[int, float]:
    return -place.rank, place.since
