"""Whether a cluster's limits and its queue go together: what waits for nothing, or longer than anybody has time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.admission import LimitPolicy
from lbd.cluster.queue import QueuePolicy

if TYPE_CHECKING:
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["check_queue"]


def check_queue(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    is_limited = cluster.limits != LimitPolicy() or any(endpoint.max_requests for endpoint in cluster.endpoints)
    if cluster.queue != QueuePolicy() and not is_limited and all(report.is_sound((*path, key)) for key in ("limits", "endpoints")):
        sentence = "has no effect: nothing is limited, so that nobody waits; give endpoints `max_requests`, or write a table `limits`"
        report.warn((*path, "queue"), sentence)
    total, timeout = cluster.timeouts.total, cluster.queue.timeout
    if 0.0 < total <= timeout and cluster.queue.size and is_limited:
        report.error(
            (*path, "queue", "timeout"),
            f"a request would wait for {timeout:g} s, but timeouts.total ends it after {total:g} s; write a shorter one, or a longer total",
        )
