"""Hours in minutes: `make soak MINUTES=10`, or `python -m tests.bench.soak --minutes 10`.

Every request has an identity (tests/support/idload.c), and meanwhile the configuration is changed every second or two, an endpoint
is killed every few seconds, and a worker every minute. Nothing may fail but what a killed worker was serving; nothing may grow:
descriptors and memory are compared at rest, after a warm-up and at the end, of the master and of the worker that nobody kills.

A line every ten seconds, and a verdict; exit code 1 when it is bad.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.singles import established
from tests.support.chaos import BROKEN, BUDGET_OF_WHO_COMES, ChangingText, Rest, at_rest, look
from tests.support.idload import IdLoad
from tests.support.origins import NginxOrigin
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from tests.support.idload import Counts

LINE = 10.0  # seconds between two lines
WARM_UP = 20.0
WORKER_EVERY = 60.0
GROWTH = 8 << 20  # bytes: what allocators keep of the height of a storm; a leak in ten minutes of reloads is more
KEPT, KILLED = 0, 1  # worker slots


@dataclass(slots=True)
class Storm:
    """What is done to the daemon, and how often it was."""

    lbd: LbdDaemon
    text: ChangingText
    origins: list[NginxOrigin]
    choose: random.Random
    reloads: int = 0
    refused: int = 0  # broken files
    endpoints: int = 0
    workers: int = 0
    held: int = 0  # connections of killed workers
    faults: list[str] = field(default_factory=list)
    next_worker: float = WORKER_EVERY

    def step(self, elapsed: float) -> None:
        """A second or so of trouble."""
        self.reload()
        if self.choose.random() < 0.3:
            self.kill_endpoint()
        if elapsed > self.next_worker:
            self.next_worker += WORKER_EVERY
            self.kill_worker()
        time.sleep(self.choose.uniform(0.2, 1.0))

    def reload(self) -> None:
        if self.choose.random() < 0.1:
            self.lbd.reload(str(self.text) + self.choose.choice(BROKEN), timeout=30)
            self.refused += 1
            return
        self.text.change()
        self.lbd.reload(str(self.text), timeout=30)
        self.reloads += 1

    def kill_endpoint(self) -> None:
        origin = self.choose.choice(self.origins)
        origin.stop()
        time.sleep(self.choose.uniform(0.0, 0.5))
        origin.start()
        self.endpoints += 1

    def pid_of(self, slot: int) -> int:
        return int(self.lbd.json("/api/v1/status")["workers"][slot]["pid"])

    def kill_worker(self) -> None:
        victim = self.pid_of(KILLED)
        os.kill(victim, signal.SIGSTOP)  # so that what it holds can be counted
        self.held += established(victim, self.text.port)
        os.kill(victim, signal.SIGKILL)
        self.workers += 1
        wait_until(lambda: self.is_whole(victim), "a successor", 20)

    def is_whole(self, victim: int) -> bool:
        workers = self.lbd.json("/api/v1/status")["workers"]
        return all(worker["state"] == "serving" and worker["pid"] != victim for worker in workers)

    def rest(self) -> Rest:
        self.lbd.reload(self.text.calm(), timeout=30)
        return at_rest(self.lbd, 30, [self.pid_of(KEPT)])

    def line(self, elapsed: float, counts: Counts) -> str:
        return (
            f"{elapsed:6.0f} s {counts.ok:>11,} ok, {counts.failed} failed, on {counts.cut} connections (dead workers held {self.held}); "
            f"{self.reloads} reloads, {self.refused} refused; killed {self.endpoints} endpoints, {self.workers} workers; "
            f"{look(self.lbd, [self.pid_of(KEPT)])}"
        )


def judge(storm: Storm, counts: Counts, before: Rest, after: Rest) -> list[str]:
    """What is wrong, in sentences."""
    metrics = storm.lbd.metrics()
    wrong = []
    if counts.cut > storm.held or counts.status or counts.mismatched or counts.refused:
        wrong.append(f"requests failed: {counts}")
    if counts.ok + counts.broken != counts.begun:
        wrong.append(f"requests were lost: {counts}")
    if after.master_fds > before.master_fds or after.worker_fds > before.worker_fds:
        wrong.append(f"descriptors grew: {before} -> {after}")
    if after.master_rss > before.master_rss + GROWTH or after.worker_rss > before.worker_rss + GROWTH:
        wrong.append(f"memory grew: {before} -> {after}")
    wrong += [
        f"{name} is {value:g}"
        for name, value in metrics.items()
        if name.startswith(("lbd_faults_total", "lbd_series_lost_total")) and value
    ]
    if metrics["lbd_worker_restarts_total"] != storm.workers:
        wrong.append(f"{metrics['lbd_worker_restarts_total']:g} workers were restarted, but {storm.workers} killed")
    if metrics.get('lbd_reloads_total{result="failed"}', 0.0) != storm.refused:
        wrong.append("good files were refused, or broken ones taken")
    return wrong


def soak(directory: Path, seconds: float, pure: bool) -> list[str]:
    with ExitStack() as stack:
        origins = [stack.enter_context(NginxOrigin(directory / "origins", name=f"origin-{number}")) for number in range(3)]
        text = ChangingText([origin.port for origin in origins], fewest=2, retry=BUDGET_OF_WHO_COMES)
        lbd = stack.enter_context(start_lbd(str(text), directory / "lbd", pure=pure))
        storm = Storm(lbd, text, origins, random.Random(1))
        shares = {"connections": 32, "close": 5, "pipeline": 10, "pause": 2}
        with IdLoad(text.port, **shares):
            rage(storm, None, min(WARM_UP, seconds / 4))
        before = storm.rest()
        print(f"warmed up: {before}", flush=True)
        with IdLoad(text.port, **shares) as load:
            rage(storm, load, seconds)
        counts = load.counts()
        after = storm.rest()
        print(f"{storm.line(seconds, counts)}\nbefore: {before}\nafter:  {after}")
        wrong = judge(storm, counts, before, after)
        if status := lbd.stop():
            wrong.append(f"lbd exited with {status}")
        if wrong:
            print(lbd.log()[-3000:], file=sys.stderr)
        return wrong


def rage(storm: Storm, load: IdLoad | None, seconds: float) -> None:
    begun = time.monotonic()
    next_line = LINE
    while (elapsed := time.monotonic() - begun) < seconds:
        storm.step(elapsed if load is not None else 0.0)
        if load is not None and elapsed >= next_line:
            next_line += LINE
            print(storm.line(elapsed, load.counts()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--pure", action="store_true", help="without the compiled core")
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="lbd-soak-"))
    try:
        wrong = soak(directory, 60 * arguments.minutes, arguments.pure)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print("FAIL: " + "; ".join(wrong) if wrong else "PASS: nothing failed, nothing grew")
    return bool(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
