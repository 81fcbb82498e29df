"""What follows a failed attempt: retry.py decides whether there is to be another one, and here it is prepared.

All of it is rare, so nothing of it is kept in an exchange whose first attempt succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.admission import may_wait, wait_for_room
from lbd.proxy.dial import again
from lbd.proxy.retry import IDEMPOTENT, LOST_RACES, Next, decide

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.proxy.exchange import Exchange

__all__ = ["FailedAttempts", "begin_another", "plan_another"]


class FailedAttempts:
    """Of one exchange."""

    __slots__ = ("counted", "error", "next", "tried")

    def __init__(self) -> None:
        self.tried: list[Endpoint] = []  # which get no more of it
        self.counted = 0  # of the attempts those that go off what is allowed
        self.error: ProxyError | None = None  # the latest
        self.next: Endpoint | None = None  # where the next attempt goes


def plan_another(exchange: Exchange, error: ProxyError) -> bool:
    """An attempt has failed: whether there will be another one, which begin_another() begins once this one is cleared away."""
    failed = exchange.failed
    if failed is None:
        failed = exchange.failed = FailedAttempts()
    endpoint = exchange.endpoint
    if error.side is Side.UPSTREAM:
        endpoint.attempted(error.reason, error.retry in LOST_RACES)
    failed.error = again(error)
    failed.counted += not (exchange.is_reused or error.retry is Retry.UNSENT_HERE)
    step = decide(
        error,
        is_idempotent=exchange.request.method in IDEMPOTENT,
        can_replay=exchange.status == 0 and (exchange.body is not None or exchange.upload is None),
        attempts=exchange.attempts,
        failures=failed.counted,
        allowed=exchange.target.attempts_allowed,
    )
    if step is Next.GIVE_UP:
        return False
    exchange.needs_new = step is Next.SAME_ENDPOINT
    if step is Next.SAME_ENDPOINT:
        failed.next = endpoint
    else:
        failed.tried.append(endpoint)
        failed.next = exchange.pick(failed.tried)
    return failed.next is not None or may_wait(exchange.target, failed.tried)


async def begin_another(exchange: Exchange) -> None:
    """The attempt that plan_another() has planned. ProxyError: it finds no room; then the failure before says more."""
    failed = exchange.failed
    assert failed is not None
    assert failed.error is not None
    cluster = exchange.target.cluster
    assert cluster is not None
    endpoint = failed.next
    if endpoint is None or (cluster.admission is not None and not cluster.admission.takes(endpoint)):
        try:
            endpoint = await wait_for_room(exchange, failed.tried)
        except ProxyError:
            raise failed.error from None
    else:
        endpoint.begin()
    exchange.endpoint = endpoint
    exchange.listener.retried(failed.error.reason)
