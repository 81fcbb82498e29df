"""Whether a cluster's limits and its queue go together: what waits for nothing, or longer than anybody has time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.cluster import is_limited
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.queue import QueuePolicy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.routing.route import RoutePolicy

__all__ = ["check_queue", "check_route_queue"]


def can_anybody_wait(cluster: ClusterPolicy) -> bool:
    return is_limited(cluster, (endpoint.max_requests or endpoint.max_connections for endpoint in cluster.endpoints))


def check_queue(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    can_wait = can_anybody_wait(cluster)
    if cluster.queue != QueuePolicy() and not can_wait and all(report.is_sound((*path, key)) for key in ("limits", "endpoints")):
        sentence = "has no effect: nothing is limited, so that nobody waits; give endpoints `max_requests`, or write a table `limits`"
        report.warn((*path, "queue"), sentence)
    total, timeout = cluster.timeouts.total, cluster.queue.timeout
    if 0.0 < total <= timeout and cluster.queue.size and can_wait:
        report.error(
            (*path, "queue", "timeout"),
            f"a request would wait for {timeout:g} s, but timeouts.total ends it after {total:g} s; write a shorter one, or a longer total",
        )
    adaptive = cluster.adaptive
    if adaptive.min > adaptive.max:
        report.error((*path, "adaptive", "min"), f"{adaptive.min} is above max, {adaptive.max}, so that no limit is between them")
    elif adaptive.enabled and not adaptive.min <= adaptive.initial <= adaptive.max and report.has((*path, "adaptive", "initial")):
        report.error((*path, "adaptive", "initial"), f"is not between min, {adaptive.min}, and max, {adaptive.max}")
    if adaptive != AdaptivePolicy() and not adaptive.enabled and report.is_sound((*path, "adaptive")):
        report.warn((*path, "adaptive"), "has no effect without enabled = true")


def check_route_queue(route: RoutePolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    """A route's own total time, and the wait in the queue of its cluster."""
    total, path = route.timeouts.total, (*path, "timeouts", "total")
    for name in (route.cluster, *(name for name, _ in route.clusters)):
        cluster = clusters.get(name)
        if cluster is None or not 0.0 < total <= cluster.queue.timeout or not (cluster.queue.size and can_anybody_wait(cluster)):
            continue
        if report.is_sound(path) and report.is_sound(("cluster", name)):
            sentence = f"ends a request after {total:g} s, but it may wait for {cluster.queue.timeout:g} s (cluster.{name}.queue.timeout)"
            report.error(path, f"{sentence}; make it longer, or that shorter")
