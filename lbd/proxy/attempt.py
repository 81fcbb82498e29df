"""The attempt that an exchange is at: a connection to an endpoint, the request on it, and the waits with their deadlines.

There is one at a time, so its state is the exchange's own; what it takes to try again when it has failed is in retrying.py.

While the fiber waits for an upstream it guards the downstream: a client that goes away interrupts it with HungUp, and the
upstream connection is closed, which is how HTTP/1 says "never mind".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import HungUp
from lbd.core.timers import NEVER
from lbd.proxy.dial import open_upstream, prefers_own
from lbd.proxy.endings import CONNECT, RESPONSE, TOTAL
from lbd.proxy.grpc import NOT_GRPC, status_among
from lbd.proxy.pace import wait_for_reader
from lbd.proxy.proxied import introduction

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.pool import Pool
    from lbd.cluster.sticky import Claim
    from lbd.core.fiber import Fiber
    from lbd.proxy.downstream import Downstream
    from lbd.proxy.kept import KeptBody
    from lbd.proxy.listening import Listener
    from lbd.proxy.pace import Patience
    from lbd.proxy.retrying import FailedAttempts
    from lbd.proxy.target import Target
    from lbd.proxy.upstream import Upstream
    from lbd.routing.route import Route
    from lbd.wire.message import RequestHead, ResponseHead

__all__ = ["Attempting"]


class Attempting:
    """What an Exchange has and does of an attempt. What the access log writes down are its public attributes."""

    __slots__ = (
        "_certain", "_extra", "_host", "_path", "_pool", "_sent_at", "attempts", "body", "bytes_in", "bytes_out", "claim", "client",
        "connect_seconds", "detail", "downstream", "duration", "endpoint", "failed", "fiber", "first_byte_seconds", "framing",
        "head_timeout", "is_reused", "is_tunnel", "kept", "listener", "needs_new", "patience", "reactor", "reason", "request",
        "request_id", "route", "started", "status", "target", "total_at", "tunnelled_down", "tunnelled_up", "upload", "upload_done",
        "upstream", "upstream_in", "upstream_out", "waited",
    )  # fmt: skip

    # Set when they are known, which for requests that no endpoint gets may be never
    duration: float
    bytes_in: int  # of the downstream, heads included
    bytes_out: int
    head_timeout: float  # from the end of the request
    framing: int  # of the request's body
    _path: bytes  # the request as it goes upstream: its target, Host, and lines behind its fields
    _host: bytes
    _extra: bytes
    _pool: Pool  # of the attempt: after a reload the endpoint may have another one
    _certain: bool  # a pooled connection must be asked whether it is alive: we could not send the request again
    _sent_at: float

    def __init__(self, listener: Listener, downstream: Downstream, request: RequestHead, fiber: Fiber, started: float) -> None:
        self.listener = listener
        self.downstream = downstream
        self.request = request
        self.fiber = fiber
        self.reactor = downstream.stream.reactor
        self.started = started
        self.total_at = NEVER
        self.route: Route = None  # type: ignore[assignment]  # until one is found
        self.target: Target = listener.unrouted
        self.endpoint: Endpoint = None  # type: ignore[assignment]  # until one is chosen
        self.upstream: Upstream = None  # type: ignore[assignment]  # except while an attempt has one
        self.client = downstream.forwarding.peer
        self.request_id = b""
        self.status = 0
        self.reason = ""
        self.detail = ""
        self.attempts = 0
        self.claim: Claim | None = None  # what its cookie says, where sessions are sticky
        self.failed: FailedAttempts | None = None  # once one has
        self.is_reused = False
        self.waited = 0.0  # seconds, for endpoints with room
        self.connect_seconds = -1.0
        self.first_byte_seconds = -1.0
        self.upstream_in = 0
        self.upstream_out = 0
        self.is_tunnel = False  # it has changed to another protocol, and was counted then
        self.tunnelled_up = 0  # bytes that were counted when they moved
        self.tunnelled_down = 0
        self.upload_done = True
        self.patience: Patience | None = None  # with a client that reads slowly, once it was waited for
        self.upload: Fiber | None = None
        self.body: bytes | None = b""  # None: it does not lie in memory
        self.kept: KeptBody | None = None  # what has gone up of one that does not
        self.needs_new = False  # the next attempt must not use a pooled connection

    # A connection

    def _take_pooled(self) -> bool:
        endpoint = self.endpoint
        self.is_reused = False
        self._pool = endpoint.pool
        if not (self.needs_new or (self.request.upgrade and prefers_own(self._pool))):
            self.upstream = self._pool.take(self.reactor.now, self._certain)
            self.is_reused = self.upstream is not None
        if self.is_reused:
            endpoint.reused()
        return self.is_reused

    async def _dial(self) -> None:
        endpoint, timeout, began = self.endpoint, self.target.connect_timeout, self.reactor.now
        self.arm(timeout, CONNECT)
        opening = introduction(self.downstream.source, self.target.send_proxy) if self.target.send_proxy else b""
        may_switch = bool(self.request.upgrade)
        self.upstream = await open_upstream(self.reactor, endpoint, self.listener.connect, timeout, opening, may_switch=may_switch)
        self.connect_seconds = self.reactor.now - began

    def _end_attempt(self) -> None:
        upstream = self.upstream
        self.downstream.stream.guard = None
        if self.upload is not None:
            self.upload.cancel()
        if upstream is not None:  # not given back
            self.count(upstream)
            upstream.close()
            self.upstream = None  # type: ignore[assignment]

    def _release(self, head: ResponseHead) -> None:
        """Back to the pool, when both sides have said everything and mean to go on."""
        upstream = self.upstream
        if head.keep_alive and self.upload_done and upstream.is_clean():
            self.count(upstream)
            self.upstream = None  # type: ignore[assignment]
            self._pool.give(upstream, self.reactor.now)

    def count(self, upstream: Upstream) -> None:
        self.upstream_in += upstream.bytes_in
        self.upstream_out += upstream.bytes_out
        upstream.bytes_in = upstream.bytes_out = 0

    # The request

    def go_on_with(self, endpoint: Endpoint, upstream: Upstream, pool: Pool, sent_at: float) -> None:
        """Another attempt at the same request takes the place of this one, whose upstream is closed."""
        self.count(self.upstream)
        self.upstream.close()
        self.endpoint, self.upstream, self._pool, self._sent_at = endpoint, upstream, pool, sent_at

    def send_on(self, upstream: Upstream) -> None:
        upstream.send_request(self.request, self._path, self._host, self.framing, self._extra, self.body)

    def body_limit(self, route: Route) -> int:
        return self.listener.max_body if route.policy.max_body < 0 else route.policy.max_body

    # The response

    def observe(self, head: ResponseHead) -> None:
        """The head has come: what it tells of the endpoint."""
        now = self.reactor.now
        if self.downstream.grpc_status == NOT_GRPC or head.status != 200:
            self.endpoint.observe(now - self._sent_at, now, head.status)
        else:
            self.endpoint.observe_call(now - self._sent_at, now, status_among(head.headers))
        self.target.upstream_duration.observe(now - self._sent_at)

    def note_trailers(self) -> None:
        """The response has ended, with these: what they tell of the endpoint."""
        if self.downstream.grpc_status != NOT_GRPC:
            self.endpoint.call_ended(self.downstream.grpc_status)

    # Waiting

    def guard(self) -> None:
        """HungUp at the next wait when the downstream goes away, even if it has gone already."""
        stream = self.downstream.stream
        if self.listener.half_close and not stream.broken:
            return
        if stream.hung_up:
            raise HungUp
        stream.guard = self.fiber

    def await_head(self) -> None:
        """The response's head has its time from now on; while the body is on its way up, that has its own."""
        upload = self.upload
        is_uploading = upload is not None and upload.coroutine is not None
        self.arm(0.0 if is_uploading else self.head_timeout, RESPONSE)

    async def flush(self) -> None:
        """Until the downstream has taken everything; it may be slow, but must take something."""
        downstream = self.downstream
        while downstream.unsent:
            await wait_for_reader(self)
            downstream.send_more()

    def arm(self, seconds: float, kind: int) -> None:
        deadline = self.reactor.now + seconds if seconds > 0 else NEVER
        if deadline >= self.total_at:
            deadline, kind = self.total_at, TOTAL
        self.fiber.arm_at(deadline, kind)
