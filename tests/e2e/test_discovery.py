"""Names as endpoints of a running daemon. The names live in a hosts file of its own, in a mount namespace: that takes root."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http import get
from tests.support.names import can_mount, mounts
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import ROOT, Daemon, LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
reason_header = true
[cluster.web]
endpoints = ["{endpoint}"]
resolve_interval = "200ms"
"""


class NamedLbd(LbdDaemon):
    """An lbd that sees another /etc/hosts, and no name server that would answer."""

    def __init__(self, text: str, directory: Path) -> None:
        self.hosts = directory / "hosts"
        self.config = directory / "lbd.toml"
        self.config.write_text(text)
        command = f'{mounts(directory)} && exec "{sys.executable}" -m lbd -c "{self.config}"'
        environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        Daemon.__init__(self, ["unshare", "-m", "sh", "-c", command], directory, name="lbd", environment=environment)


class Town:
    """Origins on one port of several loopback addresses, and a daemon that knows them by one name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.admin, self.origin_port = free_ports(3)
        self.lbd: LbdDaemon | None = None

    def say(self, *lines: str) -> None:
        """Rewrites the hosts file in place: the mount is of its inode."""
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{line}\n" for line in lines))

    def start(self, endpoint: str = "") -> LbdDaemon:
        text = CONFIG.format(admin=self.admin, port=self.port, endpoint=endpoint or f"app.test:{self.origin_port}")
        self.lbd = NamedLbd(text, self.directory)
        return self.lbd.wait_ready()

    def addresses(self) -> list[str]:
        assert self.lbd is not None
        return [endpoint["address"] for endpoint in self.lbd.json("/api/v1/clusters")["web"]["endpoints"]]

    def wait_for(self, *hosts: str) -> None:
        wait_until(lambda: self.addresses() == [f"{host}:{self.origin_port}" for host in hosts], f"endpoints {hosts}")


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    if not can_mount():
        pytest.skip("needs root, for a hosts file of its own" if os.geteuid() else "this machine lets nobody have mounts of his own")
    town = Town(tmp_path)
    try:
        yield town
    finally:
        if town.lbd is not None:
            town.lbd.stop()


def test_a_name_follows_its_addresses_and_outlives_its_failures(town: Town) -> None:
    town.say("127.0.0.2 app.test", "127.0.0.3 app.test")
    lbd = town.start()
    town.wait_for("127.0.0.2", "127.0.0.3")
    town.say("127.0.0.3 app.test", "127.0.0.4 app.test")
    town.wait_for("127.0.0.3", "127.0.0.4")
    town.say()  # gone
    wait_until(lambda: lbd.metric("lbd_resolutions_total", host="app.test", result="failed") >= 1, "a failure")
    assert town.addresses() == [f"127.0.0.{last}:{town.origin_port}" for last in (3, 4)]
    lbd.wait_for_log(r"app\.test does not resolve: .*; keeping 127\.0\.0\.3, 127\.0\.0\.4, and trying again")
    town.say("127.0.0.5 app.test")
    town.wait_for("127.0.0.5")
    lbd.wait_for_log(r"app\.test resolves again after \d+ failures")


def test_a_name_that_comes_late_is_served_then(town: Town) -> None:
    town.say()
    town.start()
    answer = get(town.port)
    assert (answer.status, answer.get("x-lbd-reason")) == (503, "no_healthy_endpoint")
    assert town.lbd is not None
    cluster = town.lbd.json("/api/v1/clusters")["web"]
    assert cluster["why"] == "none of its names has resolved to an address, so requests are answered with no_healthy_endpoint"
    (endpoint,) = cluster["endpoints"]
    assert (endpoint["name"], endpoint["up"], endpoint["state"]) == (f"app.test:{town.origin_port}", False, "unresolved")
    assert re.fullmatch(r"app\.test does not resolve: .+", endpoint["why"])
    assert town.lbd.json("/api/v1/status")["names"]["app.test"]["problem"]
    with ScriptedOrigin(port=town.origin_port):
        town.say("127.0.0.1 app.test")
        town.wait_for("127.0.0.1")
        wait_until(lambda: get(town.port).status == 200, "a request to be served")


def test_localhost_is_a_name_like_any_other(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with ScriptedOrigin(port=free_port()) as origin:
        text = CONFIG.format(admin=admin, port=port, endpoint=f"localhost:{origin.port}")
        with start_lbd(text, tmp_path) as lbd:
            assert get(port).status == 200
            names = {endpoint["name"] for endpoint in lbd.json("/api/v1/clusters")["web"]["endpoints"]}
            assert names == {f"localhost:{origin.port}"}
            time.sleep(0.5)
            assert lbd.metric("lbd_resolutions_total", host="localhost", result="ok") >= 2
