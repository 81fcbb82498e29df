"""A downstream HTTP/2 connection: one fiber reads, hands out what came and writes; each stream's exchange has a fiber of its own.

Theory. No fiber steps another. Exchanges put frames into the codec and leave: touched() wakes the connection's fiber, once, and by the
time of its next step all the others of this turn have put theirs there too, so that they go out in one write.

While the other side does not take what we have for it, nothing more is read from it: its requests, pings and settings make us answer.

The end comes in two steps (RFC 9113 6.8), so that no request is lost: a GOAWAY that refuses nothing, then, when a ping has come back or
GRACE is over, one that names the last stream that was taken; when all streams have ended, the connection is closed.
"""

from __future__ import annotations

import logging
from enum import Enum
from typing import TYPE_CHECKING

from lbd.core.fiber import PAUSE, Expired, HungUp
from lbd.core.timers import NEVER, SOON
from lbd.errors import ProxyError, Side
from lbd.proxy.exchange import Exchange
from lbd.proxy.http2_downstream import Http2Downstream
from lbd.proxy.http2_outbox import Outbox
from lbd.proxy.listener import http2_limits
from lbd.proxy.reasons import failure
from lbd.wire.http2 import Http2Codec
from lbd.wire.http2_events import (
    BodyArrived,
    ConnectionBroken,
    PingAnswered,
    RequestArrived,
    RequestRefused,
    SettingsChanged,
    StreamReset,
    TrailersArrived,
    WindowOpened,
)
from lbd.wire.http2_frames import NO_ERROR, PROTOCOL_ERROR, code_name
from lbd.wire.http2_heads import HTTP2

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from lbd.proxy.connection import Connection
    from lbd.proxy.listening import Listener
    from lbd.wire.http2_events import Event
    from lbd.wire.message import RequestHead

__all__ = ["Http2Connection"]

log = logging.getLogger("lbd.proxy")

READ = 32 * 1024
STEPS = 16  # reads before other fibers get a turn, unless it is time before: a read may be 2,000 frames
GRACE = 1.0  # seconds in which requests that are under way may come, after the first GOAWAY
GOODBYE = b"goodbye."  # the ping that comes back when they have
SPREAD = 0.1  # of the age a connection may have, at random
IDLE, AGE, LAST, LINGER = 1, 2, 3, 4  # kinds of deadlines


class Stage(Enum):
    """Of a connection's life."""

    OPEN = 1
    LEAVING = 2  # the first GOAWAY has been sent
    CLOSING = 3  # the second: no more streams are taken


class Http2Connection:
    """The part of a connection's fiber that speaks HTTP/2."""

    __slots__ = (
        "_age_at", "_has_eof", "_identity", "_idle_at", "_is_awake", "_last_at", "_policy_forwarding", "_port", "_requests", "_scheme",
        "_stage", "codec", "downstreams", "fiber", "fibers", "forwarding", "listener", "outbox", "reactor", "source", "stream",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.listener: Listener = connection.listener
        self.stream: Stream = connection.stream
        self.reactor: Reactor = connection.reactor
        self.fiber: Fiber = connection.fiber
        self.codec = Http2Codec(is_downstream=True, limits=http2_limits(self.listener.policy))
        self.downstreams: dict[int, Http2Downstream] = {}
        self.fibers: dict[int, Fiber] = {}  # of their exchanges
        self.outbox = Outbox(self.codec, self.stream)
        self._scheme = connection.scheme
        self._port = connection.port
        self._identity = connection.identity
        self.source = connection
        self._policy_forwarding = self.listener.forwarding
        self.forwarding = self._policy_forwarding.for_connection(self.stream.peer, self._scheme, self._port, HTTP2, self._identity)
        self._is_awake = True  # the fiber runs, or will
        self._has_eof = False
        self._requests = 0
        self._stage = Stage.OPEN
        max_age = self.listener.policy.http2.max_age
        # Those that came together do not all come back together.
        self._age_at = self.reactor.now + max_age * (1 - SPREAD * self.listener.random()) if max_age else NEVER
        self._last_at = NEVER
        self._idle_at = self.reactor.now + self.listener.head_timeout

    # The connection's fiber

    async def serve(self, data: bytes = b"") -> None:
        """Until either side has enough; `data` has come already."""
        self.fiber.disarm()
        try:
            self._take(data)
            await self._run()
        except ProxyError as error:  # a drain that has come to its end
            await self._cut_short(error)
        finally:
            self.listener.idle.pop(self.fiber, None)
            for downstream in list(self.downstreams.values()):
                downstream.went_away()
        await self._linger()

    async def _run(self) -> None:
        steps = 0
        while True:
            is_busy = self._read()
            self._leave_if_due()
            self.outbox.flush()
            if self._is_done():
                return
            steps += 1
            try:
                if is_busy and self._reads():
                    if steps % STEPS == 0 or self.reactor.is_turn_over():
                        await self.reactor.yield_turn()
                else:
                    await self._wait()
            except Expired as expired:
                self._expired(expired.kind)

    def _is_done(self) -> bool:
        if self.codec.is_broken:
            return True
        if self.downstreams:
            return self._has_eof and not self.listener.half_close
        return (self._has_eof or self._stage is Stage.CLOSING) and not self.outbox.backlog()

    def _reads(self) -> bool:
        return self.stream.may_read and not self._has_eof and not self.outbox.is_over()

    def _read(self) -> bool:
        """Takes what is there, once; whether there may be more."""
        if not self._reads():
            return False
        data = self.stream.recv(READ)
        if data is None:
            return False
        if data:
            self._take(data)
        else:
            self._has_eof = True
        return True

    async def _wait(self) -> None:
        """For bytes, for room to send, for an exchange that has put something into the codec, for a deadline."""
        self._arm()
        stream = self.stream
        if not self._has_eof and not self.outbox.is_over():
            stream.reader = self.fiber
        if self.outbox.is_stuck():
            stream.writer = self.fiber
        self._is_awake = False
        try:
            await PAUSE
        finally:
            self._is_awake = True
            stream.reader = stream.writer = None

    def touched(self) -> None:
        """There is something to send."""
        if not self._is_awake:
            self._is_awake = True
            self.reactor.wake(self.fiber)

    # Deadlines and ends

    def _arm(self) -> None:
        idle_at = NEVER
        if self.downstreams:
            self.listener.idle.pop(self.fiber, None)
        else:
            self.listener.idle[self.fiber] = True
            idle_at = self._idle_at
        deadline, kind = idle_at, IDLE
        if self._age_at < deadline:
            deadline, kind = self._age_at, AGE
        if self._last_at < deadline:
            deadline, kind = self._last_at, LAST
        self.fiber.arm_at(deadline, kind)

    def _expired(self, kind: int) -> None:
        if kind == LAST:
            self._close()
        elif self._stage is Stage.OPEN:
            self._leave()
        elif kind == IDLE:  # it does not take even what says so
            self._close()
            self.outbox.drop()

    def _leave_if_due(self) -> None:
        if self._stage is Stage.OPEN:
            limit = self.listener.max_requests
            if self.listener.is_draining or (limit and self._requests >= limit):
                self._leave()
        elif self._stage is Stage.LEAVING and not self.downstreams and self.codec.went_away is not None:
            self._close()  # the other side wants no more either

    def _leave(self) -> None:
        self._stage = Stage.LEAVING
        self._age_at = NEVER
        self._last_at = self.reactor.now + GRACE
        self._idle_at = max(self._idle_at, self._last_at + GRACE)
        self.listener.told_to_go(code_name(NO_ERROR))
        self.codec.goaway(is_final=False)
        self.codec.ping(GOODBYE)

    def _close(self) -> None:
        if self._stage is not Stage.CLOSING:
            self._stage = Stage.CLOSING
            self._last_at = self._age_at = NEVER
            self._idle_at = self.reactor.now + GRACE
            self.codec.goaway()

    async def _cut_short(self, error: ProxyError) -> None:
        """Every exchange ends with this error, and a line in the log."""
        self._close()
        for fiber in list(self.fibers.values()):
            fiber.interrupt(error)
        for _ in range(STEPS):
            if not self.downstreams:
                break
            await self.reactor.yield_turn()
        self.outbox.flush()

    async def _linger(self) -> None:
        """What is left goes out, and is not lost to a reset because of what nobody read (RFC 9112 9.6)."""
        stream = self.stream
        if stream.is_closed or self._has_eof:
            return
        if self.reactor.is_turn_over():
            await self.reactor.yield_turn()  # what came may have cost more time than there is to linger
        self.fiber.arm(max(self.listener.linger_timeout, SOON), LINGER)
        self.outbox.flush()
        while self.outbox.is_stuck():
            await stream.writable
            self.outbox.flush()
        stream.send_eof()
        steps = 0
        while stream.recv(READ) != b"":
            steps += 1
            if not stream.may_read:
                await stream.readable
            elif steps % STEPS == 0:
                await self.reactor.yield_turn()

    # What came

    def _take(self, data: bytes) -> None:
        for event in self.codec.receive(data, self.reactor.now):
            self._obey(event)

    def _obey(self, event: Event) -> None:
        if isinstance(event, RequestArrived):
            self._request_arrived(event)
        elif isinstance(event, BodyArrived):
            self._body_arrived(event)
        elif isinstance(event, WindowOpened):
            if event.stream in self.downstreams:  # the connection's own is looked at with each flush
                self.outbox.window_opened(self.downstreams[event.stream])
        elif isinstance(event, TrailersArrived):
            self._trailers_arrived(event)
        elif isinstance(event, StreamReset):
            self._stream_reset(event)
        elif isinstance(event, SettingsChanged):
            self._settings_changed()
        elif isinstance(event, PingAnswered):
            self._ping_answered(event)
        elif isinstance(event, RequestRefused):
            self._request_refused(event)
        elif isinstance(event, ConnectionBroken):
            self._broken(event)

    def _request_arrived(self, event: RequestArrived) -> None:
        listener = self.listener
        if self._policy_forwarding is not listener.forwarding:  # a reload: whom we trust may have changed
            self._policy_forwarding = listener.forwarding
            self.forwarding = listener.forwarding.for_connection(self.stream.peer, self._scheme, self._port, HTTP2, self._identity)
        self._requests += 1
        number, request, has_ended = event.stream, event.head, event.has_ended
        request.scheme = self._scheme  # as it is, not as the client says
        listener.streams_changed(1)
        downstream = self.downstreams[number] = Http2Downstream(self, number, has_ended)
        downstream.bytes_in = len(request.headers.encode())
        self.fibers[number] = self.reactor.spawn(self._answer(downstream, request, self.reactor.now), "stream")

    async def _answer(self, downstream: Http2Downstream, request: RequestHead, began: float) -> None:
        """A stream's fiber."""
        downstream.settle(request)
        exchange = Exchange(self.listener, downstream, request, self.reactor.running(), began)
        try:
            await exchange.run()
        except (ProxyError, OSError, HungUp, Expired):
            pass  # the exchange has written down which
        except Exception:
            log.exception("a bug, in a stream of listener %s from %s", self.listener.policy.name, self.stream.peer)
            self.listener.faulted("connection")
        finally:
            exchange.finish()
            downstream.count_call(exchange.target)
            self._ended(downstream)

    def _ended(self, downstream: Http2Downstream) -> None:
        number = downstream.number
        downstream.finish()
        self.listener.streams_changed(-1)
        del self.downstreams[number], self.fibers[number]
        self.outbox.forget(number)
        if not self.downstreams:
            self._idle_at = self.reactor.now + max(self.listener.keepalive_timeout, SOON)
        self.touched()

    def _request_refused(self, event: RequestRefused) -> None:
        number, error, can_answer, head = event
        refusal = ProxyError(Side.DOWNSTREAM, error.reason, error.status if can_answer else 0, error.message)
        downstream = Http2Downstream(self, number, True)
        if can_answer:
            downstream.refuse(head, refusal)
        else:
            self.listener.stream_reset(PROTOCOL_ERROR)
        self.listener.refused(downstream, refusal, 0.0)

    def _body_arrived(self, event: BodyArrived) -> None:
        downstream = self.downstreams.get(event.stream)
        if downstream is not None:
            downstream.arrived(event.data, event.has_ended)

    def _trailers_arrived(self, event: TrailersArrived) -> None:
        downstream = self.downstreams.get(event.stream)
        if downstream is not None:
            downstream.trailers_arrived(event.trailers)

    def _stream_reset(self, event: StreamReset) -> None:
        self.listener.stream_reset(event.code)
        self.outbox.forget(event.stream)
        downstream = self.downstreams.get(event.stream)
        if downstream is not None:
            downstream.went_away()

    def _settings_changed(self) -> None:
        """Windows of all streams may have opened."""
        for downstream in self.downstreams.values():
            self.outbox.window_opened(downstream)

    def _ping_answered(self, event: PingAnswered) -> None:
        if event.data == GOODBYE and self._stage is Stage.LEAVING:
            self._close()

    def _broken(self, event: ConnectionBroken) -> None:
        self.listener.told_to_go(code_name(event.code))
        if event.flood:
            self.listener.flooded(event.flood)
        reason = "http2_flood" if event.flood else "http2_error"
        self.listener.refused(Http2Downstream(self, 0, True), failure(reason, event.message), 0.0)

    # What goes

    def acknowledge(self, number: int, size: int) -> None:
        """Somebody has taken so many bytes of a body."""
        self.codec.acknowledge(number, size)
        if self.codec.pending:
            self.touched()

    def reset(self, number: int, code: int) -> None:
        self.outbox.forget(number)
        if number in self.codec.streams:
            self.listener.stream_reset(code)
        self.codec.reset(number, code)
        self.touched()

    def offer(self, downstream: Http2Downstream) -> None:
        """It has something to send."""
        self.outbox.offer(downstream)
        self.touched()
