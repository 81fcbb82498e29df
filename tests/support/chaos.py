"""What chaos is made of: configurations that change at random, origins that die and come back, and what must not grow meanwhile.

Random, but the same every time: every choice comes from a generator with a fixed seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import procfs
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from tests.support.processes import LbdDaemon

__all__ = ["BROKEN", "ChangingText", "Rest", "at_rest", "look"]

BALANCES = ("round-robin", "least-requests", "power-of-two", "random", "consistent-hash", "maglev", "peak-ewma")
# What a broken file looks like: an unknown key, half a table, a value of the wrong type, a cluster that is not there.
BROKEN = (
    "\nnonsense = 1\n",
    "\n[cluster",
    "\n[cluster.web.timeouts]\nresponse = 5\n",
    '\n[listener.lost]\nbind = "127.0.0.1:1"\ncluster = "no"\n',
)


class ChangingText:
    """The text of a configuration; `change()` makes another one of it that serves the same requests in another way.

    `port` always listens; `extra_port` belongs to a listener that comes and goes.
    """

    def __init__(self, endpoints: list[int], *, workers: int = 2, fewest: int = 1, seed: int = 1) -> None:
        """`fewest`: endpoints that there must always be."""
        self.all_endpoints = endpoints
        self.endpoints = list(endpoints)
        self.workers = workers
        self.fewest = fewest
        self.random = random.Random(seed)
        self.port, self.extra_port, self.admin = free_ports(3)
        self.has_extra = False
        self.routes = 0
        self.balance = BALANCES[0]
        self.response = 30
        self.pool = ""

    def change(self) -> None:
        """Endpoints, routes, listeners or settings: one or more of them."""
        for what in self.random.sample(("endpoints", "routes", "listener", "balance", "timeouts", "pool"), self.random.randint(1, 3)):
            match what:
                case "endpoints":
                    self.endpoints = self.random.sample(self.all_endpoints, self.random.randint(self.fewest, len(self.all_endpoints)))
                case "routes":
                    self.routes = self.random.randint(0, 20)
                case "listener":
                    self.has_extra = not self.has_extra
                case "balance":
                    self.balance = self.random.choice(BALANCES)
                case "timeouts":
                    self.response = self.random.randint(10, 60)
                case _:
                    self.pool = f"max_idle = {self.random.choice((0, 1, 8, 128))}, max_requests = {self.random.choice((0, 1, 10, 1000))}"

    def __str__(self) -> str:
        clusters = ["web", "other"] if self.routes else ["web"]
        addresses = ", ".join(f'"127.0.0.1:{port}"' for port in self.endpoints)
        settings = (
            f'balance = "{self.balance}"\nhash_key = "header:x-id"\nendpoints = [{addresses}]\n'
            f'timeouts = {{ response = "{self.response}s" }}\npool = {{ {self.pool} }}'
        )
        return "\n".join(
            [
                f'[lbd]\nworkers = {self.workers}\n[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{self.admin}"',
                f'[listener.web]\nbind = "127.0.0.1:{self.port}"\ncluster = "web"\n{self._routes()}',
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
    """Once nobody is connected and the idle upstream connections have been closed. Of those workers, or of all."""

    def is_quiet() -> bool:
        metrics = lbd.metrics()
        gauges = ("lbd_downstream_connections{", "lbd_upstream_connections{", "lbd_endpoint_inflight{")
        return not any(value for name, value in metrics.items() if name.startswith(gauges))

    wait_until(is_quiet, "no connections and nothing in flight", timeout)
    return look(lbd, workers or lbd.workers(), master)
