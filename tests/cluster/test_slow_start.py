"""Slow start: whose share grows, from when, and how the balances follow."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from lbd import metrics
from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.slow_start import GRAIN, SlowStart
from lbd.core.board import Board
from tests.cluster.fakes import Facts, endpoints


class Clocked:
    """A cluster whose time goes by when it is told to."""

    def __init__(self, *facts: Facts, balance: str = "round-robin", slow_start: float = 10.0) -> None:
        self.now = 100.0
        policy = ClusterPolicy("web", (), balance=balance, slow_start=slow_start, panic=0.0)
        self.cluster = Cluster(policy, None, None, Random(7), clock=lambda: self.now)
        self.cluster.update(facts)

    def after(self, seconds: float) -> list[int]:
        self.now += seconds
        self.cluster.tick()
        return self.weights()

    def weights(self) -> list[int]:
        return [endpoint.weight for endpoint in self.cluster.endpoints]

    def back(self, number: int) -> None:
        address = self.cluster.endpoints[number].address
        self.cluster.set_health(address, False)
        self.cluster.set_health(address, True)

    def shares(self, count: int = 3000) -> list[float]:
        """Of requests that are picked, and over at once."""
        picked = Counter(endpoint.address for _ in range(count) if (endpoint := self.cluster.pick(b"", ())) is not None)
        return [picked[endpoint.address] / count for endpoint in self.cluster.endpoints]


A, B, C = Facts("a:1"), Facts("b:1"), Facts("c:1", weight=3)


def test_a_straight_line_from_a_tenth() -> None:
    clocked = Clocked(A, B, C)
    assert clocked.weights() == [1, 1, 3]
    clocked.back(0)
    assert clocked.weights() == [2, GRAIN, 3 * GRAIN]
    assert clocked.after(5) == [11, GRAIN, 3 * GRAIN]
    assert clocked.after(4) == [18, GRAIN, 3 * GRAIN]
    assert clocked.after(1) == [1, 1, 3]
    assert clocked.after(1) == [1, 1, 3]


@pytest.mark.parametrize("balance", ["round-robin", "random", "power-of-two", "least-requests"])
def test_balances_follow(balance: str) -> None:
    clocked = Clocked(A, B, balance=balance)
    clocked.back(1)
    alone = clocked.shares()
    clocked.after(5)
    half_way = clocked.shares()
    clocked.after(5)
    assert [alone[1], half_way[1], clocked.shares()[1]] == pytest.approx([0.09, 0.35, 0.5], abs=0.05)


@pytest.mark.parametrize("balance", ["consistent-hash", "maglev"])
def test_keys_come_back_at_once(balance: str) -> None:
    clocked = Clocked(A, B, C, balance=balance)
    owner = clocked.cluster.pick(b"key", ())
    assert owner is not None
    clocked.cluster.set_health(owner.address, False)
    assert clocked.cluster.pick(b"key", ()) is not owner
    clocked.cluster.set_health(owner.address, True)
    assert clocked.cluster.pick(b"key", ()) is owner
    assert clocked.weights() == [1, 1, 3]


def test_who_is_there_from_the_beginning_is_not_spared() -> None:
    down = Facts("b:1", up=False)
    clocked = Clocked(A, down)
    clocked.cluster.set_health("b:1", True)
    assert clocked.weights() == [1, 1], "it had to pass its check first"
    clocked.back(1)
    assert clocked.weights() == [GRAIN, 2]


def test_who_joins_others_is() -> None:
    clocked = Clocked(A, B)
    clocked.cluster.update([A, B, C])
    assert clocked.weights() == [GRAIN, GRAIN, 6]
    clocked.cluster.update([A, C])
    assert clocked.weights() == [GRAIN, 6], "what it has begun goes on"
    assert clocked.after(10) == [1, 3]


def test_the_first_to_come_back_has_nobody_who_spares_it() -> None:
    clocked = Clocked(A, B)
    for address in ("a:1", "b:1"):
        clocked.cluster.set_health(address, False)
    assert clocked.cluster.pick(b"", ()) is None
    clocked.cluster.set_health("a:1", True)
    assert clocked.weights() == [1, 1]
    clocked.cluster.set_health("b:1", True)
    assert clocked.weights() == [GRAIN, 2]


def test_on_trial_and_after_it() -> None:
    clocked = Clocked(A, B)
    clocked.cluster.set_health("a:1", False)
    clocked.cluster.set_health("a:1", True, 3)
    assert (clocked.weights(), [endpoint.max_requests for endpoint in clocked.cluster.endpoints]) == ([2, GRAIN], [3, 0])
    assert clocked.after(100) == [2, GRAIN]
    clocked.cluster.set_health("a:1", True, 0)
    assert clocked.weights() == [2, GRAIN]
    assert clocked.after(5) == [11, GRAIN]
    clocked.cluster.set_health("a:1", False)
    assert clocked.after(5) == [1, 1]


def test_a_trial_limits_nothing_where_nobody_else_is_left() -> None:
    clocked = Clocked(A, B)
    clocked.cluster.set_health("a:1", False)
    clocked.cluster.set_health("a:1", True, 1)
    clocked.cluster.set_health("b:1", False)
    for _ in range(10):
        endpoint = clocked.cluster.pick(b"", ())
        assert endpoint is not None
        endpoint.begin()
    clocked.cluster.set_health("b:1", True)
    assert clocked.shares(20) == [0.0, 1.0]


@pytest.mark.parametrize(("is_hash", "is_at_work"), [(False, True), (True, False)])
def test_there_is_nothing_to_look_at_for_hashes(is_hash: bool, is_at_work: bool) -> None:
    slow_start, members = SlowStart(10.0, lambda: 5.0), endpoints(1, 1)
    slow_start.settle(members, is_hash=is_hash)
    for up in (False, True):
        members[0].up = up
        slow_start.settle(members, is_hash=is_hash)
    assert slow_start.is_at_work is is_at_work


def test_after_a_panic_everybody_is_needed() -> None:
    """They were in use all the time, whatever was said of them."""
    members = endpoints(1, 1)
    now = 100.0
    slow_start = SlowStart(10.0, lambda: now)
    slow_start.settle(members, is_hash=False)
    members[0].up = False
    slow_start.settle(members, is_hash=False)
    members[0].up = True
    slow_start.settle(members, is_hash=False, was_panicking=True)
    assert [member.weight for member in members] == [1, 1]
    for moment, weights in ((109.0, [1, 1]), (111.0, [2, GRAIN])):
        now = moment
        for up in (False, True):
            members[0].up = up
            slow_start.settle(members, is_hash=False)
        assert [member.weight for member in members] == weights


def test_it_is_told_while_it_lasts() -> None:
    board = Board.create(1, cells=512, endpoints=8)
    members = endpoints(1, 1, 1)
    now = 100.0
    slow_start = SlowStart(10.0, lambda: now, board.segment(0))

    def told() -> list[int]:
        totals = board.totals()
        return [totals.get((metrics.SLOW_STARTS.number, ("web", member.address)), [0])[0] for member in members]

    for up in (True, False, True):
        members[0].up = members[1].up = up
        assert told() == [0, 0, 0]
        slow_start.settle(members, is_hash=False)
    assert told() == [1, 1, 0]
    slow_start.settle(members[1:], is_hash=False)  # the first one has left
    assert told() == [0, 1, 0]
    now = 110.0
    slow_start.settle(members[1:], is_hash=False)
    assert told() == [0, 0, 0]
    board.close()


def test_without_it() -> None:
    clocked = Clocked(A, B, slow_start=0.0)
    clocked.back(0)
    assert clocked.weights() == [1, 1]
    clocked = Clocked(A, B)
    clocked.back(0)
    clocked.cluster.apply_policy(ClusterPolicy("web", (), slow_start=0.0))
    assert clocked.weights() == [1, 1]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([0, 0, 2]), st.booleans(), st.sampled_from([0, 3, 9])), max_size=30
    )
)
def test_flips_one_by_one_come_to_the_same(steps: list[tuple[int, bool, int, bool, int]]) -> None:
    """A cluster hears of single flips, and each time only looks at who has flipped."""
    now = 100.0
    some, same = endpoints(1, 1, 3, 2, 7), endpoints(1, 1, 3, 2, 7)
    single, whole = SlowStart(10.0, lambda: now), SlowStart(10.0, lambda: now)
    for slow_start, members in ((single, some), (whole, same)):
        members[4].up = False
        slow_start.settle(members, is_hash=False)
    for number, up, trial, was_panicking, seconds in steps:
        now += seconds
        single.grow(some)
        for members in (some, same):
            members[number].up = up
            members[number].try_out(trial if up else 0)
        single.flipped(some[number], some, was_panicking=was_panicking)
        whole.settle(same, is_hash=False, was_panicking=was_panicking)
        assert [member.weight for member in some] == [member.weight for member in same]
