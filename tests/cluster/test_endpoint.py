"""Endpoint: what it counts, here and on the board."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbd import metrics
from lbd.cluster.endpoint import Endpoint
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.pool import Pool, PoolPolicy
from lbd.core.board import Board
from tests.cluster.fakes import Facts, make_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(2, cells=128, endpoints=16)
    yield board
    board.close()


def on_board(board: Board, slot: int = 0) -> Endpoint:
    return Endpoint("web", Facts("10.0.0.1:80", index=7), Pool(PoolPolicy()), board.segment(slot), board)


def test_in_flight_of_all_workers(board: Board) -> None:
    here, there = on_board(board, 0), on_board(board, 1)
    here.begin()
    there.begin()
    there.begin()
    assert (here.load(), there.load(), board.inflight(7)) == (3, 3, 3)
    there.end()
    here.end()
    assert (here.load(), board.segment(0).inflight(7), board.segment(1).inflight(7)) == (1, 0, 1)


def test_without_a_board_our_own_count() -> None:
    endpoint = make_endpoint("10.0.0.1:80")
    endpoint.begin()
    endpoint.begin()
    endpoint.end()
    endpoint.attempted("ok")
    endpoint.opened()
    endpoint.reused()
    assert endpoint.load() == 1


def test_series(board: Board) -> None:
    endpoint = on_board(board)
    assert board.totals() == {}  # an endpoint that got nothing takes no room
    for outcome in ("ok", "ok", "connect_refused"):
        endpoint.attempted(outcome)
    endpoint.opened()
    endpoint.reused()
    endpoint.reused()
    assert board.totals() == {
        (metrics.ATTEMPTS.number, ("web", "10.0.0.1:80", "ok")): [2],
        (metrics.ATTEMPTS.number, ("web", "10.0.0.1:80", "connect_refused")): [1],
        (metrics.ENDPOINT_FAILURES.number, ("web", "10.0.0.1:80", "gateway")): [1],
        (metrics.CONNECTIONS_OPENED.number, ("web", "10.0.0.1:80")): [1],
        (metrics.CONNECTIONS_REUSED.number, ("web", "10.0.0.1:80")): [2],
    }


@pytest.mark.parametrize(("limit", "load", "is_full"), [(0, 100, False), (2, 1, False), (2, 2, True), (1, 5, True)])
def test_full(limit: int, load: int, is_full: bool) -> None:
    endpoint = make_endpoint("10.0.0.1:80")
    endpoint.settle(Facts("10.0.0.1:80", max_requests=limit))
    for _ in range(load):
        endpoint.begin()
    assert endpoint.is_full() is is_full


def test_it_introduces_itself() -> None:
    endpoint = make_endpoint("10.0.0.1:80", 3)
    endpoint.begin()
    assert repr(endpoint) == "<Endpoint 10.0.0.1:80 weight 3 up, 1 in flight>"
    assert endpoint.name == "10.0.0.1:80"
    assert make_endpoint("10.0.0.1:80", name="app:80").name == "app:80"


def test_what_tells_against_it(board: Board) -> None:
    told: list[tuple[str, str, str]] = []
    endpoint = Endpoint("web", Facts("10.0.0.1:80"), Pool(PoolPolicy()), board.segment(0), board, lambda *words: told.append(words))
    endpoint.obey(OutlierPolicy(failures=2, latency=3.0))
    for outcome, is_excused in (("upstream_closed", True), ("upstream_refused", True), ("no_upgrade", False), ("ok", False)):
        endpoint.attempted(outcome, is_excused)
    assert (told, failures(board)) == ([], {})
    endpoint.observe(0.25, 1.0, 500)
    endpoint.observe(0.25, 1.0, 503)
    endpoint.observe(0.25, 1.0, 404)  # an answer like any other: a new run
    endpoint.observe(0.25, 1.0, 503)
    assert (told, failures(board)) == ([], {"error": 1, "gateway": 2})
    endpoint.attempted("upstream_refused")
    assert told == [("10.0.0.1:80", "gateway", "2 failures in a row, the last: upstream_refused")]
    assert board.totals()[metrics.ENDPOINT_SECONDS.number, ("web", "10.0.0.1:80")] == [1_000_000]
    assert board.totals()[metrics.ENDPOINT_ANSWERS.number, ("web", "10.0.0.1:80")] == [4]


def failures(board: Board) -> dict[str, int]:
    return {labels[2]: cells[0] for (number, labels), cells in board.totals().items() if number == metrics.ENDPOINT_FAILURES.number}


@pytest.mark.parametrize(("own", "trial", "limit"), [(0, 3, 3), (10, 3, 3), (2, 3, 2), (2, 0, 2)])
def test_a_trial_limits_it(own: int, trial: int, limit: int) -> None:
    endpoint = make_endpoint("10.0.0.1:80")
    endpoint.settle(Facts("10.0.0.1:80", max_requests=own, trial=trial))
    assert endpoint.max_requests == limit
    endpoint.limit(False)  # nobody else is left
    assert endpoint.max_requests == own
    endpoint.try_out(0)
    assert (endpoint.trial, endpoint.max_requests) == (0, own)
