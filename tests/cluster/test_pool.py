"""The pool on a clock that stands still until it is moved."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.pool import Pool, PoolPolicy
from tests.cluster.fakes import Connection


def filled(count: int, policy: PoolPolicy | None = None) -> tuple[Pool, list[Connection]]:
    """Connections given at 0.0, 1.0, 2.0 and so on."""
    pool = Pool(policy or PoolPolicy(idle_timeout=100.0))
    connections = [Connection() for _ in range(count)]
    for at, connection in enumerate(connections):
        pool.give(connection, float(at))
    return pool, connections


def test_the_one_used_last_is_used_next() -> None:
    pool, (one, two, three) = filled(3)
    assert [pool.take(3.0), pool.take(3.0), pool.take(3.0), pool.take(3.0)] == [three, two, one, None]
    assert len(pool) == 0
    assert not any(connection.closed for connection in (one, two, three))


def test_an_empty_pool_has_nothing() -> None:
    assert Pool(PoolPolicy()).take(0.0) is None
    assert Pool(PoolPolicy()).take(0.0, certain=True) is None


def test_one_that_was_taken_is_no_longer_here() -> None:
    pool, (one, two) = filled(2)
    assert pool.take(2.0) is two
    pool.close_all()
    assert (one.closed, two.closed) == (1, 0)


def test_the_stale_are_closed_on_the_way_to_a_fresh_one() -> None:
    pool, (one, two, three) = filled(3)
    two.fresh = three.fresh = False
    assert pool.take(3.0) is one
    assert (one.closed, two.closed, three.closed) == (0, 1, 1)
    assert len(pool) == 0


def test_when_it_must_be_certain_the_kernel_is_asked() -> None:
    pool, (one, two) = filled(2)
    two.fresh_now = False
    assert pool.take(2.0, certain=True) is one
    assert (two.closed, two.asked, one.asked) == (1, ["kernel"], ["kernel"])
    pool, (one, two) = filled(2)
    two.fresh_now = False  # which the last poll does not know
    assert pool.take(2.0) is two
    assert two.asked == ["poll"]


# (policy, made at, carried so many requests, given at 10.0, taken at; is it still used?)
LIMITS = [
    (PoolPolicy(idle_timeout=4.0), 0.0, 1, 13.9, True),
    (PoolPolicy(idle_timeout=4.0), 0.0, 1, 14.0, False),
    (PoolPolicy(idle_timeout=4.0, max_age=12.0), 0.0, 1, 11.9, True),
    (PoolPolicy(idle_timeout=4.0, max_age=12.0), 0.0, 1, 12.0, False),
    (PoolPolicy(idle_timeout=4.0, max_age=5.0), 0.0, 1, 10.0, False),
    (PoolPolicy(idle_timeout=4.0, max_age=0.0), 0.0, 1, 13.0, True),
    (PoolPolicy(idle_timeout=4.0, max_requests=10), 0.0, 9, 10.0, True),
    (PoolPolicy(idle_timeout=4.0, max_requests=10), 0.0, 10, 10.0, False),
    (PoolPolicy(idle_timeout=0.0), 0.0, 1, 10.0, False),
    (PoolPolicy(max_idle=0), 0.0, 1, 10.0, False),
]


@pytest.mark.parametrize(("policy", "opened_at", "requests", "taken_at", "is_used"), LIMITS)
def test_limits(policy: PoolPolicy, opened_at: float, requests: int, taken_at: float, is_used: bool) -> None:
    connection = Connection(opened_at=opened_at, requests=requests)
    pool = Pool(policy)
    pool.give(connection, 10.0)
    assert pool.take(taken_at) is (connection if is_used else None)
    assert connection.closed == (0 if is_used else 1)


def test_what_is_not_kept_is_closed_at_once() -> None:
    for policy in (PoolPolicy(idle_timeout=0.0), PoolPolicy(max_idle=0), PoolPolicy(max_requests=1), PoolPolicy(max_age=5.0)):
        pool, connection = Pool(policy), Connection()
        pool.give(connection, 10.0)
        assert (connection.closed, len(pool)) == (1, 0)


def test_a_full_pool_lets_the_oldest_go() -> None:
    pool, connections = filled(5, PoolPolicy(max_idle=3, idle_timeout=100.0))
    assert [connection.closed for connection in connections] == [1, 1, 0, 0, 0]
    assert len(pool) == 3


def test_the_overdue_are_closed_from_the_old_end() -> None:
    pool, connections = filled(5, PoolPolicy(idle_timeout=4.0))
    pool.expire(3.9)
    assert len(pool) == 5
    pool.expire(6.0)
    assert [connection.closed for connection in connections] == [1, 1, 1, 0, 0]
    assert pool.take(6.0) is connections[4]


def test_expiry_looks_at_no_more_than_it_closes_and_one() -> None:
    class Watched(Connection):
        looked = 0

        def __getattribute__(self, name: str) -> object:
            if name == "idle_since":
                Watched.looked += 1
            return object.__getattribute__(self, name)

    pool = Pool(PoolPolicy(idle_timeout=4.0, max_idle=2000))
    for at in range(1000):
        pool.give(Watched(), at / 1000)
    Watched.looked = 0
    pool.expire(4.0095)
    assert len(pool) == 990
    assert Watched.looked == 11


def test_another_policy_holds_from_then_on() -> None:
    pool, connections = filled(4)
    pool.obey(PoolPolicy(max_idle=2, idle_timeout=100.0))
    pool.give(Connection(), 4.0)
    assert [connection.closed for connection in connections] == [1, 1, 1, 0]
    assert len(pool) == 2
    pool.obey(PoolPolicy(idle_timeout=0.5))
    assert pool.take(5.0) is None


def test_a_retired_pool_keeps_nothing() -> None:
    pool, (one, _) = filled(2)
    lent = pool.take(2.0)
    pool.retire()
    assert (one.closed, len(pool)) == (1, 0)
    pool.give(lent, 3.0)
    assert (lent.closed, len(pool)) == (1, 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.booleans()),
        st.tuples(st.just("take"), st.booleans()),
        st.tuples(st.just("wait"), st.integers(1, 5)),
        st.tuples(st.just("expire"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_no_connection_is_lost_lent_twice_or_used_when_overdue(steps: list[tuple[str, int | None]]) -> None:
    pool = Pool(PoolPolicy(max_idle=3, idle_timeout=4.0))
    now, lent, made = 0.0, list[Connection](), list[Connection]()
    for step, argument in steps:
        match step:
            case "give":
                connection = lent.pop() if lent else Connection(opened_at=now)
                if connection not in made:
                    made.append(connection)
                connection.fresh = bool(argument)
                pool.give(connection, now)
            case "take":
                taken = pool.take(now, certain=bool(argument))
                if taken is not None:
                    assert taken not in lent
                    assert taken.closed == 0
                    assert taken.fresh
                    assert now - taken.idle_since < 4.0
                    lent.append(taken)
            case "wait":
                now += argument or 0
            case _:
                pool.expire(now)
        assert len(pool) <= 3
        assert sum(not c.closed for c in made) == len(pool) + len(lent)
        assert all(c.closed <= 1 for c in made)
