"""A session: one connection carried to an endpoint as it is, both ways, until both sides have ended.

Theory of operation
-------------------
A Session runs in its connection's fiber. It picks an endpoint as an exchange does, by the same cluster with the same health, limits and
counts; one that refuses, or does not answer in time, is followed by the next, for nothing has been sent yet. Then the fiber carries what
comes down, and a second one what goes up (pump.py). An end in one direction is handed on and leaves the other one open: "that was all I
ask" is how some protocols say that the answer may come.

A session ends with the second direction's end, with whatever breaks (then the other side sees a reset: what it got is not whole), with its
two limits (no byte in either direction; age), or with a drain that has waited long enough. It lives through every reload.

Which route a session takes may be in its first bytes: name and protocols of a TLS ClientHello, which is read and handed on untouched.
What is no TLS, or says nothing within the time of a handshake because it waits for the endpoint to speak first, goes where what has no
name goes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, HungUp
from lbd.core.timers import NEVER
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.admission import Waiter, kin_of, may_wait, refusal
from lbd.proxy.dial import open_stream
from lbd.proxy.endings import CONNECT, QUEUE
from lbd.proxy.forwarding import without_mapping
from lbd.proxy.grpc import NOT_GRPC
from lbd.proxy.hello import peek_hello
from lbd.proxy.proxied import introduction, may_become_header, refuse_header
from lbd.proxy.pump import pump, send, watch
from lbd.proxy.reasons import failure
from lbd.routing.route import PRIORITIES
from lbd.wire.message import RequestHead

if TYPE_CHECKING:
    from lbd.cluster.cluster import Cluster
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.fiber import Fiber
    from lbd.core.stream import Stream
    from lbd.proxy.connection import Connection
    from lbd.proxy.target import Target
    from lbd.routing.route import Route
    from lbd.wire.client_hello import ClientHello

__all__ = ["Session", "maybe_session"]

READ = 16 * 1024
QUIET, AGE = 41, 42  # kinds of deadlines
TCP = 3  # as a request's `minor`: access.py's word for it


async def maybe_session(connection: Connection) -> Session | None:
    """For a connection that is carried as it is, from behind its PROXY header on; None: it is to be served here.

    ProxyError: nothing takes it.
    """
    listener = connection.listener
    hello = await peek_hello(connection) if listener.hellos.needs_hello else None
    route = listener.hellos.match(hello)
    if route is not None:
        return Session(connection, route, hello)
    if listener.policy.protocol == "tcp":
        raise failure(
            "no_session_route", f'nothing takes the name "{hello.sni}"' if hello is not None else "nothing takes what has no name"
        )
    return None


class Session:
    """See above. What the access log writes down are its public attributes."""

    __slots__ = (
        "_connection", "_dies_at", "_fiber", "_listener", "_rank", "_reactor", "_started", "_target", "_tried", "_upstream", "_watcher",
        "attempts", "bytes_in", "bytes_out", "client", "connect_seconds", "detail", "duration", "endpoint", "first_byte_seconds",
        "reason", "request", "tried", "waited",
    )  # fmt: skip

    status = 0
    is_reused = False
    grpc_status = NOT_GRPC
    sticky = ""
    request_id = b""

    def __init__(self, connection: Connection, route: Route, hello: ClientHello | None) -> None:
        self._connection = connection
        self._listener = connection.listener
        self._fiber = connection.fiber
        self._reactor = connection.reactor
        self._started = connection.reactor.now
        self._dies_at = NEVER
        self._rank = route.rank
        self._target: Target = connection.listener.target(route)
        self._tried: list[Endpoint] = []
        self.tried: list[str] = []  # for the log
        self._upstream: Stream = None  # type: ignore[assignment]  # until there is one
        self._watcher: Fiber | None = None  # of the side that has ended first
        self.endpoint: Endpoint = None  # type: ignore[assignment]
        # To the log a session is a request that has nothing but a host.
        self.request = RequestHead.make(method=b"", target=b"", authority=hello.sni.encode() if hello is not None else b"", minor=TCP)
        self.client = without_mapping(connection.stream.peer)
        self.reason = ""
        self.detail = ""
        self.attempts = 0
        self.waited = 0.0
        self.connect_seconds = -1.0
        self.first_byte_seconds = -1.0
        self.duration = 0.0
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def listener_name(self) -> str:
        return self._listener.policy.name

    @property
    def route_name(self) -> str:
        return self._target.route_name

    @property
    def cluster_name(self) -> str:
        return self._target.cluster_name

    @property
    def endpoint_address(self) -> str:
        return self.endpoint.address if self.attempts else ""

    @property
    def queue_seconds(self) -> float:
        return self.waited if self.attempts or self.waited else -1.0

    # The story

    async def run(self) -> None:
        """To its end, however it comes; one line in the log."""
        try:
            if self._listener.shedding.sheds(self._rank):
                raise self._listener.shed(PRIORITIES[self._rank])
            await self._connect()
            try:
                await self._carry()
                self.endpoint.attempted("ok")
            except ProxyError as error:
                # Once connected it was well; how a session ends is for those to know who speak in it.
                self.endpoint.attempted(error.reason if error.side is Side.UPSTREAM else "ok", True)
                raise
            finally:
                self.endpoint.end()
        except ProxyError as error:
            self._broken(error)
        except Expired as expired:
            self._broken(failure("tunnel_lifetime") if expired.kind == AGE else failure("tunnel_idle"))
        finally:
            self._finish()

    async def _connect(self) -> None:
        """An endpoint that takes the connection, which counts as begun there; ProxyError: there is none."""
        cluster = self._target.cluster
        assert cluster is not None
        key = self.client.encode() if cluster.hash_key is not None else b""
        last: ProxyError | None = None
        self._target.budget.begun += 1
        while True:
            endpoint = self._target.pick(key, self._tried)
            if endpoint is None and not may_wait(self._target, self._tried):
                endpoint = self._last_resort(cluster) if last is not None else None
                if endpoint is None:
                    raise last or refusal(self._target)
            if last is not None and not self._may_retry():
                raise last
            if endpoint is not None:
                endpoint.begin()
            else:
                endpoint = await self._wait_for_room(cluster, key)
            if last is not None:
                self._listener.retried(last.reason)
                self.tried.append(f"{self.endpoint.address} {last.reason}")
            self.endpoint = endpoint
            self.attempts += 1
            try:
                await self._dial(endpoint)
            except ProxyError as error:
                if error.retry is not Retry.UNSENT:
                    raise
                last = error
            else:
                return
            finally:
                if self._upstream is None:
                    endpoint.end()
            if last.side is Side.UPSTREAM:
                endpoint.attempted(last.reason)
            self._tried.append(endpoint)

    def _last_resort(self, cluster: Cluster) -> Endpoint | None:
        endpoint = self._target.last_resort(self._tried)
        return endpoint if endpoint is None or cluster.admission is None or cluster.admission.takes(endpoint) else None

    def _may_retry(self) -> bool:
        rules = self._target.rules
        if self.attempts > rules.attempts or "connect" not in rules.failures:
            return False
        if self._target.budget.spend(self._reactor.now):
            return True
        self._listener.retry_denied(self.cluster_name, "budget")
        return False

    async def _wait_for_room(self, cluster: Cluster, key: bytes) -> Endpoint:
        """An endpoint where it has begun. ProxyError: no room, or nobody is left who wants any."""
        began, stream = self._reactor.now, self._connection.stream
        until = began + cluster.policy.queue.timeout
        try:
            while True:
                stream.guard = None if stream.hung_up else self._fiber
                try:
                    kin = self if self._tried else kin_of(self._target)
                    waiter = Waiter(self._reactor, cluster, kin, lambda: self._target.pick(key, self._tried), self._rank, began)
                    return await waiter.wait(until, QUEUE)
                except HungUp:
                    if stream.broken:
                        raise failure("downstream_closed", "while it waited for an endpoint with room") from None
                    # All that it will say is said: it waits on, at the same place.
        finally:
            stream.guard = None
            self.waited += self._reactor.now - began
            self._listener.queued(cluster.name, self._reactor.now - began)

    async def _dial(self, endpoint: Endpoint) -> None:
        timeout, began = self._target.connect_timeout, self._reactor.now
        self._fiber.arm(timeout, CONNECT)
        try:
            self._upstream = await open_stream(self._reactor, endpoint, self._listener.connect)
        except Expired:
            raise failure("connect_timeout", f"no connection to {endpoint.address} within {timeout:g} s", Retry.UNSENT) from None
        self._fiber.disarm()
        self.connect_seconds = self._reactor.now - began
        endpoint.opened()
        endpoint.observe(self.connect_seconds, self._reactor.now)

    # Both ways

    async def _carry(self) -> None:
        listener, now = self._listener, self._reactor.now
        self._dies_at = now + listener.tunnel_lifetime if listener.tunnel_lifetime > 0 else NEVER
        self._moved()
        up = self._reactor.spawn(self._carry_up(), "session")
        try:
            await pump(self._upstream, self._connection.stream, listener.window, self._moved_down)
            if up.coroutine is not None:
                self._watch(self._upstream, up, "upstream_reset")
                await up.done.wait()
        except OSError as error:
            raise blamed(error, "upstream_reset", "downstream_reset") from error
        finally:
            up.cancel()
            if self._watcher is not None:
                self._watcher.cancel()

    def _watch(self, ended: Stream, pumping: Fiber, reason: str) -> None:
        error = failure(reason, "after the end of what it had to say")
        self._watcher = self._reactor.spawn(watch(ended, pumping, self._fiber, error), "watch")

    async def _carry_up(self) -> None:
        """A fiber of its own; what goes wrong here ends the other one."""
        connection = self._connection
        try:
            first = await self._first_up()
            await pump(connection.stream, self._upstream, self._listener.window, self._moved_up, first)
        except OSError as error:
            self._fiber.interrupt(blamed(error, "downstream_reset", "upstream_reset"))
        except ProxyError as error:
            self._fiber.interrupt(error)
        else:
            if self._watcher is None:
                self._watch(connection.stream, self._fiber, "downstream_reset")

    async def _first_up(self) -> bytes:
        """Says whose connection it is; gives what has come up to now."""
        connection = self._connection
        if self._target.send_proxy:
            await send(self._upstream, introduction(connection, self._target.send_proxy), self._introduced)
        early, connection.early = connection.early, b""
        proxied = self._listener.proxied
        if proxied is not None and connection.proxied is None and connection.stream.peer not in proxied:
            early = await self._looked_at(early)
        return early

    async def _looked_at(self, early: bytes) -> bytes:
        """Enough to know that it is no PROXY header: not from those who are not trusted."""
        stream = self._connection.stream
        while not early or may_become_header(early):
            refuse_header(early)
            data = stream.recv(READ)
            if data is None:
                await stream.readable
            elif not data:
                break
            else:
                early += data
        return early

    def _introduced(self, size: int) -> None:
        self._listener.moved(0, 0, 0, size)

    def _moved_up(self, size: int) -> None:
        self.bytes_in += size
        self._listener.moved(size, 0, 0, size)
        self._moved()

    def _moved_down(self, size: int) -> None:
        if self.bytes_out == 0:
            self.first_byte_seconds = self._reactor.now - self._started
        self.bytes_out += size
        self._listener.moved(0, size, size, 0)
        self._moved()

    def _moved(self) -> None:
        """Both directions have their time again."""
        idle = self._listener.tunnel_idle
        deadline = self._reactor.now + idle if idle > 0 else NEVER
        if deadline < self._dies_at:
            self._fiber.arm_at(deadline, QUIET)
        else:
            self._fiber.arm_at(self._dies_at, AGE)

    # The end

    def _broken(self, error: ProxyError) -> None:
        """Whoever is left must not take what it got for all there is."""
        self.reason = error.reason
        self.detail = error.message
        self._listener.rejected(error.reason)
        self._connection.stream.reset()
        if self._upstream is not None:
            self._upstream.reset()

    def _finish(self) -> None:
        listener = self._listener
        self._fiber.disarm()
        self.duration = self._reactor.now - self._started
        if self._upstream is not None:
            self._upstream.close()
            self.endpoint.disconnected()
        listener.session_ended(self._target, self.reason or "ok")
        if listener.access is not None:
            listener.access.write(self)


def blamed(error: OSError, source: str, sink: str) -> ProxyError:
    """As of pump(): which of the two broke."""
    return failure(sink if error.filename == "sink" else source, error.strerror or str(error))
