"""The adaptive limit against simulated servers, on a clock that the test turns."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random
from statistics import mean

import pytest
from hypothesis import given, strategies as st

from lbd.cluster.gradient import AdaptivePolicy, Gradient


class Server:
    """So many workers, each request takes one of them for `service` seconds, more or less; the others wait in a line."""

    def __init__(self, workers: int, service: float, random: Random) -> None:
        self.workers = workers
        self.service = service
        self._random = random
        self._free = [0.0] * workers  # when each will be

    def done_at(self, now: float) -> float:
        while len(self._free) > self.workers:
            self._free.pop()
        while len(self._free) < self.workers:
            heappush(self._free, now)
        begin = max(now, heappop(self._free))
        end = begin + self.service * self._random.uniform(0.7, 1.3)
        heappush(self._free, end)
        return end


class Scene:
    """A cluster of one server, and clients who would have `clients` requests at work if they might."""

    def __init__(self, server: Server, policy: AdaptivePolicy, clients: int = 1000) -> None:
        self.server = server
        self.gradient = Gradient(policy, Random(7))
        self.clients = clients
        self.now = 0.0
        self.limits: list[int] = []
        self.latencies: list[float] = []
        self._ends: list[tuple[float, float]] = []

    def run(self, seconds: float) -> tuple[float, float]:
        """The mean limit and latency of this time."""
        self.limits, self.latencies = [], []
        until = self.now + seconds
        while self.now < until:
            while len(self._ends) < min(self.gradient.limit, self.clients):
                heappush(self._ends, (self.server.done_at(self.now), self.now))
            end, began = heappop(self._ends)
            self.now = end
            self.gradient.took(end - began, len(self._ends) + 1, end)
            self.limits.append(self.gradient.limit)
            self.latencies.append(end - began)
        return mean(self.limits), mean(self.latencies)


ON = AdaptivePolicy(enabled=True)


@pytest.mark.parametrize("workers", [10, 50, 200])
def test_it_finds_the_capacity_of_a_server(workers: int) -> None:
    """All of it is used, and requests do not wait for long. With a small one the room to grow is much beside it."""
    scene = Scene(Server(workers, 0.02, Random(1)), ON)
    scene.run(20.0)
    limit, latency = scene.run(70.0)
    assert workers < limit < (3 if workers == 10 else 2) * workers
    assert latency < (0.06 if workers == 10 else 0.04)
    assert len(scene.limits) > 0.97 * 70 * workers / 0.02  # answers


def test_a_queue_that_is_there_from_the_start_is_not_taken_for_the_services_nature() -> None:
    scene = Scene(Server(6, 0.05, Random(5)), ON)  # of which 20 are too much from the first moment on
    scene.run(10.0)
    limit, latency = scene.run(30.0)
    assert limit < 16
    assert latency < 0.14


def test_it_follows_when_the_capacity_changes_and_comes_back() -> None:
    scene = Scene(Server(100, 0.02, Random(2)), ON)
    scene.run(30.0)
    before, _ = scene.run(20.0)
    scene.server.workers = 20  # others are gone
    scene.run(20.0)
    less, latency = scene.run(60.0)
    assert less < 0.5 * before
    assert latency < 0.06
    scene.server.workers = 100
    scene.run(20.0)
    again, _ = scene.run(60.0)
    assert again > 0.75 * before


def test_a_service_that_has_become_slower_for_good_is_not_throttled_for_ever() -> None:
    """The latency with few requests is measured anew, so that it is known to be no queue."""
    scene = Scene(Server(100, 0.02, Random(3)), ON)
    scene.run(30.0)
    scene.server.service = 0.06
    scene.run(75.0)
    limit, _ = scene.run(60.0)
    assert limit > 80


def test_a_limit_that_nobody_comes_near_to_stays() -> None:
    scene = Scene(Server(100, 0.02, Random(4)), AdaptivePolicy(enabled=True, initial=50), clients=5)
    scene.run(30.0)
    assert scene.gradient.limit == 50


def test_timeouts_make_it_smaller_at_once_and_once_a_window() -> None:
    gradient = Gradient(AdaptivePolicy(enabled=True, initial=100), Random(1))
    for _ in range(10):
        gradient.dropped(1.0)
    assert gradient.limit == 90
    for number in range(20):
        gradient.took(0.01, 90, 1.2 + number / 1000)
    gradient.dropped(1.3)
    assert gradient.limit == 81


def test_when_everything_times_out_it_ends_at_the_minimum() -> None:
    gradient, now = Gradient(AdaptivePolicy(enabled=True, initial=100), Random(1)), 0.0
    for _ in range(650):
        now += 0.1
        gradient.dropped(now)
    assert gradient.limit == 3  # after a minute of it


def test_a_reload_keeps_what_was_learnt_within_the_new_bounds() -> None:
    gradient = Gradient(AdaptivePolicy(enabled=True, initial=100), Random(1))
    gradient.obey(AdaptivePolicy(enabled=True, initial=20))
    assert gradient.limit == 100
    gradient.obey(AdaptivePolicy(enabled=True, max=30))
    assert gradient.limit == 30


@given(
    st.lists(st.tuples(st.floats(0.0, 10.0), st.integers(0, 2000), st.floats(0.0, 1.0), st.booleans()), max_size=300),
    st.integers(1, 50),
    st.integers(50, 500),
)
def test_it_never_leaves_its_bounds(samples: list[tuple[float, int, float, bool]], least: int, most: int) -> None:
    gradient, now = Gradient(AdaptivePolicy(enabled=True, min=least, max=most, remeasure=1.0), Random(1)), 0.0
    for seconds, inflight, pause, is_drop in samples:
        now += pause
        if is_drop:
            gradient.dropped(now)
        else:
            gradient.took(seconds, inflight, now)
        assert least <= gradient.limit <= most
