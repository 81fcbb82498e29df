"""What a look-up costs, and that it does not depend on the number of routes: `python -m tests.bench.routing`."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

from lbd.routing.route import RoutePolicy
from lbd.routing.table import RoutingTable
from tests.routing.requests import make_request

if TYPE_CHECKING:
    from collections.abc import Callable

COUNTS = (1, 10, 1_000, 100_000)
ROUNDS, REPEATS = 20_000, 5
REQUESTS = {
    "exact host, prefix": make_request("/s0/v0/users/7", "h0.example.com"),
    "with a port": make_request("/s0/v0/users/7", "h0.example.com:8080"),
    "disguised path": make_request("//s0/%760;x/users/7", "h0.example.com"),
    "no route": make_request("/nothing/here/at/all", "www.example.net"),
}


def many_routes(count: int) -> list[RoutePolicy]:
    """A thousand hosts, with prefixes two segments deep."""
    return [RoutePolicy(name=f"r{i}", host=(f"h{i % 1000}.example.com",), path=f"/s{i // 1000}/v{i}", cluster="c") for i in range(count)]


def microseconds(action: Callable[[], object]) -> float:
    """The best of a few rounds: whatever else the machine does only adds."""
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        for _ in range(ROUNDS):
            action()
        best = min(best, time.perf_counter() - started)
    return best / ROUNDS * 1e6


def main() -> None:
    print(f"{'routes':>8}  {'build, s':>8}  {'MB':>5}  " + "  ".join(f"{name:>18}" for name in REQUESTS) + "   (us)")
    for count in COUNTS:
        policies = many_routes(count)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        table = RoutingTable.build(policies, "web")
        seconds = time.perf_counter() - started
        megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        costs = [microseconds(lambda: table.match(request)) for request in REQUESTS.values()]  # noqa: B023
        print(f"{count:>8}  {seconds:>8.3f}  {megabytes:>5.0f}  " + "  ".join(f"{cost:>18.2f}" for cost in costs))


if __name__ == "__main__":
    main()
