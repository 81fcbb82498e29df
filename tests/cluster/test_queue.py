"""The queue: who goes first, who has to go when it is full."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lbd.cluster.queue import Queue

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint


@dataclass(eq=False)
class Waiting:
    """A Place."""

    name: str
    rank: int = 1
    since: float = 0.0
    turned_away: list[str] = field(default_factory=list)
    kin: object = None

    def pick(self) -> Endpoint | None:
        raise AssertionError("the queue does not ask")

    def grant(self, endpoint: Endpoint) -> None:
        raise AssertionError("nor does it grant")

    def turn_away(self, reason: str) -> None:
        self.turned_away.append(reason)


def names(queue: Queue) -> str:
    return "".join(place.name for place in queue)  # type: ignore[attr-defined]


def test_first_come_first_served() -> None:
    queue = Queue(10)
    for name in "abc":
        assert queue.enter(Waiting(name))
    assert names(queue) == "abc"


def test_higher_ranks_go_first_and_a_retry_by_the_time_of_its_request() -> None:
    queue = Queue(10)
    for place in (Waiting("a", 1, 5.0), Waiting("b", 0, 1.0), Waiting("c", 2, 9.0), Waiting("d", 1, 2.0), Waiting("e", 1, 5.0)):
        queue.enter(place)
    assert names(queue) == "cdaeb"


def test_a_full_queue_takes_in_only_those_above_its_last() -> None:
    queue = Queue(2)
    low, normal = Waiting("l", 0), Waiting("n", 1)
    assert queue.enter(low)
    assert queue.enter(normal)
    assert not queue.enter(Waiting("m", 0))
    assert queue.enter(Waiting("o", 1))
    assert low.turned_away == ["queue_full"]
    assert not queue.enter(Waiting("p", 1))
    assert names(queue) == "no"


def test_nobody_waits_in_a_queue_without_places() -> None:
    queue = Queue(0)
    assert not queue.enter(Waiting("a", 3))
    assert not queue


def test_a_smaller_queue_keeps_those_whose_turn_comes_first() -> None:
    queue = Queue(3)
    places = [Waiting("a"), Waiting("b"), Waiting("c", 2)]
    for place in places:
        queue.enter(place)
    queue.shrink(1)
    assert names(queue) == "c"
    assert [place.turned_away for place in places] == [["queue_full"], ["queue_full"], []]


def test_leaving_twice_is_leaving_once() -> None:
    queue = Queue(3)
    first, second = Waiting("a"), Waiting("b")
    queue.enter(first)
    queue.enter(second)
    queue.leave(first)
    queue.leave(first)
    assert names(queue) == "b"


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.booleans()), max_size=40),
    st.integers(0, 8),
)
def test_it_is_always_in_order_and_never_too_long(steps: list[tuple[int, int, bool]], size: int) -> None:
    queue = Queue(size)
    inside: list[Waiting] = []
    for number, (rank, since, leaves) in enumerate(steps):
        if leaves and inside:
            queue.leave(inside.pop(0))
            continue
        place = Waiting(str(number), rank, float(since))
        if queue.enter(place):
            inside.append(place)
        inside = [place for place in inside if not place.turned_away]
    order = list(queue)
    assert len(queue) <= size
    assert set(map(id, order)) == set(map(id, inside))
    assert [(-place.rank, place.since) for place in order] == sorted((-place.rank, place.since) for place in order)


@pytest.mark.parametrize("size", [1, 5])
def test_whoever_is_refused_ranks_below_all_who_wait(size: int) -> None:
    queue = Queue(size)
    for number in range(size):
        queue.enter(Waiting(str(number), 2))
    assert not queue.enter(Waiting("x", 2, -1.0))
    assert all(place.rank >= 2 for place in queue)
