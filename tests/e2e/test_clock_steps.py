"""The wall clock is set by a day, forward and back, while requests are served, an endpoint fails its checks, one is ejected and one is
drained for an hour. What is on the steady clock takes as long as it should; what an operator has written on the wall moves with it.
"""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, start_lbd, wait_until, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http import Message
    from tests.support.origins import Link

DAY = 86_400.0
# Master and workers read the time with so many seconds added as are in the file.
STEPPED = """\
import time
true_time = time.time
def stepped_time():
    try:
        with open("{directory}/offset") as file:
            return true_time() + float(file.read())
    except (OSError, ValueError):
        return true_time()
time.time = stepped_time
"""
EJECTION = 4.0
CONFIG = """\
[lbd]
workers = 2
user = "root"
state_directory = "{directory}/state"
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = [{endpoints}]
panic = 0.0
slow_start = "0s"
outlier = {{ failures = 3, success_rate = 0.0, ejection = "{ejection:g}s", growth = 1.0, probes = 1 }}
health = {{ path = "/live", interval = "100ms", timeout = "5s", rise = 2, fall = 3 }}
"""


class Origin(ScriptedOrigin):
    """`is_alive` is what it answers to its checks, `resets` what it does to everything else."""

    def __init__(self, name: str) -> None:
        self.is_alive, self.resets = True, False
        super().__init__(name, behave=self.obey)

    def obey(self, link: Link, message: Message) -> bool:
        if message.target.startswith("/live"):
            link.answer(message, b"", 200 if self.is_alive else 503)
            return False
        if self.resets:
            link.reset()
            return False
        link.answer(message, b"ok\n")
        return True


class Town:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, admin = free_ports(2)
        self.origins = {name: Origin(name) for name in "abcde"}
        endpoints = ", ".join(f'"{origin.address}"' for origin in self.origins.values())
        text = CONFIG.format(directory=directory, admin=admin, port=self.port, endpoints=endpoints, ejection=EJECTION)
        self.lbd: LbdDaemon = start_lbd(text, directory, environment=begin_with(directory, STEPPED.format(directory=directory)))

    def step(self, offset: float) -> None:
        new = self.directory / "offset.new"
        new.write_text(str(offset))
        new.replace(self.directory / "offset")

    def endpoint(self, name: str) -> dict[str, Any]:
        address = self.origins[name].address
        found: dict[str, Any] = next(each for each in self.lbd.json("/api/v1/clusters")["web"]["endpoints"] if each["address"] == address)
        return found

    def wait_for(self, name: str, state: str) -> None:
        wait_until(lambda: self.endpoint(name)["state"] == state, f"{name} to be {state}")

    def flips(self, name: str) -> float:
        return self.lbd.metric("lbd_health_flips_total", endpoint=self.origins[name].address)

    def command(self, verb: str, name: str, settings: str = "") -> dict[str, Any]:
        with Downstream(str(self.directory / "state" / "control.sock")) as control:
            path = f"/api/v1/clusters/web/endpoints/{self.origins[name].address}/{verb}"
            answer = control.ask("POST", path, {"Host": "lbd"}, settings.encode())
        assert answer.status == 200, answer.body
        found: dict[str, Any] = json.loads(answer.body)
        return found

    def days_logged(self) -> set[int]:
        """How many days from now the lines of the access log are."""
        entries = [json.loads(line) for line in whole_lines(self.directory / "access.log")]
        return {round((datetime.fromisoformat(entry["time"]).timestamp() - time.time()) / DAY) for entry in entries}

    def longest(self) -> float:
        """Seconds that a request took, as the access log has it."""
        return max(float(json.loads(line)["duration"]) for line in whole_lines(self.directory / "access.log"))


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    town = Town(tmp_path)
    try:
        with town.lbd:
            yield town
    finally:
        for origin in town.origins.values():
            origin.stop()


@contextmanager
def load_on(port: int) -> Iterator[list[int]]:
    """The statuses of GETs, one after the other by each of a few clients; 0 for one that was not answered."""
    statuses: list[int] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                statuses.append(get(port).status)
            except Exception:
                statuses.append(0)
                raise

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def eject_and_step(town: Town, offset: float) -> None:
    """While b is ejected the clock is set; the ejection ends all the same, and not before its time."""
    failing = town.origins["b"]
    began = time.monotonic()
    failing.resets = True
    town.wait_for("b", "ejected")
    failing.resets = False
    town.step(offset)
    town.wait_for("b", "up")
    assert time.monotonic() - began >= EJECTION
    assert town.lbd.metric("lbd_endpoint_ejections_total", endpoint=failing.address) >= 1


def check_health(town: Town) -> None:
    """Checks are made as before: c goes when it fails them, and comes back."""
    before = town.flips("c")
    for is_alive, state in ((False, "down"), (True, "up")):
        town.origins["c"].is_alive = is_alive
        town.wait_for("c", state)
    assert town.flips("c") == before + 2


def test_the_clock_is_set_by_a_day_under_load(town: Town) -> None:
    names = {name for name in town.origins if name != "c"}
    with load_on(town.port) as statuses:
        wait_until(lambda: len(statuses) > 50, "some load")
        town.command("drain", "a", "for=1h&reason=disk")

        eject_and_step(town, DAY)
        wait_until(lambda: not town.endpoint("a")["drained"], "the end of a drain whose hour is over by the clock on the wall")
        town.lbd.wait_for_log(r"its time is up: drain of web/.*: disk")
        check_health(town)
        wait_until(lambda: town.days_logged() == {0, 1}, "lines of tomorrow")

        overlay = town.command("drain", "a", "for=1h")["overlay"]
        since = datetime.strptime(overlay["since"], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC).timestamp()
        assert since - time.time() == pytest.approx(DAY, abs=3600)
        eject_and_step(town, 0.0)
        check_health(town)
        left = town.endpoint("a")["overlays"][0]["remaining_seconds"]
        assert DAY < left <= DAY + 3600, "it moves with the clock, as the manual says"
        assert town.endpoint("a")["drained"]
        town.command("enable", "a")
        seen = len(statuses)
        wait_until(lambda: len(statuses) > seen + 50, "more of it")

    assert set(statuses) == {200}
    assert town.longest() < 3600
    assert [town.flips(name) for name in sorted(names)] == [0] * len(names), "nobody else has failed a check"
    assert {endpoint["state"] for endpoint in town.lbd.json("/api/v1/clusters")["web"]["endpoints"]} == {"up"}
    assert town.lbd.is_ready()
    assert town.lbd.metric("lbd_worker_restarts_total") == 0
    assert town.lbd.metric("lbd_faults_total") == 0
