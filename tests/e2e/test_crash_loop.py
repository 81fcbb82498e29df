"""A worker that dies again and again, with real processes: it is started later each time, /readyz says so, and says when it is over.

What kills it is a SIGKILL while it serves, and then a start that fails, so that no slow machine lets it live for long enough to be
believed in again. The other worker serves all the while.
"""

from __future__ import annotations

import os
import re
import signal
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from lbd.master.backoff import GOOD, HABIT
from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Every worker ends with a status of its own as long as there is a file of that name.
TRAP = """\
import os, sys
if sys.orig_argv[3:4] == ["lbd.worker"] and os.path.exists("{directory}/trap"):
    os._exit(77)
"""
CONFIG = """\
[lbd]
workers = 2
user = "root"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = ["{endpoint}"]
"""
KILLS = 2


class Lab:
    def __init__(self, origin: ScriptedOrigin, directory: Path) -> None:
        self.trap = directory / "trap"
        self.port, admin = free_ports(2)
        text = CONFIG.format(admin=admin, port=self.port, endpoint=origin.address)
        environment = begin_with(directory, TRAP.format(directory=directory))
        self.lbd: LbdDaemon = start_lbd(text, directory, environment=environment)

    def worker(self, number: int) -> dict[str, Any]:
        found: list[dict[str, Any]] = self.lbd.json("/api/v1/status")["workers"]
        return found[number]

    def serves(self, number: int) -> bool:
        return bool(self.worker(number)["state"] == "serving")

    def readiness(self) -> tuple[int, str, str]:
        """Status, Retry-After and words of /readyz."""
        try:
            return 200, "", self.lbd.ask("/readyz").decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers.get("Retry-After", ""), error.read().decode()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with ScriptedOrigin("one") as origin:
        started = Lab(origin, tmp_path)
        with started.lbd:
            yield started


def test_a_worker_that_dies_again_and_again(lab: Lab) -> None:
    lbd = lab.lbd
    survivor = lab.worker(1)["pid"]
    for kills in range(1, KILLS + 1):
        os.kill(lab.worker(0)["pid"], signal.SIGKILL)
        wait_until(lambda: lbd.metric("lbd_worker_restarts_total") == kills and lab.serves(0), "its successor")  # noqa: B023
        assert lab.readiness() == (200, "", "ready\n"), "it has died, but not again and again"
    lab.trap.touch()
    os.kill(lab.worker(0)["pid"], signal.SIGKILL)
    wait_until(lambda: lab.readiness()[0] == 503, "nobody to believe in it any more")
    assert lab.worker(0)["deaths_in_a_row"] >= HABIT
    status, retry_after, words = lab.readiness()
    assert (status, retry_after) == (503, "1")
    assert re.fullmatch(r"not ready: worker 0 has died \d+ times in a row; the log says of what\n", words)
    assert lbd.ask("/healthz"), "who restarts what does not live must leave this one alone"

    # Each pause is twice the last one. The log has them, and of what it died.
    lbd.wait_for_log(r"worker 0 \(pid \d+\) exited with 77; its successor starts in 2 s")
    said = re.findall(r"worker 0 \(pid \d+\) (.*); its successor starts (.*)", lbd.log())
    deaths = ["was killed by SIGKILL"] * (KILLS + 1) + ["exited with 77"] * (HABIT - KILLS - 1)
    assert said[:HABIT] == list(zip(deaths, ("now", "in 0.25 s", "in 0.5 s", "in 1 s", "in 2 s"), strict=True))
    assert lbd.metric("lbd_workers", state="serving") == 1

    # Half of these queue at its socket until it is well. Nobody is refused, and the other one serves on.
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(get, lab.port) for _ in range(8)]
        lab.trap.unlink()
        assert [each.result().status for each in asked] == [200] * 8
    assert lab.worker(1)["pid"] == survivor
    wait_until(lambda: lab.serves(0), "it to serve")
    seen = time.monotonic()
    assert lab.readiness()[0] == 503, "it has not yet shown that it lives"
    wait_until(lambda: lab.readiness()[0] == 200, "it to be believed in", GOOD + 60.0)
    since = lab.worker(0)["since_seconds"]
    print(f"ready {time.monotonic() - seen:.1f} s after it served again")
    assert since >= GOOD
    assert lab.worker(0)["pid"] in lbd.workers()
    assert get(lab.port).status == 200
