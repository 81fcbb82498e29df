"""Clusters in distress, told in the log: in panic (cluster/tiers.py), or without anybody to take a request.

Workers decide for themselves, from the same facts and by the same rule; this is for whoever reads the log at night, to whom single
flips do not say that health counts no more. Flips come in bunches, so a cluster is looked at a moment after the first of them.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lbd.cluster.tiers import is_panic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from lbd.cluster.tiers import SpreadPolicy
    from lbd.worker.messages import EndpointState

    Look = Callable[[str], tuple[SpreadPolicy, Sequence[EndpointState]]]  # cluster -> its rules, its endpoints

__all__ = ["Panics"]

PAUSE = 0.1

logger = logging.getLogger("lbd.health")


class Panics:
    """`look_at` the clusters of which something has changed; `run` tells what came of it."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._distress: dict[str, str] = {}  # cluster -> what was told last; nothing of those that are well, or have left
        self._changed: set[str] = set()
        self._wake = trio.Event()

    def look_at(self, clusters: Iterable[str]) -> None:
        self._changed.update(clusters)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            await trio.sleep(PAUSE)
            self._wake = trio.Event()
            changed, self._changed = self._changed, set()
            for cluster in sorted(changed):
                self._tell(cluster)

    def _tell(self, cluster: str) -> None:
        rules, endpoints = self._look(cluster)
        before, now = self._distress.pop(cluster, ""), distress(rules, endpoints)
        if now:
            self._distress[cluster] = now
        if now == before:
            return
        up = f"{sum(endpoint.up and not endpoint.drained for endpoint in endpoints)} of {len(endpoints)} endpoints up"
        if now == "panic":
            logger.warning(
                "cluster %s: %s, a smaller share than panic = %g: all are tried, whatever their checks say", cluster, up, rules.panic
            )
        elif now == "down":
            logger.error("cluster %s: %s: requests are answered with no_healthy_endpoint", cluster, up)
        elif endpoints:  # else it has left the configuration
            logger.info("cluster %s: %s: health counts again", cluster, up)


def distress(rules: SpreadPolicy, endpoints: Sequence[EndpointState]) -> str:
    """ "panic", "down", or "" while there are enough."""
    if is_panic(endpoints, rules):
        return "panic"
    return "down" if endpoints and not any(endpoint.up and not endpoint.drained for endpoint in endpoints) else ""
