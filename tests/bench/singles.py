"""The rest of what lbd must reach: memory, latency, start, idleness, spread, pauses, scrapes. One figure each."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.cases import run_loader, run_wrk
from tests.bench.loader import hold_connections
from tests.bench.protocols import Ports
from tests.bench.slowloris import under_attack
from tests.bench.subjects import BALANCERS, MORE_BALANCERS, Setup, start_subject
from tests.support import procfs
from tests.support.http import get
from tests.support.origins import NginxOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.bench.subjects import Subject

__all__ = ["SINGLES", "Bench", "Figure"]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a measurement needs to know."""

    directory: Path
    origin: NginxOrigin
    subjects: list[str]
    seconds: float
    rounds: int

    def each(self, *, workers: int = 1) -> Iterable[tuple[str, Subject]]:
        """Every balancer that is measured, one after another, each stopped before the next begins."""
        for name in self.subjects:
            subject = start_subject(name, self.directory / "single", self.origin.ports[:1], workers=workers)
            try:
                yield name, subject
            finally:
                subject.daemon.stop()

    def wanted(self, *names: str) -> list[str]:
        return [name for name in names if name in self.subjects]


@dataclass(frozen=True, slots=True)
class Figure:
    """One line under the table; `values` by balancer, `limit` for lbd's."""

    title: str
    unit: str
    values: dict[str, float]
    limit: float = 0.0  # 0: none
    of_nginx: bool = False  # the limit is for lbd / nginx

    def verdict(self, name: str) -> str:
        if not self.limit or name not in self.values:
            return ""
        value = self.values[name]
        if self.of_nginx:
            if not self.values.get("nginx"):
                return ""
            value /= self.values["nginx"]
        return "pass" if value <= self.limit else "FAIL"


def resident(subject: Subject) -> float:
    """Of the largest worker, in bytes."""
    return float(max(procfs.rss_of(pid) for pid in subject.workers()))


def memory(bench: Bench) -> list[Figure]:
    """A worker that has served, at rest; then with 10,000 idle connections."""
    rest: dict[str, float] = {}
    each: dict[str, float] = {}
    for name, subject in bench.each():
        rest[name] = resident(subject) / (1 << 20)
        with hold_connections(subject.port, 100):
            pass  # what is loaded on the first request is not the price of a connection
        before = resident(subject)
        count = 10_000 if "haproxy" not in name else 9_000  # its maxconn
        with hold_connections(subject.port, count):
            each[name] = (resident(subject) - before) / count / 1024
    return [Figure("worker at rest, RSS", "MB", rest, 45.0), Figure("10,000 idle keep-alive connections, each", "KiB", each, 4.0)]


def latency(bench: Bench) -> list[Figure]:
    """At 2,000 requests a second: what a balancer adds to the origin's own latency; rounds interleaved."""
    running = [start_subject(name, bench.directory / "latency", bench.origin.ports[:1]) for name in bench.subjects]
    found: dict[str, dict[str, list[float]]] = {"p50": {}, "p99": {}}
    try:
        for _ in range(bench.rounds):
            for name, port in [("origin", bench.origin.port), *((subject.name, subject.port) for subject in running)]:
                result = run_loader("paced", port, rate=2000, seconds=bench.seconds, connections=64)
                for quantile, of in found.items():
                    of.setdefault(name, []).append(result[quantile])
    finally:
        for subject in running:
            subject.daemon.stop()
    median = {quantile: {name: statistics.median(values) for name, values in of.items()} for quantile, of in found.items()}
    added = {name: value - median["p99"]["origin"] for name, value in median["p99"].items() if name != "origin"}
    return [
        Figure("latency at 2,000 req/s, p50", "us", median["p50"]),
        Figure("latency at 2,000 req/s, p99", "us", median["p99"], 1.5, of_nginx=True),
        Figure("of that added to the origin's, p99", "us", added, 1.5, of_nginx=True),
    ]


def start(bench: Bench) -> list[Figure]:
    """From the command to the first good answer; median of the rounds."""
    found: dict[str, list[float]] = {}
    for number in range(bench.rounds):
        for name in bench.subjects:
            place = bench.directory / f"start-{number}-{name.replace(' ', '-')}"
            port, *others = free_ports(1 + len(Ports._fields))
            setup = Setup(place, port, bench.origin.ports[:1], False, 1, Ports(*others))
            begun = time.perf_counter()
            daemon = {**BALANCERS, **MORE_BALANCERS}[name](setup)
            try:
                while time.perf_counter() - begun < 15.0 and not answers(setup.port):
                    time.sleep(0.002)
                found.setdefault(name, []).append(time.perf_counter() - begun)
            finally:
                daemon.stop()
    return [Figure("start until serving", "s", {name: statistics.median(values) for name, values in found.items()}, 1.0)]


def answers(port: int) -> bool:
    try:
        return get(port).status == 200
    except OSError:
        return False


def idleness(bench: Bench) -> list[Figure]:
    """CPU of a daemon that nobody asks, all its processes, once it has settled: in its second second a worker of lbd tidies its memory."""
    found: dict[str, float] = {}
    for name, subject in bench.each():
        time.sleep(3.0)
        before, begun = procfs.run_time(subject.pids()), time.perf_counter()
        time.sleep(max(3.0, 3 * bench.seconds))
        found[name] = 100.0 * (procfs.run_time(subject.pids()) - before) / (time.perf_counter() - begun)
    return [Figure("idle CPU", "%", found, 0.2)]


def spread(bench: Bench) -> list[Figure]:
    """1,000 keep-alive connections over 4 workers: the fullest worker against an even share."""
    found: dict[str, float] = {}
    for name, subject in bench.each(workers=4):
        if len(subject.workers()) != 4:
            continue  # threads of one process: the kernel does not say whose a connection is
        with hold_connections(subject.port, 1000):
            counts = [established(pid, subject.port) for pid in subject.workers()]
        found[name] = max(counts) / (sum(counts) / 4)
    return [Figure("1,000 connections over 4 workers, fullest / even", "", found, 1.3)]


def established(pid: int, port: int) -> int:
    """Connections to our port that the process holds."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and int(fields[1].rpartition(":")[2], 16) == port:
            inodes.add(f"socket:[{fields[9]}]")
    held = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            held += os.readlink(f"/proc/{pid}/fd/{fd}") in inodes
        except FileNotFoundError:
            continue
    return held


def pauses(bench: Bench) -> list[Figure]:
    """Turns of the reactor longer than 5 ms under load, as lbd counts them itself; the collector's pauses are among them.

    The worker has a CPU to itself, and priority there: a turn in which the kernel let another process run says nothing about lbd. The
    load is some 10,000 requests a second, often many at once, and not all that it can take: from a process of that priority that never
    rests the kernel takes the CPU away, for 50 ms a second.
    """
    long: dict[str, float] = {}
    for name in bench.wanted("lbd", "lbd pure"):
        subject = start_subject(name, bench.directory / "pauses", bench.origin.ports[:1])
        try:
            assert isinstance(subject.daemon, LbdDaemon)
            with apart(subject.workers(), procfs.family(bench.origin.pid)):
                before = long_turns(subject.daemon.metrics())
                for connections in (32, 1000):
                    script = subject.daemon.directory / "delay.lua"
                    script.write_text(f"function delay() return {connections // 10} end")  # milliseconds
                    run_wrk(subject.url, 2 * bench.seconds, connections, "-s", str(script))
                long[name] = long_turns(subject.daemon.metrics()) - before
        finally:
            subject.daemon.stop()
    return [Figure("turns of the reactor above 5 ms at 10,000 req/s", "", long, 0.5)]


def long_turns(metrics: dict[str, float]) -> float:
    return metrics["lbd_loop_lag_seconds_count"] - metrics['lbd_loop_lag_seconds_bucket{le="0.005"}']


@contextlib.contextmanager
def apart(some: list[int], others: list[int]) -> Iterator[None]:
    """Some processes on one CPU, the others (and ours, and what we start) on the rest; as before when there is only one.

    Whatever else runs on the machine does not know of this, so `some` go before it where we may say so.
    """
    cpus = os.sched_getaffinity(0)
    if len(cpus) > 1:
        own = {max(cpus)}
        for pid in some:
            os.sched_setaffinity(pid, own)
            with contextlib.suppress(PermissionError):
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        for pid in (*others, 0):
            os.sched_setaffinity(pid, cpus - own)
    try:
        yield
    finally:
        for pid in (*others, 0):
            os.sched_setaffinity(pid, cpus)


def scrape(bench: Bench) -> list[Figure]:
    """4 workers, 1,000 endpoints, all of them used, under light load: how long /metrics takes; median of 20."""
    ports = free_ports(1000)
    found: dict[str, float] = {}
    size: dict[str, float] = {}
    with NginxOrigin(bench.directory / "many", name="many", ports=ports):
        for name in bench.wanted("lbd", "lbd pure"):
            subject = start_subject(name, bench.directory / "scrape", ports, workers=4)
            try:
                assert isinstance(subject.daemon, LbdDaemon)
                run_wrk(subject.url, 3.0, 64)
                times = []
                for _ in range(20):
                    begun = time.perf_counter()
                    size[name] = len(subject.daemon.ask("/metrics")) / 1024
                    times.append(1e3 * (time.perf_counter() - begun))
                found[name] = statistics.median(times)
            finally:
                subject.daemon.stop()
    return [Figure("scrape of 4 workers x 1,000 endpoints", "ms", found, 100.0), Figure("size of that scrape", "KiB", size)]


def slowloris(bench: Bench) -> list[Figure]:
    """10,000 connections whose heads never end, opened anew as soon as they are cut off: what others notice, and what each takes."""
    quiet: dict[str, list[float]] = {}
    attacked: dict[str, list[float]] = {}
    each: dict[str, float] = {}
    count = 10_000
    for name in bench.wanted("lbd", "lbd pure", "nginx"):
        subject = start_subject(name, bench.directory / "slowloris", bench.origin.ports[:1])
        try:
            run_loader("paced", subject.port, rate=500, seconds=bench.seconds, connections=64)
            before = resident(subject)
            for _ in range(bench.rounds):
                quiet.setdefault(name, []).append(run_loader("paced", subject.port, rate=500, seconds=bench.seconds)["p99"])
                with under_attack(subject.port, count):
                    attacked.setdefault(name, []).append(run_loader("paced", subject.port, rate=500, seconds=bench.seconds)["p99"])
                    each[name] = (resident(subject) - before) / count / 1024
        finally:
            subject.daemon.stop()
    share = {name: statistics.median(values) / statistics.median(quiet[name]) for name, values in attacked.items()}
    return [
        Figure("latency at 500 req/s, p99", "us", {name: statistics.median(values) for name, values in quiet.items()}),
        Figure("the same beside 10,000 slowloris connections, p99 / p99", "", share, 2.0),
        Figure("10,000 slowloris connections, each", "KiB", each, 10.0),
    ]


SINGLES: dict[str, Callable[[Bench], list[Figure]]] = {
    "memory": memory,
    "latency": latency,
    "start": start,
    "idle": idleness,
    "spread": spread,
    "pauses": pauses,
    "scrape": scrape,
    "slowloris": slowloris,
}
