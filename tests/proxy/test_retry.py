"""What follows a failed attempt: the whole table, and how long it waits."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from lbd.cluster.retry_policy import RetryPolicy
from lbd.errors import Retry
from lbd.proxy.reasons import REASONS, failure
from lbd.proxy.retry import CAUSES, MOST_WAIT, Next, RetryRules, decide, pause, retry_after

STOP, HERE, THERE = Next.GIVE_UP, Next.SAME_ENDPOINT, Next.NEXT_ENDPOINT

# (how safe it is, method, nothing was answered yet, attempts, failures that counted, of so many allowed beyond the first) -> what follows
TABLE = [
    (Retry.NEVER, b"GET", True, 1, 0, 2, STOP),
    (Retry.UNSENT, b"POST", True, 1, 1, 2, THERE),
    (Retry.UNSENT, b"POST", True, 1, 2, 2, THERE),
    (Retry.UNSENT, b"POST", True, 1, 3, 2, STOP),
    (Retry.UNSENT, b"GET", True, 1, 1, 0, STOP),
    (Retry.UNSENT, b"GET", False, 1, 1, 2, STOP),
    (Retry.UNSENT_HERE, b"POST", True, 1, 0, 0, HERE),  # it does not count
    (Retry.UNSENT_HERE, b"POST", True, 9, 3, 2, HERE),
    (Retry.UNSENT_HERE, b"POST", True, 10, 2, 2, THERE),
    (Retry.UNSENT_HERE, b"POST", True, 10, 3, 2, STOP),
    (Retry.UNSENT_HERE, b"GET", False, 1, 0, 2, STOP),
    (Retry.REUSED_ONLY, b"GET", True, 1, 0, 0, HERE),
    (Retry.REUSED_ONLY, b"POST", True, 1, 0, 2, STOP),
    (Retry.REUSED_ONLY, b"GET", False, 1, 0, 2, STOP),
    (Retry.UNANSWERED, b"GET", True, 1, 1, 2, THERE),
    (Retry.UNANSWERED, b"GET", True, 1, 3, 2, STOP),
    (Retry.UNANSWERED, b"POST", True, 1, 1, 2, STOP),
    (Retry.UNANSWERED, b"GET", False, 1, 1, 2, STOP),
    (Retry.ANSWERED, b"PUT", True, 1, 1, 2, THERE),
    (Retry.ANSWERED, b"POST", True, 1, 1, 2, STOP),
    (Retry.SAID_UNDONE, b"POST", True, 1, 1, 2, THERE),
    (Retry.SAID_UNDONE, b"POST", True, 1, 3, 2, STOP),
]


def rules(**settings: object) -> RetryRules:
    return RetryRules(RetryPolicy(**settings))  # type: ignore[arg-type]  # any of its fields


@pytest.mark.parametrize(("retry", "method", "is_unanswered", "attempts", "failures", "allowed", "expected"), TABLE)
def test_what_follows(retry: Retry, method: bytes, is_unanswered: bool, attempts: int, failures: int, allowed: int, expected: Next) -> None:
    error = failure("upstream_closed", "", retry)
    facts = {"rules": rules(attempts=allowed), "method": method, "attempts": attempts, "failures": failures}
    assert decide(error, is_unanswered=is_unanswered, **facts) is expected  # type: ignore[arg-type]


def test_every_kind_is_in_the_table() -> None:
    assert {row[0] for row in TABLE} == set(Retry)


def test_a_backoff_that_can_be_written_is_one_that_is_waited_for() -> None:
    hints = get_type_hints(RetryPolicy, include_extras=True)
    for key in ("backoff", "max_backoff"):
        (duration,) = hints[key].__metadata__
        assert duration.maximum <= MOST_WAIT, key


@pytest.mark.parametrize(
    ("reason", "retry", "cause"),
    [
        ("connect_refused", Retry.UNSENT, "connect"),
        ("connect_timeout", Retry.UNSENT, "connect"),
        ("upstream_refused", Retry.UNSENT, "refused-stream"),
        ("upstream_closed", Retry.UNANSWERED, "reset"),
        ("response_timeout", Retry.UNANSWERED, "timeout"),
    ],
)
def test_only_what_is_listed_is_tried_again(reason: str, retry: Retry, cause: str) -> None:
    error, facts = failure(reason, "", retry), {"method": b"GET", "is_unanswered": True, "attempts": 1, "failures": 1}
    assert decide(error, rules=rules(on=(cause,)), **facts) is THERE  # type: ignore[arg-type]
    others = tuple(word for word in RetryPolicy().on if word != cause)
    assert decide(error, rules=rules(on=others), **facts) is STOP  # type: ignore[arg-type]


def test_the_end_of_a_connection_is_made_good_whatever_is_listed() -> None:
    facts = {"rules": rules(on=("503",), attempts=0), "method": b"GET", "is_unanswered": True, "attempts": 1, "failures": 0}
    assert decide(failure("upstream_closed", "", Retry.REUSED_ONLY), **facts) is HERE  # type: ignore[arg-type]
    assert decide(failure("upstream_refused", "", Retry.UNSENT_HERE), **facts) is HERE  # type: ignore[arg-type]


def test_methods_are_the_configurations_to_say() -> None:
    error, facts = failure("upstream_closed", "", Retry.UNANSWERED), {"is_unanswered": True, "attempts": 1, "failures": 1}
    asked = rules(methods=("POST",))
    assert decide(error, rules=asked, method=b"POST", **facts) is THERE  # type: ignore[arg-type]
    assert decide(error, rules=asked, method=b"GET", **facts) is STOP  # type: ignore[arg-type]


def test_every_cause_belongs_to_a_reason() -> None:
    assert set(CAUSES) <= set(REASONS)
    assert set(CAUSES.values()) == set(RetryPolicy().on)


def test_statuses_are_looked_at_only_where_they_are_listed() -> None:
    assert rules().judged_from > 599
    assert rules(on=("503", "429")).judged_from == 429
    assert rules(on=("503",), attempts=0).judged_from > 599
    assert rules(on=("connect", "grpc:unavailable")).judged_from == 200
    assert rules(on=("500-502", "504")).statuses == {500, 501, 502, 504}
    assert rules(on=("grpc:unavailable", "grpc:aborted")).grpc == {14, 10}


def test_the_first_retry_goes_elsewhere_at_once_and_later_ones_wait() -> None:
    asked = rules(backoff=0.1, max_backoff=0.3)
    assert pause(asked, 1, True, 0.0, 1.0) == 0.0
    assert pause(asked, 1, False, 0.0, 1.0) == 0.1  # it comes back to who has failed
    assert [pause(asked, failures, True, 0.0, 1.0) for failures in (2, 3, 4, 99)] == [0.1, 0.2, 0.3, 0.3]
    assert [pause(asked, 3, True, 0.0, random) for random in (0.0, 0.5)] == [0.0, 0.1]  # full jitter
    assert pause(rules(backoff=0.0), 5, False, 0.0, 1.0) == 0.0


def test_who_asks_for_patience_gets_it() -> None:
    asked = rules(backoff=0.1, max_backoff=0.3)
    assert pause(asked, 1, True, 2.0, 1.0) == 2.0
    assert pause(asked, 3, False, 2.0, 1.0) == 2.0
    assert pause(asked, 3, False, 0.01, 1.0) == 0.2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0.0),
        (b"0", 0.0),
        (b"120", 120.0),
        (b" 3 ", 3.0),
        (b"99999999999999999999", 9999999999.0),
        (b"-1", 0.0),
        (b"1.5", 0.0),
        (b"soon", 0.0),
        (b"\xb2", 0.0),
        (b"Thu, 01 Jan 1970 00:16:45 GMT", 5.0),  # 1005 s after the epoch
        (b"Thu, 01 Jan 1970 00:16:00 GMT", 0.0),
        (b"Thu, 99 Jan 1970 00:16:00 GMT", 0.0),
    ],
)
def test_retry_after(value: bytes | None, seconds: float) -> None:
    assert retry_after(value, 1000.0) == seconds
