"""What is told of retries: the board always, the log when a budget is used up."""

from __future__ import annotations

import logging
from random import Random
from typing import TYPE_CHECKING

import pytest

from lbd import metrics
from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.retry_policy import RetryPolicy
from lbd.core.board import Board
from lbd.master.cluster_facts import DENIALS, retry_of
from lbd.proxy.retrying import DENIALS as REASONS
from lbd.worker.retries import COMPLAINT_SECONDS, RetryWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.core.board import Segment


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(2, cells=4096, endpoints=8)
    yield board
    board.close()


def cluster_of(segment: Segment | None = None, name: str = "web", **settings: object) -> Cluster:
    return Cluster(ClusterPolicy(name, (), retry=RetryPolicy(**settings)), segment, None, Random(1))  # type: ignore[arg-type]


def value(board: Board, metric: metrics.Metric, *labels: str) -> int | None:
    cells = board.totals().get((metric.number, labels))
    return None if cells is None else cells[0]


def test_the_board_has_what_was_made_and_what_is_left(board: Board) -> None:
    clusters = [cluster_of(budget=0.2, budget_min=1) for _ in range(2)]
    watches = [RetryWatch(board.segment(slot), slot) for slot in range(2)]
    for watch, cluster in zip(watches, clusters, strict=True):
        watch.look([cluster], 0.0)
    assert value(board, metrics.RETRIES_LEFT, "web") == 20, "of all workers"
    assert value(board, metrics.RETRIES_MADE, "web") is None
    for now in (0.0, 0.5):
        assert all(clusters[0].budget.spend(now) for _ in range(3))
        watches[0].look([clusters[0]], now)
    assert value(board, metrics.RETRIES_MADE, "web") == 6
    assert value(board, metrics.RETRIES_LEFT, "web") == 14
    reloaded = cluster_of(budget=0.2, budget_min=1)  # it had left, and has come back
    assert reloaded.budget.spend(1.0)
    watches[0].look([reloaded], 1.0)
    assert value(board, metrics.RETRIES_MADE, "web") == 7
    watches[0].look([], 2.0)
    watches[1].look([], 2.0)
    assert value(board, metrics.RETRIES_LEFT, "web") == 0, "nobody looks at it any more"


def test_the_board_has_after_how_long_an_attempt_is_hedged(board: Board) -> None:
    fixed, learned = cluster_of(name="fixed", hedge_after="50ms"), cluster_of(name="learned", hedge_after="p50")
    watch = RetryWatch(board.segment(1), 1)
    watch.look([fixed, learned], 0.0)
    assert value(board, metrics.HEDGE_DELAY, "fixed", "worker-1") == 50_000
    assert value(board, metrics.HEDGE_DELAY, "learned", "worker-1") == 0, "it is not known yet"
    assert learned.hedging is not None
    for _ in range(1000):
        learned.hedging.observe(0.02)
    watch.look([fixed, learned], 1.0)
    assert 20_000 <= (value(board, metrics.HEDGE_DELAY, "learned", "worker-1") or 0) < 22_000


def test_a_budget_that_is_used_up_is_told_of_once_a_minute(board: Board, caplog: pytest.LogCaptureFixture) -> None:
    cluster, watch, now = cluster_of(budget=0.2, budget_min=0), RetryWatch(board.segment(0), 0), 0.0
    watch.look([cluster], now)
    assert not caplog.records, "nothing has been refused"
    while now < COMPLAINT_SECONDS + 5:
        assert not cluster.budget.spend(now)
        watch.look([cluster], now)
        now += 1.0
    told = [(record.levelno, record.getMessage().partition(", for more")[0]) for record in caplog.records]
    assert told == [
        (logging.WARNING, "cluster web: the retry budget is used up (budget = 0.2, budget_min = 0): 1 attempt was not made"),
        (logging.WARNING, "cluster web: the retry budget is used up (budget = 0.2, budget_min = 0): 60 attempts were not made"),
    ]


def test_what_the_admin_api_tells(board: Board) -> None:
    cluster = cluster_of(hedge_after="50ms", budget_min=2)
    assert retry_of({}, cluster.policy, 2) == {
        "made": 0,
        "denied": {"budget": 0, "deadline": 0, "body": 0, "endpoint": 0},
        "budget_left": 0,
        "hedges": {"won": 0, "lost": 0, "failed": 0, "denied": 0},
        "hedge_after": {},
    }
    segment = board.segment(1)
    assert cluster.budget.spend(0.0)
    RetryWatch(segment, 1).look([cluster], 0.0)
    for metric, label, count in ((metrics.RETRIES_DENIED, "budget", 3), (metrics.HEDGES, "won", 2)):
        segment.add(segment.series(metric.number, ("web", label), 1), count)
    told = retry_of(board.totals(), cluster.policy, 2)
    assert (told["made"], told["denied"]["budget"], told["budget_left"]) == (1, 3, 19)
    assert (told["hedges"]["won"], told["hedge_after"]) == (2, {"worker-1": 0.05})
    off = retry_of(board.totals(), cluster_of(attempts=0).policy, 2)
    assert (off["budget_left"], off["hedge_after"]) == (None, None)


def test_the_api_has_all_reasons() -> None:
    assert tuple(REASONS) == DENIALS
