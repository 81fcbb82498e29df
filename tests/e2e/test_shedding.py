"""Load shedding by a worker that is really busy: the lowest priorities first, what is critical never, and nothing once it is over.

What keeps it busy is something that computes in the middle of whatever it does, so that everything waits for a third of a second.
What it is asked for it answers by itself, in one go: so the order of its log is that of its decisions. Nothing is compared but that order,
and who has lost more; how the pressure rose and fell meanwhile depends on the machine.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http import Answer, get
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, start_lbd, wait_until, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# As long as there is a file of that name every worker computes for 0.3 s, and does what it has to for 0.02 s. Its interpreter belongs to
# who computes meanwhile, as it would to its main thread.
BUSY = """\
import os, sys, threading, time
if sys.orig_argv[3:4] == ["lbd.worker"]:
    def compute():
        while True:
            if os.path.exists("{directory}/busy"):
                sys.setswitchinterval(10.0)
                until = time.monotonic() + 0.3
                while time.monotonic() < until:
                    sum(range(1000))
                sys.setswitchinterval(0.005)
            time.sleep(0.02)
    threading.Thread(target=compute, daemon=True).start()
"""
PRIORITIES = ("low", "normal", "high", "critical")
CLIENTS = 4  # of each priority
CONFIG = """\
[lbd]
workers = 1
user = "root"
overload = {{ lag = "100ms" }}
[log]
access = "{access}"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
reason_header = true
{routes}
"""


class Lab:
    def __init__(self, directory: Path) -> None:
        self.busy = directory / "busy"
        self.access = directory / "access.log"
        self.port, admin = free_ports(2)
        routes = "".join(
            f'[[listener.web.route]]\npath = "/{name}"\npriority = "{name}"\nrespond = {{ body = "ok" }}\n' for name in PRIORITIES
        )
        text = CONFIG.format(access=self.access, admin=admin, port=self.port, routes=routes)
        environment = begin_with(directory, BUSY.format(directory=directory))
        self.lbd: LbdDaemon = start_lbd(text, directory, environment=environment)

    def level(self) -> float:
        return self.lbd.metric("lbd_shed_level")

    def shed(self, priority: str) -> float:
        return self.lbd.metric("lbd_shed_total", priority=priority)

    def lines(self) -> list[tuple[str, int, str]]:
        """Priority, status and reason of each request, in the order in which the worker was done with them."""
        entries: list[dict[str, Any]] = [json.loads(line) for line in whole_lines(self.access)]
        return [(entry["target"][1:], entry["status"], entry["reason"]) for entry in entries]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    started = Lab(tmp_path)
    with started.lbd:
        yield started


class Asking:
    """Clients of each priority that ask all the while, each request on a connection of its own."""

    def __init__(self, port: int) -> None:
        self.answers: dict[str, list[Answer]] = {priority: [] for priority in PRIORITIES}
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(priority,)) for priority in PRIORITIES for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _ask(self, priority: str) -> None:
        while not self._stop.is_set():
            self.answers[priority].append(get(self._port, f"/{priority}"))

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def test_a_busy_worker_refuses_what_matters_least_first(lab: Lab) -> None:
    assert [get(lab.port, f"/{priority}").status for priority in PRIORITIES] == [200] * 4
    assert lab.level() == 0
    lab.busy.touch()
    asking = Asking(lab.port)
    try:
        wait_until(lambda: lab.shed("high") > 0 and lab.level() > 2, "all but what is critical to be refused")
        (worker,) = lab.lbd.json("/api/v1/status")["workers"]
        assert 0 < worker["shed_level"] <= 3
        assert worker["lag_seconds"] > 0
        assert lab.lbd.is_ready(), "the admin listener is the master's, and refuses nothing"
    finally:
        asking.stop()
    lab.busy.unlink()
    lab.lbd.wait_for_log("WARNING lbd.worker-0: overloaded, requests that matter least are refused .* to wait for .* s")

    for priority, answers in asking.answers.items():
        refused = [answer for answer in answers if answer.status != 200]
        print(f"{priority}: {len(refused)} of {len(answers)} refused")
        assert bool(refused) == (priority != "critical")
        for answer in refused:
            told = answer.status, answer.get("x-lbd-reason"), answer.get("retry-after"), answer.get("connection")
            assert told == (503, "overloaded", "2", "close")

    asked = sum(len(answers) for answers in asking.answers.values()) + len(PRIORITIES)
    wait_until(lambda: len(lab.lines()) == asked, "a line of each")
    lines = lab.lines()
    refusals = [priority for priority, status, reason in lines if (status, reason) == (503, "overloaded")]
    assert list(dict.fromkeys(refusals)) == ["low", "normal", "high"], "in this order it began"
    lost = [refusals.count(priority) / len(asking.answers[priority]) for priority in PRIORITIES]
    assert lost == sorted(lost, reverse=True), "and so it was all the while"
    for priority in PRIORITIES[:3]:
        assert lab.shed(priority) == refusals.count(priority)

    wait_until(lambda: lab.level() == 0, "it to be over")
    before = [lab.shed(priority) for priority in PRIORITIES]
    assert [get(lab.port, f"/{priority}").status for priority in PRIORITIES * 5] == [200] * 20
    assert [lab.shed(priority) for priority in PRIORITIES] == before
