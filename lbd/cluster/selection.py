"""Selection: of these endpoints, which one takes this request?

A cluster has one selection of all its endpoints, and one for each subset that a route asks for. tiers.py says which part of the
requests goes to which endpoints, a selector in which order these would be tried; what may not be used now is filtered here: endpoints with
`max_requests` in flight, those that hold more than their bounded share, those already tried for this request.

Health decides when something changes, not over each request: balances that take turns or draw lots are built from the endpoints that may
be used alone, so that the first candidate is nearly always right and one that is down leaves its share to all others alike. Hashes
are built from all, so that a key's place does not move; they skip. With one tier, as usual, nothing is drawn; with several a
lot decides between them, for hashes one that depends on the key alone, so that a key stays where it is while the shares do.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.cluster.bound import LoadBound
from lbd.cluster.select import HASHES, build_selector
from lbd.cluster.tiers import spread

if TYPE_CHECKING:
    from collections.abc import Collection
    from random import Random

    from lbd.cluster.breaker import Breaker
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.selector import Selector
    from lbd.cluster.tiers import Part
    from lbd.core.board import Segment

__all__ = ["Roster", "Selection", "Subset"]

Subset = tuple[tuple[str, str], ...]  # what endpoints must have in their metadata

WHOLE = float(1 << 64)


class Roster:
    """Who belongs to a cluster now, and how one of them is chosen. Whoever changes something of either calls revise()."""

    __slots__ = ("breaker", "endpoints", "freed", "policy", "random", "revision", "segment")

    def __init__(self, policy: ClusterPolicy, segment: Segment | None, random: Random) -> None:
        self.breaker: Breaker | None = None  # while it is not closed
        self.endpoints: tuple[Endpoint, ...] = ()
        self.freed: list[Endpoint] = []  # on trial, and not limited by it in this revision
        self.policy = policy
        self.random = random
        self.revision = 0
        self.segment = segment

    def revise(self) -> None:
        self.revision += 1
        for endpoint in self.freed:
            endpoint.limit(True)
        self.freed = []


class Tier:
    """Endpoints among which a balance chooses."""

    __slots__ = ("bound", "cell", "selector")

    def __init__(self, selector: Selector | None, bound: LoadBound | None, cell: int) -> None:
        self.selector = selector  # None where there is nothing to choose
        self.bound = bound
        self.cell = cell  # where what spills over to here is counted; -1: it is at home


class Selection:
    """Arranged by the first pick after a change. `is_panicking` is as of the latest pick."""

    __slots__ = (
        "_balance", "_behind", "_built", "_first", "_heeds_panic", "_only", "_revision", "_roster", "_skips", "_subset", "_thresholds",
        "_tiers", "_usable", "is_panicking",
    )  # fmt: skip

    def __init__(self, roster: Roster, subset: Subset = (), *, heeds_panic: bool = True) -> None:
        """`heeds_panic`: health may be ignored; not where others help out."""
        self._roster = roster
        self._subset = frozenset(subset)
        self._heeds_panic = heeds_panic
        self._revision = -1  # of the roster, as arranged
        self._balance = ""
        self._built: list[tuple[tuple[list[Endpoint], list[int], list[str]], Selector]] = []  # what it was built from, and the selector
        self._tiers: tuple[Tier, ...] = ()
        self._thresholds: tuple[float, ...] | None = None  # cumulative shares of the tiers, where more than one has some
        self._first: Tier | None = None  # of the tiers
        self._behind: Tier | None = None  # it, while a breaker stands before it
        self._only: Endpoint | None = None  # the one endpoint there is to choose from
        self._usable: frozenset[Endpoint] = frozenset()
        self._skips = False  # whether selectors have endpoints that may not be used
        self.is_panicking = False

    @property
    def selectors(self) -> tuple[Selector, ...]:
        """As arranged last; none where there is nothing to choose."""
        return tuple(tier.selector for tier in self._tiers if tier.selector is not None)

    # Choosing

    def pick(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for a request, or for its next attempt; None when all that could take it have been tried."""
        if self._revision != self._roster.revision:
            self.arrange()
        tier = self._first
        if tier is None:
            return None if self._behind is None else self._probe(key, tried)
        endpoint = self._only
        if endpoint is None:
            if self._thresholds is not None:
                tier = self._drawn(key)
            endpoint = tier.selector.first(key)  # type: ignore[union-attr]  # there is one where there is a choice
        if self._may_take(endpoint, tier.bound) and (not tried or endpoint not in tried):
            if tier.cell >= 0:
                self._roster.segment.add(tier.cell, 1)  # type: ignore[union-attr]  # whose cell it is
            return endpoint
        return None if self._only is not None else self._pick_next(key, tried, tier)

    def _probe(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """As pick(), past a breaker that lets it through."""
        breaker = self._roster.breaker
        if breaker is None or breaker.is_shut:
            return None
        if not breaker.lets_through(sum([endpoint.inflight for endpoint in self._roster.endpoints])):
            return None
        if self._revision != self._roster.revision:  # it has just become half-open
            self.arrange()
        self._first = self._behind
        endpoint = self.pick(key, tried)
        self._first = None
        return endpoint

    def has(self, endpoint: Endpoint) -> bool:
        """Whether this one may be used, however busy it is; nobody may past a breaker, but by pick()."""
        if self._revision != self._roster.revision:
            self.arrange()
        return self._behind is None and endpoint in self._usable

    def is_usable(self, tried: Collection[Endpoint] = ()) -> bool:
        """Whether there is an endpoint that may be used, however busy, that is not among those."""
        if self._revision != self._roster.revision:
            self.arrange()
        return any(endpoint not in tried for endpoint in self._usable)

    def takes(self, endpoint: Endpoint) -> bool:
        """Whether this one could take a request."""
        return self.has(endpoint) and not (endpoint.is_limited and endpoint.is_full())

    def _drawn(self, key: bytes) -> Tier:
        """By lot; with a key the lot is the key's."""
        thresholds = self._thresholds
        assert thresholds is not None
        is_hashed = key and self._roster.policy.balance in HASHES
        # Not a hash by which a ring places keys: the keys drawn for a tier must lie everywhere on it.
        x = int.from_bytes(blake2b(key, digest_size=8).digest(), "big") / WHOLE if is_hashed else self._roster.random.random()
        number = 0
        for threshold in thresholds:
            if x < threshold:
                break
            number += 1
        return self._tiers[min(number, len(self._tiers) - 1)]

    def _pick_next(self, key: bytes, tried: Collection[Endpoint], drawn: Tier) -> Endpoint | None:
        """The first candidate that is free; when the bound forbids all of them, it is the bound that must yield."""
        tiers = [drawn, *[tier for tier in self._tiers if tier is not drawn]]
        for tier in tiers:
            endpoint = self._candidate(tier, key, tried, tier.bound)
            if endpoint is not None:
                return endpoint
        for tier in tiers:
            endpoint = self._candidate(tier, key, tried, None) if tier.bound is not None else None
            if endpoint is not None:
                return endpoint
        return None

    def _candidate(self, tier: Tier, key: bytes, tried: Collection[Endpoint], bound: LoadBound | None) -> Endpoint | None:
        assert tier.selector is not None
        for endpoint in tier.selector.candidates(key):
            if endpoint not in tried and self._may_take(endpoint, bound):
                if tier.cell >= 0:
                    self._roster.segment.add(tier.cell, 1)  # type: ignore[union-attr]  # whose cell it is
                return endpoint
        return None

    def _may_take(self, endpoint: Endpoint, bound: LoadBound | None) -> bool:
        if self._skips and endpoint not in self._usable:
            return False
        if endpoint.is_limited and endpoint.is_full():
            return False
        return bound is None or bound.allows(endpoint)

    # Changes

    def arrange(self) -> None:
        """Who may be chosen now, in which tier, by which selector."""
        roster = self._roster
        policy = roster.policy
        self._revision = roster.revision
        if policy.balance != self._balance:
            self._balance, self._built = policy.balance, []
        rules = policy.spread()
        members = [endpoint for endpoint in roster.endpoints if self._subset <= endpoint.metadata] if self._subset else roster.endpoints
        levels = spread(members, rules if self._heeds_panic else rules._replace(panic=0.0))
        parts = [part for level in levels for part in level.parts]
        self.is_panicking = any(level.is_panicking for level in levels)
        self._usable = frozenset([endpoint for part in parts for endpoint in part.usable])
        self._only = next(iter(self._usable)) if len(self._usable) == 1 else None
        if all(endpoint.trial for endpoint in self._usable):  # nobody else is left to take what they may not
            for endpoint in self._usable:
                endpoint.limit(False)
                roster.freed.append(endpoint)
        is_hash = policy.balance in HASHES
        self._skips = is_hash and len(self._usable) < len(members)
        built: list[tuple[tuple[list[Endpoint], list[int], list[str]], Selector]] = []
        tiers = []
        for part in parts:
            selector = None
            if self._only is None:
                built.append(self._selector(list(part.members if is_hash else part.usable)))
                selector = built[-1][1]
            bound = LoadBound(part.usable, policy.bound) if is_hash and policy.bound else None
            tiers.append(Tier(selector, bound, self._spill_cell(part)))
        self._built = built
        self._tiers = tuple(tiers)
        self._settle_shares([part.share for part in parts])
        self._behind = None
        if roster.breaker is not None:
            self._first, self._behind = None, self._first

    def _settle_shares(self, shares: list[float]) -> None:
        """Only where the lot has a choice there is one."""
        self._thresholds = None
        self._first = self._tiers[0] if self._tiers else None
        taking = [number for number, share in enumerate(shares) if share > 0.0]
        if len(taking) == 1:
            self._first = self._tiers[taking[0]]
        elif taking:
            self._thresholds = tuple([sum(shares[: number + 1]) for number in range(len(shares))])

    def _spill_cell(self, part: Part[Endpoint]) -> int:
        segment = self._roster.segment
        if segment is None or not part.kind:
            return -1
        return segment.series(metrics.SPILLS.number, (self._roster.policy.name, part.kind), 1)

    def _selector(self, members: list[Endpoint]) -> tuple[tuple[list[Endpoint], list[int], list[str]], Selector]:
        """As it stands, if one has been built from just these: round-robin goes on where it was, rings are dear."""
        names = [endpoint.name for endpoint in members] if self._balance in HASHES else []  # which rings are made of
        made_of = (members, [endpoint.weight for endpoint in members], names)
        for built in self._built:
            if built[0] == made_of:
                return built
        return made_of, build_selector(self._roster.policy.balance, members, self._roster.random)
