"""A cluster: its endpoints, and which of them takes this request (selection.py).

Endpoints stand in levels and zones, and backups behind them all (tiers.py). A cluster keeps who stays: an endpoint that is named again by
an update has its connections, health and counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from lbd.cluster.admission import Admission, LimitPolicy
from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.budget import RetryBudget
from lbd.cluster.circuit import Circuit
from lbd.cluster.endpoint import Endpoint
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.health import HealthPolicy, secured
from lbd.cluster.hedge_delay import HedgeDelay
from lbd.cluster.key import HashKey
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.pool import Pool, PoolPolicy
from lbd.cluster.queue import QueuePolicy
from lbd.cluster.retry_policy import RetryPolicy
from lbd.cluster.select import HASHES, SELECTORS
from lbd.cluster.selection import Roster, Selection
from lbd.cluster.shared import Http2UpstreamPolicy, SharedPool
from lbd.cluster.slow_start import SlowStart
from lbd.cluster.sticky import Sticky, StickyPolicy
from lbd.cluster.tiers import SpreadPolicy
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.core.clock import steady_clock
from lbd.policy import Choice, Count, Duration, Ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from random import Random

    from lbd.cluster.endpoint import EndpointFacts
    from lbd.cluster.selection import Subset
    from lbd.cluster.selector import Selector
    from lbd.cluster.witness import Tell
    from lbd.core.board import Board, Segment

__all__ = ["BALANCES", "Cluster", "ClusterPolicy", "EndpointPolicy", "RetryPolicy", "TimeoutPolicy", "is_limited"]

BALANCES = tuple(SELECTORS)


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """One entry of `endpoints`: "host:port", "unix:/path", or a table with these keys."""

    address: str
    weight: Annotated[int, Count(1, 65535)] = 1
    backup: bool = False  # takes requests only while no other endpoint can
    # The level: 0 is first, and as long as it has room the next one gets nothing. More than a hundred levels are a mistake.
    priority: Annotated[int, Count(0, 99)] = 0
    zone: str = ""  # where it is; "" is nowhere in particular
    metadata: tuple[tuple[str, str], ...] = ()  # TOML: a table; for the `subset` of routes
    max_requests: Annotated[int, Count(0, zero="no limit")] = 0  # at once, over all workers
    max_connections: Annotated[int, Count(0, zero="no limit")] = 0  # likewise, idle ones too
    tls: bool | None = None  # whether TLS is spoken with it; None: as with the others of its cluster


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """`[cluster.NAME.timeouts]`; a route may override single keys."""

    connect: Annotated[float, Duration(0.001)] = 1.0
    response: Annotated[float, Duration(0.0, zero="no limit")] = 30.0  # end of the request -> head of the response
    idle: Annotated[float, Duration(0.0, zero="no limit")] = 60.0  # of a body in transit, either way: no byte moved
    total: Annotated[float, Duration(0.0, zero="no limit")] = 0.0  # the whole exchange, attempts included


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """`[cluster.NAME]`."""

    name: str
    endpoints: tuple[EndpointPolicy, ...]
    balance: Annotated[str, Choice(BALANCES)] = "round-robin"
    hash_key: str = "client-ip"  # client-ip | path | uri | host | header:NAME | cookie:NAME | query:NAME
    bound: Annotated[float, Ratio(0.0, 100.0)] = 0.0  # bounded load for the hashes: 1.25 is 25 % above the mean; 0 is off
    panic: Annotated[float, Ratio(0.0, 1.0)] = 0.5  # below this healthy share, health is ignored; 0 is never
    # Until an endpoint that comes back has its whole share again. HAProxy and Envoy have none by default; a second too much harms nobody.
    slow_start: Annotated[float, Duration(0.0, zero="at once")] = 10.0
    # How many times its share an endpoint can take: so much may be down before requests go to the next level, or to another zone. Envoy's.
    overprovision: Annotated[float, Ratio(1.0, 100.0)] = 1.4
    zone: str = ""  # ours: [lbd] zone
    zone_aware: Annotated[str, Choice(("prefer-local", "off"))] = "prefer-local"  # where both sides say their zone
    zone_minimum: Annotated[int, Count(0)] = 0  # endpoints in a level below which zones do not count; shares are kept with few as well
    # What endpoints speak. h2 without TLS is HTTP/2 with prior knowledge; auto is what both like best, by ALPN.
    protocol: Annotated[str, Choice(("http1", "h2", "auto"))] = "http1"
    send_proxy: Annotated[str, Choice(("v1", "v2"))] = ""  # a PROXY header before all else; for HTTP a connection for each request then
    resolve_interval: Annotated[float, Duration(0.0, zero="by the records' TTL, or 30s where it is not known")] = 0.0
    tls: ClusterTlsPolicy | None = None
    sticky: StickyPolicy | None = None
    health: HealthPolicy | None = None
    outlier: OutlierPolicy = field(default_factory=OutlierPolicy)
    breaker: BreakerPolicy | None = None
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    http2: Http2UpstreamPolicy = field(default_factory=Http2UpstreamPolicy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: LimitPolicy = field(default_factory=LimitPolicy)
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    adaptive: AdaptivePolicy = field(default_factory=AdaptivePolicy)

    def check(self) -> HealthPolicy | None:
        """As its endpoints are to be probed: with what holds for the cluster where the check says nothing."""
        health = self.health
        if health is None:
            return None
        if not health.send_proxy:
            health = replace(health, send_proxy=self.send_proxy)
        if self.protocol == "h2" and health.protocol == "http" and not health.port:
            health = replace(health, protocol="h2")
        tls = self.originates()
        return health if tls is None else secured(health, tls, self.name, plain_names(self))

    def spread(self) -> SpreadPolicy:
        """By which rules requests are spread. Zones do not count for hashes: a key's place must not depend on who is asked."""
        is_aware = self.zone_aware != "off" and self.balance not in HASHES
        return SpreadPolicy(self.panic, self.overprovision, self.zone if is_aware else "", self.zone_minimum)

    def originates(self) -> ClusterTlsPolicy | None:
        """How TLS is spoken with those endpoints with which it is; None: with none."""
        return self.tls or (ClusterTlsPolicy() if any(endpoint.tls for endpoint in self.endpoints) else None)

    def speaks_tls(self, endpoint: EndpointPolicy) -> bool:
        return self.tls is not None if endpoint.tls is None else endpoint.tls


class Cluster:
    """Empty until its first update(). `hash_key` is None when the balance looks at no key."""

    __slots__ = (
        "_board", "_by_address", "_plain", "_roster", "_segment", "_slow_start", "_subsets", "_subsets_before", "_tell", "_whole",
        "admission", "budget", "circuit", "endpoints", "hash_key", "hedging", "origination", "place", "policy", "sticky",
    )  # fmt: skip

    def __init__(
        self, policy: ClusterPolicy, segment: Segment | None, board: Board | None, random: Random, tell: Tell | None = None,
        clock: Callable[[], float] = steady_clock,
    ) -> None:  # fmt: skip
        """`tell` hears what is noticed of an endpoint (witness.py)."""
        self._segment = segment
        # The only worker's own counts are everybody's.
        self._board = board if board is not None and board.slots > 1 else None
        self._tell = tell
        self._slow_start = SlowStart(policy.slow_start, clock, segment)
        self._by_address: dict[str, Endpoint] = {}
        self._roster = Roster(policy, segment, random)
        self.circuit = Circuit(self._roster, segment, clock)
        self._whole = Selection(self._roster)
        self._subsets: dict[tuple[Subset, bool], Selection] = {}  # those asked for since the last reload
        self._subsets_before: dict[tuple[Subset, bool], Selection] = {}  # and before it
        self.endpoints: tuple[Endpoint, ...] = ()
        self.policy = policy
        self.budget = RetryBudget(policy.retry.budget, policy.retry.budget_min)
        self.hedging = HedgeDelay(policy.retry.hedge_after) if policy.retry.hedge_after else None
        self.hash_key = HashKey(policy.hash_key) if policy.balance in HASHES else None
        self.sticky = Sticky(policy.name, policy.sticky) if policy.sticky is not None else None
        self.admission: Admission | None = None  # while nothing is limited
        self.place = -1  # on the board, beside those of the endpoints
        self.origination: Any = None  # of its endpoints, but for those that are
        self._plain = plain_names(policy)

    def __repr__(self) -> str:
        panic = ", in panic" if self.is_panicking else ""
        return f"<Cluster {self.name} {self.policy.balance}, {self.healthy_count} of {len(self.endpoints)} up{panic}>"

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def healthy_count(self) -> int:
        return sum(endpoint.up for endpoint in self.endpoints)

    def why_none(self) -> str:
        """For people: why pick() has found nobody."""
        if not self.endpoints:
            return f"{self.name} has no endpoints: no name has resolved to an address yet"
        full = sum(endpoint.is_full() for endpoint in self.endpoints)
        full_text = f", {full} have as much as they may" if full else ""
        drained = sum(endpoint.drained for endpoint in self.endpoints)
        drained_text = f", {drained} drained" if drained else ""
        up_text = f"{self.healthy_count} of {len(self.endpoints)} are up"
        return f"no endpoint of {self.name} can take the request: {up_text}{drained_text}{full_text}"

    @property
    def is_panicking(self) -> bool:
        """As of the latest pick."""
        return self._whole.is_panicking

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """As of the latest pick."""
        return self._whole.selectors

    # Choosing

    def pick(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for a request, or for its next attempt; None when all that could take it have been tried."""
        if self.admission is not None and not self.admission.admits():
            return None
        return self._whole.pick(key, tried)

    def selection(self, subset: Subset = (), *, heeds_panic: bool = True) -> Selection:
        """Of the endpoints that have all of this in their metadata. It stays, and stays true, for as long as somebody holds it."""
        if not subset and heeds_panic:
            return self._whole
        key = (subset, heeds_panic)
        if key not in self._subsets:
            self._subsets[key] = self._subsets_before.get(key) or Selection(self._roster, subset, heeds_panic=heeds_panic)
        return self._subsets[key]

    def has_room(self) -> bool:
        """Whether any endpoint could take a request, if it was the right one for it."""
        return any(not endpoint.is_full() for endpoint in self.endpoints if self._whole.has(endpoint))

    def is_usable(self, tried: Collection[Endpoint] = ()) -> bool:
        """Whether there is an endpoint that may be used, however busy, that is not among those."""
        return self._whole.is_usable(tried)

    @property
    def limits_connections(self) -> bool:
        return self.policy.limits.max_connections > 0 or any(endpoint.max_connections for endpoint in self.endpoints)

    # Changes

    def set_health(self, address: str, up: bool, trial: int = 0) -> None:
        """A flip, or a trial that begins or ends. An address that has left meanwhile is nobody's."""
        endpoint = self._by_address.get(address)
        if endpoint is not None and not endpoint.drained and (endpoint.up != up or endpoint.trial != trial):
            endpoint.up = up
            endpoint.try_out(trial)
            self._roster.revise()
            self._slow_start.flipped(endpoint, self.endpoints, was_panicking=self._whole.is_panicking)

    def changed(self) -> None:
        """Something of endpoints has, that choosing goes by. Arranged by the next pick: changes come in bunches, of hundreds in a large
        cluster, so that a flip alone (set_health) must cost little."""
        self._roster.revise()
        self._slow_start.settle(self.endpoints, is_hash=self.policy.balance in HASHES, was_panicking=self._whole.is_panicking)

    def tick(self) -> None:
        """A second or so has passed."""
        for endpoint in self.endpoints:
            endpoint.witness.may_speak()
        if self._slow_start.is_at_work:
            self._roster.revise()
            self._slow_start.grow(self.endpoints)

    def update(self, states: Iterable[EndpointFacts]) -> tuple[Endpoint, ...]:
        """The endpoints are these now. Who stays keeps its object; who leaves is returned, for the caller to drain."""
        by_address: dict[str, Endpoint] = {}
        for facts in states:
            if facts.address in by_address:
                continue
            endpoint = self._by_address.get(facts.address)
            if endpoint is None:
                endpoint = Endpoint(self.policy.name, facts, build_pool(self.policy), self._segment, self._board, self._tell)
                endpoint.obey(self.policy.outlier)
                endpoint.witness.inform(self.circuit.breaker)
                endpoint.origination = self._origination_of(endpoint)
            else:
                endpoint.settle(facts)
            by_address[facts.address] = endpoint
        removed = tuple(endpoint for address, endpoint in self._by_address.items() if address not in by_address)
        self._by_address = by_address
        self.endpoints = self._roster.endpoints = tuple(by_address.values())
        self.changed()
        self._whole.arrange()  # now, and not while a request waits: rings are dear
        self._settle_admission()
        return removed

    def _settle_admission(self) -> None:
        if self.admission is None and is_limited(
            self.policy, (endpoint.own_limit or endpoint.max_connections for endpoint in self.endpoints)
        ):
            self.admission = Admission(self, self.place, self._segment, self._board, self._roster.random)
        if self.admission is not None:
            self.admission.obey(self.policy)
            for endpoint in self.endpoints:
                endpoint.join(self.admission)

    def apply_policy(self, policy: ClusterPolicy) -> None:
        """After a reload: other settings, the same endpoints (update() follows)."""
        old, self.policy = self.policy, policy
        self._roster.policy = policy
        self._slow_start.seconds = policy.slow_start
        self.circuit.obey(policy.breaker)
        self._subsets_before, self._subsets = self._subsets, {}
        self.budget.obey(policy.retry.budget, policy.retry.budget_min)
        if policy.retry.hedge_after != old.retry.hedge_after:
            self.hedging = HedgeDelay(policy.retry.hedge_after) if policy.retry.hedge_after else None
        self._plain = plain_names(policy)
        self.hash_key = HashKey(policy.hash_key) if policy.balance in HASHES else None
        if policy.sticky != old.sticky:
            self.sticky = Sticky(policy.name, policy.sticky) if policy.sticky is not None else None
        for endpoint in self.endpoints:
            endpoint.obey(policy.outlier)
            endpoint.witness.inform(self.circuit.breaker)
            if kind_of_connections(policy) == kind_of_connections(old):
                endpoint.pool.obey(pool_policy(policy))
            else:  # connections of the old kind are of no more use
                endpoint.replace_pool(build_pool(policy))
        self.changed()

    def originate(self, origination: Any) -> None:  # noqa: ANN401 - proxy/origination.py's
        """How connections that are made from now on speak TLS; None: not at all."""
        self.origination = origination
        for endpoint in self.endpoints:
            endpoint.origination = self._origination_of(endpoint)

    def _origination_of(self, endpoint: Endpoint) -> Any:  # noqa: ANN401 - as above
        return None if endpoint.name in self._plain else self.origination


def is_limited(policy: ClusterPolicy, limits: Iterable[int]) -> bool:
    """Whether anything is, so that requests may have to wait; `limits` are those of the endpoints."""
    return policy.limits != LimitPolicy() or policy.adaptive.enabled or any(limits)


def kind_of_connections(policy: ClusterPolicy) -> tuple[object, ...]:
    """Where this changes, connections that are there are of no more use."""
    return policy.protocol, policy.http2, policy.send_proxy, policy.originates(), plain_names(policy)


def plain_names(policy: ClusterPolicy) -> frozenset[str]:
    """Of the endpoints with which no TLS is spoken, as the configuration has them."""
    return frozenset(endpoint.address for endpoint in policy.endpoints if not policy.speaks_tls(endpoint))


def pool_policy(policy: ClusterPolicy) -> PoolPolicy:
    """A connection that began with one client's PROXY header must not carry another's requests: none is kept."""
    return replace(policy.pool, max_idle=0) if policy.send_proxy else policy.pool


def build_pool(policy: ClusterPolicy) -> Pool:
    """For one endpoint."""
    if policy.protocol == "http1":
        return Pool(pool_policy(policy))
    return SharedPool(policy.pool, policy.http2, can_be_single=policy.protocol == "auto")
