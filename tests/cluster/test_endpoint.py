"""Endpoint: what it counts, here and on the board."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbd import metrics
from lbd.cluster.endpoint import Endpoint
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
