"""What follows a failed attempt: the whole table."""

from __future__ import annotations

import pytest

from lbd.errors import Retry
from lbd.proxy.reasons import failure
from lbd.proxy.retry import Next, decide

STOP, HERE, THERE = Next.GIVE_UP, Next.SAME_ENDPOINT, Next.NEXT_ENDPOINT

# (how safe it is, idempotent, can be replayed, attempts, failures that counted, of so many allowed beyond the first) -> what follows
TABLE = [
    (Retry.NEVER, True, True, 1, 0, 2, STOP),
    (Retry.UNSENT, False, True, 1, 1, 2, THERE),
    (Retry.UNSENT, False, True, 1, 2, 2, THERE),
    (Retry.UNSENT, False, True, 1, 3, 2, STOP),
    (Retry.UNSENT, True, True, 1, 1, 0, STOP),
    (Retry.UNSENT, True, False, 1, 1, 2, STOP),
    (Retry.UNSENT_HERE, False, True, 1, 0, 0, HERE),  # it does not count
    (Retry.UNSENT_HERE, False, True, 9, 3, 2, HERE),
    (Retry.UNSENT_HERE, False, True, 10, 2, 2, THERE),
    (Retry.UNSENT_HERE, False, True, 10, 3, 2, STOP),
    (Retry.UNSENT_HERE, True, False, 1, 0, 2, STOP),
    (Retry.REUSED_ONLY, True, True, 1, 0, 0, HERE),
    (Retry.REUSED_ONLY, False, True, 1, 0, 2, STOP),
    (Retry.REUSED_ONLY, True, False, 1, 0, 2, STOP),
    (Retry.UNANSWERED, True, True, 1, 1, 2, THERE),
    (Retry.UNANSWERED, True, True, 1, 3, 2, STOP),
    (Retry.UNANSWERED, False, True, 1, 1, 2, STOP),
    (Retry.UNANSWERED, True, False, 1, 1, 2, STOP),
]


@pytest.mark.parametrize(("retry", "is_idempotent", "can_replay", "attempts", "failures", "allowed", "expected"), TABLE)
def test_what_follows(
    retry: Retry, is_idempotent: bool, can_replay: bool, attempts: int, failures: int, allowed: int, expected: Next
) -> None:
    error, facts = failure("upstream_closed", "", retry), {"attempts": attempts, "failures": failures, "allowed": allowed}
    assert decide(error, is_idempotent=is_idempotent, can_replay=can_replay, **facts) is expected


def test_every_kind_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == set(Retry)
