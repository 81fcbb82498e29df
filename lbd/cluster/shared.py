"""Connections that many requests share, of one endpoint: HTTP/2's.

A Pool whose connections are not taken but joined. The one opened first that has room carries the next request, so that under falling
load the later ones fall idle and go. When none has room, the request gets a Place in the queue, and as many connections are dialled as
the queue needs: one, mostly, for all who come while it is on its way. A place is granted as soon as there is room somewhere, first come
first served; a dial that fails fails those it was made for, no others.

With `protocol = "auto"` a dial may bring a connection for one request at a time after all (HTTP/1). Those lie in the Pool that this
one is, and a dial counts for one place from then on. An endpoint that has chosen HTTP/2 and then wants HTTP/1.1 for a request
(RFC 9113 7, HTTP_1_1_REQUIRED) gets nothing else for a while.

It decides only: Shared connections and Places act (proxy/http2_upstream.py, proxy/dial.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from lbd.cluster.pool import Pool
from lbd.policy import Count, Duration, Size

if TYPE_CHECKING:
    from lbd.cluster.pool import Pooled, PoolPolicy

__all__ = ["Http2UpstreamPolicy", "Place", "Shared", "SharedPool"]


@dataclass(frozen=True, slots=True)
class Http2UpstreamPolicy:
    """`[cluster.NAME.http2]`: connections to endpoints that speak HTTP/2."""

    # Requests at once on a connection; the endpoint may allow fewer. nginx, Envoy and Go's servers allow 100 to 250.
    max_streams: Annotated[int, Count(1, 100_000)] = 100
    max_connections: Annotated[int, Count(0, 1_000_000, zero="no limit")] = 0  # per endpoint and worker; above it requests wait for room
    # Bytes of a response that the endpoint may send before the downstream takes them. A connection holds so many for each stream: with
    # a smaller window of the whole, a few slow readers would stop all others.
    window: Annotated[int, Size(65535, (1 << 31) - 1)] = 256 * 1024
    # Of silence while requests wait. gRPC's servers hang up on those who ping more often than every five minutes.
    ping_interval: Annotated[float, Duration(0.0, zero="never")] = 360.0
    ping_timeout: Annotated[float, Duration(0.001)] = 10.0


LEARNED_FOR = 600.0  # seconds that a limit of the endpoint's is believed in, or its wish for HTTP/1.1, after it was last seen


class Shared(Protocol):
    """A connection that carries many requests at a time. It tells its pool of room, and of its end, by settled(), lost() and ended()."""

    opened_at: float
    idle_since: float
    requests: int  # that it has carried, and carries
    streams: int  # that it carries
    has_served: bool  # the endpoint has looked at one of them at least

    def room(self) -> int:
        """How many more it can take; 0 once it is to take none any more."""

    def look(self) -> None:
        """Learns what the kernel knows of it: it may have been closed this very moment."""

    def join(self, is_reused: bool) -> Any:  # noqa: ANN401 - its type lives upstairs
        """An Upstream for one more request."""

    def retire(self) -> None:
        """Takes no more; ends with its last stream. Idempotent."""


class Place(Protocol):
    """Somebody who waits for a connection."""

    def dial(self) -> None:
        """Begins to make one, for the queue; its outcome is told to the pool by dialled(), dialled_single() or dial_failed()."""

    def grant(self, upstream: Any) -> None: ...  # noqa: ANN401

    def fail(self, error: Exception) -> None: ...


class SharedPool(Pool):
    """`len()` is of those that carry nothing."""

    __slots__ = (
        "_dials", "_has_left", "_heap", "_last_end", "_limit", "_limit_until", "_listed", "_numbers", "_open", "_per_dial", "_queue",
        "_serial", "_single_until", "can_be_single", "http2",
    )  # fmt: skip

    def __init__(self, policy: PoolPolicy, http2: Http2UpstreamPolicy, can_be_single: bool = False) -> None:
        Pool.__init__(self, policy)
        self.http2 = http2
        self.can_be_single = can_be_single
        self._open: set[Shared] = set()  # all, until their end
        self._numbers: dict[Shared, int] = {}  # those that may take requests, in the order of their making
        self._heap: list[tuple[int, Shared]] = []  # of them, those that may have room
        self._listed: set[Shared] = set()  # which are in the heap
        self._serial = 0
        self._queue: deque[Place] = deque()
        self._dials = 0  # on their way
        self._per_dial = http2.max_streams  # places that a dial is expected to bring
        self._has_left = False  # the endpoint has
        self._last_end = 0  # requests after which the endpoint ended a connection
        self._limit = 0  # of requests for each, as it seems, until
        self._limit_until = -1.0
        self._single_until = -1.0

    def __len__(self) -> int:
        return Pool.__len__(self) + sum(connection.streams == 0 for connection in self._open)

    def active(self, requests: int) -> int:
        """Connections that carry some of so many requests."""
        shared = [connection.streams for connection in self._open if connection.streams]
        return max(0, requests - sum(shared)) + len(shared)

    def serves(self) -> bool:
        return any(connection.has_served and connection.streams for connection in self._open)

    def __repr__(self) -> str:
        return f"<SharedPool of {len(self._numbers)}, {self._dials} dials, {len(self._queue)} waiting>"

    @property
    def waiting(self) -> int:
        return len(self._queue)

    # Requests

    def take(self, now: float, certain: bool = False) -> Any:  # noqa: ANN401 - as Pool's
        """An Upstream on the oldest connection with room, or None."""
        connection = None if self.is_single(now) else self._with_room(now, certain)
        if connection is not None:
            return connection.join(is_reused=True)
        return Pool.take(self, now, certain) if self.can_be_single else None

    def is_single(self, now: float) -> bool:
        """Whether requests get connections of their own, for the endpoint has asked for that."""
        return now < self._single_until

    def wants_single(self, now: float) -> None:
        """It has. Nothing comes of it where nothing but HTTP/2 is to be spoken."""
        if self.can_be_single:
            self._single_until = now + LEARNED_FOR

    def take_again(self, now: float) -> Any:  # noqa: ANN401
        """For whoever comes back because of a connection that has failed or ended: the latest, whose end is farthest."""
        for _, connection in sorted(self._heap, reverse=True):
            if not self._is_too_old(connection, now):
                connection.look()
                if connection.room() > 0:
                    return connection.join(is_reused=False)
        return None

    def _with_room(self, now: float, certain: bool) -> Shared | None:
        while self._heap:
            connection = self._heap[0][1]
            if self._is_too_old(connection, now):
                connection.retire()
            elif certain:
                connection.look()
            if connection.room() > 0:
                return connection
            if self._heap and self._heap[0][1] is connection:  # retire() and look() may have led to lost()
                heappop(self._heap)
                self._listed.discard(connection)
        return None

    def _is_too_old(self, connection: Shared, now: float) -> bool:
        policy: PoolPolicy = self.policy
        is_stale = connection.streams == 0 and now - connection.idle_since >= policy.idle_timeout
        return is_stale or self._is_used_up(connection, now)

    def _is_used_up(self, connection: Shared, now: float) -> bool:
        policy: PoolPolicy = self.policy
        return (
            (policy.max_requests > 0 and connection.requests >= policy.max_requests)
            or (now < self._limit_until and connection.requests >= self._limit)
            or (policy.max_age > 0 and now - connection.opened_at >= policy.max_age)
        )

    # The queue

    def enter(self, place: Place) -> None:
        """Waits for room; with granted or failed it is out of the queue, otherwise leave() takes it out."""
        self._queue.append(place)
        self._dial_for_queue()

    def leave(self, place: Place) -> None:
        if place in self._queue:
            self._queue.remove(place)

    def _dial_for_queue(self) -> None:
        most = self.http2.max_connections
        while len(self._queue) > self._dials * self._per_dial and (most == 0 or len(self._numbers) + self._dials < most):
            self._dials += 1
            self._queue[0].dial()

    def dialled(self, connection: Shared, now: float) -> None:
        """A dial has brought a connection to share."""
        self._dials -= 1
        self._per_dial = max(1, connection.room())
        self._open.add(connection)
        self._numbers[connection] = self._serial
        self._serial += 1
        self._serve(connection, now, is_reused=False)
        if self._has_left:
            connection.retire()
        self._dial_for_queue()

    def dialled_single(self, upstream: Pooled, now: float) -> None:
        """A dial has brought a connection for one request at a time."""
        self._dials -= 1
        self._per_dial = 1
        if self._queue:
            self._queue.popleft().grant(upstream)
        else:
            self.give(upstream, now)
        self._dial_for_queue()

    def dial_failed(self, error: Exception) -> None:
        """Those who waited for it need not wait on; there may be other dials for the rest."""
        self._dials -= 1
        for _ in range(min(self._per_dial, len(self._queue) - self._dials * self._per_dial)):
            self._queue.popleft().fail(error)
        self._dial_for_queue()

    # What connections tell

    def settled(self, connection: Shared, now: float) -> None:
        """One of its streams has ended, or it may carry more than before."""
        if connection not in self._numbers:
            return
        self._serve(connection, now, is_reused=True)
        policy: PoolPolicy = self.policy
        most = policy.max_idle if policy.idle_timeout > 0 else 0
        if connection.streams == 0 and len(self._numbers) > most:
            idle = [connection for connection in self._numbers if connection.streams == 0]
            for latest in idle[most:]:
                latest.retire()

    def lost(self, connection: Shared) -> None:
        """It takes no more requests."""
        if self._numbers.pop(connection, None) is None:
            return
        if connection in self._listed:
            self._listed.discard(connection)
            self._heap = [entry for entry in self._heap if entry[1] is not connection]
            heapify(self._heap)
        self._dial_for_queue()

    def went_away(self, requests: int, now: float) -> None:
        """An endpoint has ended a connection after so many requests.

        Twice in a row at the same number is a limit (nginx's keepalive_requests). Whatever is under way when it is reached is not looked
        at, and a body that is not in memory cannot be sent again: better to be the one who ends the connection.
        """
        if requests > 0 and requests == self._last_end:
            self._limit, self._limit_until = requests, now + LEARNED_FOR
        self._last_end = requests

    def ended(self, connection: Shared) -> None:
        """It is closed."""
        self.lost(connection)
        self._open.discard(connection)

    def _serve(self, connection: Shared, now: float, is_reused: bool) -> None:
        """Its room goes to those who wait first, then to whoever asks."""
        while self._queue and connection.room() > 0:
            if self._is_used_up(connection, now):
                connection.retire()
                return
            self._queue.popleft().grant(connection.join(is_reused))
        if connection in self._numbers and connection not in self._listed and connection.room() > 0:
            self._listed.add(connection)
            heappush(self._heap, (self._numbers[connection], connection))

    # A pool's life

    def expire(self, now: float) -> None:
        """Retires what has been idle for too long, or open."""
        Pool.expire(self, now)
        for connection in [connection for connection in self._numbers if self._is_too_old(connection, now)]:
            connection.retire()

    def close_all(self) -> None:
        """Those that carry something end with it."""
        Pool.close_all(self)
        for connection in list(self._numbers):
            connection.retire()

    def carries(self) -> int:
        return self._per_dial

    def give_up(self, count: int) -> None:
        idle = [connection for connection in self._numbers if connection.streams == 0]
        for connection in idle[:count]:
            connection.retire()
        Pool.give_up(self, count - len(idle[:count]))

    def retire(self) -> None:
        """The endpoint has left. Who waits already is served still."""
        self._has_left = True
        Pool.retire(self)
        for connection in list(self._numbers):
            connection.retire()
