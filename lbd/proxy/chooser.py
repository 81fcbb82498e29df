"""Choosing an endpoint for requests of which more is known: that a route wants a subset, or where their client has been before.

Targets of plain routes to plain clusters have none, and their requests pay nothing for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from lbd.cluster.cluster import Cluster
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.board import Segment
    from lbd.proxy.exchange import Exchange
    from lbd.routing.route import RoutePolicy
    from lbd.wire.message import RequestHead, ResponseHead

__all__ = ["Chooser", "led_back", "maybe_chooser", "sticky_among"]


def maybe_chooser(route: RoutePolicy, cluster: Cluster, segment: Segment) -> Chooser | None:
    """None: the cluster's pick() is all there is to it."""
    if not route.subset and cluster.sticky is None:
        return None
    return Chooser(route, cluster, segment)


def sticky_among(route: RoutePolicy, clusters: Mapping[str, Cluster]) -> tuple[Cluster, ...]:
    """Of the clusters that a route draws from those to which a client may be led back."""
    return tuple(clusters[name] for name, weight in route.clusters if weight and clusters[name].sticky is not None)


def led_back(request: RequestHead, clusters: Iterable[Cluster]) -> str:
    """The one of `clusters` where the client has been before; "" for none. Otherwise a session would change its version with each draw."""
    for cluster in clusters:
        if cluster.sticky is not None and cluster.sticky.has_been_here(request.headers):
            return cluster.name
    return ""


class Chooser:
    """Of one route and one cluster."""

    def __init__(self, route: RoutePolicy, cluster: Cluster, segment: Segment) -> None:
        self._cluster = cluster
        self._segment = segment
        self._sticky = cluster.sticky
        self._subset = tuple(sorted(route.subset))
        self._falls_back = bool(route.subset) and route.subset_fallback == "any"
        # Where others help out health is heeded: they are better than one that is down.
        self._selection = cluster.selection(self._subset, heeds_panic=not self._falls_back)

    def pick(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """As of a cluster."""
        cluster = self._cluster
        if cluster.admission is not None and not cluster.admission.admits():
            return None
        endpoint = self._selection.pick(key, tried)
        if endpoint is None and self._falls_back:
            endpoint = cluster.pick(key, tried)
            if endpoint is not None:
                self._count(metrics.SPILLS.number, "subset")
        return endpoint

    def pick_for(self, exchange: Exchange, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint that the client's cookie names, as long as that can take a request; else as pick()."""
        if self._sticky is None:
            return self.pick(key, tried)
        claim = exchange.claim
        if claim is None:
            claim = exchange.claim = self._sticky.claim(exchange.request.headers, self._cluster.endpoints)
        endpoint = claim.endpoint
        if endpoint is not None and endpoint not in tried and self._selection.takes(endpoint):
            admission = self._cluster.admission
            return endpoint if admission is None or admission.admits() else None
        return self.pick(key, tried)

    def answered(self, exchange: Exchange, head: ResponseHead) -> None:
        """The endpoint of `exchange` has: its client comes back to it from now on."""
        claim, endpoint = exchange.claim, exchange.endpoint
        if self._sticky is None or claim is None:
            return
        is_kept = claim.endpoint is endpoint
        self._count(metrics.STICKY.number, "kept" if is_kept else claim.outcome)
        if not is_kept:
            is_secure = exchange.downstream.source.scheme == b"https"
            head.headers.add(b"Set-Cookie", self._sticky.line(endpoint, is_secure))

    def leads_to(self, endpoint: Endpoint) -> bool:
        """Whether requests of this route may go there, up or not."""
        return frozenset(self._subset) <= endpoint.metadata

    def is_usable(self, tried: Collection[Endpoint]) -> bool:
        """As of a cluster."""
        return self._selection.is_usable(tried) or (self._falls_back and self._cluster.is_usable(tried))

    def why_none(self) -> str:
        """As of a cluster."""
        wanted = " and ".join(f"{name} = {value}" for name, value in self._subset)
        sentence = self._cluster.why_none()
        return f"{sentence}; the route wants one with {wanted}" if wanted else sentence

    def _count(self, number: int, label: str) -> None:
        self._segment.add(self._segment.series(number, (self._cluster.name, label), 1), 1)
