"""One endpoint as a worker sees it: its settings, its idle connections, its counts.

Requests in flight are counted twice: here, and on the board under `index`, where the other workers see them. load() is the sum
over all workers, which is what balancing and `max_requests` go by; without a board it is our own count.

`latency` is a peak EWMA: a sample above it is believed at once, one below it only as far as time has passed. Bad news travels
fast, good news must last. What is stored is the value at `observed_at`; it fades from then on with the time constant FADING, and
because all endpoints fade alike, comparing two needs only the distance of their times, not a clock (lottery.py does so).

How an attempt went comes in twice: observe() when the head of the answer is there, which is when an endpoint has shown that it lives, and
attempted() at its end. What tells against it goes on to its witness (witness.py).
"""

from __future__ import annotations

from math import exp
from typing import TYPE_CHECKING, Any, Protocol

from lbd import metrics
from lbd.cluster.witness import ERROR, GATEWAY, Witness

if TYPE_CHECKING:
    from lbd.cluster.admission import Admission
    from lbd.cluster.outlier import OutlierPolicy
    from lbd.cluster.pool import Pool
    from lbd.cluster.witness import Tell
    from lbd.core.board import Board, Segment

__all__ = ["FADING", "Endpoint", "EndpointFacts"]

FADING = 10.0  # seconds; Finagle's, and Linkerd's, for services that answer within a second

GATEWAY_STATUSES = (502, 503, 504)  # what a proxy before the service says when the service is not there
# What calls of gRPC end with that tells against it (numbers of retry_policy.GRPC_STATUSES): unavailable is as 503; unknown, internal and
# data-loss are as 500. Not deadline-exceeded, for the client chooses its deadline, nor unimplemented, which is how gRPC says 404.
CALL_FAILURES = {2: ERROR, 13: ERROR, 14: GATEWAY, 15: ERROR}
# Outcomes that say nothing about whether the endpoint is well.
HARMLESS = frozenset(["ok", "no_upgrade"])


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
    @property
    def trial(self) -> int: ...
    @property
    def max_connections(self) -> int: ...


class Endpoint:
    """`up`: it passes its health checks, is not ejected and not `drained`; whether that matters (panic) is the cluster's to know.
    `trial`: it comes back from an ejection, and has no more than so many requests at once; 0: it is not on trial."""

    __slots__ = (
        "_answers", "_board", "_cells", "_connections", "_counts", "_elders", "_failed", "_flights", "_opened", "_reused", "_segment",
        "_timed", "address", "admission", "backup", "cluster_name", "drained", "index", "inflight", "is_limited", "latency",
        "max_connections", "max_requests", "metadata", "name", "observed_at", "origination", "own_limit", "own_weight", "pool", "priority",
        "trial", "up", "weight", "witness", "zone",
    )  # fmt: skip

    def __init__(
        self,
        cluster_name: str,
        facts: EndpointFacts,
        pool: Pool,
        segment: Segment | None = None,
        board: Board | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.cluster_name = cluster_name
        self.address = facts.address
        self.pool = pool
        self.origination: Any = None  # how TLS is spoken with it, if at all; its type lives upstairs (proxy/origination.py)
        self.latency = 0.0
        self.observed_at = -1.0  # -1: never
        self._segment = segment
        if segment is not None:
            self._counts = segment.cells
            self._flights = segment.flights
        self._board = board
        self.inflight = 0  # requests of this worker
        self._connections = 0
        self.admission: Admission | None = None  # the cluster's, if anything there is limited
        self.index = facts.index
        self.trial = 0
        self._elders = 0  # on trial: as many requests at most are from before it
        self.witness = Witness(facts.address, tell)
        self.settle(facts)
        self._cells: dict[str, int] = {}  # outcome -> cell; registered when first counted
        self._failed: dict[str, int] = {}  # kind -> cell
        self._timed = -1  # the cell of the seconds that answers took; -1: nobody asks
        self._answers = -1  # and of their number
        self._opened = -1
        self._reused = -1

    def __repr__(self) -> str:
        state = "up" if self.up else "down"
        return f"<Endpoint {self.address} weight {self.weight} {state}, {self.inflight} in flight>"

    def settle(self, facts: EndpointFacts) -> None:
        """Takes over what the master now says; the address stays."""
        self.name = facts.name or facts.address
        self.weight = self.own_weight = facts.weight
        self.drained = facts.drained
        self.up = facts.up and not facts.drained
        self.backup = facts.backup
        self.priority = facts.priority
        self.zone = facts.zone
        self.metadata = frozenset(facts.metadata)
        self.own_limit = facts.max_requests
        self.max_connections = facts.max_connections
        self.try_out(facts.trial)
        if facts.index != self.index:
            if self._segment is not None:  # what is there will be taken off its new place
                for place, sign in ((self.index, -1), (facts.index, 1)):
                    self._segment.add_inflight(place, sign * self.inflight)
                    self._segment.add_connections(place, sign * self._connections)
            self.index = facts.index

    def try_out(self, trial: int) -> None:
        """On trial from now on (again, if it was), or no more."""
        if trial != self.trial:
            self.trial = trial
            self._elders = self.load() if trial else 0
            if trial:
                self.witness.begin_trial(self.inflight)
            else:
                self.witness.end_trial()
        self.limit(bool(trial))

    def limit(self, to_trial: bool) -> None:
        """Whether being on trial limits it: where nobody else is left it must not."""
        self.max_requests = self.own_limit
        if to_trial and self.trial:
            self.max_requests = min(self.own_limit or self.trial, self.trial)
        self._settle_limits()

    def weigh(self, weight: int) -> None:
        """As selectors see it, until the master says something new; `own_weight` is what the configuration or an operator wants."""
        self.weight = weight

    def obey(self, policy: OutlierPolicy) -> None:
        """What is to be noticed of it."""
        self.witness.obey(policy)
        self._timed = -1
        if policy.enabled and policy.latency and self._segment is not None:
            self._timed, self._answers = self._series(metrics.ENDPOINT_SECONDS.number), self._series(metrics.ENDPOINT_ANSWERS.number)

    def _settle_limits(self) -> None:
        of_cluster = self.admission.max_connections if self.admission is not None else 0
        self.is_limited = self.max_requests > 0 or self.max_connections > 0 or of_cluster > 0

    def replace_pool(self, pool: Pool) -> None:
        """Connections are made in another way from now on; those there are finish what they have begun."""
        old, self.pool = self.pool, pool
        old.retire()

    def tidy(self, now: float) -> None:
        """Closes connections that have been idle for too long; where it is drained all: whoever stops it wants to find none."""
        if self.drained:
            self.pool.close_all()
        self.pool.expire(now)

    # In flight

    def begin(self) -> None:
        """A request starts here."""
        self.inflight += 1
        if self._segment is not None:
            self._flights[self.index] += 1
        if self.admission is not None:
            self.admission.begun()

    def end(self) -> None:
        """It is over, one way or the other."""
        self.inflight -= 1
        if self._segment is not None:
            self._flights[self.index] -= 1
        if self.admission is not None:
            self.admission.ended()

    def join(self, admission: Admission) -> None:
        """Who is at work here counts there, too, from now on. Idempotent; it stays so when the endpoint leaves the cluster."""
        if self.admission is None:
            self.admission = admission
            admission.begun(self.inflight)
            admission.connected(self._connections)
        self._settle_limits()

    def load(self) -> int:
        """Requests in flight, of all workers."""
        if self._board is None:
            return self.inflight
        return self._board.inflight(self.index)

    def is_full(self) -> bool:
        """Whether it may not have one more request. Where nothing is limited (`is_limited`) nobody need ask."""
        if self.max_requests > 0 and self._is_full_with(self.load()):
            return True
        return self.is_limited and self._lacks_connection()

    def _is_full_with(self, load: int) -> bool:
        """Whether so many requests are as many as it may have. What was there before a trial, sessions perhaps that last for days, takes
        no room from it. How much of that is left nobody counts; it is never more than the least load since."""
        if self._elders == 0:
            return load >= self.max_requests
        self._elders = min(self._elders, load)
        return load >= self._elders + self.trial or load >= self.own_limit > 0

    # Connections

    def connected(self) -> None:
        """One is there, or is being made."""
        self._connections += 1
        if self._segment is not None:
            self._segment.add_connections(self.index, 1)
        if self.admission is not None:
            self.admission.connected(1)

    def disconnected(self) -> None:
        self._connections -= 1
        if self._segment is not None:
            self._segment.add_connections(self.index, -1)
        if self.admission is not None:
            self.admission.connected(-1)

    def connections(self) -> int:
        """Of all workers."""
        return self._connections if self._board is None else self._board.connections(self.index)

    def awaits_connection(self) -> bool:
        """Whether more requests have begun in this worker than its connections can carry, so that one is about to be made."""
        return self.inflight > self._connections * self.pool.carries()

    def _lacks_connection(self) -> bool:
        """Whether one more request would need one more connection than there may be."""
        carries = self.pool.carries()
        beyond = self.inflight - self._connections * carries
        if beyond < 0:
            return False
        coming = -(-beyond // carries)
        if 0 < self.max_connections <= self.connections() + coming:
            return True
        return self.admission is not None and self.admission.lacks_connection(coming)

    # How attempts went

    def observe(self, seconds: float, now: float, status: int = 0) -> None:
        """The head of an answer came after so long, with this status; 0 where there is none, as when a TCP connection was made."""
        self._took(seconds, now)
        if status >= 500 or self.witness.is_alert:
            self._judge(status)
        if self.admission is not None and status < 500:  # how fast it refuses says nothing of how fast it can be
            self.admission.took(seconds, now)

    def observe_call(self, seconds: float, now: float, status: int) -> None:
        """As observe(), of a call of gRPC: `status` is its own, which is in the head where the call is over with it; -1: it goes on."""
        self._took(seconds, now)
        kind = CALL_FAILURES.get(status)
        if kind is not None:
            self._fail(kind, f"grpc-status {status}")
        elif self.witness.is_alert:
            if status < 0:
                self.witness.began_well()
            else:
                self.witness.succeeded()
        if self.admission is not None and kind is None:
            self.admission.took(seconds, now)

    def call_ended(self, status: int) -> None:
        """One that went on has, by its trailers."""
        kind = CALL_FAILURES.get(status)
        if kind is not None:
            self._fail(kind, f"grpc-status {status}")
        elif self.witness.is_alert:
            self.witness.ended_well()

    def attempted(self, outcome: str, is_excused: bool = False) -> None:
        """An attempt has ended: "ok", or the reason of its failure, which tells against the endpoint unless it is excused."""
        if outcome not in HARMLESS and not is_excused:
            self._fail(GATEWAY, outcome)
        if self._segment is not None:
            cell = self._cells.get(outcome)
            if cell is None:
                cell = self._segment.series(metrics.ATTEMPTS.number, (self.cluster_name, self.address, outcome), 1)
                self._cells[outcome] = cell
            self._counts[cell] += 1

    def _judge(self, status: int) -> None:
        """An answer that matters: a bad one, or any in the middle of a run or a trial."""
        if status < 500:
            self.witness.succeeded()
            return
        self._fail(GATEWAY if status in GATEWAY_STATUSES else ERROR, f"status {status}")

    def _took(self, seconds: float, now: float) -> None:
        if seconds < self.latency:
            share = exp((self.observed_at - now) / FADING)
            self.latency = self.latency * share + seconds * (1.0 - share)
        else:
            self.latency = seconds
        self.observed_at = now
        if self._timed >= 0:
            self._time(seconds)

    def _fail(self, kind: str, what: str) -> None:
        """`what` is for people."""
        if self._segment is not None:
            cell = self._failed.get(kind)
            if cell is None:
                cell = self._segment.series(metrics.ENDPOINT_FAILURES.number, (self.cluster_name, self.address, kind), 1)
                self._failed[kind] = cell
            self._segment.add(cell, 1)
        self.witness.failed(kind, what)

    def _time(self, seconds: float) -> None:
        assert self._segment is not None
        self._segment.add(self._timed, int(seconds * 1_000_000))
        self._segment.add(self._answers, 1)

    # Counts

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
            self._counts[self._reused] += 1

    def _series(self, number: int) -> int:
        assert self._segment is not None
        return self._segment.series(number, (self.cluster_name, self.address), 1)
