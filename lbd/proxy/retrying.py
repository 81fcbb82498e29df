"""What follows a failed attempt: retry.py decides whether there is to be another one, and here it is prepared.

All of it is rare, so nothing of it is kept in an exchange whose first attempt succeeds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import Retry, Side
from lbd.proxy.retry import IDEMPOTENT, Next, decide

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.errors import ProxyError
    from lbd.proxy.exchange import Exchange

__all__ = ["FailedAttempts", "begin_another", "plan_another"]


class FailedAttempts:
    """Of one exchange."""

    __slots__ = ("counted", "next", "reason", "tried")

    def __init__(self) -> None:
        self.tried: list[Endpoint] = []  # which get no more of it
        self.counted = 0  # of the attempts those that go off what is allowed
        self.reason = ""  # of the latest
        self.next: Endpoint | None = None  # where the next attempt goes


def plan_another(exchange: Exchange, error: ProxyError) -> bool:
    """An attempt has failed: whether there will be another one, which begin_another() begins once this one is cleared away."""
    failed = exchange.failed
    if failed is None:
        failed = exchange.failed = FailedAttempts()
    endpoint = exchange.endpoint
    if error.side is Side.UPSTREAM:
        endpoint.attempted(error.reason)
    failed.reason = error.reason
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
    return failed.next is not None


async def begin_another(exchange: Exchange) -> None:
    """The attempt that plan_another() has planned."""
    failed = exchange.failed
    assert failed is not None
    assert failed.next is not None
    exchange.endpoint = failed.next
    exchange.listener.retried(failed.reason)
