"""A connection to an endpoint that speaks HTTP/2, shared by many requests.

Theory of operation
-------------------
The connection is a fiber that reads, feeds the codec, hands what has come to the streams (http2_upstream.py), and writes what they have
put into the codec meanwhile: all of a turn in one write. Neither a stream's exchange nor the connection steps the other: what one wants
of the other waits in the reactor's queue.

Both directions are held back by their windows. A connection's window is that of all its streams together, so that who reads slowly stops
only itself. Bodies on their way up share the connection's window and a short backlog; who waits longest goes first.

The connection ends by itself: when the endpoint says so (GOAWAY: streams up to the last one that it looked at go on), when the pool
retires it (too old, idle, of a former configuration), when it breaks a rule, or when it does not answer a PING. It is asked so after
`ping_interval` of silence, and when a request had to be given up without any sign of life: until it answers, others go elsewhere.
"""

from __future__ import annotations

from select import EPOLLOUT
from typing import TYPE_CHECKING

from lbd.core.fiber import PAUSE, Expired, Signal
from lbd.core.timers import NEVER
from lbd.core.tls import TlsStream
from lbd.errors import Retry
from lbd.proxy.http2_upstream import Http2Upstream
from lbd.proxy.http2_writer import FrameWriter
from lbd.proxy.reasons import failure
from lbd.wire.http2 import Http2Codec
from lbd.wire.http2_events import (
    BodyArrived,
    ConnectionBroken,
    PingAnswered,
    ResponseArrived,
    SettingsChanged,
    StreamReset,
    TrailersArrived,
    WentAway,
    WindowOpened,
)
from lbd.wire.http2_frames import CANCEL, MOST, REFUSED_STREAM, code_name
from lbd.wire.http2_limits import Http2Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.cluster.shared import Http2UpstreamPolicy, SharedPool
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from lbd.errors import ProxyError
    from lbd.wire.http2_events import Event

__all__ = ["Http2UpstreamConnection"]

READ = 64 * 1024
STEPS = 16  # reads before other fibers get a turn, unless it is time before
SHARE = 16 * 1024  # of a body, when others wait too
KEEPALIVE = 30  # the kind of deadline
RESPONSE_HEAD, RESPONSE_FIELDS = 64 * 1024, 256  # as of HTTP/1


class Ended(Exception):
    """A connection is over, for a reason of proxy/reasons.py."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Http2UpstreamConnection:
    """A Shared of cluster/shared.py. Begins at once; wait_ready() before it is given to the pool."""

    __slots__ = (
        "_error", "_fault", "_fiber", "_is_called", "_is_flood", "_is_limited", "_is_retired", "_most", "_on_end", "_ping_at", "_pings",
        "_ready", "_writer", "blocked", "codec", "has_served", "idle_since", "opened_at", "policy", "pool", "reactor",
        "received_at", "requests", "scheme", "stream", "streams", "upstreams",
    )  # fmt: skip

    def __init__(self, stream: Stream, pool: SharedPool, on_end: Callable[[], None]) -> None:
        """`on_end` is called when the stream is closed."""
        self._on_end = on_end
        self.stream = stream
        self.pool = pool
        self.policy: Http2UpstreamPolicy = pool.http2
        self.reactor: Reactor = stream.reactor
        self.scheme = b"https" if isinstance(stream, TlsStream) else b"http"
        self.opened_at = self.idle_since = self.received_at = self.reactor.now
        self.requests = 0
        self.streams = 0  # of exchanges, begun or about to
        self.upstreams: dict[int, Http2Upstream] = {}  # by their number, begun
        self.blocked: dict[Http2Upstream, None] = {}  # who waits for room, longest first
        self._is_called = False
        self._is_retired = False
        self.has_served = False  # at least one request has been looked at
        self._is_limited = False  # it has refused a stream: full, whatever its SETTINGS say
        self._ping_at = NEVER  # until when the PING that is under way must be answered
        self._pings = 0
        self._error: ProxyError | None = None  # why there is no connection
        self._fault = ""  # of the endpoint, against the rules
        self._is_flood = False
        self._ready = Signal(self.reactor)
        window, most = self.policy.window, self.policy.max_streams
        self._most = most
        self.codec = Http2Codec(is_downstream=False, limits=Http2Limits(
            head=RESPONSE_HEAD, fields=RESPONSE_FIELDS, window=window, connection_window=min(window * most, MOST),
        ))  # fmt: skip
        self._writer = FrameWriter(self.codec, stream)
        self._fiber: Fiber = self.reactor.spawn(self.serve(), f"upstream {stream.peer}")

    def __repr__(self) -> str:
        return f"<Http2UpstreamConnection {self.stream.peer} {self.streams} streams{' retired' if self._is_retired else ''}>"

    async def wait_ready(self) -> None:
        """Until the endpoint has said how many streams it takes. ProxyError: it does not speak HTTP/2."""
        try:
            await self._ready.wait()
        except BaseException:
            self._fiber.cancel()
            raise
        if self._error is None and self.room() <= 0:
            self.retire()
            self._error = failure("connect_failed", "no HTTP/2 connection: it takes no requests", Retry.UNSENT)
        if self._error is not None:
            raise self._error

    # For the pool

    def room(self) -> int:
        if self._is_retired or self._is_limited or self._ping_at != NEVER:
            return 0
        return min(self._most, self.codec.max_streams) - self.streams

    def look(self) -> None:
        if not self._is_retired and not self._writer.is_over() and not self.stream.is_fresh_now():
            try:
                self._read()
            except (OSError, Ended):
                self.retire()
                self.call()  # the fiber will see it too

    def join(self, is_reused: bool) -> Http2Upstream:
        self.streams += 1
        self.requests += 1
        return Http2Upstream(self, is_reused)

    def retire(self) -> None:
        if not self._is_retired:
            self._is_retired = True
            self.pool.lost(self)
            self.call()

    # For streams

    def call(self) -> None:
        """There is something for the fiber to do."""
        if not self._is_called:
            self._is_called = True
            self.reactor.wake(self._fiber)

    def share(self, upstream: Http2Upstream, size: int) -> int:
        """How many bytes of a body may be sent now."""
        others = len(self.blocked) > (upstream in self.blocked)
        self.blocked.pop(upstream, None)
        return max(0, min(size, self.codec.room(upstream.number), self._writer.room(), SHARE if others else size))

    def left(self, upstream: Http2Upstream) -> None:
        """An exchange has done with its stream."""
        now = self.reactor.now
        self.blocked.pop(upstream, None)
        if upstream.number:
            self.upstreams.pop(upstream.number, None)
            if upstream.is_silent(now):
                self._ping(now)
            self.codec.reset(upstream.number, CANCEL)
        self.streams -= 1
        if not upstream.was_refused:
            self._is_limited = False
        if self.streams == 0:
            self.idle_since = now
        self.call()
        self.pool.settled(self, self.reactor.now)

    # The fiber

    async def serve(self) -> None:
        try:
            await self._serve()
        except Ended as ended:
            self._fail(ended.reason, ended.message)
        except OSError as error:
            self._fail("upstream_reset", f"it reset the connection: {error.strerror}")
        finally:
            self._fail("upstream_closed", "the connection was given up")
            self.stream.close()
            self._on_end()

    async def _serve(self) -> None:
        steps = 0
        while True:
            self._is_called = False
            self._write()
            if self.codec.is_broken:
                reason = "upstream_flood" if self._is_flood else "bad_response"
                raise Ended(reason, f"it breaks the rules of HTTP/2: {self._fault}")
            if self._is_retired and self.streams == 0:
                break
            is_busy = not self._writer.is_over() and self._read()
            steps += is_busy
            try:
                if not is_busy:
                    await self._wait()
                elif steps % STEPS == 0 or self.reactor.is_turn_over():
                    await self.reactor.yield_turn()
            except Expired:
                pass  # the next _wait() sees to it
        self.codec.goaway()
        self._write()

    async def _wait(self) -> None:
        """For bytes, for room to send what is unsent, for a call, or for a deadline."""
        now = self.reactor.now
        if self._ping_at <= now:
            raise Ended("upstream_stalled", f"it did not answer a PING within {self.policy.ping_timeout:g} s")
        silent_at = self.received_at + self.policy.ping_interval if self.policy.ping_interval and self.streams else NEVER
        if silent_at <= now and self._ping_at == NEVER:
            self._ping(now)
        if self._is_called or (self.codec.pending and not self._writer.is_stuck()):
            return
        self._fiber.arm_at(min(self._ping_at, silent_at if self._ping_at == NEVER else NEVER), KEEPALIVE)
        self.stream.reader = self._fiber
        if self._writer.is_stuck():
            self.stream.writer = self._fiber
        await PAUSE

    def _write(self) -> None:
        while self._writer.write():
            pass
        if self.blocked:
            self._unblock()

    def _read(self) -> bool:
        """What there is; False when that is nothing."""
        data = self.stream.recv(READ)
        if data is None:
            return False
        if not data:
            raise Ended("upstream_closed", "it closed the connection before its response was whole")
        self.received_at = self.reactor.now
        for event in self.codec.receive(data, self.reactor.now):
            self._obey(event)
        return True

    def _obey(self, event: Event) -> None:
        if isinstance(event, ResponseArrived):
            self._response_arrived(event)
        elif isinstance(event, BodyArrived):
            self._body_arrived(event)
        elif isinstance(event, TrailersArrived):
            self._trailers_arrived(event)
        elif isinstance(event, WindowOpened):
            if self.blocked:
                self._unblock(event.stream)
        elif isinstance(event, StreamReset):
            self._was_reset(event)
        elif isinstance(event, WentAway):
            self._went_away(event.last, event.code, event.message)
        elif isinstance(event, PingAnswered):
            self._ping_at = NEVER
            self.pool.settled(self, self.reactor.now)
        elif isinstance(event, SettingsChanged):
            self._ready.set()
            self.pool.settled(self, self.reactor.now)
        elif isinstance(event, ConnectionBroken):
            self._fault, self._is_flood = event.message, bool(event.flood)

    def _response_arrived(self, event: ResponseArrived) -> None:
        self.has_served = True
        upstream = self.upstreams.get(event.stream)
        if upstream is not None:
            upstream.headed(event.head, event.has_ended)

    def _body_arrived(self, event: BodyArrived) -> None:
        upstream = self.upstreams.get(event.stream)
        if upstream is not None:
            upstream.came(event.data, event.has_ended)

    def _trailers_arrived(self, event: TrailersArrived) -> None:
        upstream = self.upstreams.get(event.stream)
        if upstream is not None:
            upstream.ended(event.trailers, True)

    def _unblock(self, number: int = 0) -> None:
        """Wakes those who can go on, as far as there is room; one that waits for a window of its own when that opens."""
        room = self._writer.room()
        for upstream in list(self.blocked):
            if room <= 0:
                break
            if number in (0, upstream.number) and self.codec.room(upstream.number) > 0:
                del self.blocked[upstream]
                room -= min(len(upstream.unsent), SHARE)
                self.reactor.announce(upstream.stream, EPOLLOUT)

    def _was_reset(self, event: StreamReset) -> None:
        number, code, message, is_ours = event
        upstream = self.upstreams.get(number)
        if upstream is None:
            return
        self.blocked.pop(upstream, None)
        if code == REFUSED_STREAM and not is_ours:
            self._note_earlier(number)
        upstream.was_reset(code, message, is_ours)
        if code == REFUSED_STREAM and not is_ours:
            self._is_limited = True  # until one of them ends
            if self.streams == 1:
                self.retire()

    def _note_earlier(self, number: int) -> None:
        """A stream is refused. Streams come in order: where an earlier one was not, the endpoint is at work on it, and this one is above
        its limit, which may be lower than it says, or lower than it said."""
        for upstream in self.upstreams.values():
            if upstream.number < number and not upstream.was_refused:
                self.has_served = True

    def _went_away(self, last: int, code: int, message: str) -> None:
        if last < self.codec.next_stream:
            self.has_served = self.has_served or last > 0
            self.pool.went_away((last + 1) // 2, self.reactor.now)
        self.retire()
        for upstream in list(self.upstreams.values()):
            if upstream.number > last and not upstream.has_answered:  # what is being answered has been looked at, whatever it says
                upstream.failed(upstream.unlooked(f"it went away before it looked at the request: {code_name(code)} {message}".rstrip()))

    def _ping(self, now: float) -> None:
        """Is it alive? Until it says so, it gets no more requests."""
        if self._ping_at == NEVER:
            self._pings += 1
            self._ping_at = now + self.policy.ping_timeout
            self.codec.ping(self._pings.to_bytes(8, "big"))
            self.call()

    def _fail(self, reason: str, message: str) -> None:
        """The end: for every stream that is there, and for whoever waits for the beginning."""
        if not self._ready.is_set:
            self._error = failure("connect_failed", f"no HTTP/2 connection: {message}", Retry.UNSENT)
            self._ready.set()
        self.codec.is_broken = True  # for who has joined and not begun yet: nothing can be sent any more
        self.retire()
        for upstream in self.upstreams.values():
            upstream.failed(upstream.broken(reason, message))
        self.pool.ended(self)
