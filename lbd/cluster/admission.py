"""How much a cluster takes at once, and who waits for it.

A cluster has an Admission as soon as anything in it is limited: requests or connections, of an endpoint or of all together, or the
adaptive limit. One without has none and pays nothing. Every request that begins at one of its endpoints is counted here, in this
worker and on the board at the cluster's `place`, whoever began it.

Cluster.pick() asks admits(): nobody passes by those who wait. Whoever must wait has a Place in the queue; when a request ends here
serve() goes through them in their order and lets them begin, as far as there is room. What ends in other workers is seen by look(),
every few milliseconds while somebody waits (proxy/admission.py).

Limits hold over all workers, but nothing is locked: two workers that look at the same moment both see the last place free. So at most
one request for each other worker may be above a limit, until one of them ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from lbd import metrics
from lbd.cluster.gradient import Gradient
from lbd.cluster.queue import Queue
from lbd.policy import Count

if TYPE_CHECKING:
    from random import Random

    from lbd.cluster.cluster import Cluster, ClusterPolicy
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.queue import Place
    from lbd.core.board import Board, Segment

__all__ = ["Admission", "LimitPolicy"]


@dataclass(frozen=True, slots=True)
class LimitPolicy:
    """`[cluster.NAME.limits]`: of all endpoints together, over all workers. An endpoint has its own beside them."""

    max_requests: Annotated[int, Count(0, zero="no limit")] = 0  # at once
    max_connections: Annotated[int, Count(0, zero="no limit")] = 0  # at once, idle ones too


MISSES = 16  # kins that wait for what is not there, like those who have tried the others, before the rest is left to the next time


class Admission:
    """`inflight` and `connections` are this worker's."""

    __slots__ = (
        "_board", "_cluster", "_gradient", "_is_connecting", "_is_serving", "_length", "_limit", "_max_requests", "_place", "_queue",
        "_random", "_segment", "connections", "inflight", "max_connections", "policy",
    )  # fmt: skip

    def __init__(self, cluster: Cluster, place: int, segment: Segment | None, board: Board | None, random: Random) -> None:
        """`place` is on the board; -1: there is none."""
        self._cluster = cluster
        self._random = random
        self._gradient: Gradient | None = None  # of the adaptive limit, where there is one
        self.inflight = 0
        self.connections = 0
        self._place = place
        self._segment = segment if place >= 0 else None
        self._board = board if place >= 0 else None
        self._queue = Queue(0)
        self._is_serving = False
        self._is_connecting = False  # one has begun that needs a connection, of which there may be only so many, and has not made it yet
        self._length = -1  # the cell of the queue's length
        self._limit = -1  # of the adaptive limit
        self.obey(cluster.policy)

    def __repr__(self) -> str:
        return f"<Admission to {self.policy.name}, {self.inflight} in flight, {self.waiting} waiting>"

    def obey(self, policy: ClusterPolicy) -> None:
        """From now on; who waits waits on, if there is still a place."""
        self.policy = policy
        self._max_requests = policy.limits.max_requests
        self.max_connections = policy.limits.max_connections
        if not policy.adaptive.enabled:
            self._gradient = None
        elif self._gradient is None:
            self._gradient = Gradient(policy.adaptive, self._random)
        else:
            self._gradient.obey(policy.adaptive)
        self._queue.shrink(policy.queue.size)

    # Requests at work

    def begun(self, count: int = 1) -> None:
        self.inflight += count
        if self._segment is not None:
            self._segment.add_inflight(self._place, count)

    def ended(self) -> None:
        self.inflight -= 1
        if self._segment is not None:
            self._segment.add_inflight(self._place, -1)
        if self._queue:
            self.serve()

    def load(self) -> int:
        """Of all workers."""
        return self.inflight if self._board is None else self._board.inflight(self._place)

    def is_full(self) -> bool:
        """Whatever its endpoints say."""
        if self._is_connecting or (self._max_requests > 0 and self.load() >= self._max_requests):
            return True
        return self._gradient is not None and self.inflight >= self._gradient.limit

    def admits(self) -> bool:
        """Whether the next request may look for an endpoint."""
        return (self._is_serving or not self._queue) and not self.is_full()

    def takes(self, endpoint: Endpoint) -> bool:
        """Whether it may begin at this one."""
        return self.admits() and not endpoint.is_full()

    # Connections

    def connected(self, change: int) -> None:
        """Connections have come, or gone."""
        self.connections += change
        if change > 0:
            self._is_connecting = False
        if self._segment is not None:
            self._segment.add_connections(self._place, change)
        if self._queue:
            self.serve()

    def lacks_connection(self, coming: int) -> bool:
        """Whether there may be no more of them, when those that are `coming` are there."""
        if self.max_connections == 0:
            return False
        total = self.connections if self._board is None else self._board.connections(self._place)
        return total + coming >= self.max_connections

    def relieve(self) -> None:
        """Idle connections are given up for those who wait in other workers, where it is connections that are limited."""
        if self._board is None or self._queue or self._board.waiting(self._place) == 0:
            return
        for endpoint in self._cluster.endpoints:
            if endpoint.is_limited and (endpoint.max_connections or self.max_connections):
                endpoint.pool.give_up(1)

    # The adaptive limit

    def took(self, seconds: float, now: float) -> None:
        """A request was answered after so long."""
        if self._gradient is not None:
            self._gradient.took(seconds, self.inflight, now)

    def dropped(self, now: float) -> None:
        """A request has run into a timeout."""
        if self._gradient is not None:
            self._gradient.dropped(now)

    def tell(self) -> None:
        """Keeps the gauge."""
        if self._segment is not None and (self._gradient is not None or self._limit >= 0):
            if self._limit < 0:
                self._limit = self._segment.series(metrics.ADAPTIVE_LIMIT.number, (self.policy.name,), 1)
            self._segment.put(self._limit, self._gradient.limit if self._gradient is not None else 0)

    # Those who wait

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def enter(self, place: Place) -> bool:
        """False: there is no room for it in the queue. Who has entered leaves in the end, however the waiting ended."""
        if not self._queue.enter(place):
            return False
        self._count(1)
        return True

    def leave(self, place: Place) -> None:
        """Once for each enter()."""
        self._queue.leave(place)
        self._count(-1)

    def serve(self) -> None:
        """There may be room: for those who wait, in their order."""
        self._is_serving = True
        missed: set[object] = set()
        try:
            for place in self._queue:
                if self.is_full():
                    return
                if place.kin in missed:
                    continue
                endpoint = place.pick()
                if endpoint is None:
                    missed.add(place.kin)
                    if len(missed) > MISSES or not self._cluster.has_room():
                        return
                    continue
                self._queue.leave(place)
                endpoint.begin()
                place.grant(endpoint)
                if (self.max_connections or endpoint.max_connections) and endpoint.awaits_connection():
                    self._is_connecting = True  # whether there may be more is known once it does: connected() goes on
        finally:
            self._is_serving = False

    def look(self) -> None:
        """Other workers may have made room; or there may be nothing left to wait for."""
        self._is_connecting = False  # it has given up
        if self._cluster.is_usable():
            self.serve()
            return
        for place in self._queue:
            self._queue.leave(place)
            place.turn_away("no_healthy_endpoint")

    def begin_watch(self) -> bool:
        """Whether it is for the caller to look() from now on; False: somebody does."""
        if self._queue.is_watched:
            return False
        self._queue.is_watched = True
        return True

    def end_watch(self) -> None:
        self._queue.is_watched = False
        self._is_connecting = False  # nobody is there any more to find out that it has given up

    def _count(self, change: int) -> None:
        if self._segment is not None:
            self._segment.add_waiting(self._place, change)
            if self._length < 0:
                self._length = self._segment.series(metrics.QUEUE_LENGTH.number, (self.policy.name,), 1)
            self._segment.add(self._length, change)
