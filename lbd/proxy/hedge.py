"""Hedging: when an attempt takes longer than most, a second one begins at another endpoint, and the first to answer is used. Only an error
of the second one waits until the first one has failed too: hedging must make nothing worse.

Only for safe methods without a body (RFC 9110 9.2.1): both endpoints may do the work. The second attempt is one of `retry.attempts` and
goes off the retry budget, so that a cluster that has become slow as a whole is not asked twice for everything.

The first attempt stays the exchange's own. The second one, the Rival, has a fiber, and only what it needs: if it wins, the exchange goes
on with its endpoint and connection. Who loses is cancelled: HTTP/1 closes the connection, HTTP/2 resets the stream.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import PAUSE, Expired, FiberCancelled
from lbd.core.timers import NEVER
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.dial import open_upstream
from lbd.proxy.endings import CONNECT, HEDGE, RESPONSE, TOTAL, timeout_failure
from lbd.proxy.proxied import introduction
from lbd.proxy.relay import IDLE
from lbd.proxy.retrying import failures_of, is_excused

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.fiber import Fiber
    from lbd.proxy.exchange import Exchange
    from lbd.proxy.upstream import Upstream
    from lbd.wire.message import ResponseHead

__all__ = ["hedged_head"]

SAFE = frozenset([b"GET", b"HEAD", b"OPTIONS"])
OUTRUN = "outrun"  # the outcome of who loses
FAILED = 500  # a status from which on an answer is an error


async def hedged_head(exchange: Exchange) -> ResponseHead:
    """The first head that comes, an informational one included, of one attempt or two; exchange.upstream is where it came from."""
    hedging, began = exchange.target.hedging, exchange.reactor.now
    assert hedging is not None
    is_first = exchange.failed is None
    delay = hedging.seconds if may_hedge(exchange) else 0.0
    if delay and (not exchange.head_timeout or delay < exchange.head_timeout):
        head = await head_within(exchange, delay) or await raced_head(exchange, delay)
    else:
        head = await next_head(exchange)
    if is_first and exchange.request.method in SAFE:
        hedging.observe(exchange.reactor.now - began)
    return head


def may_hedge(exchange: Exchange) -> bool:
    return (
        exchange.request.method in SAFE
        and exchange.body == b""
        and not exchange.request.upgrade
        and (exchange.claim is None or exchange.claim.endpoint is not exchange.endpoint)  # whose session is there alone
        and exchange.attempts <= exchange.target.rules.attempts
    )


async def next_head(exchange: Exchange) -> ResponseHead:
    upstream = exchange.upstream
    while (head := upstream.maybe_head()) is None:
        await upstream.stream.readable
    return head


async def head_within(exchange: Exchange, delay: float) -> ResponseHead | None:
    exchange.arm(delay, HEDGE)
    try:
        return await next_head(exchange)
    except Expired as expired:
        if expired.kind != HEDGE:
            raise
    return None


async def raced_head(exchange: Exchange, delay: float) -> ResponseHead:
    """After `delay` without an answer."""
    exchange.arm(exchange.head_timeout - delay if exchange.head_timeout else 0.0, RESPONSE)
    rival = begin_rival(exchange)
    if rival is None:
        return await next_head(exchange)
    try:
        return await race(exchange, rival)
    finally:
        rival.end()


def begin_rival(exchange: Exchange) -> Rival | None:
    """The second attempt; None where there is no other endpoint, or no budget."""
    cluster = exchange.target.cluster
    assert cluster is not None
    failed = failures_of(exchange)
    endpoint = exchange.pick([exchange.endpoint, *failed.tried])
    if endpoint is None or (cluster.admission is not None and not cluster.admission.takes(endpoint)):
        return None
    if not exchange.target.budget.spend(exchange.reactor.now):
        exchange.listener.hedged(exchange.cluster_name, "denied")
        return None
    exchange.attempts += 1
    exchange.request.headers.set(b"X-Request-Attempt", b"%d" % exchange.attempts)
    return Rival(exchange, endpoint)


async def race(exchange: Exchange, rival: Rival) -> ResponseHead:
    """ProxyError, Expired: both have failed, and this is what the first one failed of."""
    upstream, failed = exchange.upstream, failures_of(exchange)
    error: ProxyError | None = None  # of the first attempt
    while True:
        if error is None:
            try:
                head = upstream.maybe_head()
            except ProxyError as broken:
                error = broken
                exchange.arm(0.0, RESPONSE)  # the rival has a time of its own
            else:
                if head is not None:
                    return head
        if rival.head is not None and (error is not None or rival.head.status < FAILED):
            failed.told.append(f"{exchange.endpoint.address} {error.reason if error is not None else OUTRUN}")
            rival.take_over(error.reason if error is not None and error.side is Side.UPSTREAM else OUTRUN)
            return rival.head
        if error is not None and rival.has_failed:
            raise error
        try:
            if error is None:
                await upstream.stream.readable
            else:
                await PAUSE  # until the rival has an end
        except Expired as expired:
            if expired.kind == TOTAL or rival.has_failed:
                raise
            error = timeout_failure(exchange, expired.kind)
            exchange.arm(0.0, RESPONSE)


class Rival:
    """The second attempt. It ends with a `head` or with an `error`, and wakes the exchange's fiber then."""

    __slots__ = (
        "_connect_seconds", "_exchange", "_fiber", "_has_won", "_is_reused", "_pool", "_sent_at", "_upstream", "endpoint", "error", "head",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, endpoint: Endpoint) -> None:
        self._exchange = exchange
        self.endpoint = endpoint
        self.head: ResponseHead | None = None
        self.error: ProxyError | None = None
        self._pool = endpoint.pool
        self._upstream: Upstream | None = None
        self._is_reused = False
        self._connect_seconds = -1.0
        self._sent_at = 0.0
        self._has_won = False
        endpoint.begin()
        self._fiber: Fiber = exchange.reactor.spawn(self._run(), "hedge")

    async def _run(self) -> None:
        exchange = self._exchange
        try:
            head = await self._ask()
        except ProxyError as error:
            self.error = error
        except Expired as expired:
            self.error = timeout_failure(exchange, expired.kind)
        except FiberCancelled:
            self._close()
            raise
        else:
            self.head = head
        finally:
            exchange.reactor.wake(exchange.fiber)

    @property
    def has_failed(self) -> bool:
        """Whatever it has ended with, it was no answer."""
        return self.head is None and self._fiber.coroutine is None

    async def _ask(self) -> ResponseHead:
        exchange = self._exchange
        reactor, target = exchange.reactor, exchange.target
        upstream: Upstream | None = self._pool.take(reactor.now)
        if upstream is None:
            began = reactor.now
            self._arm(target.connect_timeout, CONNECT)
            opening = introduction(exchange.downstream.source, target.send_proxy) if target.send_proxy else b""
            connect, timeout = exchange.listener.connect, target.connect_timeout
            upstream = await open_upstream(reactor, self.endpoint, connect, timeout, opening, may_switch=False)
            self._connect_seconds = reactor.now - began
        else:
            self._is_reused = True
            self.endpoint.reused()
        self._upstream = upstream
        self._sent_at = reactor.now
        exchange.send_on(upstream)
        while upstream.unsent:
            self._arm(target.idle_timeout, IDLE)
            await upstream.stream.writable
            upstream.send_more()
        self._arm(exchange.head_timeout, RESPONSE)
        while True:
            head = upstream.maybe_head()
            if head is None:
                await upstream.stream.readable
            elif head.status >= 200:
                return head

    def _arm(self, seconds: float, kind: int) -> None:
        exchange = self._exchange
        deadline = exchange.reactor.now + seconds if seconds > 0 else NEVER
        exchange.reactor.running().arm_at(min(deadline, exchange.total_at), kind if deadline < exchange.total_at else TOTAL)

    def take_over(self, outcome: str) -> None:
        """It has won: the exchange goes on with it. `outcome` is that of the first attempt."""
        exchange = self._exchange
        assert self._upstream is not None
        self._has_won = True
        exchange.endpoint.attempted(outcome, outcome == OUTRUN)
        exchange.endpoint.end()
        exchange.go_on_with(self.endpoint, self._upstream, self._pool, self._sent_at)
        exchange.is_reused = self._is_reused
        exchange.connect_seconds = self._connect_seconds
        exchange.listener.hedged(exchange.cluster_name, "won")

    def end(self) -> None:
        """Once, when the race is over."""
        exchange, error = self._exchange, self.error
        if self._has_won:
            return
        self._fiber.cancel()
        self._close()
        outcome = OUTRUN if error is None else error.reason
        told = outcome
        if self.head is not None and self.head.status >= FAILED:
            outcome, told = "upstream_status", str(self.head.status)
            self.endpoint.observe(exchange.reactor.now - self._sent_at, exchange.reactor.now, self.head.status)
        if error is None or error.side is Side.UPSTREAM:
            self.endpoint.attempted(outcome, error is None or is_excused(exchange, error))
        self.endpoint.end()
        failed = failures_of(exchange)
        failed.told.append(f"{self.endpoint.address} {told}")
        if error is not None:
            failed.counted += 1
            failed.tried.append(self.endpoint)
            if error.retry is Retry.UNANSWERED:
                failed.avoided.append(self.endpoint)
        exchange.listener.hedged(exchange.cluster_name, "lost" if error is None else "failed")

    def _close(self) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            self._exchange.count(upstream)
            upstream.close()
