"""What a daemon must not have more of after a test than when it was ready: descriptors, memory, tasks, fibers; its master, its workers.

Measured over all end-to-end tests: a worker at rest has 12 tasks, whatever it serves (13 while a removed listener is seen off); a
fiber for each bind, for each idle connection over HTTP/2 to an endpoint, and one or two of its own. A second after the last client has
gone it has at most 8 MiB more than at the start; tests that need more say so. Its master grows by 2 MiB in 200 reloads, by 5 when a
thousand endpoints are scraped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support import procfs

if TYPE_CHECKING:
    from tests.support.processes import LbdDaemon

__all__ = ["GAUGED", "GROWTH", "KEPT_PIPES", "Footprint", "leaks", "look_at"]

UNDER_WAY = ("lbd_downstream_connections{", "lbd_endpoint_inflight{", "lbd_tunnels{", "lbd_http2_streams{")
GROWTH = 16 << 20  # bytes of a worker: what allocators keep of the height of what has happened
MASTER_GROWTH = 8 << 20
GAUGED = 1.1  # seconds in which each worker has put its gauges anew
MOST_TASKS = 14
OWN_FIBERS = 3
MOST_THREADS = 16  # of a worker: two write logs, and trio keeps those of its errands for a while
KEPT_PIPES = 2 * 16  # descriptors of a worker: pipes for bodies to come (lbd/core/pipes.py)
MASTER_FDS = 4  # who asks for metrics has connections, and so have checks that run
FDS_OF_A_WORKER = 4  # in its master, beside its listening sockets


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a master, and the most that one of its workers has of each."""

    master: int
    workers: tuple[int, ...]
    binds: int
    idle: int  # connections to endpoints, of all workers
    master_fds: int
    master_rss: int
    sockets: int
    pipes: int
    others: int  # files, and the kernel's own kinds
    rss: int
    threads: int
    tasks: int
    fibers: int
    under_way: tuple[str, ...]
    served: int  # requests and connections, ever

    @property
    def may_show_leaks(self) -> bool:
        """Of tasks and fibers: a leak for each request is more than what is allowed."""
        return self.served > MOST_TASKS


def look_at(lbd: LbdDaemon) -> Footprint:
    """Gauges of workers are at most GAUGED old."""
    status, metrics = lbd.json("/api/v1/status"), lbd.metrics()
    master, workers = int(status["pid"]), tuple(int(worker["pid"]) for worker in status["workers"] if worker["pid"])
    kinds = [procfs.fd_kinds(pid) for pid in workers]

    def values(*names: str) -> list[float]:
        return [value for series, value in metrics.items() if series.startswith(names)]

    return Footprint(
        master=master,
        workers=workers,
        binds=len(status["binds"]),
        idle=int(sum(values("lbd_upstream_connections{"))),
        master_fds=procfs.open_fds(master),
        master_rss=procfs.rss_of(master),
        sockets=max((kind["socket"] for kind in kinds), default=0),
        pipes=max((kind["pipe"] for kind in kinds), default=0),
        others=max((kind.total() - kind["socket"] - kind["pipe"] for kind in kinds), default=0),
        rss=max(map(procfs.rss_of, workers), default=0),
        threads=max(map(procfs.threads_of, workers), default=0),
        tasks=int(max(values("lbd_worker_tasks{"), default=0)),
        fibers=int(max(values("lbd_worker_fibers{"), default=0)),
        under_way=tuple(f"{series} {value:g}" for series, value in metrics.items() if series.startswith(UNDER_WAY) and value),
        served=int(sum(values("lbd_requests_total{", "lbd_downstream_connections_total{"))),
    )


def leaks(before: Footprint, now: Footprint, growth: int = GROWTH) -> list[str]:
    """What there is too much of, in words. Binds, workers and idle connections may have become more, and have descriptors."""
    binds = max(0, now.binds - before.binds)
    workers = max(0, len(now.workers) - len(before.workers))
    master_fds = before.master_fds + MASTER_FDS + binds * len(now.workers) + workers * (now.binds + FDS_OF_A_WORKER)
    bounds = (
        ("tasks", now.tasks, MOST_TASKS),
        ("fibers", now.fibers, now.binds + now.idle + OWN_FIBERS),
        ("threads", now.threads, MOST_THREADS),
        ("sockets", now.sockets, before.sockets + binds + now.idle + 1),
        ("descriptors of pipes", now.pipes, before.pipes + KEPT_PIPES),
        ("other descriptors", now.others, before.others + 1),
        ("KiB", now.rss >> 10, (before.rss + growth) >> 10),
        ("descriptors in the master", now.master_fds, master_fds),
        ("KiB in the master", now.master_rss >> 10, (before.master_rss + MASTER_GROWTH) >> 10),
    )
    return [f"{found} {name}, more than {most}" for name, found, most in bounds if found > most] + list(now.under_way)
