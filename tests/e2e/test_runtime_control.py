"""Endpoints taken out, brought back and weighed while a real daemon runs: by its command, its socket and its token."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from lbd.master.overlay import parse_overlays
from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import ROOT, LbdDaemon, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
[lbd]
workers = 2
state_directory = "{state}"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
{token}
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = [{endpoints}]
slow_start = "0s"
[cluster.single]
endpoints = ["127.0.0.1:1"]
"""
WHO = "root" if os.getuid() == 0 else f"uid {os.getuid()}"


class Rig:
    """Three origins and a daemon before them."""

    def __init__(self, directory: Path, token: str = "") -> None:
        self.directory = directory
        self.state = directory / "state"
        self.socket = self.state / "control.sock"
        self.port, self.admin = free_ports(2)
        self.token = f'token = "{token}"' if token else ""
        self.origins = [ScriptedOrigin(name) for name in ("one", "two", "three")]
        self.lbd: LbdDaemon | None = None

    @property
    def daemon(self) -> LbdDaemon:
        assert self.lbd is not None
        return self.lbd

    def text(self, count: int = 3) -> str:
        endpoints = ", ".join(f'"{origin.address}"' for origin in self.origins[:count])
        return CONFIG.format(state=self.state, admin=self.admin, token=self.token, port=self.port, endpoints=endpoints)

    def start(self, name: str = "lbd") -> LbdDaemon:
        self.lbd = LbdDaemon(self.text(), self.directory, name=name).wait_ready()
        return self.lbd

    def stop(self) -> None:
        if self.lbd is not None:
            self.lbd.stop()
        for origin in self.origins:
            origin.stop()

    def command(self, verb: str, endpoint: str, settings: str = "", *, cluster: str = "web") -> tuple[int, dict[str, Any]]:
        """By the control socket."""
        with Downstream(str(self.socket)) as control:
            answer = control.ask("POST", f"/api/v1/clusters/{cluster}/endpoints/{endpoint}/{verb}", {"Host": "lbd"}, settings.encode())
        return answer.status, json.loads(answer.body)

    def ask(self, path: str) -> Any:  # noqa: ANN401 - whatever the API answers
        return json.loads(get(str(self.socket), path).body)

    def endpoint(self, origin: ScriptedOrigin) -> dict[str, Any]:
        found: dict[str, Any] = next(each for each in self.ask("/api/v1/clusters")["web"]["endpoints"] if each["address"] == origin.address)
        return found

    def shares(self, count: int = 40) -> dict[str, int]:
        """How many of so many requests each origin gets. A connection each, so that both workers have their part."""
        names = [get(self.port).get("x-origin") for _ in range(count)]
        return {name: names.count(name) for name in sorted(set(names))}

    def wait_for_origins(self, *names: str) -> None:
        """Workers hear of a change a moment after its answer."""
        wait_until(lambda: set(self.shares(12)) == set(names), f"requests at {names}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    rig = Rig(tmp_path_factory.mktemp("control"))
    try:
        rig.start()
        yield rig
    finally:
        rig.stop()


@pytest.fixture
def rig(shared: Rig) -> Iterator[Rig]:
    yield shared
    for overlay in shared.ask("/api/v1/overlays")["overlays"]:
        verb, settings = ("enable", "") if overlay["kind"] == "drain" else ("weight", "weight=reset")
        shared.command(verb, overlay["endpoint"], settings)


def lbd(*words: str | Path, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbd", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "SUDO_USER": "", **environ}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_an_operator_at_night(rig: Rig) -> None:
    """What is printed is what the manual shows."""
    one = rig.origins[0].address
    found = lbd("drain", f"web/{one}", "--for", "2h", "--reason", "new disk", "--wait", "-c", rig.daemon.config, directory=rig.directory)
    assert (found.returncode, found.stderr) == (0, "")
    until = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    assert re.fullmatch(
        rf"web/{one} is drained until {until}; nothing is in flight there; 2 of 3 endpoints remain\n"
        rf"nothing is in flight at web/{one} any more\n",
        found.stdout,
    )
    rig.wait_for_origins("two", "three")
    rig.daemon.wait_for_log(rf"INFO lbd.master: web/{one} is drained until {until}; .* \(by {WHO}: new disk\)")
    assert rig.daemon.metric("lbd_endpoint_drained", endpoint=one) == 1
    assert rig.daemon.metric("lbd_overlays") == 1

    found = lbd("weight", f"web/{rig.origins[1].address}", "3", "-c", rig.daemon.config, directory=rig.directory)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith(" has weight 3 instead of 1; that is 75 % of the weight of all that are up\n")
    wait_until(lambda: 10 <= rig.shares(16).get("two", 0) <= 14, "the new weights")  # of 16; each worker takes turns by itself

    found = lbd("status", "-c", rig.daemon.config, directory=rig.directory)
    table = re.sub(until, "TIME", found.stdout[found.stdout.index("cluster web") : found.stdout.index("cluster single")])
    width = max(len(origin.address) for origin in rig.origins)
    one, two, three = (origin.address.ljust(width) for origin in rig.origins)
    assert table == (
        "cluster web: 2 of 3 endpoints up, 1 drained, round-robin\n"
        f"  {'ENDPOINT'.ljust(width)}  STATE    WEIGHT  IN FLIGHT\n"
        f"  {one}  drained       1          0  drained by {WHO} since TIME until TIME: new disk\n"
        f"  {two}  up            3          0  configured weight 1; weight 3 by {WHO}\n"
        f"  {three}  up            1          0\n"
    )

    found = lbd("enable", f"web/{rig.origins[0].address}", "--admin", f"unix:{rig.socket}", directory=rig.directory)
    assert (found.returncode, found.stdout) == (0, f"web/{rig.origins[0].address} takes requests again\n")
    rig.wait_for_origins("one", "two", "three")

    found = lbd("drain", "web/127.0.0.1:2", "-c", rig.daemon.config, directory=rig.directory)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith('lbd: web: there is no endpoint "127.0.0.1:2"; did you mean "127.0.0.1:')


class Load:
    """GETs, one after the other in each of a few threads, a connection each."""

    def __init__(self, port: int, threads: int = 4) -> None:
        self.port = port
        self.statuses: list[int] = []
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]

    def run(self) -> None:
        while not self.is_over.is_set():
            try:
                self.statuses.append(get(self.port, "/slow/0.01").status)
            except Exception:
                self.statuses.append(0)
                raise

    def more(self, count: int) -> None:
        """Waits for so many further answers."""
        wanted = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= wanted, f"{count} more answers")


@contextmanager
def load_on(port: int) -> Iterator[Load]:
    load = Load(port)
    for thread in load.threads:
        thread.start()
    try:
        yield load
    finally:
        load.is_over.set()
        for thread in load.threads:
            thread.join()


def test_a_drain_under_load_loses_nothing(rig: Rig) -> None:
    one = rig.origins[0]
    with load_on(rig.port) as load, Downstream(rig.port) as slow:
        load.more(20)
        for _ in rig.origins:  # one of each three goes to the first
            slow.send(b"GET /slow/1 HTTP/1.1\r\nHost: a\r\n\r\n")
        status, answer = rig.command("drain", one.address)
        assert (status, answer["changed"], answer["warnings"]) == (200, True, [])
        wait_until(lambda: rig.endpoint(one)["inflight"] == 0, "what was in flight")

        def is_quiet() -> bool:
            seen = len(one.received)
            load.more(30)
            return len(one.received) == seen

        wait_until(is_quiet, "both workers to hear of it")
        before = len(one.received)
        load.more(60)
        assert len(one.received) == before, "nothing new goes there"
        assert [slow.response().status for _ in rig.origins] == [200, 200, 200]
        rig.command("enable", one.address)
        wait_until(lambda: len(one.received) > before, "requests again")
        load.more(20)
    assert set(load.statuses) == {200}


def test_a_drain_ends_by_itself(rig: Rig) -> None:
    one = rig.origins[0]
    _, answer = rig.command("drain", one.address, "for=2s&reason=a+moment")
    assert answer["changed"]
    assert answer["overlay"]["remaining_seconds"] <= 2
    wait_until(lambda: not rig.endpoint(one)["drained"], "its end")
    rig.wait_for_origins("one", "two", "three")
    rig.daemon.wait_for_log(rf"INFO lbd.master: its time is up: drain of web/{one.address} until .* \(by {WHO}: a moment\)")
    wait_until(lambda: parse_overlays((rig.state / "overlays.json").read_bytes()) == [], "the file to say so")


def test_a_reload_keeps_what_was_changed_and_what_has_left_waits(rig: Rig) -> None:
    three = rig.origins[2]
    rig.command("drain", three.address)
    rig.daemon.reload(rig.text().replace("[cluster.web]", '[cluster.web]\nbalance = "least-requests"'))
    assert rig.endpoint(three)["drained"]
    rig.wait_for_origins("one", "two")
    rig.daemon.reload(rig.text(2))
    (overlay,) = rig.ask("/api/v1/overlays")["overlays"]
    assert (overlay["endpoint"], overlay["dormant"]) == (three.address, True)
    rig.daemon.wait_for_log(rf"WARNING lbd.master: drain of web/{three.address} \(by {WHO}\): no such endpoint is there now")
    rig.daemon.reload(rig.text())
    assert rig.endpoint(three)["drained"]
    assert set(rig.shares(12)) == {"one", "two"}
    rig.daemon.reload(rig.text(2))
    status, answer = rig.command("enable", three.address)
    assert (status, answer["message"]) == (200, f"the drain of web/{three.address} is taken back; the endpoint is not in the configuration")
    rig.daemon.reload(rig.text())
    rig.wait_for_origins("one", "two", "three")


def test_a_command_during_a_reload_holds_after_it(rig: Rig) -> None:
    one = rig.origins[0]
    for number in range(3):
        before = rig.daemon.reloads()
        rig.daemon.rewrite(rig.text().replace("[cluster.web]", f"[cluster.web]\npanic = 0.{number + 1}"))
        rig.daemon.signal(signal.SIGHUP)
        assert rig.command("drain", one.address)[0] == 200
        wait_until(lambda before=before: rig.daemon.reloads() > before, "the reload")  # type: ignore[misc]
        rig.wait_for_origins("two", "three")
        assert rig.command("enable", one.address)[0] == 200
        rig.wait_for_origins("one", "two", "three")


@pytest.mark.parametrize(
    ("verb", "endpoint", "settings", "status", "sentence"),
    [
        ("drain", "127.0.0.1:9", "", 404, 'web: there is no endpoint "127.0.0.1:9"'),
        ("drian", "{one}", "", 404, 'an endpoint has no "drian"; did you mean "drain"?'),
        ("drain", "{one}", '{"for": ', 400, "the body is no JSON ("),
        ("drain", "{one}", "for=soon", 422, 'for: "soon" is not a duration'),
        ("weight", "{one}", "weight=0", 422, "weight is 0; to send an endpoint nothing, drain it"),
        ("weight", "{one}", "weight=70000", 422, "weight is 70000; it must be from 1 to 65535"),
        ("drain", "{one}", "x" * 70_000, 413, "no page here takes a body above 65536 bytes"),
    ],
)
def test_what_cannot_be_is_said(rig: Rig, verb: str, endpoint: str, settings: str, status: int, sentence: str) -> None:
    found, answer = rig.command(verb, endpoint.format(one=rig.origins[0].address), settings) if status != 413 else too_large(rig, settings)
    assert found == status
    assert answer["error"].startswith(sentence)
    assert rig.ask("/api/v1/overlays")["overlays"] == []


def too_large(rig: Rig, body: str) -> tuple[int, dict[str, Any]]:
    """Refused before its path is looked at, as text."""
    with Downstream(str(rig.socket)) as control:
        answer = control.ask("POST", "/api/v1/clusters/web/endpoints/x/drain", {"Host": "lbd"}, body.encode())
        return answer.status, {"error": answer.body.decode()}


def test_the_last_endpoint_is_drained_by_force_only(rig: Rig) -> None:
    status, answer = rig.command("drain", "127.0.0.1:1", cluster="single")
    assert (status, answer["error"].split(";")[0]) == (
        409,
        "without single/127.0.0.1:1 no endpoint of single would be left to take requests",
    )
    status, answer = rig.command("drain", "127.0.0.1:1", '{"force": true}', cluster="single")
    assert (status, answer["message"].split(": ")[1]) == (200, "requests for single are answered with 503")
    assert rig.command("enable", "127.0.0.1:1", cluster="single")[0] == 200


def test_who_may(rig: Rig) -> None:
    """The socket is its owner's; over TCP without a token nobody may, but a reload may be asked for."""
    rig.command("weight", rig.origins[0].address, "weight=2")  # so that there is a file
    rig.command("weight", rig.origins[0].address, "weight=reset")
    assert stat.S_IMODE(rig.socket.stat().st_mode) == 0o600
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in (rig.state, *rig.state.glob("*.json"))} == {
        "state": 0o700,
        "overlays.json": 0o600,
    }
    with Downstream(rig.admin) as admin:
        path = f"/api/v1/clusters/web/endpoints/{rig.origins[0].address}/drain"
        answer = admin.ask("POST", path, {"Host": "localhost"})
        assert (answer.status, json.loads(answer.body)["error"].split(",")[0]) == (
            403,
            "changes are taken by the control socket (`lbd status` says where it is; without one",
        )
        assert admin.ask("POST", "/api/v1/reload", {"Host": "localhost"}).status == 200
    assert rig.ask("/api/v1/overlays")["overlays"] == []


def test_a_second_daemon_keeps_out(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(f'[lbd]\nstate_directory = "{rig.state}"\n[admin]\nbind = "off"\n')
    found = lbd("-c", "lb.toml", directory=tmp_path)
    assert found.returncode == 1
    assert f"lb.toml:2: lbd.state_directory: {rig.state} is another lbd's, which runs; give each its own" in found.stderr
    assert rig.socket.exists()


def test_changes_outlive_restarts_kills_and_upgrades(tmp_path: Path) -> None:
    rig = Rig(tmp_path, token="secret")
    one, two = rig.origins[:2]
    try:
        first = rig.start()
        token = {"Host": "localhost", "Authorization": "Bearer secret"}
        with Downstream(rig.admin) as admin:
            path = f"/api/v1/clusters/web/endpoints/{one.address}/drain?for=1h"
            assert admin.ask("POST", path, {**token, "Authorization": "Bearer wrong"}).status == 401
            assert admin.ask("POST", path, token).status == 200
        first.stop()
        assert not rig.socket.exists()

        second = rig.start("second")
        second.wait_for_log(rf"still in force: drain of web/{one.address} until .* \(by 127.0.0.1\)")
        assert set(rig.shares(12)) == {"two", "three"}
        kill_while_it_writes(rig, second, two)

        third = rig.start("third")
        assert rig.endpoint(one)["drained"]
        assert 1 <= rig.endpoint(two)["weight"] <= 60_000
        assert sorted(path.name for path in rig.state.iterdir()) == ["control.sock", "lock", "overlays.json"]

        third.signal(signal.SIGUSR2)
        assert third.wait(30) == 0
        fourth = rig.ask("/api/v1/status")["pid"]
        try:
            assert fourth != third.pid
            assert rig.endpoint(one)["drained"]
            assert rig.command("enable", one.address)[1]["warnings"] == []
            assert parse_overlays((rig.state / "overlays.json").read_bytes())[0].endpoint == two.address
            rig.wait_for_origins("one", "two", "three")
        finally:
            third.stop()
    finally:
        rig.stop()


def kill_while_it_writes(rig: Rig, daemon: LbdDaemon, origin: ScriptedOrigin) -> None:
    """Commands come one after the other; what is on the disk in the end is one of them, whole."""
    answered = 0

    def weigh() -> None:
        nonlocal answered
        try:
            for weight in range(1, 60_000):
                assert rig.command("weight", origin.address, f"weight={weight}")[0] == 200
                answered = weight
        except Exception:  # cut off in whatever way
            return

    writer = threading.Thread(target=weigh)
    writer.start()
    wait_until(lambda: answered >= 20, "some commands")
    daemon.kill()
    writer.join()
    drained, weighed = parse_overlays((rig.state / "overlays.json").read_bytes())
    assert (drained.kind, weighed.kind) == ("drain", "weight")
    assert weighed.weight >= answered, "what was answered was on the disk"
