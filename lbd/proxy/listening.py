"""A listener at work: the routes in force, who is connected, and the numbers that every connection shares."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.core.clock import wall_clock
from lbd.core.stream import connect
from lbd.proxy.chooser import led_back, maybe_chooser, sticky_among
from lbd.proxy.complaints import LINES, Complaints, LineBudget
from lbd.proxy.crowd import Crowd
from lbd.proxy.forwarding import Forwarding
from lbd.proxy.grpc import NOT_GRPC
from lbd.proxy.introducers import Introducers
from lbd.proxy.reasons import failure
from lbd.proxy.room import Room
from lbd.proxy.shedding import RETRY_AFTER, Shedding
from lbd.proxy.target import Histogram, Target
from lbd.routing.hello import HelloTable
from lbd.routing.route import Route
from lbd.routing.table import RoutingTable
from lbd.wire.http2_frames import code_label
from lbd.wire.refusal import HeadLimits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from lbd.cluster.cluster import Cluster, TimeoutPolicy
    from lbd.core.board import Segment
    from lbd.core.fiber import Fiber
    from lbd.core.stream import Acceptor
    from lbd.errors import ProxyError
    from lbd.proxy.access import AccessLog
    from lbd.proxy.dial import Connect
    from lbd.proxy.downstream import Downstream
    from lbd.proxy.listener import ListenerPolicy
    from lbd.proxy.tls import Termination
    from lbd.wire.message import RequestHead

__all__ = ["Listener"]

log = logging.getLogger("lbd.proxy")


class Refusal:
    """What never became an exchange, as the access log sees it."""

    request = None
    route_name = cluster_name = endpoint_address = ""
    attempts = bytes_out = 0
    tried: Sequence[str] = ()
    sticky = ""
    is_reused = False
    request_id = b""
    queue_seconds = connect_seconds = first_byte_seconds = -1.0

    def __init__(self, listener_name: str, client: str, bytes_in: int, error: ProxyError, duration: float, grpc_status: int) -> None:
        self.listener_name = listener_name
        self.client = client
        self.status = error.status
        self.reason = error.reason
        self.detail = error.message
        self.bytes_in = bytes_in
        self.duration = duration
        self.grpc_status = grpc_status


class Listener:
    """A listener at work in one worker: the routes in force, who is connected, and its numbers.

    `fibers` has every connection's fiber; those in `idle` wait between requests and lose nothing when they are ended, the first of them has
    waited for longest, and True means that its end is to be announced (HTTP/2). Those in `heads` owe the rest of a request's head, since
    when they began it; those in `opening` have not come to a first request yet. Those in `leaving` have been told to end.
    """

    __slots__ = (
        "_cells", "_clusters", "_downstream_in", "_downstream_out", "_lines", "_numbers", "_segment", "_upstream_in", "_upstream_out",
        "acceptors", "access", "body_timeout", "complaints", "connect", "crowd", "fibers", "forwarding", "half_close", "handshake_timeout",
        "head_limits", "head_timeout", "heads", "hellos", "idle", "is_draining", "keepalive_timeout", "leaving", "linger_timeout",
        "max_body", "max_requests", "only", "opening", "opens", "policy", "proxied", "random", "room", "shedding", "shows_reason", "table",
        "termination", "tunnel_idle", "tunnel_lifetime", "unrouted", "upgrades", "wall_clock", "window",
    )  # fmt: skip

    def __init__(self, policy: ListenerPolicy, segment: Segment, random: Callable[[], float], random_bytes: Callable[[int], bytes]) -> None:
        self._segment = segment
        self._clusters: Mapping[str, Cluster] = {}
        self._cells: dict[tuple[int, str], int] = {}
        self.random = random
        self.connect: Connect = connect  # how upstreams are reached; tests have another way
        self.wall_clock: Callable[[], float] = wall_clock
        self.access: AccessLog | None = None
        self.room = Room()  # shared with all other listeners, when the worker has set it
        self.shedding = Shedding()  # likewise
        self.acceptors: dict[str, Acceptor] = {}
        self.fibers: set[Fiber] = set()
        self.idle: dict[Fiber, bool] = {}
        self.heads: dict[Fiber, float] = {}
        self.opening: set[Fiber] = set()
        self.leaving: set[Fiber] = set()
        self.crowd = Crowd()
        self.complaints = Complaints()
        self._lines = LineBudget()  # of the access log, for what never became a request
        self.is_draining = False
        self.policy = policy
        self.table = RoutingTable(())
        self.termination: Termination | None = None
        self.opens = False  # whether anything comes before the first request
        self.hellos = HelloTable(())  # for connections that are carried as they are
        self.forwarding = Forwarding(policy.forwarded, random_bytes)
        self._numbers = segment.cells
        self._downstream_in = segment.series(metrics.BYTES.number, ("in", "downstream"), 1)
        self._downstream_out = segment.series(metrics.BYTES.number, ("out", "downstream"), 1)
        self._upstream_in = segment.series(metrics.BYTES.number, ("in", "upstream"), 1)
        self._upstream_out = segment.series(metrics.BYTES.number, ("out", "upstream"), 1)
        self._take(policy)

    def _take(self, policy: ListenerPolicy) -> None:
        limits, timeouts = policy.limits, policy.timeouts
        self.policy = policy
        self.head_limits = HeadLimits(limits.head, limits.target, limits.fields)
        self.handshake_timeout = timeouts.handshake
        self.head_timeout = timeouts.head
        self.keepalive_timeout = timeouts.keepalive
        self.body_timeout = timeouts.body
        self.linger_timeout = timeouts.linger
        self.tunnel_idle = timeouts.tunnel_idle
        self.tunnel_lifetime = timeouts.tunnel_lifetime
        self.upgrades = frozenset(protocol.lower().encode() for protocol in policy.upgrades)
        self.max_body = limits.body
        self.max_requests = limits.requests
        self.window = limits.window
        self.half_close = policy.half_close == "allow"
        self.shows_reason = policy.reason_header
        introducers = policy.proxy_protocol.trusted if policy.proxy_protocol is not None else ()
        self.proxied = Introducers(introducers) if policy.proxy_protocol is not None else None
        self.crowd.obey(limits.connections_per_address, (*policy.forwarded.trusted_proxies, *introducers))
        self.unrouted = Target(self._segment, (policy.name, ""), None, None, self._histogram(""))

    def apply(self, policy: ListenerPolicy, table: RoutingTable, clusters: Mapping[str, Cluster], forwarding: Forwarding) -> None:
        """Puts a new configuration in force, for the next request of every connection; cannot fail."""
        self._take(policy)
        self.table = table
        self.forwarding = forwarding
        self._clusters = clusters
        self.hellos = hello_table(policy, table)
        self._settle_opening()
        for route in (*table.routes, *self.hellos.routes):
            route.cells.clear()
            route.sticky = sticky_among(route.policy, clusters)

    def target(self, route: Route, request: RequestHead | None = None) -> Target:
        """Where this request goes: drawn anew for a route with weighted clusters."""
        name = route.single or self._drawn(route, request)
        target = route.cells.get(name)
        if target is None:
            cluster = self._clusters[name] if name else None
            timeouts = route_timeouts(route, cluster.policy.timeouts) if cluster is not None else None
            target = Target(self._segment, (self.policy.name, route.name), cluster, timeouts, self._histogram(route.name))
            if cluster is not None:
                target.chooser = maybe_chooser(route.policy, cluster, self._segment)
            route.cells[name] = target
        assert isinstance(target, Target)
        return target

    def _drawn(self, route: Route, request: RequestHead | None) -> str:
        """One of its clusters by lot, but for clients that have been in one before; "": it answers by itself."""
        name = led_back(request, route.sticky) if route.sticky and request is not None else ""
        return name or route.cluster_name(self.random()) or ""

    def _histogram(self, route_name: str) -> Histogram:
        return Histogram(self._segment, metrics.REQUEST_DURATION, (self.policy.name, route_name))

    def rejected(self, reason: str) -> None:
        """Counts an answer of our own, or a refusal."""
        self._segment.add(self._cell(metrics.REJECTED.number, reason), 1)

    def refused(self, downstream: Downstream, error: ProxyError, seconds: float) -> None:
        """Counts and writes down what never became an exchange."""
        self.rejected(error.reason)
        self.unrouted.answered(error.status, seconds)
        now = downstream.stream.reactor.now
        self._write_refusal(downstream.forwarding.peer, downstream.bytes_in, error, seconds, now, downstream.grpc_status)

    def terminate(self, termination: Termination | None) -> None:
        """The certificates for connections that come from now on; None: there is no TLS."""
        self.termination = termination
        self._settle_opening()

    def _settle_opening(self) -> None:
        self.opens = self.proxied is not None or bool(self.hellos.routes) or self.termination is not None

    def shaken(self, result: str) -> None:
        """Counts a TLS handshake: ok, failed, timeout, or plain for what was none."""
        labels = (self.policy.name, result)
        self._segment.add(self._segment.series(metrics.TLS_HANDSHAKES.number, labels, 1), 1)

    def turned_away(self, client: str, bytes_in: int, error: ProxyError, seconds: float, now: float) -> None:
        """Counts and writes down a connection that came to no request: what must come before the first one was missing or wrong."""
        self.rejected(error.reason)
        self._write_refusal(client, bytes_in, error, seconds, now)

    def _write_refusal(
        self, client: str, bytes_in: int, error: ProxyError, seconds: float, now: float, grpc_status: int = NOT_GRPC
    ) -> None:
        self.moved(bytes_in, 0, 0, 0)
        if self.access is None:
            return
        if self._lines.takes(now):
            self.access.write(Refusal(self.policy.name, client, bytes_in, error, seconds, grpc_status))
            return
        self._segment.add(self._cell(metrics.REFUSALS_UNLOGGED.number, self.policy.name), 1)
        if count := self.complaints.count("unlogged", now):
            log.warning(
                "listener %s refuses more than %d requests and connections a second: the access log has no line for %d of them; "
                "lbd_rejected_total counts all",
                self.policy.name, LINES, count,
            )  # fmt: skip

    def session_ended(self, target: Target, outcome: str) -> None:
        """Counts a session of TCP: "ok", or the reason of its end."""
        labels = (self.policy.name, target.route_name, target.cluster_name, outcome)
        self._segment.add(self._segment.series(metrics.SESSIONS.number, labels, 1), 1)

    def faulted(self, where: str) -> None:
        self._segment.add(self._cell(metrics.FAULTS.number, where), 1)

    def retried(self, reason: str) -> None:
        self._segment.add(self._cell(metrics.RETRIES.number, reason), 1)

    def shed(self, priority: str) -> ProxyError:
        """Counts a request, or a session, that is refused because of overload; what to tell its client."""
        self._segment.add(self._cell(metrics.SHED.number, priority), 1)
        return failure("overloaded", retry_after=RETRY_AFTER)

    def hedged(self, cluster: str, outcome: str) -> None:
        """Counts a second attempt beside a first one."""
        self._segment.add(self._segment.series(metrics.HEDGES.number, (cluster, outcome), 1), 1)

    def queued(self, cluster: str, seconds: float) -> None:
        """Counts a wait for room in a cluster."""
        Histogram(self._segment, metrics.QUEUE_WAIT, (cluster,)).observe(seconds)

    def retry_denied(self, cluster: str, reason: str) -> None:
        """Counts an attempt that could not be made."""
        self._segment.add(self._segment.series(metrics.RETRIES_DENIED.number, (cluster, reason), 1), 1)

    def tunnel_opened(self) -> None:
        self._segment.add(self._cell(metrics.TUNNELS_OPENED.number, self.policy.name), 1)
        self._segment.add(self._cell(metrics.TUNNELS.number, self.policy.name), 1)

    def tunnel_closed(self) -> None:
        self._segment.add(self._cell(metrics.TUNNELS.number, self.policy.name), -1)

    def streams_changed(self, change: int) -> None:
        """Streams of HTTP/2 have come or gone."""
        self._segment.add(self._cell(metrics.HTTP2_STREAMS.number, self.policy.name), change)

    def stream_reset(self, code: int) -> None:
        self._segment.add(self._cell(metrics.HTTP2_RESETS.number, code_label(code)), 1)

    def told_to_go(self, code: str) -> None:
        self._segment.add(self._cell(metrics.HTTP2_GOAWAYS.number, code), 1)

    def flooded(self, kind: str) -> None:
        """A client of HTTP/2 has asked too much."""
        self._segment.add(self._cell(metrics.HTTP2_FLOODS.number, kind), 1)

    def moved(self, downstream_in: int, downstream_out: int, upstream_in: int, upstream_out: int) -> None:
        """Counts bytes."""
        self._numbers[self._downstream_in] += downstream_in
        self._numbers[self._downstream_out] += downstream_out
        self._numbers[self._upstream_in] += upstream_in
        self._numbers[self._upstream_out] += upstream_out

    def _cell(self, number: int, label: str) -> int:
        key = (number, label)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._segment.series(number, (label,), 1)
        return cell

    def accept_paused(self, cause: str) -> None:
        """Counts it."""
        labels = (self.policy.name, cause)
        self._segment.add(self._segment.series(metrics.ACCEPT_PAUSES.number, labels, 1), 1)

    def evicted(self, fiber: Fiber) -> None:
        """A connection has been told to end, to make room; it counts as gone already."""
        if fiber not in self.leaving:
            self.leaving.add(fiber)
            self.room.leaving += 1
            self._segment.add(self._cell(metrics.EVICTIONS.number, self.policy.name), 1)

    def entered(self, fiber: Fiber) -> None:
        """A connection came."""
        self.fibers.add(fiber)
        self.room.enter()
        self._segment.add(self._cell(metrics.DOWNSTREAM_TOTAL.number, self.policy.name), 1)
        # Added to: one of the same name may be here still, that has left the configuration and has not come to its end.
        self._segment.add(self._cell(metrics.DOWNSTREAM_CONNECTIONS.number, self.policy.name), 1)

    def left(self, fiber: Fiber) -> None:
        """A connection is gone."""
        self.fibers.discard(fiber)
        self.room.leave()
        self.idle.pop(fiber, None)
        self.heads.pop(fiber, None)
        if fiber in self.leaving:
            self.leaving.discard(fiber)
            self.room.leaving -= 1
        self._segment.add(self._cell(metrics.DOWNSTREAM_CONNECTIONS.number, self.policy.name), -1)


def hello_table(policy: ListenerPolicy, table: RoutingTable) -> HelloTable:
    """All routes of a listener for TCP; of one for HTTP those past it."""
    if policy.protocol == "tcp":
        return HelloTable(table.routes)
    return HelloTable(Route(passthrough.as_route(), policy.name) for passthrough in policy.passthrough)


def route_timeouts(route: Route, timeouts: TimeoutPolicy) -> TimeoutPolicy:
    """The cluster's, but for what the route sets itself (it has -1 for what it does not)."""
    own = {name: value for name in ("connect", "response", "idle", "total") if (value := getattr(route.policy.timeouts, name)) >= 0}
    return replace(timeouts, **own) if own else timeouts
