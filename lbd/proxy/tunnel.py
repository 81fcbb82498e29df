"""A tunnel: after a 101 bytes pass both ways as they are, until both sides have said that they are done.

Theory of operation
-------------------
The exchange's fiber carries what comes down, a second fiber what goes up; each reads a piece, and reads no more before the other
side has taken it. A piece is small at first, for messages mostly are, and a tunnel that is idle holds nothing. Where pieces come
full there is much to move: between two sockets it goes by splice, as long as it lasts.

An end of one direction is handed on and leaves the other open (a half-close is how some protocols say "that was all I ask"). The
tunnel ends with the second one, with whatever breaks, with its own two limits (no byte in either direction; age), or with a drain
that has waited long enough. No limit of requests holds here, and no connection of a tunnel is ever used again.

Both sides are seen as any exchange sees them, with raw bytes for bodies: so a stream of HTTP/2 may be either.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.splice import splice
from lbd.core.stream import Stream
from lbd.core.timers import NEVER
from lbd.errors import ProxyError
from lbd.proxy.pump import watch
from lbd.proxy.reasons import failure
from lbd.proxy.relay import IDLE
from lbd.proxy.upgrades import agreed

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Pollable
    from lbd.proxy.exchange import Exchange
    from lbd.wire.message import ResponseHead

__all__ = ["run_tunnel"]

PIECE = 16 * 1024  # first reads; core/syscalls.pyx copies those instead of resizing
STEPS = 16  # pieces before other fibers get a turn
FULL = 2  # full windows in a row after which splicing is worth its pipe

QUIET, AGE = 30, 31  # kinds of deadlines


async def run_tunnel(exchange: Exchange, head: ResponseHead, upload: Fiber | None) -> None:
    """From the upstream's 101 to the end of both sides. ProxyError: it may not switch, or the tunnel ended otherwise.

    `upload` brings a request body up that may still be on its way: the tunnel begins behind its last byte.
    """
    agreed(head, exchange.request.upgrade)
    listener = exchange.listener
    if not exchange.upload_done and upload is not None:
        exchange.arm(0.0, IDLE)  # it has deadlines of its own
        await upload.done.wait()
        if not exchange.upload_done:
            raise exchange.upstream.broken("upstream_closed", "it closed the connection in the middle of the request's body")
    exchange.downstream.stream.guard = None  # from here on one that says no more may still listen
    tunnel = Tunnel(exchange)
    tunnel.open(head)
    listener.tunnel_opened()
    try:
        await tunnel.run()
    except Expired as expired:
        if expired.kind == AGE:
            raise failure("tunnel_lifetime") from None
        raise failure("tunnel_idle", f"no byte moved within {listener.tunnel_idle:g} s") from None
    finally:
        listener.tunnel_closed()


class Tunnel:
    """The two directions of one exchange that has switched."""

    __slots__ = (
        "_dies_at", "_down", "_downstream", "_exchange", "_fiber", "_is_spliceable", "_limit_down", "_limit_up", "_listener", "_reactor",
        "_up", "_upstream", "_watcher", "_window",
    )  # fmt: skip

    def __init__(self, exchange: Exchange) -> None:
        listener = exchange.listener
        self._exchange = exchange
        self._listener = listener
        self._reactor = exchange.reactor
        self._up = 0  # bytes carried so far
        self._down = 0
        self._fiber = exchange.fiber
        self._downstream = exchange.downstream
        self._upstream = exchange.upstream
        self._watcher: Fiber | None = None  # of the side that has ended first
        self._window = listener.window
        self._limit_up = self._limit_down = min(PIECE, listener.window)
        self._dies_at = self._reactor.now + listener.tunnel_lifetime if listener.tunnel_lifetime > 0 else NEVER
        # Two connections of their own; a stream of HTTP/2 has none to splice.
        self._is_spliceable = isinstance(self._downstream.stream, Stream) and isinstance(self._upstream.stream, Stream)

    def open(self, head: ResponseHead) -> None:
        """Hands the 101 on, and in the same write what the upstream has said behind it."""
        exchange, downstream = self._exchange, self._downstream
        exchange.answered(head)
        said = self._upstream.switch()
        exchange.status = downstream.switch(exchange.request, head, downstream.forwarding.response_fields[head.minor], said)
        exchange.target.answered(exchange.status, exchange.first_byte_seconds)
        exchange.is_tunnel = True
        self._carried(0, len(said))

    async def run(self) -> None:
        up = self._reactor.spawn(self._pump_up(), "tunnel")
        try:
            await self._pump_down()
            if up.coroutine is not None:
                broken = self._upstream.broken("upstream_reset", "it reset the connection after the end of what it had to say")
                self._watcher = self._reactor.spawn(watch(self._upstream.stream, up, self._fiber, broken), "watch")
                await up.done.wait()
        finally:
            up.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
            self._exchange.tunnelled_up, self._exchange.tunnelled_down = self._up, self._down

    # Upwards

    async def _pump_up(self) -> None:
        """A fiber of its own. What goes wrong here ends the other one."""
        try:
            await self._relay_up()
        except (ProxyError, OSError) as error:
            self._fiber.interrupt(error)
        else:
            if self._watcher is None:
                gone = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                self._watcher = self._reactor.spawn(watch(self._downstream.stream, self._fiber, self._fiber, gone), "watch")

    async def _relay_up(self) -> None:
        upstream, downstream, reactor = self._upstream, self._downstream, self._reactor
        steps = full = 0
        while not downstream.body_ended:
            size = self._carry_up()
            if size < 0:
                await downstream.stream.readable
                continue
            while upstream.unsent:
                await upstream.stream.writable
                upstream.send_more()
                self._carried(0, 0)
            full = full + 1 if size >= self._window else 0
            if full >= FULL and self._is_spliceable:
                await self._splice_up()
                full = 0
            steps += 1
            if steps % STEPS == 0 or reactor.is_turn_over():
                await reactor.yield_turn()
        upstream.send_eof()

    def _carry_up(self) -> int:
        """One piece: its size, -1 when there is none yet."""
        data = self._downstream.maybe_body(self._limit_up)
        if data is None:
            return -1
        size = len(data)
        if size:
            self._limit_up = self._window if size >= self._limit_up else PIECE
            self._upstream.send_body(data, False, None)
            self._carried(size, 0)
        return size

    async def _splice_up(self) -> None:
        """For as long as every burst is worth the pipe."""
        source, sink = bytes_of(self._downstream.stream), bytes_of(self._upstream.stream)
        try:
            while await splice(source, sink, -1, self._window, self._spliced_up, waits=False) >= self._window:
                await source.readable
        except OSError as error:
            if error.filename == "sink":
                raise self._upstream.broken("upstream_reset", f"sending failed: {error.strerror}") from error
            raise

    def _spliced_up(self, size: int) -> None:
        self._downstream.bytes_in += size
        self._upstream.bytes_out += size
        self._carried(size, 0)

    # Downwards

    async def _pump_down(self) -> None:
        upstream, downstream, reactor = self._upstream, self._downstream, self._reactor
        steps = full = size = 0
        while True:
            while downstream.unsent:
                await downstream.stream.writable
                downstream.send_more()
                self._carried(0, 0)
            full = full + 1 if size >= self._window else 0
            if full >= FULL and self._is_spliceable:
                await self._splice_down()
                full = 0
            if upstream.body_ended:
                break
            size = self._carry_down()
            if size < 0:
                await upstream.stream.readable
                continue
            steps += 1
            if steps % STEPS == 0 or reactor.is_turn_over():
                await reactor.yield_turn()
        downstream.send_eof()

    def _carry_down(self) -> int:
        """As _carry_up()."""
        data = self._upstream.maybe_body(self._limit_down)
        if data is None:
            return -1
        size = len(data)
        if size:
            self._limit_down = self._window if size >= self._limit_down else PIECE
            self._downstream.send_body(data, False, None)
            self._carried(0, size)
        return size

    async def _splice_down(self) -> None:
        """As _splice_up()."""
        source, sink = bytes_of(self._upstream.stream), bytes_of(self._downstream.stream)
        try:
            while await splice(source, sink, -1, self._window, self._spliced_down, waits=False) >= self._window:
                await source.readable
        except OSError as error:
            if error.filename == "source":
                raise self._upstream.broken("upstream_reset", f"it reset the connection: {error.strerror}") from error
            raise

    def _spliced_down(self, size: int) -> None:
        self._upstream.bytes_in += size
        self._downstream.bytes_out += size
        self._carried(0, size)

    def _carried(self, up: int, down: int) -> None:
        """Something has moved: counted at once, for a tunnel may last for days; and both directions have their time from now on."""
        self._up += up
        self._down += down
        self._listener.moved(up, down, down, up)
        idle = self._listener.tunnel_idle
        deadline = self._reactor.now + idle if idle > 0 else NEVER
        if deadline < self._dies_at:
            self._fiber.arm_at(deadline, QUIET)
        else:
            self._fiber.arm_at(self._dies_at, AGE)


def bytes_of(stream: Pollable) -> Stream:
    assert isinstance(stream, Stream)
    return stream
