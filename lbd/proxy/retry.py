"""After a failed attempt: may the request be sent again, where, and when? Decided without touching anything.

- Not one byte reached an upstream (connect failed): any method goes to the next candidate.
- The upstream has done with a connection that has served others, and says that it has not looked at this request (GOAWAY,
  REFUSED_STREAM; RFC 9113 8.7): any method goes to the same endpoint again, on another connection, and that does not count. An endpoint
  that ends its connections after few requests may do so several times in a row.
- A kept-alive connection died before any answer: most likely the upstream closed it while our request was on its way
  (RFC 9112 9.3.1). An idempotent request goes to the same endpoint again, on a new connection, and that does not count.
- A new connection died before any answer, or none came in time: an idempotent request goes to the next candidate.
- The answer has a status that is listed in `retry.on`: likewise. A status of gRPC is listed by whoever knows that it means "not done",
  for every call is a POST; such a call is tried again.
- Everything else, and a body that is not in memory any more, is never sent twice.

The second and the third are the ends of connections, not failures, and are always made good; all others must be listed in `retry.on`,
and are counted (`retry.attempts`) and budgeted (cluster/budget.py).

`retry.methods` says what "idempotent" is.
"""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from enum import Enum
from typing import TYPE_CHECKING

from lbd.cluster.retry_policy import parse_cause
from lbd.errors import Retry

if TYPE_CHECKING:
    from lbd.cluster.retry_policy import RetryPolicy
    from lbd.errors import ProxyError

__all__ = ["LOST_RACES", "MOST_HERE", "MOST_WAIT", "Next", "RetryRules", "decide", "pause", "retry_after"]

NO_STATUS = 1000  # above all there are
MOST_HERE = 10  # attempts, from which on even an UNSENT_HERE counts
MOST_WAIT = 10.0  # seconds: an upstream that wants to be left alone for longer tells that to the client

# What a failure is called in `retry.on`; one that has no name there is tried again if that is safe.
CAUSES = {
    "connect_refused": "connect",
    "connect_failed": "connect",
    "connect_timeout": "connect",
    "upstream_tls_failed": "connect",
    "upstream_unverified": "connect",
    "no_descriptors": "connect",
    "upstream_refused": "refused-stream",
    "upstream_reset": "reset",
    "upstream_closed": "reset",
    "response_timeout": "timeout",
    "upstream_stalled": "timeout",
}

# A connection that was closed as we used it again: nothing to hold against the endpoint.
LOST_RACES = frozenset([Retry.REUSED_ONLY, Retry.UNSENT_HERE])


class Next(Enum):
    """What to do after a failed attempt."""

    GIVE_UP = "give_up"
    SAME_ENDPOINT = "same_endpoint"  # on a new connection
    NEXT_ENDPOINT = "next_endpoint"


class RetryRules:
    """A RetryPolicy, in the form in which it is asked. `judged_from`: no status below it is one to try again on."""

    __slots__ = ("attempts", "backoff", "failures", "grpc", "judged_from", "max_backoff", "max_body", "methods", "statuses")

    def __init__(self, policy: RetryPolicy) -> None:
        causes = [parse_cause(text) for text in policy.on]
        self.attempts = policy.attempts
        self.failures = frozenset(name for name, which in causes if not which)
        self.statuses = frozenset(status for name, which in causes if name == "status" for status in which)
        self.grpc = frozenset(status for name, which in causes if name == "grpc" for status in which)
        self.methods = frozenset(method.encode() for method in policy.methods)
        self.backoff = policy.backoff
        self.max_backoff = policy.max_backoff
        self.max_body = policy.max_body
        self.judged_from = NO_STATUS
        if policy.attempts:
            self.judged_from = 200 if self.grpc else min(self.statuses, default=NO_STATUS)


def decide(error: ProxyError, *, rules: RetryRules, method: bytes, is_unanswered: bool, attempts: int, failures: int) -> Next:
    """`failures`: of the attempts those that counted, this one included; `is_unanswered`: no part of an answer has reached the client.

    Whether there is a body to send again, another endpoint, time and a budget, the caller must see.
    """
    if error.retry is Retry.NEVER or not is_unanswered:
        return Next.GIVE_UP
    if error.retry is Retry.UNSENT_HERE and attempts < MOST_HERE:
        return Next.SAME_ENDPOINT
    if error.retry is Retry.REUSED_ONLY:
        return Next.SAME_ENDPOINT if method in rules.methods else Next.GIVE_UP
    cause = CAUSES.get(error.reason)
    if failures > rules.attempts or (cause is not None and cause not in rules.failures):
        return Next.GIVE_UP
    if error.retry in (Retry.UNANSWERED, Retry.ANSWERED) and method not in rules.methods:
        return Next.GIVE_UP
    return Next.NEXT_ENDPOINT


def pause(rules: RetryRules, failures: int, is_fresh: bool, wanted: float, random: float) -> float:
    """Seconds before the next attempt. `is_fresh`: it goes where the request has not been; `wanted`: at least that, as the upstream says.

    The first retry goes to a fresh endpoint at once: one has failed, others most likely have not, and the client waits. Later ones, and
    those that come back, wait for a part of `backoff` that is drawn anew each time (`random` is from 0 to 1, "full jitter"), so that
    those who failed together do not come back together; `backoff` doubles from retry to retry.
    """
    if is_fresh and failures <= 1:
        return wanted
    most = min(rules.max_backoff, rules.backoff * 2.0 ** min(max(0, failures - 2), 30))
    return max(wanted, random * most)


def retry_after(value: bytes | None, now: float) -> float:
    """Seconds that a Retry-After field (RFC 9110 10.2.3) asks for; 0 where it cannot be read. `now` is the wall clock's."""
    text = value.decode("latin-1").strip() if value is not None else ""
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return 0.0
