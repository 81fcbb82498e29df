"""Hedging: when an attempt takes longer than most, a second one begins at another endpoint, and the first to answer is used. Only an error
of the second one waits until the first one has failed too: hedging must make nothing worse.

Only for safe methods without a body (RFC 9110 9.2.1): both endpoints may do the work. The second attempt is one of `retry.attempts` and
goes off the retry budget, so that a cluster that has become slow as a whole is not asked twice for everything.

The first attempt stays the exchange's own. The second one, the Rival, has a fiber, and only what it needs: if it wins, the exchange goes
on with its endpoint and connection. Who loses is cancelled: HTTP/1 closes the connection, HTTP/2 resets the stream.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from lbd.core.fiber import PAUSE, Expired, FiberCancelled
from lbd.core.timers import NEVER
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.dial import open_upstream
from lbd.proxy.endings import CONNECT, HEDGE, RESPONSE, TOTAL, timeout_failure
from lbd.proxy.proxied import introduction
from lbd.proxy.relay import IDLE, count_interim, relay_interim, send_interim
from lbd.proxy.retrying import failures_of, is_excused
from lbd.proxy.upgrades import agreed

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
    """The answer that comes first, of one attempt or two; exchange.upstream is where it came from. What was informational is relayed."""
    hedging, began = exchange.target.hedging, exchange.reactor.now
    assert hedging is not None
    is_first = exchange.failed is None
    delay = hedging.seconds if may_hedge(exchange) else 0.0
    if delay and (not exchange.head_timeout or delay < exchange.head_timeout):
        head = await Hedge(exchange).head(delay)
    else:
        head = await lone_head(exchange)
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


async def lone_head(exchange: Exchange) -> ResponseHead:
    upstream = exchange.upstream
    while True:
        head = upstream.maybe_head()
        if head is None:
            await upstream.stream.readable
        elif head.status >= 200 or head.status == 101:
            return head
        else:
            await relay_interim(exchange, head)


def maybe_head(upstream: Upstream) -> ResponseHead | None:
    """The next one, where nobody has asked for another protocol. ProxyError: also when there are too many."""
    head = upstream.maybe_head()
    if head is not None and head.status < 200:
        if head.status == 101:
            agreed(head, b"")
        count_interim(upstream)
    return head


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


def arm_until(exchange: Exchange, fiber: Fiber, deadline: float, kind: int) -> None:
    """As Exchange.arm(), at a moment, for any of its fibers."""
    fiber.arm_at(min(deadline, exchange.total_at), kind if deadline < exchange.total_at else TOTAL)


class Hedge:
    """One attempt's wait for its answer, with a rival from some time on."""

    __slots__ = ("_exchange", "_hinter", "_until", "_upstream")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._upstream = exchange.upstream
        self._until = exchange.reactor.now + exchange.head_timeout if exchange.head_timeout else NEVER  # of the first attempt
        self._hinter: Upstream | None = None  # whose hints the client has heard

    async def head(self, delay: float) -> ResponseHead:
        """The answer; a rival begins after `delay` without one."""
        exchange = self._exchange
        head = await self._own_head(exchange.reactor.now + delay)
        if head is None and (rival := begin_rival(exchange)) is not None:
            try:
                return await self._race(rival)
            finally:
                rival.end()
        while head is None:
            head = await self._own_head(NEVER)
        return head

    async def _own_head(self, hedge_at: float) -> ResponseHead | None:
        """None: it is time for a rival."""
        exchange, upstream = self._exchange, self._upstream
        while (head := maybe_head(upstream)) is None or head.status < 200:
            if head is not None:
                await self._relay(upstream, head)
                continue
            arm_until(exchange, exchange.fiber, min(hedge_at, self._until), HEDGE if hedge_at < self._until else RESPONSE)
            try:
                await upstream.stream.readable
            except Expired as expired:
                if expired.kind != HEDGE:
                    raise
                return None
        return head

    async def _race(self, rival: Rival) -> ResponseHead:
        """ProxyError, Expired: both have failed, and this is what the first one failed of."""
        exchange, upstream, failed = self._exchange, self._upstream, failures_of(self._exchange)
        error: ProxyError | None = None  # of the first attempt
        while True:
            if rival.hints:
                assert rival.upstream is not None
                await self._relay(rival.upstream, rival.hints.popleft())
                continue
            if error is None:
                try:
                    head = maybe_head(upstream)
                except ProxyError as broken:
                    error = broken
                else:
                    if head is not None and head.status >= 200:
                        return head
                    if head is not None:
                        await self._relay(upstream, head)
                        continue
            if rival.head is not None and (error is not None or rival.head.status < FAILED):
                failed.told.append(f"{exchange.endpoint.address} {error.reason if error is not None else OUTRUN}")
                rival.take_over(error)
                return rival.head
            if error is not None and rival.has_failed:
                raise error
            # After the first one's failure the rival has a time of its own.
            arm_until(exchange, exchange.fiber, self._until if error is None else NEVER, RESPONSE)
            try:
                if error is None:
                    await upstream.stream.readable
                else:
                    await PAUSE  # until the rival has something to say, or an end
            except Expired as expired:
                if expired.kind == TOTAL or rival.has_failed:
                    raise
                error = timeout_failure(exchange, expired.kind)

    async def _relay(self, upstream: Upstream, hint: ResponseHead) -> None:
        """To the client, unless it has heard the other one's. What it takes for that is not the endpoint's time."""
        exchange, began = self._exchange, self._exchange.reactor.now
        self._hinter = self._hinter or upstream
        if self._hinter is upstream:
            await send_interim(exchange, hint)
            self._until += exchange.reactor.now - began


class Rival:
    """The second attempt. It ends with a `head` or with an `error`, and wakes the exchange's fiber then, and for each of its `hints`."""

    __slots__ = (
        "_connect_seconds", "_exchange", "_fiber", "_has_won", "_is_reused", "_pool", "_sent_at", "endpoint", "error", "head", "hints",
        "upstream",
    )  # fmt: skip

    def __init__(self, exchange: Exchange, endpoint: Endpoint) -> None:
        self._exchange = exchange
        self.endpoint = endpoint
        self.head: ResponseHead | None = None
        self.error: ProxyError | None = None
        self.hints: deque[ResponseHead] = deque()  # no more than one upstream may send
        self.upstream: Upstream | None = None
        self._pool = endpoint.pool
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
        self.upstream = upstream
        self._sent_at = reactor.now
        exchange.send_on(upstream)
        while upstream.unsent:
            self._arm(target.idle_timeout, IDLE)
            await upstream.stream.writable
            upstream.send_more()
        self._arm(exchange.head_timeout, RESPONSE)
        while (head := maybe_head(upstream)) is None or head.status < 200:
            if head is None:
                await upstream.stream.readable
            else:
                self.hints.append(head)
                reactor.wake(exchange.fiber)
        return head

    def _arm(self, seconds: float, kind: int) -> None:
        reactor = self._exchange.reactor
        arm_until(self._exchange, reactor.running(), reactor.now + seconds if seconds > 0 else NEVER, kind)

    def take_over(self, error: ProxyError | None) -> None:
        """It has won: the exchange goes on with it. `error` is what the first attempt has failed of, if it has."""
        exchange = self._exchange
        assert self.upstream is not None
        self._has_won = True
        if error is None:
            exchange.endpoint.attempted(OUTRUN, True)
        elif error.side is Side.UPSTREAM:
            exchange.endpoint.attempted(error.reason, is_excused(exchange, error, exchange.endpoint))
        exchange.endpoint.end()
        exchange.go_on_with(self.endpoint, self.upstream, self._pool, self._sent_at)
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
            self.endpoint.attempted(outcome, error is None or is_excused(exchange, error, self.endpoint))
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
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            self._exchange.count(upstream)
            upstream.close()
