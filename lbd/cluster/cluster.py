"""A cluster: which endpoint takes this request?

The selector says in what order endpoints would be tried; what may not be used now is filtered here: the unhealthy, those with
`max_requests` in flight, those that hold more than their bounded share, those already tried for this request.

Endpoints stand in two tiers: backups are tried only after all others. Health decides over the tiers when something changes, not over
each request: balances that take turns or draw lots are built from the healthy endpoints alone, so that the first candidate
is nearly always right and an endpoint that is down leaves its share to all others alike. Hashes are built from all, so that a key's
place does not move; they skip.

Panic: when fewer than `panic` of the endpoints are healthy and no backup is, health is ignored. Most likely the checks are wrong or
starved, and sending everything to the few left would take those down too (Envoy's healthy_panic_threshold). Those that an operator
has drained count neither way, and get nothing in panic either.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

from lbd.cluster.admission import Admission, LimitPolicy
from lbd.cluster.bound import LoadBound
from lbd.cluster.endpoint import Endpoint
from lbd.cluster.health import HealthPolicy, is_panic, secured
from lbd.cluster.key import HashKey
from lbd.cluster.pool import Pool, PoolPolicy
from lbd.cluster.queue import QueuePolicy
from lbd.cluster.select import HASHES, SELECTORS, build_selector
from lbd.cluster.shared import Http2UpstreamPolicy, SharedPool
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.policy import Choice, Count, Duration, Ratio

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from random import Random

    from lbd.cluster.endpoint import EndpointFacts
    from lbd.cluster.selector import Selector
    from lbd.core.board import Board, Segment

__all__ = ["BALANCES", "Cluster", "ClusterPolicy", "EndpointPolicy", "RetryPolicy", "TimeoutPolicy"]

BALANCES = tuple(SELECTORS)


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """One entry of `endpoints`: "host:port", "unix:/path", or a table with these keys."""

    address: str
    weight: Annotated[int, Count(1, 65535)] = 1
    backup: bool = False  # takes requests only while no other endpoint can
    max_requests: Annotated[int, Count(0, zero="no limit")] = 0  # at once, over all workers
    tls: bool | None = None  # whether TLS is spoken with it; None: as with the others of its cluster


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """`[cluster.NAME.timeouts]`; a route may override single keys."""

    connect: Annotated[float, Duration(0.001)] = 1.0
    response: Annotated[float, Duration(0.0, zero="no limit")] = 30.0  # end of the request -> head of the response
    idle: Annotated[float, Duration(0.0, zero="no limit")] = 60.0  # of a body in transit, either way: no byte moved
    total: Annotated[float, Duration(0.0, zero="no limit")] = 0.0  # the whole exchange, attempts included


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`[cluster.NAME.retry]`. It stands here because it is a cluster's table; proxy/retry.py obeys it."""

    attempts: Annotated[int, Count(0, 100)] = 2  # beyond the first


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """`[cluster.NAME]`."""

    name: str
    endpoints: tuple[EndpointPolicy, ...]
    balance: Annotated[str, Choice(BALANCES)] = "round-robin"
    hash_key: str = "client-ip"  # client-ip | path | uri | host | header:NAME | cookie:NAME | query:NAME
    bound: Annotated[float, Ratio(0.0, 100.0)] = 0.0  # bounded load for the hashes: 1.25 is 25 % above the mean; 0 is off
    panic: Annotated[float, Ratio(0.0, 1.0)] = 0.5  # below this healthy share, health is ignored; 0 is never
    # What endpoints speak. h2 without TLS is HTTP/2 with prior knowledge; auto is what both like best, by ALPN.
    protocol: Annotated[str, Choice(("http1", "h2", "auto"))] = "http1"
    send_proxy: Annotated[str, Choice(("v1", "v2"))] = ""  # a PROXY header before all else; for HTTP a connection for each request then
    resolve_interval: Annotated[float, Duration(0.0, zero="by the records' TTL, or 30s where it is not known")] = 0.0
    tls: ClusterTlsPolicy | None = None
    health: HealthPolicy | None = None
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    http2: Http2UpstreamPolicy = field(default_factory=Http2UpstreamPolicy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    limits: LimitPolicy = field(default_factory=LimitPolicy)
    queue: QueuePolicy = field(default_factory=QueuePolicy)

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

    def originates(self) -> ClusterTlsPolicy | None:
        """How TLS is spoken with those endpoints with which it is; None: with none."""
        return self.tls or (ClusterTlsPolicy() if any(endpoint.tls for endpoint in self.endpoints) else None)

    def speaks_tls(self, endpoint: EndpointPolicy) -> bool:
        return self.tls is not None if endpoint.tls is None else endpoint.tls


class Cluster:
    """Empty until its first update(). `hash_key` is None when the balance looks at no key; `is_panicking` is as of the latest pick."""

    __slots__ = (
        "_board", "_bound", "_built", "_by_address", "_first", "_is_stale", "_only", "_plain", "_random", "_segment", "admission",
        "endpoints", "hash_key", "is_panicking", "origination", "place", "policy", "tiers",
    )  # fmt: skip

    def __init__(self, policy: ClusterPolicy, segment: Segment | None, board: Board | None, random: Random) -> None:
        self._segment = segment
        # The only worker's own counts are everybody's.
        self._board = board if board is not None and board.slots > 1 else None
        self._random = random
        self._by_address: dict[str, Endpoint] = {}
        self._built: list[tuple[list[tuple[Endpoint, int, str]], Selector]] = []  # what it was built from, and the selector
        self.endpoints: tuple[Endpoint, ...] = ()
        self.tiers: tuple[Selector, ...] = ()
        self._bound: LoadBound | None = None
        self._first: Selector | None = None  # of the tiers
        self._only: Endpoint | None = None  # the one endpoint there is to choose from
        self.is_panicking = False
        self._is_stale = False
        self.policy = policy
        self.hash_key = HashKey(policy.hash_key) if policy.balance in HASHES else None
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
        full_text = f", {full} have max_requests in flight" if full else ""
        drained = sum(endpoint.drained for endpoint in self.endpoints)
        drained_text = f", {drained} drained" if drained else ""
        up_text = f"{self.healthy_count} of {len(self.endpoints)} are up"
        return f"no endpoint of {self.name} can take the request: {up_text}{drained_text}{full_text}"

    # Choosing

    def pick(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for a request, or for its next attempt; None when all that could take it have been tried."""
        if self.admission is not None and not self.admission.admits():
            return None
        if self._is_stale:
            self._arrange()
        endpoint = self._only
        if endpoint is None:
            if self._first is None:
                return None
            endpoint = self._first.first(key)
        if self._may_take(endpoint, self._bound) and (not tried or endpoint not in tried):
            return endpoint
        return None if self._only is not None else self._pick_next(key, tried)

    def _pick_next(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The first candidate that is free; when the bound forbids all of them, it is the bound that must yield."""
        for bound in (self._bound, None) if self._bound is not None else (None,):
            for selector in self.tiers:
                for endpoint in selector.candidates(key):
                    if endpoint not in tried and self._may_take(endpoint, bound):
                        return endpoint
        return None

    def _may_take(self, endpoint: Endpoint, bound: LoadBound | None) -> bool:
        if not endpoint.up and (endpoint.drained or not self.is_panicking):
            return False
        if endpoint.max_requests and endpoint.is_full():
            return False
        return bound is None or bound.allows(endpoint)

    def has_room(self) -> bool:
        """Whether any endpoint could take a request, if it was the right one for it."""
        return any(not endpoint.is_full() for endpoint in self.endpoints if self._is_usable(endpoint))

    def is_usable(self, tried: Collection[Endpoint] = ()) -> bool:
        """Whether there is an endpoint that may be used, however busy, that is not among those."""
        return any(endpoint not in tried for endpoint in self.endpoints if self._is_usable(endpoint))

    def _is_usable(self, endpoint: Endpoint) -> bool:
        return endpoint.up or (self.is_panicking and not endpoint.drained)

    # Changes

    def set_health(self, address: str, up: bool) -> None:
        """A flip. An address that has left meanwhile is nobody's."""
        endpoint = self._by_address.get(address)
        if endpoint is not None and endpoint.up != up and not endpoint.drained:
            endpoint.up = up
            self._is_stale = True  # arranged by the next pick: flips come in bunches

    def update(self, states: Iterable[EndpointFacts]) -> tuple[Endpoint, ...]:
        """The endpoints are these now. Who stays keeps its object; who leaves is returned, for the caller to drain."""
        by_address: dict[str, Endpoint] = {}
        for facts in states:
            if facts.address in by_address:
                continue
            endpoint = self._by_address.get(facts.address)
            if endpoint is None:
                endpoint = Endpoint(self.policy.name, facts, build_pool(self.policy), self._segment, self._board)
                endpoint.origination = self._origination_of(endpoint)
            else:
                endpoint.settle(facts)
            by_address[facts.address] = endpoint
        removed = tuple(endpoint for address, endpoint in self._by_address.items() if address not in by_address)
        self._by_address = by_address
        self.endpoints = tuple(by_address.values())
        self._arrange()
        self._settle_admission()
        return removed

    def _settle_admission(self) -> None:
        if self.admission is None and is_limited(self.policy, self.endpoints):
            self.admission = Admission(self, self.place, self._segment, self._board)
        if self.admission is not None:
            self.admission.obey(self.policy)
            for endpoint in self.endpoints:
                endpoint.join(self.admission)

    def apply_policy(self, policy: ClusterPolicy) -> None:
        """After a reload: other settings, the same endpoints (update() follows)."""
        if policy.balance != self.policy.balance:
            self._built = []
        old, self.policy = self.policy, policy
        self._plain = plain_names(policy)
        self.hash_key = HashKey(policy.hash_key) if policy.balance in HASHES else None
        for endpoint in self.endpoints:
            if kind_of_connections(policy) == kind_of_connections(old):
                endpoint.pool.obey(pool_policy(policy))
            else:  # connections of the old kind are of no more use
                endpoint.replace_pool(build_pool(policy))
        self._is_stale = True

    def originate(self, origination: Any) -> None:  # noqa: ANN401 - proxy/origination.py's
        """How connections that are made from now on speak TLS; None: not at all."""
        self.origination = origination
        for endpoint in self.endpoints:
            endpoint.origination = self._origination_of(endpoint)

    def _origination_of(self, endpoint: Endpoint) -> Any:  # noqa: ANN401 - as above
        return None if endpoint.name in self._plain else self.origination

    def _arrange(self) -> None:
        """Who may be chosen now, in which tier, by which selector."""
        self._is_stale = False
        first = [endpoint for endpoint in self.endpoints if not endpoint.backup]
        backups = [endpoint for endpoint in self.endpoints if endpoint.backup]
        if not first:
            first, backups = backups, []
        live = [endpoint for endpoint in first if endpoint.up]
        live_backups = [endpoint for endpoint in backups if endpoint.up]
        self.is_panicking = is_panic(self.policy.panic, self.endpoints)
        if self.is_panicking:
            live = [endpoint for endpoint in first if not endpoint.drained]
            live_backups = [endpoint for endpoint in backups if not endpoint.drained]
        is_hash = self.policy.balance in HASHES
        tiers = [(first if is_hash else live)] if live else []
        if live_backups:
            tiers.append(backups if is_hash else live_backups)
        self._only = (live or live_backups)[0] if len(live) + len(live_backups) == 1 else None
        self._bound = LoadBound(live or live_backups, self.policy.bound) if is_hash and self.policy.bound and tiers else None
        self._built = [] if self._only is not None else [self._selector(tier) for tier in tiers]
        self.tiers = tuple(selector for _, selector in self._built)
        self._first = self.tiers[0] if self.tiers else None

    def _selector(self, tier: list[Endpoint]) -> tuple[list[tuple[Endpoint, int, str]], Selector]:
        """As it stands, if one has been built from just these: round-robin goes on where it was, rings are dear."""
        made_of = [(endpoint, endpoint.weight, endpoint.name) for endpoint in tier]
        for built in self._built:
            if built[0] == made_of:
                return built
        return made_of, build_selector(self.policy.balance, tier, self._random)


def is_limited(policy: ClusterPolicy, endpoints: Iterable[Endpoint]) -> bool:
    """Whether anything is, so that requests may have to wait."""
    return policy.limits != LimitPolicy() or any(endpoint.max_requests for endpoint in endpoints)


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
