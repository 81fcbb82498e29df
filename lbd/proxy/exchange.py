"""One request and its response.

Theory of operation
-------------------
An Exchange runs in its connection's fiber, from the request's head to the last byte of the response: match a route, pick an
endpoint, take or make a connection to it, send, wait for the head, relay. What fails before any of the response has gone out may
be tried again (retry.py decides, retrying.py acts); what fails later can only be cut off, so that the client sees that it is not whole.

A request body that has come along with its head is sent in one write with it, and can be sent again. Any other body goes up in a
fiber of its own, so that both directions move at once: an upstream may answer before it has read everything.

Times are the reactor's `now`: of the current turn, a millisecond's grain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, HungUp
from lbd.errors import ProxyError, Side
from lbd.proxy.admission import wait_for_room
from lbd.proxy.attempt import Attempting
from lbd.proxy.endings import RESPONSE, answer_error, answer_locally, note_gone, timeout_failure
from lbd.proxy.hedge import hedged_head
from lbd.proxy.kept import KeptBody
from lbd.proxy.reasons import failure
from lbd.proxy.relay import IDLE, finish_upload, relay_body_down, relay_interim, run_upload
from lbd.proxy.retrying import begin_another, is_excused, plan_after, plan_another
from lbd.proxy.tunnel import run_tunnel
from lbd.proxy.upgrades import offered
from lbd.wire.body import CHUNKED, LENGTH, NO_BODY, response_framing

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.cluster.endpoint import Endpoint
    from lbd.routing.route import Route
    from lbd.wire.message import ResponseHead

__all__ = ["Exchange"]


class Exchange(Attempting):
    """See above. What its attempts have and do is in attempt.py."""

    __slots__ = ()

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
    def tried(self) -> list[str]:
        return self.failed.told if self.failed is not None else []

    @property
    def grpc_status(self) -> int:
        return self.downstream.grpc_status

    @property
    def sticky(self) -> str:
        claim = self.claim
        if claim is None:
            return ""
        return "kept" if claim.endpoint is not None and self.attempts and claim.endpoint is self.endpoint else claim.outcome

    @property
    def queue_seconds(self) -> float:
        return self.waited if self.attempts or self.waited else -1.0

    # The story

    async def run(self) -> None:
        """Answers the request. Afterwards downstream.keep_alive tells whether another one may follow."""
        try:
            if self.request.has_proxy_fields:  # else it is the peer
                self.client = self.downstream.forwarding.client(self.request)
            route = self.listener.table.match(self.request)
            if route is None:
                raise failure("no_route", f"no route for {self.request.authority!r} {self.request.path!r}")
            self.route = route
            self.target = self.listener.target(route, self.request)
            if self.listener.shedding.level and self.listener.shedding.sheds(route.rank):
                self.downstream.keep_alive = False  # the client may find another machine that has time
                raise self.listener.shed(route.policy.priority)
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
        if not self._choose():
            self.endpoint = await wait_for_room(self, ())
        self.target.budget.begun += 1
        while True:
            self.attempts += 1
            try:
                if await self._attempt():
                    self.endpoint.attempted("ok")
                    return
            except (ProxyError, Expired) as caught:
                error = caught if isinstance(caught, ProxyError) else timeout_failure(self, caught.kind)
                if error.side is Side.UPSTREAM:
                    self.endpoint.attempted(error.reason, is_excused(self, error, self.endpoint))
                if not plan_another(self, error):
                    raise error from None
            finally:
                self.endpoint.end()
            await begin_another(self)

    def _choose(self) -> bool:
        """The endpoint of the first attempt, where it begins; False when there is none that could take it now."""
        endpoint = self.pick(())
        if endpoint is None:
            return False
        endpoint.begin()
        self.endpoint = endpoint
        return True

    def pick(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """The endpoint that the cluster has for this request, beside those `tried`."""
        cluster = self.target.cluster
        assert cluster is not None
        key = b"" if cluster.hash_key is None else cluster.hash_key.of(self.request, self.client)
        if self.target.chooser is not None:
            return self.target.chooser.pick_for(self, key, tried)
        return cluster.pick(key, tried)

    def _prepare(self, route: Route) -> None:
        """Everything that is the same for every attempt: limits, the request as it goes upstream, the deadline."""
        request, downstream, target = self.request, self.downstream, self.target
        if request.content_length > 0:
            limit = self.body_limit(route)
            if limit and request.content_length > limit:
                raise failure("request_too_large", f"Content-Length {request.content_length} is above {limit}")
        if downstream.body_ended:
            self.framing = LENGTH if request.content_length == 0 else NO_BODY
        else:
            self.framing = CHUNKED if request.chunked else LENGTH
            self.body = None if request.expect_continue else downstream.whole_body(request)
            if self.body is None:
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
        may_repeat = request.method in target.methods
        self._certain = self.body is None or not may_repeat
        self.head_timeout = target.attempt_timeout if may_repeat else target.response_timeout
        if self.body is None and target.keeps and (may_repeat or target.may_undo):
            self.kept = KeptBody(target.keeps)
        if target.total_timeout:
            self.total_at = self.started + target.total_timeout
        if downstream.deadline < self.total_at:
            self.total_at = downstream.deadline

    async def _attempt(self) -> bool:
        """One try, up to the last byte of its response: a thin path of waits between steps that do not wait, which compiles well. False:
        another one is to follow, though this one has had an answer."""
        self.guard()
        try:
            if not self._take_pooled():
                await self._dial()
            self._sent_at = self.reactor.now
            self.send_on(self.upstream)
            while self.upstream.unsent:
                self.arm(self.target.idle_timeout, IDLE)
                await self.upstream.stream.writable
                self.upstream.send_more()
            if self.body is None:
                self._begin_upload()
                self.await_head()
            else:
                self.arm(self.head_timeout, RESPONSE)
            head = self.upstream.maybe_head() if self.target.hedging is None else await hedged_head(self)
            while head is None or head.status < 200:
                if head is None:
                    await self.upstream.stream.readable
                elif head.status == 101:
                    await run_tunnel(self, head, self.upload)
                    return True
                else:
                    await relay_interim(self, head)
                head = self.upstream.maybe_head()
            if head.status >= self.target.judged_from and plan_after(self, head):
                self._drop(head)
                return False
            if not self._relay_start(head):
                await self._relay_rest()
            if self.upstream.trailers is not None:
                self.note_trailers()
            self._release(head)
            return True
        finally:
            self._end_attempt()

    def _begin_upload(self) -> None:
        """The body is still on its way: a fiber of its own brings it up."""
        self.upload_done = False
        self.upload = self.reactor.spawn(run_upload(self), "upload")

    def _drop(self, head: ResponseHead) -> None:
        """An answer that the client does not get; what is small costs no connection."""
        self.observe(head)
        self.endpoint.attempted("upstream_status", True)  # whether the status tells against it, it knows by now
        self.upstream.begin_body(response_framing(self.request.method, head), head.content_length)
        self._release(head)

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
        downstream.send_response(request, head, framing, downstream.forwarding.response_fields[head.minor], body, is_whole)
        if upstream.body_ended and not is_whole:
            downstream.send_body(b"", True, upstream.trailers)
        return upstream.body_ended and self.upload_done and not downstream.unsent

    def answered(self, head: ResponseHead) -> None:
        """The upstream has: from here on nothing can be tried again."""
        self.observe(head)
        self.first_byte_seconds = self.reactor.now - self.started
        self.status = head.status
        if self.kept is not None:
            self.kept.drop()
        if not self.route.is_plain:
            self.route.response_edits.apply(head.headers)
        if self.target.chooser is not None:
            self.target.chooser.answered(self, head)

    async def _relay_rest(self) -> None:
        if self.downstream.unsent:
            await self.flush()
        if not self.upstream.body_ended:
            await relay_body_down(self, self.upstream)
            if self.downstream.unsent:
                await self.flush()
        if not self.upload_done:
            await finish_upload(self, self.upload)
