"""One endpoint as a worker sees it: its settings, its idle connections, its counts.

Requests in flight are counted twice: here, and on the board under `index`, where the other workers see them. load() is the sum
over all workers, which is what balancing and `max_requests` go by; without a board it is our own count.

`latency` is a peak EWMA: a sample above it is believed at once, one below it only as far as time has passed. Bad news travels
fast, good news must last. What is stored is the value at `observed_at`; it fades from then on with the time constant FADING, and
because all endpoints fade alike, comparing two needs only the distance of their times, not a clock (lottery.py does so).
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any, Protocol

from lbd import metrics

if TYPE_CHECKING:
    from lbd.cluster.admission import Admission
    from lbd.cluster.pool import Pool
    from lbd.core.board import Board, Segment

__all__ = ["FADING", "Endpoint", "EndpointFacts"]

FADING = 10.0  # seconds; Finagle's, and Linkerd's, for services that answer within a second


class EndpointFacts(Protocol):
    """What the master tells of an endpoint: worker/messages.py's EndpointState."""

    @property
    def address(self) -> str: ...
    @property
    def weight(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def up(self) -> bool: ...
    @property
    def name(self) -> str: ...
    @property
    def backup(self) -> bool: ...
    @property
    def priority(self) -> int: ...
    @property
    def zone(self) -> str: ...
    @property
    def metadata(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def drained(self) -> bool: ...
    @property
    def max_requests(self) -> int: ...


class Endpoint:
    """`up` is what the health check says; whether it matters (panic) is the cluster's to know. One that is `drained` is never up."""

    __slots__ = (
        "_board", "_cells", "_inflight", "_opened", "_reused", "_segment", "address", "admission", "backup", "cluster_name",
        "drained", "index", "latency", "max_requests", "metadata", "name", "observed_at", "origination", "pool", "priority", "up",
        "weight", "zone",
    )  # fmt: skip

    def __init__(
        self, cluster_name: str, facts: EndpointFacts, pool: Pool, segment: Segment | None = None, board: Board | None = None
    ) -> None:
        self.cluster_name = cluster_name
        self.address = facts.address
        self.pool = pool
        self.origination: Any = None  # how TLS is spoken with it, if at all; its type lives upstairs (proxy/origination.py)
        self.latency = 0.0
        self.observed_at = -1.0  # -1: never
        self._segment = segment
        self._board = board
        self._inflight = 0
        self.admission: Admission | None = None  # the cluster's, if anything there is limited
        self.index = facts.index
        self.settle(facts)
        self._cells: dict[str, int] = {}  # outcome -> cell; registered when first counted
        self._opened = -1
        self._reused = -1

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return f"<Endpoint {self.address} weight {self.weight} {state}, {self._inflight} in flight>"

    def settle(self, facts: EndpointFacts) -> None:
        """Takes over what the master now says; the address stays."""
        self.name = facts.name or facts.address
        self.weight = facts.weight
        self.drained = facts.drained
        self.up = facts.up and not facts.drained
        self.backup = facts.backup
        self.priority = facts.priority
        self.zone = facts.zone
        self.metadata = frozenset(facts.metadata)
        self.max_requests = facts.max_requests
        if facts.index != self.index:
            if self._segment is not None and self._inflight:  # what is in flight will be taken off its new place
                self._segment.add_inflight(self.index, -self._inflight)
                self._segment.add_inflight(facts.index, self._inflight)
            self.index = facts.index

    def replace_pool(self, pool: Pool) -> None:
        """Connections are made in another way from now on; those there are finish what they have begun."""
        old, self.pool = self.pool, pool
        old.retire()

    # In flight

    def begin(self) -> None:
        """A request starts here."""
        self._inflight += 1
        if self._segment is not None:
            self._segment.add_inflight(self.index, 1)
        if self.admission is not None:
            self.admission.begun()

    def end(self) -> None:
        """It is over, one way or the other."""
        self._inflight -= 1
        if self._segment is not None:
            self._segment.add_inflight(self.index, -1)
        if self.admission is not None:
            self.admission.ended()

    def join(self, admission: Admission) -> None:
        """Who is at work here counts there, too, from now on. Idempotent; it stays so when the endpoint leaves the cluster."""
        if self.admission is None:
            self.admission = admission
            admission.begun(self._inflight)

    def load(self) -> int:
        """Requests in flight, of all workers."""
        if self._board is None:
            return self._inflight
        return self._board.inflight(self.index)

    def is_full(self) -> bool:
        return self.max_requests > 0 and self.load() >= self.max_requests

    def observe(self, seconds: float, now: float) -> None:
        """The head of a response came after so long."""
        if seconds < self.latency:
            share = exp((self.observed_at - now) / FADING)
            self.latency = self.latency * share + seconds * (1.0 - share)
        else:
            self.latency = seconds
        self.observed_at = now

    # Counts

    def attempted(self, outcome: str) -> None:
        """An attempt has ended: "ok", or the reason of its failure."""
        if self._segment is not None:
            cell = self._cells.get(outcome)
            if cell is None:
                cell = self._segment.series(metrics.ATTEMPTS.number, (self.cluster_name, self.address, outcome), 1)
                self._cells[outcome] = cell
            self._segment.add(cell, 1)

    def opened(self) -> None:
        """A connection was made."""
        if self._segment is not None:
            if self._opened < 0:
                self._opened = self._series(metrics.CONNECTIONS_OPENED.number)
            self._segment.add(self._opened, 1)

    def reused(self) -> None:
        """A request went out on a connection from the pool."""
        if self._segment is not None:
            if self._reused < 0:
                self._reused = self._series(metrics.CONNECTIONS_REUSED.number)
            self._segment.add(self._reused, 1)

    def _series(self, number: int) -> int:
        assert self._segment is not None
        return self._segment.series(number, (self.cluster_name, self.address), 1)
