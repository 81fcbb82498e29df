"""A downstream HTTP/1 connection: read a head, let an Exchange answer it, repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.timers import SOON
from lbd.errors import ProxyError
from lbd.proxy.answers import encode_answer, error_answer
from lbd.proxy.exchange import Exchange
from lbd.proxy.http1_downstream import Http1Downstream
from lbd.proxy.opening import DRAIN_GRACE
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from lbd.proxy.connection import Connection
    from lbd.proxy.listening import Listener
    from lbd.wire.message import RequestHead

__all__ = ["Http1Connection"]

STEPS = 16  # requests, or reads, before other fibers get a turn
KEEPALIVE, HEAD, LINGER = 1, 2, 3  # kinds of deadlines; the exchange has its own

TLS_RECORD = b"\x16\x03"  # the beginning of a handshake's, whatever its version (RFC 8446 5.1)
PREFACE = b"PRI * HTTP/2.0\r\n\r\n"  # of HTTP/2's; what follows it, "SM\r\n\r\n", may come later (RFC 9113 3.4)


class Http1Connection:
    """The part of a connection's fiber that speaks HTTP/1."""

    __slots__ = ("_began", "_is_plain", "downstream", "fiber", "listener", "reactor", "stream")

    def __init__(self, connection: Connection) -> None:
        self.listener: Listener = connection.listener
        self.stream: Stream = connection.stream
        self.reactor: Reactor = connection.reactor
        self.fiber: Fiber = connection.fiber
        self.downstream = Http1Downstream(self.listener, self.stream, connection.scheme, connection.port, connection.identity)
        self.downstream.source = connection
        if connection.early:
            self.downstream.buffer = connection.early
            self.downstream.bytes_in = len(connection.early)
        self._began = 0.0  # when the first byte of the request at hand was seen
        self._is_plain = connection.scheme == b"http"  # else ALPN has said which protocol it is (RFC 9113 3.2)

    async def serve(self) -> bool:
        """Until the connection is to be closed; True when it speaks HTTP/2, and `downstream.buffer` has its first bytes."""
        downstream, listener = self.downstream, self.listener
        try:
            while downstream.keep_alive:
                request = await self._read_request()
                if request is None:
                    return False
                exchange = Exchange(listener, downstream, request, self.fiber, self._began)
                try:
                    await exchange.run()
                finally:
                    exchange.finish()
                # Requests may be there as fast as we answer them.
                if downstream.requests % STEPS == 0 or (downstream.buffer and self.reactor.is_turn_over()):
                    self.fiber.disarm()
                    await self.reactor.yield_turn()
        except ProxyError as error:
            listener.heads.pop(self.fiber, None)
            first = downstream.buffer if downstream.requests == 0 else b""
            if first.startswith(PREFACE) and self._is_plain and listener.policy.http2.enabled:
                return True
            self._refuse(failure("tls_to_plain") if first.startswith(TLS_RECORD) else error)
        await self._linger()
        return False

    async def _read_request(self) -> RequestHead | None:
        """The next request; None when the downstream has closed, or was idle for too long. ProxyError: not a request."""
        downstream, listener, fiber = self.downstream, self.listener, self.fiber
        is_waiting = False  # for a first byte
        is_timed = False
        self._began = self.reactor.now
        while True:
            if downstream.buffer:
                request = downstream.maybe_request()
                if request is not None:
                    if is_timed:
                        listener.heads.pop(fiber, None)
                    return request
                is_waiting = False
                if not is_timed:  # as a whole, not each read of it
                    is_timed = True
                    listener.heads[fiber] = self.reactor.now
                    fiber.arm(listener.head_timeout, HEAD)
            elif not is_waiting:
                is_waiting = True
                self._wait_for_request()
            received = downstream.receive() if self.stream.may_read else -1
            if received > 0:
                if is_waiting:
                    listener.idle.pop(fiber, None)
                    self._began = self.reactor.now
            elif received == 0:
                if downstream.buffer:
                    raise failure("downstream_closed", "closed in the middle of a request head")
                return None
            else:
                try:
                    await self.stream.readable
                except Expired:
                    if not downstream.buffer:
                        return None
                    raise failure("header_timeout", f"no whole request head within {listener.head_timeout:g} s") from None

    def _wait_for_request(self) -> None:
        listener, fiber = self.listener, self.fiber
        listener.idle[fiber] = False
        if listener.is_draining:
            fiber.arm(DRAIN_GRACE, KEEPALIVE)
        elif self.downstream.requests:
            fiber.arm(listener.keepalive_timeout or SOON, KEEPALIVE)
        else:
            fiber.arm(listener.head_timeout, KEEPALIVE)

    def _refuse(self, error: ProxyError) -> None:
        """What never became an exchange: 400, 408, 414, 431, 501, 505; then the connection ends. OSError: it has."""
        downstream, listener = self.downstream, self.listener
        downstream.keep_alive = False
        listener.refused(downstream, error, self.reactor.now - self._began)
        if error.status == 0:
            self.stream.close()
        else:
            downstream.send(encode_answer(error_answer(error, listener.shows_reason, listener.wall_clock())))

    async def _linger(self) -> None:
        """Reads on for a moment after the last answer: closing with unread bytes would reset it away (RFC 9112 9.6)."""
        downstream, stream = self.downstream, self.stream
        if stream.is_closed:
            return
        self.fiber.arm(self.listener.linger_timeout or SOON, LINGER)
        while downstream.unsent:
            await stream.writable
            downstream.send_more()
        if downstream.body_ended and not downstream.buffer and downstream.requests and not stream.may_read:
            return
        stream.send_eof()
        steps = 0
        while downstream.receive() != 0:
            downstream.buffer = b""
            steps += 1
            if not stream.may_read:
                await stream.readable
            elif steps % STEPS == 0:  # one that sends without end is cut off too
                await self.reactor.yield_turn()
