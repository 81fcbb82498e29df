"""How an exchange ends when no upstream's response ends it: an answer of our own, or the connection cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.timers import NEVER
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.answers import Answer, error_answer
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.proxy.exchange import Exchange
    from lbd.routing.route import Route

__all__ = ["CONNECT", "HEDGE", "QUEUE", "RESPONSE", "SEND", "TOTAL", "answer_error", "answer_locally", "note_gone", "timeout_failure"]

CONNECT, RESPONSE, TOTAL, SEND, QUEUE, HEDGE = 10, 11, 12, 13, 14, 15  # kinds of deadlines, beside those of relay.py


def answer_locally(exchange: Exchange, route: Route) -> None:
    """A fixed response or a redirect."""
    now = exchange.listener.wall_clock()
    spare_body(exchange)
    if route.redirect is not None:
        answer = Answer(route.redirect.status, b"Location: " + route.redirect_location(exchange.request) + b"\r\n", b"", now)
    else:
        response = route.response
        assert response is not None
        answer = Answer(response.status, response.fields, response.body, now)
    exchange.status = answer.status
    exchange.downstream.answer(exchange.request, answer)


async def answer_error(exchange: Exchange, error: ProxyError) -> None:
    """The client's answer to what went wrong, if there still can be one."""
    downstream, listener, request = exchange.downstream, exchange.listener, exchange.request
    downstream.stream.guard = None
    exchange.reason = error.reason
    exchange.detail = error.message
    listener.rejected(error.reason)
    if downstream.head_sent or error.status == 0:
        downstream.fail(error)
        return
    exchange.status = error.status
    spare_body(exchange)
    if error.side is Side.DOWNSTREAM and error.reason != "no_route":
        downstream.keep_alive = False
    exchange.total_at = NEVER
    try:
        downstream.answer(request, error_answer(error, listener.shows_reason, listener.wall_clock()))
        await exchange.flush()
    except (OSError, Expired, ProxyError):  # it is not taken, or a drain has come to its end; what was wrong first is written down
        downstream.cut()
    exchange.fiber.disarm()


def note_gone(exchange: Exchange, reason: str, detail: str) -> None:
    """Nobody is left to be answered."""
    exchange.reason = reason
    exchange.detail = detail
    exchange.listener.rejected(reason)
    exchange.downstream.cut()


def spare_body(exchange: Exchange) -> None:
    """A body that nobody wants: dropped when it is here, otherwise the connection ends with this answer."""
    downstream = exchange.downstream
    if not downstream.body_ended and (downstream.body_received or downstream.whole_body(exchange.request) is None):
        downstream.keep_alive = False


def timeout_failure(exchange: Exchange, kind: int) -> ProxyError:
    """Whose fault it is that a deadline has passed."""
    target, downstream = exchange.target, exchange.downstream
    if kind == CONNECT:
        return failure("connect_timeout", f"no connection within {target.connect_timeout:g} s", Retry.UNSENT)
    if kind == RESPONSE:
        return failure("response_timeout", f"no response head within {exchange.head_timeout:g} s", Retry.UNANSWERED)
    if kind == TOTAL and exchange.total_at == downstream.deadline:
        return failure("deadline_exceeded", f"not done within the {downstream.deadline - exchange.started:g} s that the client waits")
    if kind == TOTAL:
        return failure("total_timeout", f"not done within {target.total_timeout:g} s")
    if kind == SEND or downstream.unsent or not downstream.stream.may_write:
        return failure("downstream_stalled")
    return failure("upstream_stalled", f"no byte moved within {target.idle_timeout:g} s", Retry.UNANSWERED)
