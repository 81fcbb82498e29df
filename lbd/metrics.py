"""The catalogue: every number lbd counts, its name, labels and unit.

Workers add to integer cells of the board (core/board.py); `scale` says how many of them make one unit. The master reads
the cells when it is scraped. Names follow Prometheus: base units, `_total` for counters.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOGUE", "DURATION_BUCKETS", "Metric"]

# Seconds. From half a millisecond (a cached answer of a near origin) to a minute (the default idle timeout).
DURATION_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """`width` cells a series: 1, or for a histogram one per bucket, one above them all, one for the sum."""

    number: int  # in a board's records: never reuse one
    name: str
    kind: str  # counter | gauge | histogram
    labels: tuple[str, ...]
    help: str
    scale: int = 1
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        return len(self.buckets) + 2 if self.buckets else 1


REQUESTS = Metric(1, "lbd_requests_total", "counter", ("listener", "route", "cluster", "code"), "Requests answered, by status code.")
REQUEST_DURATION = Metric(
    2, "lbd_request_duration_seconds", "histogram", ("listener", "route"),
    "From the first byte of a request to the last byte of its response.", 1_000_000, DURATION_BUCKETS,
)  # fmt: skip
ATTEMPTS = Metric(
    3,
    "lbd_upstream_attempts_total",
    "counter",
    ("cluster", "endpoint", "outcome"),
    "Tries at an endpoint: ok, or the reason of the failure.",
)
UPSTREAM_DURATION = Metric(
    4, "lbd_upstream_duration_seconds", "histogram", ("cluster",),
    "From sending a request upstream to the head of its response.", 1_000_000, DURATION_BUCKETS,
)  # fmt: skip
CONNECTIONS_OPENED = Metric(
    5, "lbd_upstream_connections_opened_total", "counter", ("cluster", "endpoint"), "Connections made to an endpoint."
)
CONNECTIONS_REUSED = Metric(
    6, "lbd_upstream_connections_reused_total", "counter", ("cluster", "endpoint"), "Requests sent on a kept-alive connection."
)
UPSTREAM_CONNECTIONS = Metric(7, "lbd_upstream_connections", "gauge", ("cluster", "state"), "Connections to endpoints now, idle or active.")
DOWNSTREAM_CONNECTIONS = Metric(8, "lbd_downstream_connections", "gauge", ("listener",), "Client connections now.")
DOWNSTREAM_TOTAL = Metric(9, "lbd_downstream_connections_total", "counter", ("listener",), "Client connections accepted.")
BYTES = Metric(10, "lbd_bytes_total", "counter", ("direction", "side"), "Bytes moved: direction in or out, side downstream or upstream.")
RETRIES = Metric(11, "lbd_retries_total", "counter", ("reason",), "Attempts beyond the first, by the failure that led to them.")
REJECTED = Metric(12, "lbd_rejected_total", "counter", ("reason",), "Answers that lbd made itself, and connections it refused, by reason.")
LOOP_LAG = Metric(
    13,
    "lbd_loop_lag_seconds",
    "histogram",
    (),
    "How long one turn of the reactor kept everything else waiting.",
    1_000_000,
    DURATION_BUCKETS,
)
LOG_DROPPED = Metric(14, "lbd_log_lines_dropped_total", "counter", ("log",), "Lines of a log lost because its buffer was full.")
FAULTS = Metric(15, "lbd_faults_total", "counter", ("where",), "Exceptions that lbd did not expect; each is a bug with a trace in the log.")

CATALOGUE: dict[int, Metric] = {m.number: m for m in list(globals().values()) if isinstance(m, Metric)}
