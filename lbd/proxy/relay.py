"""Bodies on their way, both directions: in pieces of at most a window, or past us by splice when there is much to come.

Backpressure is the order of the calls: nothing is read from one side before the other has taken what was read last.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.splice import splice
from lbd.core.stream import Stream
from lbd.core.timers import SOON
from lbd.errors import ProxyError, Side
from lbd.proxy.endings import RESPONSE, SEND, timeout_failure
from lbd.proxy.grpc import NOT_GRPC
from lbd.proxy.pace import BODY, SLOW, UploadPace, wait_for_reader
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Pollable
    from lbd.proxy.exchange import Exchange
    from lbd.proxy.upstream import Upstream
    from lbd.wire.message import ResponseHead

__all__ = ["BODY", "IDLE", "count_interim", "finish_upload", "relay_body_down", "relay_interim", "run_upload", "send_interim"]

SPLICE_FROM = 128 * 1024  # bytes still to come from which on splicing is cheaper (docs/benchmarks.md)
MOST_INTERIM = 32  # 1xx responses to one request: more is an upstream gone mad
STEPS = 16  # reads of a body before other fibers get a turn, unless it is time before: chunks may be tiny

IDLE = 21  # a kind of deadline: nothing moves between the two
UPLOAD_LATE = {BODY: "body_timeout", SLOW: "upload_too_slow", IDLE: "upstream_stalled"}


async def run_upload(exchange: Exchange) -> None:
    """A fiber of its own: brings the request body up while the exchange's fiber waits for the response."""
    upstream = exchange.upstream
    if upstream is None:
        return  # the attempt ended before this fiber's first step; what the downstream sends now may be the next request's
    upload = exchange.reactor.running()
    try:
        await send_body_up(exchange, upload)
    except ProxyError as error:
        if error.side is Side.DOWNSTREAM:
            exchange.fiber.interrupt(error)
            return
        # The upstream takes no more; it may have answered before it closed, and the other fiber will see that or the end.
    except Expired as expired:
        reason = UPLOAD_LATE.get(expired.kind)
        exchange.fiber.interrupt(failure(reason) if reason else timeout_failure(exchange, expired.kind))
        return
    except OSError as error:
        exchange.fiber.interrupt(failure("downstream_closed", f"in the middle of a request body: {error.strerror}"))
        return
    else:
        exchange.upload_done = True
    if exchange.first_byte_seconds < 0:
        exchange.arm(exchange.head_timeout, RESPONSE)


async def finish_upload(exchange: Exchange, upload: Fiber | None) -> None:
    """The upstream has answered before it had the whole body; what is little enough still goes up, to save both connections."""
    downstream = exchange.downstream
    if downstream.keep_alive and upload is not None:
        exchange.arm(max(exchange.listener.linger_timeout, SOON), SEND)  # 0 s is a time here
        try:
            await upload.done.wait()
        except Expired:
            pass
    if not exchange.upload_done:
        downstream.keep_alive = False


async def send_body_up(exchange: Exchange, upload: Fiber) -> None:
    """Request body, downstream to upstream. OSError: the downstream broke. ProxyError: either side."""
    downstream, upstream, route = exchange.downstream, exchange.upstream, exchange.route
    limit, kept = exchange.body_limit(route), exchange.kept
    pace = UploadPace(exchange, upload)
    steps = 0
    if kept is not None and (kept.pieces or downstream.body_ended):  # an earlier attempt has taken so much
        upstream.send_body(kept.whole(), downstream.body_ended, downstream.trailers)
        await send_rest(exchange, upload, upstream)
    while not downstream.body_ended:
        remaining = downstream.body_remaining()
        if remaining >= SPLICE_FROM and upstream.is_spliceable() and (kept is None or not kept.takes(remaining)):
            await splice_up(exchange, upload, upstream, pace)
            continue
        payload = downstream.maybe_body(exchange.listener.window)
        if payload is None:
            await wait_for_body(exchange, upload, pace)
            continue
        if limit and downstream.body_received > limit:
            raise failure("request_too_large", f"the body is above {limit} bytes")
        if kept is not None:
            kept.add(payload)
        upstream.send_body(payload, downstream.body_ended, downstream.trailers)
        await send_rest(exchange, upload, upstream)
        steps += 1
        if (steps % STEPS == 0 or exchange.reactor.is_turn_over()) and not downstream.body_ended:
            upload.arm(exchange.listener.body_timeout, BODY)  # anew, though it has not been waited for
            await exchange.reactor.yield_turn()
    upload.disarm()


async def send_rest(exchange: Exchange, upload: Fiber, upstream: Upstream) -> None:
    while upstream.unsent:
        upload.arm(exchange.target.idle_timeout, IDLE)
        await upstream.stream.writable
        upstream.send_more()


async def wait_for_body(exchange: Exchange, upload: Fiber, pace: UploadPace) -> None:
    """More of it. A client that expects a 100 may wait for it with the whole body, and until then it is the upstream's turn."""
    downstream, upstream = exchange.downstream, exchange.upstream
    if exchange.request.expect_continue and downstream.body_received == 0 and upstream.interim == 0:
        upload.arm(exchange.target.response_timeout, RESPONSE)
        try:
            await downstream.stream.readable
        except Expired:
            if upstream.interim == 0:
                raise
        else:
            return
    if downstream.grpc_status != NOT_GRPC:
        await wait_in_call(exchange, upload, downstream.stream)
        return
    pace.begin()
    try:
        await downstream.stream.readable
    except Expired as expired:
        if expired.kind != SLOW or not pace.is_excused():
            raise
    pace.end()


async def wait_in_call(exchange: Exchange, fiber: Fiber, stream: Pollable) -> None:
    """For more, in a call of gRPC. It is a conversation: one side may be silent for as long as the other one speaks. How long both may be
    is the route's to say, and once the server has begun to answer it is that side's deadline that says it."""
    downstream, is_upload = exchange.downstream, fiber is not exchange.fiber
    while True:
        moved = downstream.body_received + downstream.bytes_out
        if is_upload:
            fiber.arm(0.0 if exchange.first_byte_seconds >= 0 else exchange.target.idle_timeout, BODY)
        else:
            exchange.arm(exchange.target.idle_timeout, IDLE)
        try:
            await stream.readable
            return
        except Expired as expired:
            has_moved = downstream.body_received + downstream.bytes_out > moved
            if expired.kind not in (BODY, IDLE) or not (has_moved or (is_upload and exchange.first_byte_seconds >= 0)):
                raise


async def splice_up(exchange: Exchange, upload: Fiber, upstream: Upstream, pace: UploadPace) -> None:
    downstream = exchange.downstream

    def moved(count: int) -> None:
        downstream.body_spliced(count)
        upstream.bytes_out += count
        pace.end()
        pace.begin()

    async def stuck() -> None:
        pace.end()
        upload.arm(exchange.target.idle_timeout, IDLE)
        await upstream.stream.writable

    pace.begin()
    wanted, window = downstream.body_remaining(), exchange.listener.window
    try:
        got = await splice(bytes_of(downstream.stream), bytes_of(upstream.stream), wanted, window, moved, stuck=stuck)
    except OSError as error:
        if error.filename == "sink":
            raise upstream.broken("upstream_reset", f"sending failed: {error.strerror}") from error
        raise
    except Expired as expired:
        if expired.kind != SLOW or not pace.is_excused():
            raise
        return  # nothing of it is in our hands; the next step has more patience
    if got < wanted:
        raise failure("downstream_closed", "closed in the middle of a request body")


async def relay_interim(exchange: Exchange, head: ResponseHead) -> None:
    """A 1xx response."""
    count_interim(exchange.upstream)
    await send_interim(exchange, head)


def count_interim(upstream: Upstream) -> None:
    upstream.interim += 1
    if upstream.interim > MOST_INTERIM:
        raise failure("bad_response", f"more than {MOST_INTERIM} interim responses")


async def send_interim(exchange: Exchange, head: ResponseHead) -> None:
    """HTTP/1.0 does not know them (RFC 9110 15.2)."""
    if exchange.request.minor > 0:
        exchange.downstream.send_informational(head)
        if exchange.downstream.unsent:
            await exchange.flush()
            exchange.await_head()


async def relay_body_down(exchange: Exchange, upstream: Upstream) -> None:
    """Response body, upstream to downstream, after the head and what came with it. OSError: the downstream broke."""
    downstream = exchange.downstream
    steps = 0
    while not upstream.body_ended:
        if upstream.body_remaining() >= SPLICE_FROM and downstream.is_spliceable():
            await splice_down(exchange, upstream)
            continue
        data = upstream.maybe_body(exchange.listener.window)
        if data is None and downstream.grpc_status != NOT_GRPC:
            await wait_in_call(exchange, exchange.fiber, upstream.stream)
            continue
        if data is None:
            exchange.arm(exchange.target.idle_timeout, IDLE)
            await upstream.stream.readable
            continue
        downstream.send_body(data, upstream.body_ended, upstream.trailers)
        if downstream.unsent:
            await exchange.flush()
        steps += 1
        if (steps % STEPS == 0 or exchange.reactor.is_turn_over()) and not upstream.body_ended:
            exchange.arm(exchange.target.idle_timeout, IDLE)  # anew, though it has not been waited for
            await exchange.reactor.yield_turn()


async def splice_down(exchange: Exchange, upstream: Upstream) -> None:
    downstream, timeout = exchange.downstream, exchange.target.idle_timeout

    def moved(count: int) -> None:
        upstream.body_spliced(count)
        downstream.bytes_out += count
        exchange.arm(timeout, IDLE)

    exchange.arm(timeout, IDLE)
    wanted, window = upstream.body_remaining(), exchange.listener.window
    try:
        got = await splice(
            bytes_of(upstream.stream), bytes_of(downstream.stream), wanted, window, moved, stuck=partial(wait_for_reader, exchange)
        )
    except OSError as error:
        if error.filename == "source":
            raise upstream.broken("upstream_reset", f"it reset the connection: {error.strerror}") from error
        raise
    if got < wanted:
        raise failure("upstream_truncated", f"it closed with {wanted - got} bytes of the body still to come")


def bytes_of(stream: Pollable) -> Stream:
    """What is spliced is a connection of its own."""
    assert isinstance(stream, Stream)
    return stream
