"""What the hashes have in common: a circle of places, each owned by an endpoint; a key has a place, the next owners come after it.

An endpoint stands on the circle under its name as configured ("app1.internal:80") while it is the only one of that name, so that
keys stay with it when its address changes; under its address when a name resolves to several.

The empty key is nobody's: requests without the field, cookie or argument that `hash_key` names go to places drawn by lot, instead of all
to one endpoint. nginx and HAProxy take turns then, Envoy draws lots.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lbd.cluster.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["Hashed", "standing_names"]


def standing_names(endpoints: Sequence[Endpoint]) -> list[str]:
    """Under which name each of them stands on the circle."""
    counts = Counter(endpoint.name for endpoint in endpoints)
    return [endpoint.name if counts[endpoint.name] == 1 else endpoint.address for endpoint in endpoints]


class Hashed(Selector):
    """Deterministic, but for the empty key: all workers, and lbd after lbd, send a key to the same endpoint."""

    __slots__ = ("places",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        self.places = 0  # how many there are; a subclass says

    def place(self, key: bytes) -> int:
        """Where a key lies."""
        raise NotImplementedError

    def owner(self, place: int) -> Endpoint:
        raise NotImplementedError

    def first(self, key: bytes) -> Endpoint:
        return self.owner(self.place(key) if key else self.random.randrange(self.places))

    def candidates(self, key: bytes) -> Iterator[Endpoint]:
        """Round the circle."""
        start, count = self.place(key) if key else self.random.randrange(self.places), self.places
        seen: set[Endpoint] = set()
        for step in range(count):
            endpoint = self.owner((start + step) % count)
            if endpoint not in seen:
                seen.add(endpoint)
                yield endpoint
                if len(seen) == len(self.endpoints):
                    return
        # Those that own no place at all: there were fewer places than they are, or others had all of theirs.
        for endpoint in self.endpoints:
            if endpoint not in seen:
                yield endpoint
