"""Reload with a real daemon: what is refused changes nothing, what is applied cuts nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.http import Downstream, Ended, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


@pytest.fixture
def other() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("two") as started:
        yield started


class Text:
    """A configuration that a test rewrites: `text.binds = [...]; lbd.reload(str(text))`."""

    def __init__(self, *origins: ScriptedOrigin, workers: int = 2) -> None:
        self.origins = list(origins)
        self.port, self.admin = free_ports(2)
        self.binds = [f"127.0.0.1:{self.port}"]
        self.workers = workers
        self.log = 'access = "off"'
        self.more = ""

    def __str__(self) -> str:
        return f"""
[lbd]
workers = {self.workers}
[log]
{self.log}
[admin]
bind = "127.0.0.1:{self.admin}"
[listener.web]
bind = {json.dumps(self.binds)}
cluster = "web"
[cluster.web]
endpoints = {json.dumps([origin.address for origin in self.origins])}
slow_start = "0s"
{self.more}
"""


def post_reload(lbd: LbdDaemon) -> dict[str, Any]:
    """The report, whatever the status."""
    request = urllib.request.Request(f"http://{lbd.admin}/api/v1/reload", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            report = json.load(answer)
    except urllib.error.HTTPError as refusal:
        with refusal:
            report = json.load(refusal)
    assert isinstance(report, dict)
    return report


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


class Load:
    """Requests one after the other on several kept-alive connections and some on new ones, until it is stopped."""

    def __init__(self, port: int, threads: int = 3) -> None:
        self.port = port
        self.done = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(threads)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, number: int) -> None:
        try:
            with Downstream(self.port) as kept:
                while not self._stop.is_set():
                    for answer in (kept.ask("GET", f"/{number}"), get(self.port, "/new")):
                        if answer.status != 200:
                            self.failures.append(repr(answer))
                        self.done += 1
        except (OSError, Ended) as error:
            self.failures.append(repr(error))


# What is refused


def test_a_wrong_file_changes_nothing(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        lbd.rewrite(str(text).replace("endpoints", "endponits"))
        report = post_reload(lbd)
        assert report["result"] == "failed"
        assert any("endponits" in error and "lbd.toml:" in error for error in report["errors"])
        lbd.wait_for_log(r"lbd\.toml:\d+: cluster\.web\.endponits: unknown key; did you mean \"endpoints\"\?")
        lbd.wait_for_log(r"reload refused, generation 1 stays in force: \d error")
        assert lbd.metric("lbd_reloads_total", result="failed") == 1
        assert lbd.metric("lbd_config_generation") == 1
        assert get(text.port).status == 200
        lbd.reload(str(text))
        assert lbd.metric("lbd_reloads_total", result="ok") == 1
        assert lbd.metric("lbd_config_generation") == 2


def test_a_file_that_is_gone_changes_nothing(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        lbd.config.rename(tmp_path / "away")
        lbd.signal(signal.SIGHUP)
        lbd.wait_for_log("reload refused")
        (tmp_path / "away").rename(lbd.config)
        assert get(text.port).status == 200


def test_a_bind_that_fails_changes_nothing(origin: ScriptedOrigin, other: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    fine = free_port()
    with start_lbd(str(text), tmp_path) as lbd, socket.create_server(("127.0.0.1", 0)) as taken:
        text.origins = [other]
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        text.binds = [f"127.0.0.1:{fine}", bind]
        lbd.rewrite(str(text))
        report = post_reload(lbd)
        assert report["result"] == "failed"
        assert f": listener.web.bind[2]: cannot listen on {bind}: the port is in use by " in report["errors"][0]
        assert report["errors"][0].startswith(f"{lbd.config}:")
        assert not listens(fine)
        assert get(text.port).get("x-origin") == "one"


def test_a_log_that_cannot_be_opened_changes_nothing(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        text.log = 'access = "/nowhere/access.log"'
        lbd.rewrite(str(text))
        assert ": log.access: cannot write to /nowhere/access.log" in post_reload(lbd)["errors"][0]
        assert get(text.port).status == 200


# What is applied


def test_binds_come_and_go(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    first, second = text.port, free_port()
    unix = tmp_path / "lbd.sock"
    with start_lbd(str(text), tmp_path) as lbd, Downstream(first) as kept:
        assert kept.ask("GET", "/").status == 200
        text.binds += [f"127.0.0.1:{second}", f"unix:{unix}"]
        lbd.reload(str(text))
        assert [get(address).status for address in (first, second, str(unix))] == [200] * 3
        inode = unix.stat().st_ino
        text.binds = [f"127.0.0.1:{second}", f"unix:{unix}"]
        lbd.rewrite(str(text))
        report = post_reload(lbd)
        assert report["binds"]["removed"] == [f"127.0.0.1:{first}"]
        assert report["drains"] == [f"bind 127.0.0.1:{first}"]
        assert not listens(first)
        assert unix.stat().st_ino == inode  # kept, not made anew
        assert [get(address).status for address in (second, str(unix))] == [200] * 2
        assert kept.ask("GET", "/").status == 200  # what was accepted stays
        text.binds = [f"127.0.0.1:{first}"]
        lbd.reload(str(text))
        assert get(first).status == 200
        assert not unix.exists()


def test_endpoints_come_and_go_without_cutting_what_runs(origin: ScriptedOrigin, other: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd, Downstream(text.port) as slow, Downstream(text.port) as kept:
        slow.send(b"GET /slow/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert kept.ask("GET", "/").get("x-origin") == "one"
        wait_until(lambda: len(origin.received) == 2, "both requests")
        text.origins = [origin, other]
        lbd.reload(str(text))
        assert {get(text.port).get("x-origin") for _ in range(10)} == {"one", "two"}
        text.origins = [other]
        lbd.rewrite(str(text))
        report = post_reload(lbd)
        assert report["drains"] == [f"endpoint web/{origin.address}"]
        assert report["listeners"]["kept"] == ["web"]
        assert {get(text.port).get("x-origin") for _ in range(10)} == {"two"}
        assert kept.ask("GET", "/").get("x-origin") == "two"
        assert slow.response().body == b"slow\n"


def test_counts_and_connections_outlive_a_reload(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin, workers=1)
    with start_lbd(str(text), tmp_path) as lbd, Downstream(text.port) as kept:
        for _ in range(5):
            assert kept.ask("GET", "/").status == 200
        text.more = 'resolve_interval = "9s"'
        lbd.reload(str(text))
        assert kept.ask("GET", "/").get("x-connection") == "1"  # the pool too
        wait_until(lambda: lbd.metric("lbd_requests_total", listener="web") == 6, "the last answer to be counted")
        assert lbd.metric("lbd_upstream_connections_opened_total") == 1
        lbd.wait_for_log(r"reloaded, generation 2: clusters ~web \(resolve_interval\); kept 1 listener, 1 bind, 1 endpoint")


@pytest.mark.final
def test_reloads_under_load_fail_nothing(origin: ScriptedOrigin, other: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin, other)
    extra = free_port()
    with start_lbd(str(text), tmp_path) as lbd, Load(text.port) as load:
        for number in range(8):
            text.origins = [origin, other] if number % 2 else [origin]
            text.binds = [f"127.0.0.1:{text.port}", *([f"127.0.0.1:{extra}"] if number % 3 else [])]
            lbd.reload(str(text))
            time.sleep(0.1)
        workers = lbd.workers()
        assert lbd.metric("lbd_reloads_total", result="ok") == 8
        wait_until(lambda: load.done > 50, "requests enough")
    assert load.failures == []
    assert len(workers) == 2
    print(f"{load.done} requests during 8 reloads")


def test_a_burst_of_signals_is_few_reloads(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        for _ in range(20):
            lbd.signal(signal.SIGHUP)
        wait_until(lambda: lbd.reloads() >= 1, "a reload")
        report = post_reload(lbd)  # comes after all of them
        assert report["result"] == "ok"
        assert lbd.reloads() <= 5
        assert lbd.metric("lbd_config_generation") == 1 + lbd.reloads()


def test_logs_may_move(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    text.log = f'access = "{first}"'
    with start_lbd(str(text), tmp_path) as lbd:
        get(text.port, "/one")
        text.log = f'access = "{second}"'
        lbd.reload(str(text))
        for _ in range(5):
            get(text.port, "/two")
        wait_until(lambda: second.read_text().count("/two") == 5, "lines in the second file")
        assert "/two" not in first.read_text()


@pytest.mark.parametrize("moves", [False, True])
def test_logs_reopened_in_the_middle_of_a_reload(origin: ScriptedOrigin, tmp_path: Path, moves: bool) -> None:
    text = Text(origin)
    first, second = tmp_path / "first.log", tmp_path / "second.log"
    text.log = f'access = "{first}"'
    with start_lbd(str(text), tmp_path) as lbd:
        workers = lbd.json("/api/v1/status")["workers"]
        os.kill(workers[0]["pid"], signal.SIGSTOP)  # so that the reload takes long
        if moves:
            text.log = f'access = "{second}"'
        lbd.rewrite(str(text))
        lbd.signal(signal.SIGHUP)
        wait_until(lambda: lbd.json("/api/v1/status")["workers"][1]["generation"] == 2, "the other worker")
        lbd.signal(signal.SIGUSR1)
        lbd.wait_for_log("reopened the logs")
        os.kill(workers[0]["pid"], signal.SIGCONT)
        lbd.wait_for_log("reloaded, generation 2")
        for _ in range(20):
            get(text.port, "/after")
        kept = second if moves else first
        wait_until(lambda: kept.read_text().count("/after") == 20, "lines of both workers")
        os.kill(workers[1]["pid"], signal.SIGKILL)

        def is_followed() -> bool:
            successor = lbd.json("/api/v1/status")["workers"][1]
            return successor["pid"] not in (0, workers[1]["pid"]) and successor["generation"] == 2

        wait_until(is_followed, "its successor")
        for _ in range(20):
            get(text.port, "/later")
        wait_until(lambda: kept.read_text().count("/later") == 20, "lines of both workers", 20)


def test_the_access_log_may_be_turned_off_and_on(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    file = tmp_path / "access.log"
    text.log = f'access = "{file}"'
    with start_lbd(str(text), tmp_path) as lbd:
        get(text.port, "/one")
        text.log = 'access = "off"'
        lbd.reload(str(text))
        get(text.port, "/two")
        text.log = f'access = "{file}"'
        lbd.reload(str(text))
        for _ in range(5):
            get(text.port, "/three")
        wait_until(lambda: file.read_text().count("/three") == 5, "lines again")
        assert "/two" not in file.read_text()


def test_what_needs_a_restart_is_said_for_as_long_as_it_differs_from_what_runs(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        for generation in (2, 3):
            text.workers = 1
            lbd.rewrite(str(text))
            assert post_reload(lbd)["needs_restart"] == ["lbd.workers"]
            lbd.wait_for_log(f"generation {generation}: nothing has changed.*; in force only after a restart: lbd.workers")
            assert lbd.json("/api/v1/status")["needs_restart"] == ["lbd.workers"]
            assert lbd.json("/api/v1/config?format=json")["lbd"]["workers"] == 2
            assert lbd.ask("/api/v1/config").startswith(b"# lbd.workers: as it runs; the file has another value")
        assert len(lbd.workers()) == 2
        text.workers = 2
        lbd.rewrite(str(text))
        assert post_reload(lbd)["needs_restart"] == []
        lbd.wait_for_log("generation 4: nothing has changed; kept 1 listener, 1 bind, 1 cluster, 1 endpoint\n")
        assert lbd.json("/api/v1/status")["needs_restart"] == []
        assert not lbd.ask("/api/v1/config").startswith(b"#")


def test_a_worker_born_after_a_reload_serves_the_new_configuration(origin: ScriptedOrigin, other: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin, workers=1)
    second = free_port()
    with start_lbd(str(text), tmp_path) as lbd:
        text.origins, text.binds = [other], [*text.binds, f"127.0.0.1:{second}"]
        lbd.reload(str(text))
        (worker,) = lbd.workers()
        os.kill(worker, signal.SIGKILL)
        assert get(text.port).get("x-origin") == "two"
        assert get(second).get("x-origin") == "two"
        wait_until(lambda: [worker["generation"] for worker in lbd.json("/api/v1/status")["workers"]] == [2], "the successor's word")


def test_a_stop_during_a_reload_is_obeyed(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = Text(origin)
    with start_lbd(str(text), tmp_path) as lbd:
        text.more = '[cluster.other]\nendpoints = ["no-such-host.invalid:80"]'
        lbd.rewrite(str(text))
        lbd.signal(signal.SIGHUP)
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(10) == 0
