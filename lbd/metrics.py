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
EVICTIONS = Metric(
    55,
    "lbd_downstream_evictions_total",
    "counter",
    ("listener",),
    "Client connections, idle or with half a request head, closed to make room.",
)
ACCEPT_PAUSES = Metric(
    56,
    "lbd_accept_pauses_total",
    "counter",
    ("listener", "cause"),
    "Times that accepting has paused, for want of descriptors or memory; who came waited in the kernel.",
)
REFUSALS_UNLOGGED = Metric(
    57,
    "lbd_refusals_unlogged_total",
    "counter",
    ("listener",),
    "Refused requests and connections beyond those the access log takes a second.",
)
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
LOG_DROPPED = Metric(14, "lbd_log_lines_dropped_total", "counter", ("log",), "Lines of a log lost: not writable, or not fast enough.")
FAULTS = Metric(15, "lbd_faults_total", "counter", ("where",), "Exceptions that lbd did not expect; each is a bug with a trace in the log.")
TUNNELS = Metric(16, "lbd_tunnels", "gauge", ("listener",), "Connections now that have changed to another protocol, as WebSockets.")
TUNNELS_OPENED = Metric(17, "lbd_tunnels_opened_total", "counter", ("listener",), "Connections that have changed to another protocol.")
SESSIONS = Metric(
    18, "lbd_sessions_total", "counter", ("listener", "route", "cluster", "outcome"),
    "Connections carried as they are (TCP, TLS passthrough), by how they ended: ok, or the reason.",
)  # fmt: skip
HTTP2_STREAMS = Metric(20, "lbd_http2_streams", "gauge", ("listener",), "Requests of HTTP/2 clients at work now.")
HTTP2_RESETS = Metric(21, "lbd_http2_resets_total", "counter", ("code",), "Streams of HTTP/2 clients that either side has reset.")
HTTP2_GOAWAYS = Metric(22, "lbd_http2_goaways_total", "counter", ("code",), "Connections of HTTP/2 clients that lbd has ended.")
HTTP2_FLOODS = Metric(
    65, "lbd_http2_floods_total", "counter", ("kind",),
    "Connections of HTTP/2 clients that lbd has ended for what they did too often: resets, idle frames, or a head without end.",
)  # fmt: skip
GRPC_CALLS = Metric(
    23, "lbd_grpc_calls_total", "counter", ("listener", "route", "cluster", "status"),
    "gRPC calls, by the grpc-status that they ended with; none where nobody has said.",
)  # fmt: skip

TLS_HANDSHAKES = Metric(
    25, "lbd_tls_handshakes_total", "counter", ("listener", "result"), "TLS handshakes with clients: ok, failed, timeout, plain."
)
SPILLS = Metric(
    40, "lbd_cluster_spill_total", "counter", ("cluster", "kind"),
    "Attempts that went past where requests are at home: to another priority, a backup, or another zone.",
)  # fmt: skip
ENDPOINT_FAILURES = Metric(
    35, "lbd_endpoint_failures_total", "counter", ("cluster", "endpoint", "kind"),
    "Attempts that tell against an endpoint: gateway (no answer, 502, 503, 504, gRPC UNAVAILABLE) or error (another 5xx).",
)  # fmt: skip
ENDPOINT_SECONDS = Metric(
    36, "lbd_endpoint_latency_seconds_total", "counter", ("cluster", "endpoint"),
    "Seconds until the heads of an endpoint's answers came, where outlier.latency is on.", 1_000_000,
)  # fmt: skip
SLOW_STARTS = Metric(
    42,
    "lbd_endpoint_slow_start",
    "gauge",
    ("cluster", "endpoint"),
    "Workers in which an endpoint that comes back has not all of its share yet.",
)
ENDPOINT_ANSWERS = Metric(
    37, "lbd_endpoint_answers_total", "counter", ("cluster", "endpoint"), "Answers of an endpoint, where outlier.latency is on."
)
WORKER_FIBERS = Metric(70, "lbd_worker_fibers", "gauge", ("worker",), "Fibers of a worker now: connections, streams, sockets that accept.")
WORKER_TASKS = Metric(71, "lbd_worker_tasks", "gauge", ("worker",), "Tasks of trio in a worker now; the same number, but for moments.")

# Of the master, as all from 100 on.
UPGRADES = Metric(74, "lbd_upgrades_total", "counter", ("result",), "Upgrades, counted on from one program to the next: ok, or failed.")
WORKERS = Metric(73, "lbd_workers", "gauge", ("state",), "Places of workers, by what is in them: serving, or waiting after a crash.")
WORKER_HANGS = Metric(72, "lbd_worker_hangs_total", "counter", (), "Workers killed because they gave no sign of life.")
BREAKER_STATE = Metric(
    38, "lbd_breaker_state", "gauge", ("cluster", "state"), "Workers whose breaker of the cluster is closed, open or half_open."
)
BREAKER_TRIPS = Metric(39, "lbd_breaker_trips_total", "counter", ("cluster",), "How often a worker's breaker of the cluster has opened.")

QUEUE_LENGTH = Metric(45, "lbd_queue_length", "gauge", ("cluster",), "Requests that wait now for an endpoint with room.")
QUEUE_WAIT = Metric(
    46, "lbd_queue_wait_seconds", "histogram", ("cluster",),
    "How long requests waited for an endpoint with room, whatever came of it.", 1_000_000, DURATION_BUCKETS,
)  # fmt: skip
ADAPTIVE_LIMIT = Metric(
    47, "lbd_adaptive_limit", "gauge", ("cluster",), "Requests that a cluster may have at once by its latency, over all workers."
)
SHED_LEVEL = Metric(
    48,
    "lbd_shed_level",
    "gauge",
    ("worker",),
    "How many priorities a worker refuses because of overload, the last one in part: 0 to 3.",
    1000,
)
SHED = Metric(49, "lbd_shed_total", "counter", ("priority",), "Requests refused because of overload, by priority.")
LAG = Metric(
    50,
    "lbd_lag_seconds",
    "gauge",
    ("worker",),
    "How long what has come to a worker waits until it is looked at; 0 when it is not busy.",
    1_000_000,
)
STICKY = Metric(
    41, "lbd_sticky_total", "counter", ("cluster", "outcome"),
    "Answers of clusters with sticky sessions: kept to the cookie's endpoint, moved away from it, new, or with an invalid cookie.",
)  # fmt: skip
HEDGES = Metric(
    31, "lbd_hedges_total", "counter", ("cluster", "outcome"),
    "Second attempts beside one that took long: won, lost (the first one answered), failed, or denied by the retry budget.",
)  # fmt: skip
RETRIES_DENIED = Metric(
    30,
    "lbd_retries_denied_total",
    "counter",
    ("cluster", "reason"),
    "Attempts beyond the first that were called for and not made: no budget, time, body or endpoint was left.",
)

RETRIES_MADE = Metric(
    51,
    "lbd_cluster_retries_total",
    "counter",
    ("cluster",),
    "Attempts beyond the first, retries and hedges, that a cluster's budget allowed.",
)
RETRIES_LEFT = Metric(
    52,
    "lbd_retry_budget_left",
    "gauge",
    ("cluster",),
    "Attempts beyond the first that a cluster's budget would allow now, over all workers.",
)
HEDGE_DELAY = Metric(
    53, "lbd_hedge_delay_seconds", "gauge", ("cluster", "worker"),
    "After how long an attempt is hedged; 0 while too few answers are known for a percentile.", 1_000_000,
)  # fmt: skip

# From 100 on: the master's own, which are on no board; it gives name, labels and value when it is scraped.
BUILD_INFO = Metric(101, "lbd_build_info", "gauge", ("version", "compiled"), "Always 1; compiled is true where the compiled core runs.")
CONFIG_GENERATION = Metric(
    102, "lbd_config_generation", "gauge", (), "The configuration in force: 1 at the start, one more each good reload."
)
RELOADS = Metric(103, "lbd_reloads_total", "counter", ("result",), "Reloads, ok or failed; a failed one has changed nothing.")
WORKER_RESTARTS = Metric(104, "lbd_worker_restarts_total", "counter", (), "Workers started in the place of one that died.")
ENDPOINT_UP = Metric(
    105, "lbd_endpoint_up", "gauge", ("cluster", "endpoint"), "1 while the endpoint is up: by its health check, and not ejected."
)
ENDPOINT_INFLIGHT = Metric(
    106, "lbd_endpoint_inflight", "gauge", ("cluster", "endpoint"), "Requests at the endpoint now, over all workers."
)
HEALTH_CHECKS = Metric(
    107, "lbd_health_checks_total", "counter", ("cluster", "endpoint", "result"), "Active health checks: ok, or what was wrong."
)
RESOLUTIONS = Metric(108, "lbd_resolutions_total", "counter", ("host", "result"), "Lookups of endpoints' names: ok, empty or failed.")
CPU_SECONDS = Metric(109, "process_cpu_seconds_total", "counter", ("process",), "User and system CPU time of lbd's processes.")
RESIDENT_MEMORY = Metric(110, "process_resident_memory_bytes", "gauge", ("process",), "Resident memory.")
OPEN_FDS = Metric(111, "process_open_fds", "gauge", ("process",), "Open file descriptors.")
MAX_FDS = Metric(112, "process_max_fds", "gauge", ("process",), "The limit on open file descriptors.")
START_TIME = Metric(113, "process_start_time_seconds", "gauge", ("process",), "When the process started, in seconds since the epoch.")
SERIES_LOST = Metric(
    114, "lbd_series_lost_total", "counter", (), "Series that found no room on the board; above 0 the numbers are not complete."
)
HEALTH_FLIPS = Metric(
    115,
    "lbd_health_flips_total",
    "counter",
    ("cluster", "endpoint", "to"),
    "Endpoints that a health check took out (down) or brought back (up).",
)

CERTIFICATE_EXPIRY = Metric(
    116, "lbd_certificate_expiry_timestamp_seconds", "gauge", ("listener", "name"), "When a certificate in use expires."
)
CERTIFICATE_RELOADS = Metric(
    117, "lbd_certificate_reloads_total", "counter", ("result",), "Changed certificate files: ok where they are in use, failed if not."
)
ENDPOINT_EJECTIONS = Metric(
    135, "lbd_endpoint_ejections_total", "counter", ("cluster", "endpoint", "cause"),
    "Ejections of an endpoint: gateway, error, success_rate, latency, or probe (it failed again on trial).",
)  # fmt: skip
EJECTIONS_REFUSED = Metric(
    136, "lbd_ejections_refused_total", "counter", ("cluster", "why"),
    "Ejections not made: no_room (max_ejected are out), last (no other endpoint is up) or amnesty (nearly all failed a moment ago).",
)  # fmt: skip
ENDPOINT_STATE = Metric(
    137, "lbd_endpoint_state", "gauge", ("cluster", "endpoint", "state"),
    "1 for the state an endpoint is in: up, down (its health check), ejected or half_open (on trial after an ejection).",
)  # fmt: skip

STATE_FAILURES = Metric(
    75, "lbd_state_write_failures_total", "counter", (), "Files of the state directory that could not be written; runtime changes are lost."
)
OVERLAYS = Metric(76, "lbd_overlays", "gauge", (), "What operators have changed at run time, and has not ended: drains, weights.")
ENDPOINT_DRAINED = Metric(
    77, "lbd_endpoint_drained", "gauge", ("cluster", "endpoint"), "1 while an operator has taken the endpoint out; it gets no new request."
)

CATALOGUE: dict[int, Metric] = {m.number: m for m in list(globals().values()) if isinstance(m, Metric)}
GAUGES_OF_WORKERS = frozenset(m.number for m in CATALOGUE.values() if m.kind == "gauge" and m.number < BUILD_INFO.number)
