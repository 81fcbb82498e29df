"""What has come of each cluster's retries: told to the board, and, when a budget is used up, to the log.

The hot path counts in the budget itself; here is looked on, once a second.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lbd import metrics

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.cluster.budget import RetryBudget
    from lbd.cluster.cluster import Cluster
    from lbd.core.board import Segment

__all__ = ["RetryWatch"]

COMPLAINT_SECONDS = 60.0  # between two complaints about a cluster

log = logging.getLogger("lbd.worker")


class _Seen:
    """Of one budget, as of the last look."""

    __slots__ = ("budget", "made", "told", "told_at")

    def __init__(self, budget: RetryBudget) -> None:
        self.budget = budget
        self.made = 0
        self.told = 0  # of those denied
        self.told_at = float("-inf")


class RetryWatch:
    """Of one worker."""

    def __init__(self, segment: Segment, slot: int) -> None:
        self._segment = segment
        self._worker = f"worker-{slot}"
        self._seen: dict[str, _Seen] = {}

    def look(self, clusters: Collection[Cluster], now: float) -> None:
        """These are all there are."""
        before, self._seen = self._seen, {}
        for cluster in clusters:
            seen = before.pop(cluster.name, None)
            if seen is None or seen.budget is not cluster.budget:
                seen = _Seen(cluster.budget)
            self._seen[cluster.name] = seen
            self._look_at(cluster, seen, now)
        for name in before:  # nobody looks at it any more
            self._gauge(metrics.RETRIES_LEFT, (name,), 0)
            self._gauge(metrics.HEDGE_DELAY, (name, self._worker), 0)

    def _look_at(self, cluster: Cluster, seen: _Seen, now: float) -> None:
        budget = cluster.budget
        budget.look(now)
        if budget.made != seen.made:
            cell = self._segment.series(metrics.RETRIES_MADE.number, (cluster.name,), 1)
            self._segment.add(cell, budget.made - seen.made)
            seen.made = budget.made
        self._gauge(metrics.RETRIES_LEFT, (cluster.name,), budget.left() if cluster.policy.retry.attempts else 0)
        if cluster.hedging is not None:
            self._gauge(metrics.HEDGE_DELAY, (cluster.name, self._worker), int(cluster.hedging.seconds * metrics.HEDGE_DELAY.scale))
        if budget.denied > seen.told and now >= seen.told_at + COMPLAINT_SECONDS:
            self._complain(cluster, budget.denied - seen.told)
            seen.told, seen.told_at = budget.denied, now

    def _complain(self, cluster: Cluster, denied: int) -> None:
        retry, name = cluster.policy.retry, cluster.name
        log.warning(
            "cluster %s: the retry budget is used up (budget = %g, budget_min = %d): %s not made, for more would only add to the load; "
            "see what fails there: `lbd status %s`, `tried` in the access log",
            *(name, retry.budget, retry.budget_min, "1 attempt was" if denied == 1 else f"{denied} attempts were", name),
        )

    def _gauge(self, metric: metrics.Metric, labels: tuple[str, ...], value: int) -> None:
        self._segment.put(self._segment.series(metric.number, labels, 1), value)
