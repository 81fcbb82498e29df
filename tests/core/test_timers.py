"""The wheel keeps two promises: never early, and at most two ticks late; and one to memory: few buckets."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings, strategies as st

from lbd.core.timers import NEVER, Timed, TimerWheel

LATE = 2 / 64  # seconds


def passing(wheel: TimerWheel, since: float, until: float) -> list[tuple[float, Timed]]:
    """What expires when, for somebody who sleeps until the wheel tells him to look."""
    seen: list[tuple[float, Timed]] = []
    now = since
    while (now := max(now, wheel.next_at())) <= until:
        seen += [(now, timed) for timed in wheel.expired(now)]
    return seen


@pytest.mark.parametrize("start", [0.0, 12.34, 1e6])
@pytest.mark.parametrize("seconds", [0.001, 1 / 64, 0.5, 1.0, 3.99, 4.0, 4.01, 60.0, 255.9, 300.0, 3600.0, 86400.0])
def test_a_deadline_is_kept(start: float, seconds: float) -> None:
    wheel, timed = TimerWheel(), Timed()
    wheel.expired(start)
    wheel.arm(timed, start + seconds)
    ((at, who),) = passing(wheel, start, start + seconds + 1)
    assert who is timed
    assert start + seconds <= at <= start + seconds + LATE
    assert timed.deadline == NEVER
    assert wheel.next_at() == NEVER


def test_a_deadline_that_has_passed_expires_at_once() -> None:
    wheel, timed = TimerWheel(), Timed()
    wheel.expired(100.0)
    wheel.arm(timed, 99.0)
    assert wheel.next_at() <= 100.0
    assert wheel.expired(100.0) == [timed]


def test_the_last_arming_holds() -> None:
    wheel, timed = TimerWheel(), Timed()
    for deadline in (10.0, 50.0, 2.0, 30.0):
        wheel.arm(timed, deadline)
    ((at, _),) = passing(wheel, 0.0, 100.0)
    assert 30.0 <= at <= 30.0 + LATE


@pytest.mark.parametrize("deadline", [NEVER, 1e300, math.inf])
def test_never_is_no_deadline(deadline: float) -> None:
    wheel, timed = TimerWheel(), Timed()
    wheel.arm(timed, 1.0)
    wheel.arm(timed, deadline)
    assert passing(wheel, 0.0, 1000.0) == []
    assert wheel.next_at() == NEVER


def test_a_forgotten_one_never_expires() -> None:
    wheel, timed, other = TimerWheel(), Timed(), Timed()
    wheel.arm(timed, 1.0)
    wheel.arm(other, 1.0)
    wheel.forget(timed)
    wheel.forget(timed)
    assert [who for _, who in passing(wheel, 0.0, 10.0)] == [other]
    wheel.forget(other)


SECONDS = (5.0, 3.0, 9.0, 1.0, 7.0, 300.0, 70.0, 299.0, 71.0)


@pytest.mark.parametrize("is_late", [False, True])
def test_they_expire_in_order_of_their_deadlines(is_late: bool) -> None:
    wheel = TimerWheel()
    timers = {seconds: Timed() for seconds in SECONDS}
    for seconds, timed in timers.items():
        wheel.arm(timed, seconds)
    due = wheel.expired(1000.0) if is_late else [timed for _, timed in passing(wheel, 0.0, 1000.0)]
    assert due == [timers[seconds] for seconds in sorted(SECONDS)]


def test_moving_a_deadline_later_moves_no_entry() -> None:
    """The common case: each request arms the same timeout anew."""
    wheel, timed = TimerWheel(), Timed()
    wheel.arm(timed, 1.0)
    bucket = timed.tick
    for i in range(1000):
        wheel.arm(timed, 1.0 + i / 100)
    assert timed.tick == bucket


def test_long_timeouts_of_short_lives_leave_few_buckets() -> None:
    """An hour of connections that come and go, each with an hour's timeout; the sleeper wakes once a bucket."""
    wheel, wakes = TimerWheel(), 0
    for i in range(36_000):
        now = i / 10
        if wheel.next_at() <= now:
            wakes += 1
        wheel.expired(now)
        timed = Timed()
        wheel.arm(timed, now + 3600.0)
        wheel.forget(timed)
    passed = passing(wheel, 3600.0, 10_000.0)
    assert passed == []
    assert wakes < 400


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["arm", "arm", "arm", "disarm", "forget", "pass"]),
            st.integers(0, 5),
            st.one_of(st.floats(0, 0.2), st.floats(0, 10), st.floats(0, 10_000)),
        ),
        max_size=60,
    )
)
def test_it_does_what_a_sorted_list_would(steps: list[tuple[str, int, float]]) -> None:
    wheel = TimerWheel()
    timers = [Timed() for _ in range(6)]
    model: dict[int, float] = {}
    now = 0.0
    for what, which, seconds in [*steps, ("pass", 0, 20_000.0)]:
        if what == "arm":
            model[which] = now + seconds
            wheel.arm(timers[which], now + seconds)
        elif what == "disarm":  # as Fiber.disarm(): it stays in its bucket
            model.pop(which, None)
            timers[which].deadline = NEVER
        elif what == "forget":
            model.pop(which, None)
            wheel.forget(timers[which])
        else:
            until = now + seconds
            for at, timed in passing(wheel, now, until):
                deadline = model.pop(timers.index(timed))
                assert deadline <= at
                assert at <= max(deadline, now) + LATE
            now = until
            assert all(deadline > now - LATE for deadline in model.values())
    assert not model
