"""What a choice, a flip and a suspicion cost, in steps rather than in time: the same with ten endpoints and with ten thousand.

Steps are calls of functions, C's included, as the profiler sees them; it sees nothing of compiled modules, so these run on the
sources; so do those that count looks at the board, whose compiled twin takes no other board.
"""

from __future__ import annotations

import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from lbd.cluster import selector
from lbd.cluster.outlier import OutlierPolicy, Outliers, Verdict
from lbd.cluster.select import SELECTORS
from tests.cluster.fakes import Facts, filled_cluster

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from lbd.cluster.cluster import Cluster
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.board import Board

PICKS = 400
IS_COMPILED = not (selector.__file__ or "").endswith(".py")
only_sources = pytest.mark.skipif(IS_COMPILED, reason="compiled: nothing to be seen from outside")


class Counter:
    """Of calls while it is on."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self, work: Callable[[], object]) -> int:
        def saw(_frame: FrameType, event: str, _argument: object) -> None:
            if event in ("call", "c_call"):
                self.calls += 1

        before = self.calls
        sys.setprofile(saw)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self.calls - before


def cluster_of(balance: str, count: int, board: Board | None = None) -> Cluster:
    """Weights 1 to 5, but for maglev: to fill a table of a million takes turns, which are quick to tell when they are equal."""
    weights = 1 if balance == "maglev" else 5
    facts = [Facts(f"10.{i // 250}.{i % 250}.1:80", 1 + i % weights, i) for i in range(count)]
    return filled_cluster(facts, Random(1), board, balance=balance)


def steps(cluster: Cluster) -> float:
    """A pick, while requests begin and end: half of them are still in flight when the last one is picked."""
    counter, ending = Counter(), Random(2)
    running: list[Endpoint] = []

    def one() -> None:
        endpoint = cluster.pick(key, ())
        assert endpoint is not None
        running.append(endpoint)

    for number in range(PICKS):
        key = b"key-%d" % number
        counter.count(one)
        running[-1].begin()
        if number % 2:
            running.pop(ending.randrange(len(running))).end()
    return counter.calls / PICKS


@only_sources
@pytest.mark.parametrize("balance", SELECTORS)
def test_a_pick_costs_the_same_with_ten_endpoints_and_with_ten_thousand(balance: str) -> None:
    few_steps, many_steps = steps(cluster_of(balance, 10)), steps(cluster_of(balance, 10_000))
    assert few_steps < 120
    assert many_steps < 1.3 * few_steps + 3


@only_sources
def test_a_cluster_of_one_costs_hardly_anything() -> None:
    assert steps(cluster_of("least-requests", 1)) <= 6  # the measured function, both pick() and _may_take() among them


class WatchingSegment:
    """Nobody looks at what it notes."""

    cells = flights = memoryview(bytes(8))  # never written to: no request begins

    def add_inflight(self, index: int, delta: int) -> None:
        pass


class WatchingBoard:
    """Of two workers; notes whose load is asked for."""

    slots = 2

    def __init__(self) -> None:
        self.looks: list[int] = []

    def segment(self, slot: int) -> WatchingSegment:
        return WatchingSegment()

    def inflight(self, index: int) -> int:
        self.looks.append(index)
        return index % 3


@only_sources
@pytest.mark.parametrize(
    ("balance", "most"), [("round-robin", 0), ("random", 0), ("power-of-two", 2), ("peak-ewma", 2), ("least-requests", 9)]
)
def test_a_pick_looks_at_few_loads(balance: str, most: int) -> None:
    board = WatchingBoard()
    cluster = cluster_of(balance, 10_000, board)  # type: ignore[arg-type]
    board.looks.clear()
    for _ in range(PICKS):
        assert cluster.pick(b"", ()) is not None
    assert len(board.looks) <= most * PICKS
    assert most == 0 or board.looks


@only_sources
@pytest.mark.parametrize("balance", ["round-robin", "consistent-hash"])
def test_flips_cost_the_same(balance: str) -> None:
    """But for the arrangement, which the next pick makes for all of a bunch: a third of a cluster may flip within a second."""

    def flips(count: int) -> float:
        cluster, counter = cluster_of(balance, count), Counter()
        addresses = [endpoint.address for endpoint in cluster.endpoints]
        for up, trial in ((False, 0), (True, 3), (True, 0)):
            cluster.set_health(addresses[0], up, trial)  # with the first one that comes back everybody's weight changes
        for address in addresses[1:5]:
            for up, trial in ((False, 0), (True, 3), (True, 0)):
                counter.count(lambda: cluster.set_health(address, up, trial))  # noqa: B023 - called at once
        return counter.calls

    assert flips(1000) == flips(10) < 500


@pytest.mark.parametrize("is_somebody_up", [True, False])
def test_suspicions_that_come_to_nothing_cost_the_same(is_somebody_up: bool) -> None:
    """When everybody fails there is one from each worker about each endpoint, each second."""

    def suspicions(count: int) -> float:
        outliers, counter, verdicts = Outliers(OutlierPolicy()), Counter(), []
        addresses = [f"e{number}" for number in range(count)]
        outliers.settle(outliers.policy, addresses, 0.0)

        def is_up(_address: str) -> bool:
            return is_somebody_up

        def suspect(address: str) -> str:
            verdicts.append(outliers.suspect(address, "gateway", "", 0.5, is_up))
            return outliers.relieve(0.5, is_up)

        for address in addresses:
            relieved = suspect(address)
            while relieved:  # it fails again, and so do they all
                relieved = suspect(relieved)
        for address in addresses[-4:]:
            counter.count(lambda: suspect(address))  # noqa: B023 - called at once
        assert verdicts[-1] is (Verdict.NO_ROOM if is_somebody_up else Verdict.LAST)
        return counter.calls

    assert suspicions(10_000) == suspicions(10) < 100
