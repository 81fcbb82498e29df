"""One request and its response.

Theory of operation
-------------------
An Exchange runs in its connection's fiber, from the request's head to the last byte of the response: match a route, pick an
endpoint, take or make a connection to it, send, wait for the head, relay. What fails before any of the response has gone out may
be tried again (retry.py decides); what fails later can only be cut off, so that the client sees that it is not whole.

A request body that has come along with its head is sent in one write with it, and can be sent again. Any other body goes up in a
fiber of its own, so that both directions move at once: an upstream may answer before it has read everything.

While the fiber waits for an upstream it guards the downstream: a client that goes away interrupts it with HungUp, and the
upstream connection is closed, which is how HTTP/1 says "never mind".

Times are the reactor's `now`: of the current turn, a millisecond's grain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, HungUp
from lbd.core.timers import NEVER
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.dial import open_upstream, prefers_own
from lbd.proxy.endings import CONNECT, RESPONSE, SEND, TOTAL, answer_error, answer_locally, note_gone, timeout_failure
from lbd.proxy.proxied import introduction
from lbd.proxy.reasons import failure
from lbd.proxy.relay import IDLE, finish_upload, relay_body_down, relay_interim, run_upload
from lbd.proxy.retry import IDEMPOTENT, Next, decide
from lbd.proxy.tunnel import run_tunnel
from lbd.proxy.upgrades import offered
from lbd.wire.body import CHUNKED, LENGTH, NO_BODY, response_framing

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.pool import Pool
    from lbd.core.fiber import Fiber
    from lbd.proxy.downstream import Downstream
    from lbd.proxy.listening import Listener
    from lbd.proxy.target import Target
    from lbd.proxy.upstream import Upstream
    from lbd.routing.route import Route
    from lbd.wire.message import RequestHead, ResponseHead

__all__ = ["Exchange"]


class Exchange:
    """See above. What the access log writes down of an exchange are its public attributes."""

    __slots__ = (
        "_body", "_certain", "_extra", "_failure", "_failures", "_host", "_needs_new", "_path", "_pool", "_sent_at", "_tried", "_upload",
        "attempts", "bytes_in", "bytes_out", "client", "connect_seconds", "detail", "downstream", "duration", "endpoint", "fiber",
        "first_byte_seconds", "framing", "is_reused", "is_tunnel", "listener", "reactor", "reason", "request", "request_id", "route",
        "started", "status", "target", "total_at", "tunnelled_down", "tunnelled_up", "upload_done", "upstream", "upstream_in",
        "upstream_out",
    )  # fmt: skip

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
        self.is_reused = False
        self.connect_seconds = -1.0
        self.first_byte_seconds = -1.0
        self.duration = 0.0
        self.bytes_in = 0  # of the downstream, heads included; known at the end
        self.bytes_out = 0
        self.upstream_in = 0
        self.upstream_out = 0
        self.is_tunnel = False  # it has changed to another protocol, and was counted then
        self.tunnelled_up = 0  # bytes that were counted when they moved
        self.tunnelled_down = 0
        self.upload_done = True
        self._upload: Fiber | None = None
        self._body: bytes | None = b""  # None: it does not lie in memory
        self._path = b""  # the request as it goes upstream: its target, Host, and lines behind its fields
        self._host = b""
        self._extra = b""
        self.framing = NO_BODY
        self._tried: list[Endpoint] = []
        self._pool: Pool = None  # type: ignore[assignment]  # of the attempt: after a reload the endpoint may have another one
        self._needs_new = False  # the next attempt must not use a pooled connection
        self._certain = False  # a pooled connection must be asked whether it is alive: we could not send the request again
        self._failure: ProxyError | None = None  # of the last attempt
        self._failures = 0  # that count
        self._sent_at = 0.0

    @property
    def listener_name(self) -> str:
        return self.listener.policy.name

    @property
    def route_name(self) -> str:
        return self.target.route_name

    @property
    def cluster_name(self) -> str:
        return self.target.cluster_name

    @property
    def endpoint_address(self) -> str:
        return self.endpoint.address if self.attempts else ""

    @property
    def grpc_status(self) -> int:
        return self.downstream.grpc_status

    @property
    def queue_seconds(self) -> float:  # there is no queue yet
        return 0.0 if self.attempts else -1.0

    # The story

    async def run(self) -> None:
        """Answers the request. Afterwards downstream.keep_alive tells whether another one may follow."""
        try:
            self.client = self.downstream.forwarding.client(self.request)
            route = self.listener.table.match(self.request)
            if route is None:
                raise failure("no_route", f"no route for {self.request.authority!r} {self.request.path!r}")
            self.route = route
            self.target = self.listener.target(route)
            if self.target.cluster is None:
                answer_locally(self, route)
            else:
                await self._proxy(route)
            if self.downstream.unsent:
                await self.flush()
        except ProxyError as error:
            await answer_error(self, error)
        except Expired as expired:
            await answer_error(self, timeout_failure(self, expired.kind))
        except HungUp:
            note_gone(self, "downstream_closed", "while the upstream was at work")
        except OSError as error:
            note_gone(self, "downstream_reset", error.strerror or str(error))

    def finish(self) -> None:
        """Counts the exchange and writes it down."""
        downstream, listener = self.downstream, self.listener
        self.duration = self.reactor.now - self.started
        if not self.is_tunnel:
            self.target.answered(self.status, self.duration)
        self.bytes_in, self.bytes_out = downstream.bytes_in, downstream.bytes_out
        downstream.bytes_in = downstream.bytes_out = 0
        up, down = self.tunnelled_up, self.tunnelled_down
        listener.moved(self.bytes_in - up, self.bytes_out - down, self.upstream_in - down, self.upstream_out - up)
        if listener.access is not None:
            listener.access.write(self)

    async def _proxy(self, route: Route) -> None:
        self._prepare(route)
        while True:
            self._choose()
            try:
                await self._attempt()
            except (ProxyError, Expired) as caught:
                self._failed(caught if isinstance(caught, ProxyError) else timeout_failure(self, caught.kind))
            else:
                self.endpoint.attempted("ok")
                return
            finally:
                self.endpoint.end()

    def _choose(self) -> None:
        """The endpoint of the next attempt; ProxyError when there is none left."""
        if not self._needs_new:
            cluster = self.target.cluster
            assert cluster is not None
            key = b"" if cluster.hash_key is None else cluster.hash_key.of(self.request, self.client)
            endpoint = cluster.pick(key, self._tried)
            if endpoint is None:
                raise self._failure or failure("no_healthy_endpoint", cluster.why_none())
            self.endpoint = endpoint
        if self._failure is not None:
            self.listener.retried(self._failure.reason)
        self.attempts += 1
        self.endpoint.begin()

    def _failed(self, error: ProxyError) -> None:
        """An attempt did; raises unless there is to be another one."""
        if error.side is Side.UPSTREAM:
            self.endpoint.attempted(error.reason)
        self._failure = error
        self._failures += not (self.is_reused or error.retry is Retry.UNSENT_HERE)
        step = decide(
            error,
            is_idempotent=self.request.method in IDEMPOTENT,
            can_replay=self.status == 0 and (self._body is not None or self._upload is None),
            attempts=self.attempts,
            failures=self._failures,
            allowed=self.target.attempts_allowed,
        )
        if step is Next.GIVE_UP:
            raise error
        self._needs_new = step is Next.SAME_ENDPOINT
        if step is Next.NEXT_ENDPOINT:
            self._tried.append(self.endpoint)

    def _prepare(self, route: Route) -> None:
        """Everything that is the same for every attempt: limits, the request as it goes upstream, the deadline."""
        request, downstream, target = self.request, self.downstream, self.target
        limit = self.body_limit(route)
        if limit and request.content_length > limit:
            raise failure("request_too_large", f"Content-Length {request.content_length} is above {limit}")
        if downstream.body_ended:
            self.framing = LENGTH if request.content_length == 0 else NO_BODY
        else:
            self.framing = CHUNKED if request.chunked else LENGTH
            self._body = None if request.expect_continue else downstream.whole_body(request)
            if self._body is None:
                downstream.begin_body(request)
        forwarding = downstream.forwarding
        self._extra = forwarding.fields(request)
        self.request_id = forwarding.request_id
        self._path = request.target
        self._host = request.authority or target.own_host
        if not route.is_plain:
            route.request_edits.apply(request.headers)
            self._path = route.rewritten_target(request)
            self._host = route.rewritten_host or self._host
        if request.upgrade:
            request.upgrade = offered(request, self.listener.upgrades)
        self._certain = self._body is None or request.method not in IDEMPOTENT
        if target.total_timeout:
            self.total_at = self.started + target.total_timeout
        self.total_at = min(self.total_at, downstream.deadline)

    async def _attempt(self) -> None:
        """One try, up to the last byte of its response: a thin path of waits between steps that do not wait, which compiles well."""
        self._guard()
        try:
            if not self._take_pooled():
                await self._dial()
            self._send_request()
            while self.upstream.unsent:
                self.arm(self.target.idle_timeout, IDLE)
                await self.upstream.stream.writable
                self.upstream.send_more()
            if self._body is None:
                self._begin_upload()
            self.await_head()
            while True:
                head = self.upstream.maybe_head()
                if head is None:
                    await self.upstream.stream.readable
                elif head.status == 101:
                    await run_tunnel(self, head, self._upload)
                    return
                elif head.status < 200:
                    await relay_interim(self, head)
                else:
                    break
            if not self._relay_start(head):
                await self._relay_rest()
            self._release(head)
        finally:
            self._end_attempt()

    def _take_pooled(self) -> bool:
        endpoint = self.endpoint
        self.is_reused = False
        self._pool = endpoint.pool
        if not (self._needs_new or (self.request.upgrade and prefers_own(self._pool))):
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

    def _send_request(self) -> None:
        self._sent_at = self.reactor.now
        self.upstream.send_request(self.request, self._path, self._host, self.framing, self._extra, self._body)

    def _end_attempt(self) -> None:
        upstream = self.upstream
        self.downstream.stream.guard = None
        if self._upload is not None:
            self._upload.cancel()
        if upstream is not None:  # not given back
            self._count(upstream)
            upstream.close()
            self.upstream = None  # type: ignore[assignment]

    def _count(self, upstream: Upstream) -> None:
        self.upstream_in += upstream.bytes_in
        self.upstream_out += upstream.bytes_out
        upstream.bytes_in = upstream.bytes_out = 0

    # Upwards

    def _begin_upload(self) -> None:
        """The body is still on its way: a fiber of its own brings it up."""
        self.upload_done = False
        self._upload = self.reactor.spawn(run_upload(self), "upload")

    # Downwards

    def _relay_start(self, head: ResponseHead) -> bool:
        """The head, and what came with it of the body, which mostly is all: True when nothing is left to do."""
        request, downstream, upstream = self.request, self.downstream, self.upstream
        self.answered(head)
        if not self.upload_done and (not head.keep_alive or (request.expect_continue and downstream.body_received == 0)):
            # The rest of the body, if the client still sends it at all, has nowhere to go.
            downstream.keep_alive = False
        framing = response_framing(request.method, head)
        body = upstream.begin_body(framing, head.content_length)
        is_whole = upstream.body_ended and upstream.trailers is None
        downstream.send_response(request, head, framing, downstream.forwarding.response_fields, body, is_whole)
        if upstream.body_ended and not is_whole:
            downstream.send_body(b"", True, upstream.trailers)
        return upstream.body_ended and self.upload_done and not downstream.unsent

    def answered(self, head: ResponseHead) -> None:
        """The upstream has: from here on nothing can be tried again."""
        now = self.reactor.now
        self.first_byte_seconds = now - self.started
        self.endpoint.observe(now - self._sent_at, now)
        self.target.upstream_duration.observe(now - self._sent_at)
        self.status = head.status
        if not self.route.is_plain:
            self.route.response_edits.apply(head.headers)

    async def _relay_rest(self) -> None:
        if self.downstream.unsent:
            await self.flush()
        if not self.upstream.body_ended:
            await relay_body_down(self, self.upstream)
            if self.downstream.unsent:
                await self.flush()
        if not self.upload_done:
            await finish_upload(self, self._upload)

    async def flush(self) -> None:
        """Until the downstream has taken everything; it may be slow, but must take something."""
        downstream = self.downstream
        while downstream.unsent:
            self.arm(self.listener.body_timeout, SEND)
            await downstream.stream.writable
            downstream.send_more()

    # Ends

    def _release(self, head: ResponseHead) -> None:
        """Back to the pool, when both sides have said everything and mean to go on."""
        upstream = self.upstream
        if head.keep_alive and self.upload_done and upstream.is_clean():
            self._count(upstream)
            self.upstream = None  # type: ignore[assignment]
            self._pool.give(upstream, self.reactor.now)

    def body_limit(self, route: Route) -> int:
        return self.listener.max_body if route.policy.max_body < 0 else route.policy.max_body

    # Waiting

    def _guard(self) -> None:
        """HungUp at the next wait when the downstream goes away, even if it has gone already."""
        stream = self.downstream.stream
        if self.listener.half_close and not stream.broken:
            return
        if stream.hung_up:
            raise HungUp
        stream.guard = self.fiber

    def await_head(self) -> None:
        """The response's head has its time from now on; while the body is on its way up, that has its own."""
        upload = self._upload
        is_uploading = upload is not None and upload.coroutine is not None
        self.arm(0.0 if is_uploading else self.target.response_timeout, RESPONSE)

    def arm(self, seconds: float, kind: int) -> None:
        deadline = self.reactor.now + seconds if seconds > 0 else NEVER
        if deadline >= self.total_at:
            deadline, kind = self.total_at, TOTAL
        self.fiber.arm_at(deadline, kind)
