"""After a failed attempt: may the request be sent again, and where? Decided without touching anything.

The full retry policy (statuses, budgets, back-off) will grow here; what holds already:

- Not one byte reached an upstream (connect failed): any method goes to the next candidate.
- The upstream has done with a connection that has served others, and says that it has not looked at this request (GOAWAY,
  REFUSED_STREAM; RFC 9113 8.7): any method goes to the same endpoint again, on another connection, and that does not count. An endpoint
  that ends its connections after few requests may do so several times in a row.
- A kept-alive connection died before any answer: most likely the upstream closed it while our request was on its way
  (RFC 9112 9.3.1). An idempotent request goes to the same endpoint again, on a new connection, and that does not count.
- A new connection died before any answer: an idempotent request goes to the next candidate.
- Everything else, and a body that is not in memory any more, is never sent twice.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from lbd.errors import Retry

if TYPE_CHECKING:
    from lbd.errors import ProxyError

__all__ = ["IDEMPOTENT", "LOST_RACES", "Next", "decide"]

# RFC 9110 9.2.2: PUT and DELETE too.
IDEMPOTENT = frozenset([b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"])

# A connection that was closed as we used it again: nothing to hold against the endpoint.
LOST_RACES = frozenset([Retry.REUSED_ONLY, Retry.UNSENT_HERE])


class Next(Enum):
    """What to do after a failed attempt."""

    GIVE_UP = "give_up"
    SAME_ENDPOINT = "same_endpoint"  # on a new connection
    NEXT_ENDPOINT = "next_endpoint"


MOST_HERE = 10  # attempts, from which on even an UNSENT_HERE counts


def decide(error: ProxyError, *, is_idempotent: bool, can_replay: bool, attempts: int, failures: int, allowed: int) -> Next:
    """`failures`: of the attempts those that counted, this one included; `allowed`: attempts beyond the first.

    `can_replay`: the body (or its absence) is still at hand, and no part of an answer has reached the client.
    """
    if error.retry is Retry.NEVER or not can_replay:
        return Next.GIVE_UP
    if error.retry is Retry.UNSENT_HERE and attempts < MOST_HERE:
        return Next.SAME_ENDPOINT
    if error.retry is Retry.REUSED_ONLY:
        return Next.SAME_ENDPOINT if is_idempotent else Next.GIVE_UP
    if failures > allowed or (error.retry is Retry.UNANSWERED and not is_idempotent):
        return Next.GIVE_UP
    return Next.NEXT_ENDPOINT
