"""What follows a failed attempt: retry.py decides whether there may be another one, and here it is prepared and begun.

Where it goes, and when, is settled before anything of the failed one is thrown away, for an answer that has a status to try again on is
the client's when there is nobody else to ask. No endpoint gets the request twice while there is another one. Once all have been tried,
those come again of which it is certain that they have done nothing with it, or that live: who was silent, or died over it, does not.

All of it is rare, so nothing of it is kept in an exchange whose first attempt succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.admission import may_wait, wait_for_room
from lbd.proxy.dial import again
from lbd.proxy.endings import RESPONSE
from lbd.proxy.grpc import NOT_GRPC, status_among
from lbd.proxy.reasons import REASONS, failure
from lbd.proxy.retry import LOST_RACES, MOST_HERE, MOST_WAIT, Next, decide, pause, retry_after

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.proxy.exchange import Exchange
    from lbd.wire.message import ResponseHead

__all__ = ["FailedAttempts", "begin_another", "failures_of", "is_excused", "plan_after", "plan_another"]

TOO_MANY_REQUESTS = 429
DENIALS = {
    "budget": "the retry budget of {cluster} is used up",
    "deadline": "the time until then is longer than there is",
    "body": "its body was not kept (retry.max_body)",
    "endpoint": "there is no other endpoint",
}
TIMEOUTS = frozenset(reason for reason, known in REASONS.items() if known.side is Side.UPSTREAM and known.status == 504)


class FailedAttempts:
    """Of one exchange, and what follows them."""

    __slots__ = ("avoided", "counted", "error", "has_come_round", "next", "told", "tried", "wait")

    def __init__(self) -> None:
        self.tried: list[Endpoint] = []  # in this round
        self.avoided: list[Endpoint] = []  # in every round
        self.has_come_round = False  # all have been tried
        self.counted = 0  # of the attempts those that go off what is allowed
        self.error: ProxyError | None = None  # the latest
        self.told: list[str] = []  # for the log
        self.next: Endpoint | None = None  # where the next attempt goes; None: where there will be room
        self.wait = 0.0  # seconds until then


def failures_of(exchange: Exchange) -> FailedAttempts:
    if exchange.failed is None:
        exchange.failed = FailedAttempts()
    return exchange.failed


def plan_after(exchange: Exchange, head: ResponseHead) -> bool:
    """As plan_another(), when an answer has come whose status may be one to try again on."""
    rules = exchange.target.rules
    if head.status in rules.statuses:
        error = failure("upstream_status", f"it answered {head.status}", Retry.ANSWERED)
        return plan_another(exchange, error, head)
    if exchange.downstream.grpc_status != NOT_GRPC and (status := status_among(head.headers)) in rules.grpc:
        error = failure("upstream_status", f"it answered grpc-status {status}", Retry.SAID_UNDONE)
        return plan_another(exchange, error, head)
    return False


def plan_another(exchange: Exchange, error: ProxyError, head: ResponseHead | None = None) -> bool:
    """An attempt has failed: whether there will be another one, which begin_another() begins once this one is cleared away."""
    failed = failures_of(exchange)
    admission = exchange.endpoint.admission
    if admission is not None and error.reason in TIMEOUTS and not is_excused(exchange, error, exchange.endpoint):
        admission.dropped(exchange.reactor.now)
    is_end = error.retry is Retry.REUSED_ONLY or (error.retry is Retry.UNSENT_HERE and exchange.attempts < MOST_HERE)
    failed.counted += not is_end  # the end of a connection is no failure
    step = decide(
        error,
        rules=exchange.target.rules,
        method=exchange.request.method,
        is_unanswered=exchange.status == 0,
        attempts=exchange.attempts,
        failures=failed.counted,
    )
    if step is Next.GIVE_UP:
        return False
    denial = ""
    if not is_body_at_hand(exchange):
        denial = "body"
    elif step is Next.SAME_ENDPOINT and not exchange.endpoint.drained:
        failed.next, failed.wait = exchange.endpoint, 0.0
    else:
        denial = find_next(exchange, error, failed, head)
    if denial:
        exchange.listener.retry_denied(exchange.cluster_name, denial)
        error.message += f"; not tried again: {DENIALS[denial].format(cluster=exchange.cluster_name)}"
        if head is not None:
            exchange.detail = error.message
        return False
    exchange.needs_new = step is Next.SAME_ENDPOINT
    failed.error = again(error)
    failed.told.append(f"{exchange.endpoint.address} {error.reason if head is None else head.status}")
    return True


def is_excused(exchange: Exchange, error: ProxyError, endpoint: Endpoint) -> bool:
    """Whether a failure of an attempt at `endpoint` tells nothing against it.

    The total time is the endpoint's doing only where it alone has used it up. Were it always, clients that read slowly, or a queue, could
    have one endpoint after the other ejected.

    Who refuses a request over HTTP/2 has had enough of a connection (UNSENT_HERE), does not want this one in this way (NEVER), or has as
    much as it takes, if others are served there meanwhile. Who refuses everything is not well.
    """
    if error.reason == "total_timeout":
        return exchange.status != 0 or not exchange.upload_done or exchange.attempts > 1 or exchange.waited > 0
    if error.reason == "upstream_refused":
        return error.retry is not Retry.UNSENT or endpoint.pool.serves()
    return error.retry in LOST_RACES


def is_body_at_hand(exchange: Exchange) -> bool:
    if exchange.body is not None or exchange.upload is None:
        return True
    return exchange.kept is not None and not exchange.kept.is_lost


def find_next(exchange: Exchange, error: ProxyError, failed: FailedAttempts, head: ResponseHead | None) -> str:
    """Where and when the next attempt is made; if none can be, a word of DENIALS."""
    failed.tried.append(exchange.endpoint)
    if error.retry is Retry.UNANSWERED:
        failed.avoided.append(exchange.endpoint)
    if not has_next(exchange, failed, head is not None) and (head is not None or not has_last_resort(exchange, failed)):
        failed.tried, failed.has_come_round = list(failed.avoided), True
        if not has_next(exchange, failed, head is not None):
            return "endpoint"
    wanted = 0.0
    # A 503 speaks for its endpoint, a 429 for the service: who sends too much sends too much to all of them.
    if head is not None and (head.status == TOO_MANY_REQUESTS or failed.next is exchange.endpoint):
        wanted = retry_after(head.headers.get(b"retry-after"), exchange.listener.wall_clock())
    failed.wait = pause(exchange.target.rules, failed.counted, not failed.has_come_round, wanted, exchange.listener.random())
    now = exchange.reactor.now
    if failed.wait > MOST_WAIT or now + failed.wait >= exchange.total_at:
        return "deadline"
    return "" if exchange.target.budget.spend(now) else "budget"


def has_next(exchange: Exchange, failed: FailedAttempts, is_answered: bool) -> bool:
    """Finds an endpoint; where all are full, room to wait for one. Who has an answer in hand does not give it away for a place to wait."""
    failed.next = exchange.pick(failed.tried)
    return failed.next is not None or (not is_answered and may_wait(exchange.target, failed.tried))


def has_last_resort(exchange: Exchange, failed: FailedAttempts) -> bool:
    failed.next = exchange.target.last_resort(failed.tried)
    return failed.next is not None


def find_again(exchange: Exchange, failed: FailedAttempts) -> Endpoint | None:
    """Where the next attempt goes after a back-off: things may have changed meanwhile. None: where there will be room, if anywhere."""
    endpoint = exchange.pick(failed.tried)
    if endpoint is None and not may_wait(exchange.target, failed.tried):
        endpoint = exchange.target.last_resort(failed.tried)
    return endpoint or exchange.pick(failed.avoided)


async def begin_another(exchange: Exchange) -> None:
    """The attempt that plan_another() has planned, after its back-off. ProxyError: it finds no room; then the failure before says more."""
    failed, cluster = exchange.failed, exchange.target.cluster
    assert failed is not None
    assert failed.error is not None
    assert cluster is not None
    if exchange.upload is not None:  # cancelled; it must not take what the next one is to bring up
        exchange.arm(0.0, RESPONSE)
        await exchange.upload.done.wait()
    endpoint = failed.next
    if failed.wait > 0:
        exchange.guard()
        try:
            await exchange.reactor.sleep(failed.wait)
        finally:
            exchange.downstream.stream.guard = None
        endpoint = find_again(exchange, failed)
    if endpoint is None or (cluster.admission is not None and not cluster.admission.takes(endpoint)):
        try:
            endpoint = await wait_for_room(exchange, failed.tried)
        except ProxyError:
            raise failed.error from None
    else:
        endpoint.begin()
    exchange.endpoint = endpoint
    exchange.listener.retried(failed.error.reason)
    exchange.request.headers.set(b"X-Request-Attempt", b"%d" % (exchange.attempts + 1))
