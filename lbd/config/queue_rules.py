"""Whether a cluster's limits and its queue go together: what waits for nothing, or longer than anybody has time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.cluster import is_limited
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.queue import QueuePolicy

if TYPE_CHECKING:
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["check_queue"]


def check_queue(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    can_wait = is_limited(cluster, (endpoint.max_requests or endpoint.max_connections for endpoint in cluster.endpoints))
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
