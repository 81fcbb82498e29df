"""Limits of a cluster over several workers, and the turn of those who wait: on a real board, without a clock."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lbd import metrics
from lbd.cluster.admission import LimitPolicy
from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.queue import QueuePolicy
from lbd.core.board import Board
from tests.cluster.fakes import Connection, Facts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.cluster.endpoint import Endpoint

PLACE = 60  # of the cluster


class Request:
    """A Place, and what became of it."""

    def __init__(self, cluster: Cluster, name: str = "", rank: int = 1, since: float = 0.0) -> None:
        self.cluster = cluster
        self.name = name
        self.rank = rank
        self.since = since
        self.endpoint: Endpoint | None = None
        self.why = ""
        self.tried: list[Endpoint] = []

    @property
    def kin(self) -> object:
        return self if self.tried else self.cluster

    def pick(self) -> Endpoint | None:
        return self.cluster.pick(b"", self.tried)

    def grant(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.leave()

    def turn_away(self, reason: str) -> None:
        self.why = reason
        self.leave()

    def come(self) -> bool:
        """Begins, or waits; False: neither."""
        endpoint = self.pick()
        if endpoint is not None:
            endpoint.begin()
            self.endpoint = endpoint
            return True
        assert self.cluster.admission is not None
        return self.cluster.admission.enter(self)

    def leave(self) -> None:
        assert self.cluster.admission is not None
        self.cluster.admission.leave(self)

    def end(self) -> None:
        assert self.endpoint is not None
        self.endpoint.end()
        self.endpoint = None


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(2, cells=4096, endpoints=64)
    yield board
    board.close()


def worker(board: Board, slot: int, *facts: Facts, limit: int = 0, size: int = 100, balance: str = "round-robin") -> Cluster:
    """One worker's view of a cluster."""
    policy = ClusterPolicy("web", (), balance=balance, limits=LimitPolicy(limit), queue=QueuePolicy(size))
    cluster = Cluster(policy, board.segment(slot), board, Random(slot))
    cluster.place = PLACE
    cluster.update(facts)
    return cluster


A, B = Facts("a:1", index=0, max_requests=2), Facts("b:1", index=1, max_requests=2)


def come(cluster: Cluster, count: int) -> list[Request]:
    requests = [Request(cluster, str(number)) for number in range(count)]
    assert all(request.come() for request in requests)
    return requests


def test_what_is_not_limited_has_no_admission(board: Board) -> None:
    assert worker(board, 0, Facts("a:1")).admission is None
    assert worker(board, 0, A).admission is not None
    assert worker(board, 0, Facts("a:1"), limit=1).admission is not None


def test_a_clusters_limit_is_over_all_endpoints_and_workers(board: Board) -> None:
    one, two = (worker(board, slot, Facts("a:1", index=0), Facts("b:1", index=1), limit=3) for slot in range(2))
    here, there = come(one, 2), come(two, 1)
    assert one.pick(b"", ()) is None
    assert two.pick(b"", ()) is None
    assert board.inflight(PLACE) == 3
    there[0].end()
    assert one.pick(b"", ()) is not None
    for request in here:
        request.end()
    assert board.inflight(PLACE) == 0


def test_whoever_waits_begins_when_one_ends_here(board: Board) -> None:
    cluster = worker(board, 0, A)
    first, second, third, fourth = come(cluster, 4)
    assert [r.endpoint is not None for r in (first, second, third, fourth)] == [True, True, False, False]
    assert cluster.admission is not None
    assert cluster.admission.waiting == board.waiting(PLACE) == 2
    second.end()
    assert [r.endpoint is not None for r in (first, third, fourth)] == [True, True, False]
    assert cluster.admission.waiting == board.waiting(PLACE) == 1


def test_nobody_passes_by_those_who_wait(board: Board) -> None:
    cluster = worker(board, 0, A)
    waiting = come(cluster, 3)[2]
    other = worker(board, 1, A)
    cluster.endpoints[0].end()  # which serves the one who waits
    assert waiting.endpoint is not None
    fourth = Request(cluster)
    assert fourth.come()
    assert fourth.endpoint is None
    assert other.pick(b"", ()) is None


def test_room_made_by_another_worker_is_seen_by_looking(board: Board) -> None:
    one, two = (worker(board, slot, A) for slot in range(2))
    busy = come(one, 2)
    waiting = come(two, 1)[0]
    busy[0].end()
    assert waiting.endpoint is None
    assert two.pick(b"", ()) is None  # not for somebody who comes now
    assert two.admission is not None
    two.admission.look()
    assert waiting.endpoint is not None


def test_ranks(board: Board) -> None:
    cluster = worker(board, 0, A)
    busy = come(cluster, 2)
    waiting = [Request(cluster, name, rank) for name, rank in (("low", 0), ("high", 2), ("normal", 1))]
    for request in waiting:
        request.come()
    served = []
    for _ in range(3):
        busy.pop(0).end()
        (got,) = (request for request in waiting if request.endpoint is not None)
        served.append(got.name)
        waiting.remove(got)
        busy.append(got)
    assert served == ["high", "normal", "low"]


def test_a_retry_that_must_go_elsewhere_lets_others_pass(board: Board) -> None:
    """Room at the endpoint that it has tried is no room for it, but is for the next."""
    cluster = worker(board, 0, A, B)
    busy = come(cluster, 4)
    retry, other = Request(cluster, "retry"), Request(cluster, "other", since=1.0)
    retry.tried = [cluster.endpoints[0]]
    retry.come()
    other.come()
    next(request for request in busy if request.endpoint is cluster.endpoints[0]).end()
    assert retry.endpoint is None
    assert other.endpoint is cluster.endpoints[0]


def test_when_nothing_is_left_to_wait_for_nobody_waits(board: Board) -> None:
    cluster = worker(board, 0, A, B)
    waiting = come(cluster, 6)[4:]
    cluster.set_health("a:1", False)
    cluster.set_health("b:1", False)
    cluster.apply_policy(ClusterPolicy("web", (), panic=0.0))
    assert cluster.pick(b"", ()) is None  # arranges what has changed
    assert cluster.admission is not None
    cluster.admission.look()
    assert [request.why for request in waiting] == ["no_healthy_endpoint"] * 2
    assert board.waiting(PLACE) == 0


def test_a_reload_keeps_those_who_wait_and_counts_those_who_were_there(board: Board) -> None:
    cluster = worker(board, 0, Facts("a:1", index=0))
    busy = [cluster.pick(b"", ()) for _ in range(2)]
    for endpoint in busy:
        assert endpoint is not None
        endpoint.begin()
    assert board.inflight(PLACE) == 0
    cluster.apply_policy(ClusterPolicy("web", (), limits=LimitPolicy(2)))
    cluster.update([Facts("a:1", index=0)])
    assert board.inflight(PLACE) == 2
    waiting = come(cluster, 1)[0]
    cluster.apply_policy(ClusterPolicy("web", (), limits=LimitPolicy(3)))
    cluster.update([Facts("a:1", index=0)])
    assert waiting.endpoint is None
    assert cluster.admission is not None
    cluster.admission.look()
    assert waiting.endpoint is not None
    cluster.apply_policy(ClusterPolicy("web", ()))
    cluster.update([Facts("a:1", index=0)])
    for endpoint in (*busy, waiting.endpoint):
        assert endpoint is not None
        endpoint.end()
    assert board.inflight(PLACE) == board.inflight(0) == 0


def test_the_place_of_one_who_left_the_cluster_is_given_back(board: Board) -> None:
    cluster = worker(board, 0, A, limit=5)
    (request,) = come(cluster, 1)
    cluster.update([B])
    assert board.inflight(PLACE) == 1
    request.end()
    assert board.inflight(PLACE) == 0


Step = tuple[str, int, int]
STEPS = st.lists(st.tuples(st.sampled_from(("come", "end", "look", "leave")), st.integers(0, 1), st.integers(0, 9)), max_size=80)


@settings(deadline=None, max_examples=60)
@given(STEPS, st.integers(0, 4))
def test_never_above_a_limit_and_nobody_is_forgotten(steps: list[Step], limit: int) -> None:
    board = Board.create(2, cells=4096, endpoints=64)
    try:
        workers = [worker(board, slot, A, B, limit=limit, size=5) for slot in range(2)]
        requests: list[list[Request]] = [[], []]
        for what, slot, number in steps:
            step(what, workers[slot], requests[slot], number)
            here = [request for each in requests for request in each if request.endpoint is not None]
            at = Counter(request.endpoint.address for request in here if request.endpoint is not None)
            assert max(at.values(), default=0) <= 2
            assert not limit or len(here) <= limit
            assert len(here) == board.inflight(PLACE)
        for _ in range(100):  # everything ends, and whoever waits gets its turn
            for slot in range(2):
                step("end", workers[slot], requests[slot], 0)
                step("look", workers[slot], requests[slot], 0)
        assert requests == [[], []]
        assert board.inflight(PLACE) == board.waiting(PLACE) == 0
    finally:
        board.close()


def step(what: str, cluster: Cluster, requests: list[Request], number: int) -> None:
    assert cluster.admission is not None
    if what == "look":
        cluster.admission.look()
    elif what == "come":
        request = Request(cluster, rank=number % 3, since=float(number))
        if request.come():
            requests.append(request)
    else:
        found = [request for request in requests if (request.endpoint is None) is (what == "leave")]
        if found:
            request = found[number % len(found)]
            request.end() if what == "end" else request.leave()
            requests.remove(request)
    requests[:] = [request for request in requests if not request.why]


# Connections


def connections(board: Board, slot: int, *, limit: int = 0, each: int = 0) -> Cluster:
    """A worker's view of two endpoints, where connections are limited: of the cluster, or of each endpoint."""
    policy = ClusterPolicy("web", (), limits=LimitPolicy(max_connections=limit))
    cluster = Cluster(policy, board.segment(slot), board, Random(slot))
    cluster.place = PLACE
    cluster.update([Facts(f"{name}:1", index=index, max_connections=each) for index, name in enumerate("ab")])
    return cluster


def begin(cluster: Cluster) -> Endpoint | None:
    """A request begins, and makes a connection if there is none for it."""
    endpoint = cluster.pick(b"", ())
    if endpoint is not None:
        endpoint.begin()
        if endpoint.awaits_connection():
            endpoint.connected()
    return endpoint


def test_an_endpoint_has_no_more_connections_than_it_may_over_all_workers(board: Board) -> None:
    one, two = (connections(board, slot, each=2) for slot in range(2))
    assert [begin(cluster) is not None for cluster in (one, two, one, two, one)] == [True, True, True, True, False]
    assert [board.connections(place) for place in (0, 1, PLACE)] == [2, 2, 4]
    first = one.endpoints[0]
    first.end()  # its connection lies idle: for whoever comes next in this worker
    assert two.pick(b"", ()) is None
    assert begin(one) is first
    assert board.connections(0) == 2
    first.end()
    first.disconnected()
    assert begin(two) is two.endpoints[0]


def test_a_clusters_connections_are_those_of_all_its_endpoints(board: Board) -> None:
    one, two = (connections(board, slot, limit=3) for slot in range(2))
    assert [begin(cluster) is not None for cluster in (one, two, one, two)] == [True, True, True, False]
    assert board.connections(PLACE) == 3


def test_who_waits_for_a_connection_makes_it_before_the_next_may(board: Board) -> None:
    """Those who are granted at the same moment must not all take the last one for theirs."""
    cluster = connections(board, 0, limit=2)
    busy = [begin(cluster) for _ in range(2)]
    waiting = come(cluster, 3)
    for endpoint in busy:
        assert endpoint is not None
        endpoint.disconnected()
        endpoint.end()
    assert sum(request.endpoint is not None for request in waiting) == 1
    made = set()
    for _ in range(2):
        for request in waiting:
            if request.endpoint is not None and request not in made:
                made.add(request)
                request.endpoint.connected()
    assert sum(request.endpoint is not None for request in waiting) == 2
    assert board.connections(PLACE) == 2


def test_who_gives_up_before_it_has_made_its_connection_holds_up_nobody(board: Board) -> None:
    cluster = connections(board, 0, limit=1)
    busy = begin(cluster)
    first, second = come(cluster, 2)
    assert busy is not None
    busy.disconnected()
    busy.end()
    assert (first.endpoint is not None, second.endpoint is not None) == (True, False)
    first.end()
    assert cluster.admission is not None
    cluster.admission.look()
    assert second.endpoint is not None


def test_who_gives_up_last_leaves_nothing_behind(board: Board) -> None:
    cluster = connections(board, 0, limit=1)
    busy = begin(cluster)
    (waiting,) = come(cluster, 1)
    assert busy is not None
    assert cluster.admission is not None
    assert cluster.admission.begin_watch()
    busy.disconnected()
    busy.end()
    assert waiting.endpoint is not None
    waiting.end()
    cluster.admission.end_watch()
    assert begin(cluster) is not None


def test_idle_connections_are_given_up_for_those_who_wait_elsewhere(board: Board) -> None:
    one, two = (connections(board, slot, each=1) for slot in range(2))
    kept = []
    for _ in range(2):
        endpoint = begin(one)
        assert endpoint is not None
        kept.append((endpoint, Connection()))
    for endpoint, connection in kept:
        endpoint.end()
        endpoint.pool.give(connection, 0.0)
    assert one.admission is not None
    one.admission.relieve()
    assert [connection.closed for _, connection in kept] == [0, 0]  # nobody wants them
    come(two, 1)
    one.admission.relieve()
    assert [connection.closed for _, connection in kept] == [1, 1]


def test_a_place_on_the_board_takes_its_connections_along(board: Board) -> None:
    cluster = connections(board, 0, each=5)
    endpoint = begin(cluster)
    assert endpoint is not None
    cluster.update([Facts("a:1", index=7, max_connections=5), Facts("b:1", index=8, max_connections=5)])
    assert board.connections(endpoint.index) == board.inflight(endpoint.index) == 1
    assert [board.connections(place) for place in (0, 1)] == [0, 0]


# The adaptive limit


def test_errors_that_come_quickly_do_not_make_answers_slow(board: Board) -> None:
    cluster = Cluster(ClusterPolicy("web", (), adaptive=AdaptivePolicy(enabled=True, initial=20)), board.segment(0), board, Random(1))
    cluster.place = PLACE
    cluster.update([Facts("a:1")])
    for number in range(150):
        seconds, status = (0.001, 503) if 50 <= number < 100 else (0.05, 200)
        cluster.endpoints[0].observe(seconds, 1.0 + number / 100, status)
    assert cluster.admission is not None
    cluster.admission.tell()
    assert board.totals()[(metrics.ADAPTIVE_LIMIT.number, ("web",))] == [20]


def test_above_the_adaptive_limit_requests_wait(board: Board) -> None:
    policy = ClusterPolicy("web", (), adaptive=AdaptivePolicy(enabled=True, initial=3))
    cluster = Cluster(policy, board.segment(0), board, Random(1))
    cluster.place = PLACE
    cluster.update([Facts("a:1"), Facts("b:1", index=1)])
    requests = come(cluster, 4)
    assert [request.endpoint is not None for request in requests] == [True, True, True, False]
    assert cluster.admission is not None
    cluster.admission.tell()
    assert board.totals()[(metrics.ADAPTIVE_LIMIT.number, ("web",))] == [3]
    for number in range(40):
        cluster.endpoints[0].observe(0.01, 1.0 + number / 100)  # it is as fast as ever
    cluster.admission.look()
    assert requests[3].endpoint is not None
    cluster.apply_policy(ClusterPolicy("web", ()))
    cluster.update([Facts("a:1"), Facts("b:1", index=1)])
    assert all(request.endpoint is not None for request in come(cluster, 20))
    cluster.admission.tell()
    assert board.totals()[(metrics.ADAPTIVE_LIMIT.number, ("web",))] == [0]
