"""Whether what is said of a health check fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.health import HealthPolicy

if TYPE_CHECKING:
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["check_health"]

# What says nothing to a protocol, and why.
OF_HTTP = ("path", "method", "expect_status", "expect_body", "body_limit")
IDLE_KEYS = {
    "tcp": ((*OF_HTTP, "host", "headers", "service"), ", which only connects"),
    "grpc": (OF_HTTP, ", which asks grpc.health.v1.Health for a `service`"),
}
OTHERS = (("service",), '; it is for protocol = "grpc"')


def check_health(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    health = cluster.health
    if health is None:
        return
    keys, why = IDLE_KEYS.get(health.protocol, OTHERS)
    for key in keys:
        if report.has((*path, "health", key)) and getattr(health, key) != getattr(HealthPolicy(), key):
            report.warn((*path, "health", key), f'has no effect with protocol = "{health.protocol}"{why}')
