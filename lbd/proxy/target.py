"""Where a route's requests go and where they are counted."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.cluster.budget import RetryBudget
from lbd.cluster.retry_policy import RetryPolicy
from lbd.proxy.retry import RetryRules

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.cluster.cluster import Cluster, TimeoutPolicy
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.hedge_delay import HedgeDelay
    from lbd.core.board import Segment
    from lbd.metrics import Metric
    from lbd.proxy.chooser import Chooser

__all__ = ["Histogram", "Target"]

LAST_OF_GRPC = 16  # of its statuses


class Histogram:
    """Counts durations in the board's cells: one cell a bucket, one above them all, one for the sum."""

    __slots__ = ("_bounds", "_cells", "_first", "_sum")

    def __init__(self, segment: Segment, metric: Metric, labels: tuple[str, ...]) -> None:
        self._cells = segment.cells
        self._bounds = metric.buckets
        self._first = segment.series(metric.number, labels, metric.width)
        self._sum = self._first + len(metric.buckets) + 1

    def observe(self, seconds: float) -> None:
        at = bisect_left(self._bounds, seconds)
        self._cells[self._first + at] += 1
        self._cells[self._sum] += int(seconds * 1_000_000)


class Target:
    """A route's way to one cluster (none for answers of our own), with the timeouts that hold there; seconds, 0 is no limit."""

    __slots__ = (
        "_answered", "_called", "_cells", "_duration", "_labels", "_segment", "attempt_timeout", "budget", "chooser", "cluster",
        "cluster_name", "connect_timeout", "hedging", "idle_timeout", "judged_from", "keeps", "may_undo", "methods", "own_host",
        "response_timeout", "route_name", "rules", "send_proxy", "total_timeout", "upstream_duration",
    )  # fmt: skip

    def __init__(
        self, segment: Segment, labels: tuple[str, str], cluster: Cluster | None, timeouts: TimeoutPolicy | None, duration: Histogram
    ) -> None:
        """`labels` are the listener's and the route's name."""
        self.cluster = cluster
        self.cluster_name = cluster.policy.name if cluster is not None else ""
        # For HTTP/1.0 without Host: upstream we speak HTTP/1.1, which must have one (RFC 9112 3.2). nginx too takes this name.
        self.own_host = self.cluster_name.encode()
        self.route_name = labels[1]
        self.send_proxy = cluster.policy.send_proxy if cluster is not None else ""
        self.connect_timeout = timeouts.connect if timeouts is not None else 0.0
        self.response_timeout = timeouts.response if timeouts is not None else 0.0
        self.idle_timeout = timeouts.idle if timeouts is not None else 0.0
        self.total_timeout = timeouts.total if timeouts is not None else 0.0
        self.chooser: Chooser | None = None  # where the cluster's own choice is not all there is to it
        retry = cluster.policy.retry if cluster is not None else RetryPolicy(attempts=0)
        self.rules = RetryRules(retry)
        self.budget: RetryBudget = cluster.budget if cluster is not None else RetryBudget(0.0, 0)
        self.methods = self.rules.methods
        self.judged_from = self.rules.judged_from
        self.hedging: HedgeDelay | None = cluster.hedging if cluster is not None else None
        self.keeps = retry.max_body if retry.attempts else 0
        # Whether what must not be repeated can be sent again once it is on its way: HTTP/1 never says that it has not looked at a request.
        self.may_undo = bool(self.rules.grpc) or (cluster is not None and cluster.policy.protocol != "http1")
        self.attempt_timeout = min(filter(None, (self.response_timeout, retry.per_try)), default=0.0)  # where it may be tried again
        self._segment = segment
        self._cells = segment.cells
        self._labels = (*labels, self.cluster_name)
        self._answered: dict[int, int] = {}  # status -> cell; at most one per status code that was ever sent
        self._called: dict[int, int] = {}  # the same for calls of gRPC, by their own status
        self._duration = duration
        self.upstream_duration: Histogram = duration  # of the cluster; for answers of our own nobody asks
        if cluster is not None:
            self.upstream_duration = Histogram(segment, metrics.UPSTREAM_DURATION, (self.cluster_name,))

    def pick(self, key: bytes, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint for what is no request of HTTP."""
        assert self.cluster is not None
        return self.cluster.pick(key, tried) if self.chooser is None else self.chooser.pick(key, tried)

    def last_resort(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """Somebody who has been taken out, by checks or for its failures, for a request at which all others have failed: it may be well
        by now, and otherwise the request is lost. Two endpoints that restart one after the other would lose requests without it.
        """
        cluster, chooser = self.cluster, self.chooser
        assert cluster is not None
        if cluster.policy.breaker is not None:
            return None
        out = [endpoint for endpoint in cluster.endpoints if not (endpoint.up or endpoint.drained or endpoint in tried)]
        free = [endpoint for endpoint in out if not endpoint.is_full() and (chooser is None or chooser.leads_to(endpoint))]
        return min(free, key=lambda endpoint: endpoint.load(), default=None)

    def is_usable(self, tried: Collection[Endpoint]) -> bool:
        """Whether there is an endpoint that may be used, however busy, that is not among those."""
        assert self.cluster is not None
        return self.cluster.is_usable(tried) if self.chooser is None else self.chooser.is_usable(tried)

    def why_none(self) -> str:
        """For people: why there is none."""
        assert self.cluster is not None
        return self.cluster.why_none() if self.chooser is None else self.chooser.why_none()

    def answered(self, status: int, seconds: float) -> None:
        """Counts one exchange; status 0 is one that nobody was left to hear the answer of."""
        cell = self._answered.get(status, -1)
        if cell < 0:
            # An upstream may invent status codes; the metric's cardinality must not be its to choose.
            code = str(status) if 100 <= status <= 599 or status == 0 else "other"
            cell = self._answered[status] = self._segment.series(metrics.REQUESTS.number, (*self._labels, code), 1)
        self._cells[cell] += 1
        self._duration.observe(seconds)

    def call_ended(self, status: int) -> None:
        """Counts a call of gRPC, beside its exchange."""
        cell = self._called.get(status, -1)
        if cell < 0:
            text = str(status) if 0 <= status <= LAST_OF_GRPC else "none" if status < 0 else "other"
            cell = self._called[status] = self._segment.series(metrics.GRPC_CALLS.number, (*self._labels, text), 1)
        self._cells[cell] += 1
