"""Which series of the board still belong to something.

Names of listeners, routes, clusters and endpoints are labels; what left the configuration must leave the board, which would fill up
otherwise as addresses come and go. It stays for one more change, because requests that run may still count there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.cluster.cluster import Cluster
    from lbd.proxy.listening import Listener

__all__ = ["InUse"]


class InUse:
    """What is in the configuration now, and what was before the last change."""

    def __init__(self) -> None:
        self._now: set[tuple[str, ...]] = set()
        self._before: set[tuple[str, ...]] = set()

    def settle(self, listeners: Iterable[Listener], clusters: Iterable[Cluster]) -> None:
        """After a change."""
        self._before, self._now = self._now, set()
        for listener in listeners:
            name = listener.policy.name
            self._now.add(("listener", name))
            self._now.update(("route", name, route.name) for route in (*listener.table.routes, *listener.hellos.routes))
        for cluster in clusters:
            self._now.add(("cluster", cluster.name))
            self._now.update(("endpoint", cluster.name, endpoint.address) for endpoint in cluster.endpoints)

    def keeps(self, number: int, labels: tuple[str, ...]) -> bool:
        """For Segment.retire(). An empty label stands for "none" and belongs to nothing."""
        metric = metrics.CATALOGUE.get(number)
        of = dict(zip(metric.labels, labels, strict=True)) if metric is not None else {}
        listener, route, cluster, endpoint = (of.get(label, "") for label in ("listener", "route", "cluster", "endpoint"))
        return (
            (not listener or self._has("listener", listener))
            and (not route or self._has("route", listener, route))
            and (not cluster or self._has("cluster", cluster))
            and (not endpoint or self._has("endpoint", cluster, endpoint))
        )

    def _has(self, *place: str) -> bool:
        return place in self._now or place in self._before
