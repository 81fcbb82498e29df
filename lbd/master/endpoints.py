"""Which endpoints the workers know, and the place of each in the board's in-flight table.

A place belongs to (cluster, address), or to a cluster as a whole, and is the same in every worker. One that is given up goes to the
end of a queue and is used again only when nobody counts in it any more: requests at an endpoint that has left the configuration end
later than its place.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from lbd.worker.messages import EndpointState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from lbd.discovery.resolve import ResolvedEndpoint

    Healths = Callable[[str], Callable[[str], bool]]  # cluster -> address -> is it up?
    Standings = Callable[[str], Callable[[ResolvedEndpoint], tuple[bool, int]]]  # cluster -> endpoint -> is it drained? its weight now
    Trials = Callable[[str, str], int]  # cluster, address -> how many requests at once it may have on trial

__all__ = ["EndpointBook", "Key", "Places"]

Key = tuple[str, str]  # cluster, address; "" for the cluster itself


class Places:
    """The places of the in-flight table; `count(place)` is the number of requests counted there now."""

    def __init__(self, size: int, count: Callable[[int], int]) -> None:
        self._size = size
        self._count = count
        self._taken: dict[Key, int] = {}
        self._fresh = 0  # from here on never used
        self._given_up: deque[int] = deque()

    def take(self, key: Key) -> int:
        """The place of this endpoint. When there are none left, all further ones share the last: their limits and their balance
        suffer, requests do not."""
        place = self._taken.get(key)
        if place is None:
            place = self._taken[key] = self._find()
        return place

    def _find(self) -> int:
        for _ in range(len(self._given_up)):
            place = self._given_up.popleft()
            if self._count(place) == 0:
                return place
            self._given_up.append(place)
        if self._fresh < self._size - 1:
            self._fresh += 1
            return self._fresh - 1
        return self._size - 1

    def keep(self, keys: Collection[Key]) -> None:
        """Gives up the places of all others."""
        for key in self._taken.keys() - keys:
            place = self._taken.pop(key)
            if place != self._size - 1:
                self._given_up.append(place)

    def items(self) -> Iterator[tuple[Key, int]]:
        """Of the endpoints that have one."""
        return iter(self._taken.items())


class EndpointBook:
    """Every cluster's endpoints, as resolved; `healths` is what is known of their health, `standings` what operators want of them, `trials`
    what is known of their ejections."""

    def __init__(
        self,
        found: Mapping[str, Sequence[ResolvedEndpoint]],
        places: Places,
        healths: Healths,
        standings: Standings | None = None,
        trials: Trials = lambda _cluster, _address: 0,
    ) -> None:
        self._found = {cluster: tuple(endpoints) for cluster, endpoints in found.items()}
        self._by_address = {cluster: _by_address(endpoints) for cluster, endpoints in found.items()}
        self._places = places
        self._healths = healths
        self._standings = standings or (lambda _cluster: lambda endpoint: (False, endpoint.weight))
        self._trials = trials

    def replace(self, cluster: str, endpoints: Iterable[ResolvedEndpoint]) -> bool:
        """A name resolves to other addresses; False for a cluster that is not in the book."""
        if cluster not in self._found:
            return False
        self._found[cluster] = tuple(endpoints)
        self._by_address[cluster] = _by_address(self._found[cluster])
        return True

    def of(self, cluster: str) -> tuple[EndpointState, ...]:
        """What a worker is told of one cluster."""
        is_up, standing = self._healths(cluster), self._standings(cluster)
        return tuple(
            EndpointState(
                endpoint.address,
                weight,
                self._places.take((cluster, endpoint.address)),
                is_up(endpoint.address),
                endpoint.name,
                endpoint.backup,
                endpoint.max_requests,
                drained,
                priority=endpoint.priority,
                zone=endpoint.zone,
                metadata=endpoint.metadata,
                trial=self._trials(cluster, endpoint.address),
                max_connections=endpoint.max_connections,
            )
            for endpoint, (drained, weight) in ((endpoint, standing(endpoint)) for endpoint in self._found[cluster])
        )

    def found(self) -> Mapping[str, Sequence[ResolvedEndpoint]]:
        """By cluster."""
        return self._found

    def name_of(self, cluster: str, address: str) -> str:
        """As the configuration has it; the address where it has that."""
        endpoint = self._by_address.get(cluster, {}).get(address)
        return (endpoint.name if endpoint is not None else "") or address

    def is_drained(self, cluster: str, address: str) -> bool:
        """By an operator. At once, also in a cluster of thousands: while it fails it is asked of each, again and again."""
        endpoint = self._by_address.get(cluster, {}).get(address)
        return endpoint is not None and self._standings(cluster)(endpoint)[0]

    def states(self) -> dict[str, tuple[EndpointState, ...]]:
        return {cluster: self.of(cluster) for cluster in self._found}

    def addresses(self) -> dict[str, list[str]]:
        """By cluster."""
        return {cluster: [endpoint.address for endpoint in endpoints] for cluster, endpoints in self._found.items()}

    def places(self) -> dict[str, int]:
        """Of the clusters themselves."""
        return {cluster: self._places.take((cluster, "")) for cluster in self._found}

    def keys(self) -> set[Key]:
        return {(cluster, address) for cluster, addresses in self.addresses().items() for address in (*addresses, "")}


def _by_address(endpoints: Iterable[ResolvedEndpoint]) -> dict[str, ResolvedEndpoint]:
    """Of several with one address the first, as it was found."""
    known: dict[str, ResolvedEndpoint] = {}
    for endpoint in endpoints:
        known.setdefault(endpoint.address, endpoint)
    return known
