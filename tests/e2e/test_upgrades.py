"""Upgrades under load and under a service manager: ten in a row without a lost request, and those that fail change nothing."""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.http import Downstream, Ended, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A worker does not get on with its start while there is a file of that name.
TRAP = """\
import os, sys, time
while sys.orig_argv[3:4] == ["lbd.worker"] and os.path.exists("{directory}/hang"):
    time.sleep(0.05)
"""
UPGRADES = 10
UPGRADE_TIMEOUT = 60
CLIENTS = 2  # of each kind


class Manager:
    """systemd, as far as Type=notify and NotifyAccess=main go: who it believes is whom MAINPID names, and it was started with."""

    def __init__(self, path: Path) -> None:
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "20000000"}
        self.said: list[tuple[int, str, str]] = []  # who, NAME, value
        self.unheard: list[tuple[int, str]] = []  # of those who are not the main process
        self.main = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def look(self) -> None:
        size = struct.calcsize("3i")
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(65536, socket.CMSG_SPACE(size))
            except BlockingIOError:
                return
            sender = array.array("i", ancillary[0][2][:size])[0]
            if sender != self.main:
                self.unheard.append((sender, data.decode()))
                continue
            for line in data.decode().splitlines():
                name, _, value = line.partition("=")
                self.said.append((sender, name, value))
                if name == "MAINPID":
                    self.main = int(value)

    def heard(self, name: str, value: str = "") -> bool:
        """From who is the main process now."""
        self.look()
        return any(sender == self.main and said == name and value in words for sender, said, words in self.said)

    def close(self) -> None:
        self._socket.close()


class Load:
    """Clients that ask without a pause: half of them on a connection for each request, half on one that they keep."""

    def __init__(self, port: int) -> None:
        self.answered = 0
        self.longest = 0.0  # seconds that anybody has waited
        self.wrong: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(kept,)) for kept in (False, True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self, kept: bool) -> None:
        downstream: Downstream | None = None
        while not self._stop.wait(0.005):
            began = time.monotonic()
            try:
                downstream = downstream or Downstream(self._port)
                answer = downstream.ask("GET", "/")
            except (OSError, Ended) as error:
                self.wrong.append(f"{'kept' if kept else 'new'}: {error!r}")
            else:
                self.answered += 1
                self.longest = max(self.longest, time.monotonic() - began)
                if (answer.status, answer.body) != (200, b"ok"):
                    self.wrong.append(f"{answer.status} {answer.body!r}")
                if kept and answer.get("connection") != "close":
                    continue
            if downstream is not None:
                downstream.close()
                downstream = None
        if downstream is not None:
            downstream.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Lab:
    """An lbd under a manager, with an endpoint that lives and one that does not."""

    def __init__(self, origin: ScriptedOrigin, directory: Path) -> None:
        self.directory = directory
        self.port, admin, self.dead = free_ports(3)
        text = f"""
[lbd]
workers = 1
user = "root"
upgrade_timeout = "{UPGRADE_TIMEOUT}s"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{self.port}"
cluster = "web"
[cluster.web]
endpoints = ["{origin.address}", "127.0.0.1:{self.dead}"]
health = {{ protocol = "tcp", interval = "1s", fall = 1 }}
"""
        self.manager = Manager(directory / "notify.sock")
        environment = {**self.manager.environment, **begin_with(directory, TRAP.format(directory=directory))}
        self.lbd = LbdDaemon(text, directory, environment=environment)
        self.manager.main = self.lbd.pid
        self.lbd.wait_ready()

    def attempts_at_the_dead(self) -> float:
        return self.lbd.metric("lbd_upstream_attempts_total", endpoint=f"127.0.0.1:{self.dead}")

    def stop(self) -> None:
        """Whoever is the main process by now is no child of ours."""
        main = self.manager.main
        os.kill(main, signal.SIGTERM)
        wait_until(lambda: not procfs.is_alive(main), "the last master's end")
        self.manager.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


@pytest.fixture(scope="module")
def lab(origin: ScriptedOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    started = Lab(origin, tmp_path_factory.mktemp("upgrades"))
    with started.lbd:
        yield started
        started.stop()


def test_an_upgrade_that_hangs_is_given_up(lab: Lab) -> None:
    """Its worker does not start. The old one serves on, says why, and can be upgraded later."""
    lab.lbd.reload(lab.lbd.config.read_text().replace(f"{UPGRADE_TIMEOUT}s", "3s"))
    (lab.directory / "hang").touch()
    load = Load(lab.port)
    lab.lbd.signal(signal.SIGUSR2)
    lab.lbd.wait_for_log("the new master was not ready within 3 s and has been killed; this one stays")
    said = "; the upgrade failed: the new master was not ready within 3 s"
    wait_until(lambda: lab.manager.heard("STATUS", said), "the manager to hear of it")
    load.stop()
    (lab.directory / "hang").unlink()
    assert load.answered > 0
    assert load.wrong == []
    assert lab.manager.main == lab.lbd.pid
    assert lab.lbd.is_ready()
    assert lab.lbd.metric("lbd_upgrades_total", result="failed") == 1
    assert lab.manager.unheard == []
    lab.lbd.reload(lab.lbd.config.read_text().replace('"3s"', f'"{UPGRADE_TIMEOUT}s"'))


@pytest.mark.final
def test_ten_in_a_row_lose_nothing(lab: Lab) -> None:
    """Each new master tells the manager only once that listens to it; and none sends a request where the last one knew nobody to be.

    Each takes less than the time after which it would be given up, and clients are answered all the while.
    """
    wait_until(lambda: lab.lbd.metric("lbd_endpoint_up", endpoint=f"127.0.0.1:{lab.dead}") == 0, "the dead endpoint to be found out")
    load = Load(lab.port)
    mains = [lab.manager.main]
    seconds = []
    for number in range(1, UPGRADES + 1):
        old, answered, began = lab.manager.main, load.answered, time.monotonic()
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: lab.manager.heard("READY", "1") and lab.manager.main != old, "the new master")  # noqa: B023
        seconds.append(time.monotonic() - began)
        wait_until(lambda: not procfs.is_alive(old), "the old one's end")  # noqa: B023
        mains.append(lab.manager.main)
        assert load.answered > answered
        assert lab.lbd.json("/api/v1/status")["pid"] == lab.manager.main
        assert lab.lbd.metric("lbd_upgrades_total", result="ok") == number
        assert lab.attempts_at_the_dead() == 0
    load.stop()
    print(
        f"{UPGRADES} upgrades, of {min(seconds):.2f} to {max(seconds):.2f} s; {load.answered} requests answered meanwhile, "
        f"{len(load.wrong)} not; nobody waited for longer than {load.longest:.2f} s"
    )
    if max(seconds) >= UPGRADE_TIMEOUT:
        raise TimeoutError(f"{seconds} s")
    assert len(set(mains)) == UPGRADES + 1
    assert load.wrong == []
    assert load.answered > 100
    assert lab.manager.unheard == []
    assert not any(name == "STOPPING" for _, name, _ in lab.manager.said), "the service has not stopped"
    for old, new in pairwise(mains):
        last = [(name, value) for sender, name, value in lab.manager.said if sender == old][-2:]
        assert last == [("MAINPID", str(new)), ("WATCHDOG", "1")]
    assert get(lab.port).status == 200
