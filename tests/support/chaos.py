"""What chaos is made of: configurations that change at random, origins that die and come back, and what must not grow meanwhile.

Random, but the same every time: every choice comes from a generator with a fixed seed.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import procfs
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.support.processes import LbdDaemon

__all__ = ["BROKEN", "BUDGET_OF_WHO_COMES", "SHAPE", "ChangingText", "Rest", "at_rest", "look"]

BALANCES = ("round-robin", "least-requests", "power-of-two", "random", "consistent-hash", "maglev", "peak-ewma")
# What a broken file looks like: an unknown key, half a table, a value of the wrong type, a cluster that is not there.
BROKEN = (
    "\nnonsense = 1\n",
    "\n[cluster",
    "\n[cluster.web.timeouts]\nresponse = 5\n",
    '\n[listener.lost]\nbind = "127.0.0.1:1"\ncluster = "no"\n',
)

SHAPE = ("endpoints", "routes", "binds")  # what the report of a reload has by these names
MOST_ROUTES = 20
# For whoever kills endpoints while clusters come and go: a cluster of which there were no requests yet has no share of them for retries.
BUDGET_OF_WHO_COMES = "budget_min = 1000"
FAST_IDLE = 'idle_timeout = "1s"'  # so that nobody waits long for it to come to rest
GAUGED = 1.5  # seconds in which each worker has put its gauges anew; it does once a second


class ChangingText:
    """The text of a configuration; `change()` makes another one of it that serves the same requests in another way.

    `port` always listens; `second_port` belongs to the same listener, and `extra_port` to another one: these come and go.
    """

    def __init__(self, endpoints: list[int], *, workers: int = 2, fewest: int = 1, seed: int = 1, retry: str = "") -> None:
        """`fewest`: endpoints that there must always be."""
        self.all_endpoints = endpoints
        self.endpoints = list(endpoints)
        self.workers = workers
        self.fewest = fewest
        self.retry = retry
        self.random = random.Random(seed)
        self.port, self.second_port, self.extra_port, self.admin = free_ports(4)
        self.has_second = False
        self.has_extra = False
        self.routes = 0
        self.balance = BALANCES[0]
        self.response = 30
        self.pool = FAST_IDLE

    def change(self) -> None:
        """Other endpoints, routes or binds than before, and up to two things more."""
        first = self.random.choice(SHAPE)
        others = [what for what in (*SHAPE, "listener", "balance", "timeouts", "pool") if what != first]
        for what in (first, *self.random.sample(others, self.random.randint(0, 2))):
            match what:
                case "endpoints":
                    self.endpoints = self._other_endpoints()
                case "routes":
                    self.routes = (self.routes + self.random.randint(1, MOST_ROUTES)) % (MOST_ROUTES + 1)
                case "binds":
                    self.has_second = not self.has_second
                case "listener":
                    self.has_extra = not self.has_extra
                case "balance":
                    self.balance = self.random.choice(BALANCES)
                case "timeouts":
                    self.response = self.random.randint(10, 60)
                case _:
                    kept, requests = self.random.choice((0, 1, 8, 128)), self.random.choice((0, 1, 10, 1000))
                    self.pool = f"{FAST_IDLE}, max_idle = {kept}, max_requests = {requests}"

    def _other_endpoints(self) -> list[int]:
        while True:
            others = self.random.sample(self.all_endpoints, self.random.randint(self.fewest, len(self.all_endpoints)))
            if set(others) != set(self.endpoints):
                return others

    def calm(self) -> str:
        """Goes back to the listeners that it began with, so that what a storm has left open can be counted."""
        self.has_second = self.has_extra = False
        return str(self)

    def __str__(self) -> str:
        clusters = ["web", "other"] if self.routes else ["web"]
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in self.endpoints)
        binds = ", ".join(f'"127.0.0.1:{port}"' for port in (self.port, *([self.second_port] if self.has_second else [])))
        settings = (
            f'balance = "{self.balance}"\nhash_key = "header:x-id"\nendpoints = [{addresses}]\n'
            f'timeouts = {{ response = "{self.response}s" }}\npool = {{ {self.pool} }}\nretry = {{ {self.retry} }}'
        )
        return "\n".join(
            [
                f'[lbd]\nworkers = {self.workers}\n[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{self.admin}"',
                f'[listener.web]\nbind = [{binds}]\ncluster = "web"\n{self._routes()}',
                f'[listener.extra]\nbind = "127.0.0.1:{self.extra_port}"\ncluster = "web"' if self.has_extra else "",
                *(f"[cluster.{name}]\n{settings}" for name in clusters),
                "",
            ]
        )

    def _routes(self) -> str:
        """The last one takes the load's requests, by another cluster."""
        others = (f'[[listener.web.route]]\npath = "/other/{n}"\ncluster = "web"' for n in range(self.routes))
        return "\n".join([*others, '[[listener.web.route]]\npath_exact = "/id"\ncluster = "other"' if self.routes else ""])


@dataclass(frozen=True, slots=True)
class Rest:
    """Descriptors and memory of the master and of the fullest worker, when nothing is asked of them."""

    master_fds: int
    worker_fds: int
    master_rss: int
    worker_rss: int

    def __str__(self) -> str:
        return (
            f"master {self.master_fds} descriptors, {self.master_rss >> 10} KiB; "
            f"worker {self.worker_fds} descriptors, {self.worker_rss >> 10} KiB"
        )


def look(lbd: LbdDaemon, workers: list[int], master: int = 0) -> Rest:
    """As they are now; `master`: after an upgrade it is no child of ours."""
    return Rest(
        procfs.open_fds(master or lbd.pid),
        max(map(procfs.open_fds, workers)),
        procfs.rss_of(master or lbd.pid),
        max(map(procfs.rss_of, workers)),
    )


def at_rest(lbd: LbdDaemon, timeout: float = PATIENCE, workers: list[int] | None = None, master: int = 0) -> Rest:
    """Once nobody is connected, idle upstream connections have been closed and no descriptor comes or goes; of those workers, or of all."""

    def is_quiet() -> bool:
        metrics = lbd.metrics()
        gauges = ("lbd_downstream_connections{", "lbd_upstream_connections{", "lbd_endpoint_inflight{")
        return not any(value for name, value in metrics.items() if name.startswith(gauges))

    deadline = time.monotonic() + timeout
    last = None
    while True:
        wait_until(is_quiet, "no connections and nothing in flight", timeout)
        time.sleep(GAUGED)  # and what asked for the metrics has gone
        rest = look(lbd, workers or lbd.workers(), master)
        if last is not None and (rest.master_fds, rest.worker_fds) == (last.master_fds, last.worker_fds):
            return rest
        if time.monotonic() > deadline:
            raise TimeoutError(f"it does not come to rest: {last}, then {rest}")
        last = rest
