"""What a scrape costs: `python -m tests.bench.scraping [WORKERS] [ENDPOINTS]`.

A board as a busy balancer has it (ten endpoints a cluster, three outcomes each, histograms by cluster and route), counted by every
worker, and the master's own numbers beside it. The budget is 100 ms: it is time in which the master does nothing else.
"""

from __future__ import annotations

import gzip
import sys
import time
from statistics import median
from typing import TYPE_CHECKING

from lbd.admin.metrics import Scraper
from lbd.core.board import Board
from lbd.metrics import (
    ATTEMPTS,
    CATALOGUE,
    CONNECTIONS_OPENED,
    CONNECTIONS_REUSED,
    ENDPOINT_INFLIGHT,
    ENDPOINT_UP,
    HEALTH_CHECKS,
    REQUEST_DURATION,
    REQUESTS,
    UPSTREAM_DURATION,
)
from tests.admin.views import FakeView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbd.admin.view import OwnMetric

BUDGET = 0.1
ROUNDS = 9
FORMS = {"text": "text/plain", "OpenMetrics": "application/openmetrics-text;version=1.0.0"}


def names(endpoints: int) -> Iterator[tuple[str, str]]:
    """(cluster, address)"""
    for number in range(endpoints):
        yield f"cluster-{number // 10}", f"10.{number // 62500}.{number // 250 % 250}.{number % 250}:9000"


def series(endpoints: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """What every worker counts in."""
    for cluster, address in names(endpoints):
        for outcome in ("ok", "connect_refused", "response_timeout"):
            yield ATTEMPTS.number, (cluster, address, outcome)
        yield CONNECTIONS_OPENED.number, (cluster, address)
        yield CONNECTIONS_REUSED.number, (cluster, address)
    for cluster in dict(names(endpoints)):
        yield UPSTREAM_DURATION.number, (cluster,)
        yield REQUEST_DURATION.number, ("web", cluster)
        for code in ("200", "404", "503"):
            yield REQUESTS.number, ("web", cluster, cluster, code)


def own_metrics(endpoints: int) -> Iterator[OwnMetric]:
    for cluster, address in names(endpoints):
        labels = {"cluster": cluster, "endpoint": address}
        yield ENDPOINT_UP.name, labels, 1.0
        yield ENDPOINT_INFLIGHT.name, labels, 3.0
        yield HEALTH_CHECKS.name, {**labels, "result": "ok"}, 1000.0
        yield HEALTH_CHECKS.name, {**labels, "result": "timeout"}, 1.0


def build_board(workers: int, endpoints: int) -> Board:
    board = Board.create(workers)
    for slot in range(workers):
        segment = board.segment(slot)
        for number, labels in series(endpoints):
            width = CATALOGUE[number].width
            first = segment.series(number, labels, width)
            for cell in range(width):
                segment.add(first + cell, 1000 + cell)
    return board


def timed(act: Callable[[], object]) -> tuple[float, float]:
    """(the first time, the median of the others), in seconds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return taken[0], median(taken[1:])


def main(workers: int = 4, endpoints: int = 1000) -> int:
    board = build_board(workers, endpoints)
    scraper = Scraper(FakeView(board, own=list(own_metrics(endpoints))))
    print(f"{workers} workers, {endpoints} endpoints")
    print(f"  the board alone: {timed(board.totals)[1] * 1000:.1f} ms")
    slowest = 0.0
    for name, accept in FORMS.items():
        first, usual = timed(lambda accept=accept: scraper.scrape(accept))  # type: ignore[misc]
        body = scraper.scrape(accept)[1]
        print(f"  {name}: {usual * 1000:.1f} ms ({first * 1000:.1f} the first time), {len(body.splitlines())} lines, {len(body)} bytes")
        slowest = max(slowest, usual)
    print(f"  gzip: {timed(lambda: gzip.compress(body, 1))[1] * 1000:.1f} ms, {len(gzip.compress(body, 1))} bytes")
    board.close()
    return 0 if slowest < BUDGET else 1


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
