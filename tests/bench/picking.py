"""What choosing an endpoint costs: `python -m tests.bench.picking`, and LBD_PURE=1 before it for the sources.

Microseconds for one pick of the cluster, with all endpoints up, one in ten down, and for the next candidate after a failed one;
milliseconds for building. Requests are in flight throughout, on a board of four workers.
"""

from __future__ import annotations

import os
import sys
import time
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from lbd.cluster import cluster as module
from lbd.cluster.cluster import BALANCES, Cluster, ClusterPolicy
from lbd.core.board import Board
from tests.cluster.fakes import Facts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbd.cluster.endpoint import Endpoint

ROUNDS = 20_000
KEYS = [b"key-%d" % i for i in range(ROUNDS)]


class Timing(NamedTuple):
    """One line of the table."""

    build: float  # milliseconds
    pick: float  # microseconds
    down: float
    retry: float


def fill(policy: ClusterPolicy, count: int, weights: Sequence[int], board: Board) -> Cluster:
    cluster = Cluster(policy, board.segment(0), board, Random(1))
    cluster.update([Facts(f"10.{i // 250}.{i % 250}.1:80", weights[i % len(weights)], i) for i in range(count)])
    return cluster


def time_picks(cluster: Cluster, tried: Sequence[Endpoint] = (), rounds: int = ROUNDS) -> float:
    started = time.perf_counter()
    for key in KEYS[:rounds]:
        endpoint = cluster.pick(key, tried)
        assert endpoint is not None
        endpoint.begin()
        endpoint.end()
    return (time.perf_counter() - started) / rounds * 1e6


def measure(balance: str, count: int, weights: Sequence[int], bound: float = 0.0) -> Timing:
    board = Board.create(4, cells=64)
    started = time.perf_counter()
    cluster = fill(ClusterPolicy("web", (), balance=balance, bound=bound), count, weights, board)
    build = (time.perf_counter() - started) * 1e3
    for number, endpoint in enumerate(cluster.endpoints):
        for _ in range(number % 4):
            endpoint.begin()
    up = time_picks(cluster)
    for endpoint in cluster.endpoints[::10]:
        cluster.set_health(endpoint.address, False)
    down = time_picks(cluster)
    retry = time_picks(cluster, cluster.endpoints[1:3], ROUNDS // 10)
    board.close()
    return Timing(build, up, down, retry)


def main() -> int:
    is_pure = (module.__file__ or "").endswith(".py")
    print(
        f"{'sources' if is_pure else 'compiled'}, Python {sys.version.split()[0]}, {os.cpu_count()} CPUs; us a pick with begin() and end()"
    )
    print(f"{'balance':22}{'endpoints':>10}{'weights':>9}{'build ms':>10}{'pick':>8}{'1/10 down':>11}{'2 tried':>9}")
    rows = [(balance, 0.0) for balance in BALANCES] + [("consistent-hash", 1.25)]
    for balance, bound in rows:
        for count in (10, 10_000):
            for weights in ((1,), (1, 2, 3, 4, 5)):
                timing = measure(balance, count, weights, bound)
                name = f"{balance} {bound or ''}"
                mixed = "1" if len(weights) == 1 else f"1-{max(weights)}"
                print(f"{name:22}{count:>10}{mixed:>9}{timing.build:>10.1f}{timing.pick:>8.2f}{timing.down:>11.2f}{timing.retry:>9.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
