"""Upgrades under load and under a service manager: ten in a row without a lost request, and those that fail change nothing."""

from __future__ import annotations

import array
import faulthandler
import os
import signal
import socket
import struct
import threading
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect
from websockets.sync.server import serve

from tests.support import procfs
from tests.support.http import Downstream, Ended, get
from tests.support.http2 import Http2Socket
from tests.support.origins import ScriptedOrigin
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from websockets.sync.server import ServerConnection

    from tests.support.http import Answer

# A worker does not get on with its start while there is a file of that name.
TRAP = """\
import os, sys, time
while sys.orig_argv[3:4] == ["lbd.worker"] and os.path.exists("{directory}/hang"):
    time.sleep(0.05)
"""
UPGRADES = 10
UPGRADE_TIMEOUT = 60
KINDS = ("new GET", "kept GET", "kept POST", "slow GET", "HTTP/2")
CLIENTS = 2  # of each kind
SLOW = 0.5  # seconds of an answer that is under way while masters change


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
    """Clients that ask without a pause, some of each kind: GETs on a connection each, GETs, POSTs and slow GETs on connections that they
    keep, and GETs and POSTs as streams of HTTP/2."""

    def __init__(self, port: int) -> None:
        self.answered: Counter[str] = Counter()
        self.longest = 0.0  # seconds that anybody has waited
        self.wrong: list[str] = []
        self._port = port
        self._stop = threading.Event()
        works: dict[str, Callable[[], object]] = {
            "new GET": self._new,
            "kept GET": partial(self._kept, "kept GET", "GET", "/"),
            "kept POST": partial(self._kept, "kept POST", "POST", "/echo"),
            "slow GET": partial(self._kept, "slow GET", "GET", f"/slow/{SLOW}"),
            "HTTP/2": self._streams,
        }
        self._threads = [threading.Thread(target=work, name=name) for name, work in works.items() for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _pauses(self) -> bool:
        """Whether to go on afterwards."""
        return not self._stop.wait(0.02)

    def _new(self) -> None:
        while self._pauses():
            try:
                with Downstream(self._port) as downstream:
                    self._ask("new GET", downstream, "GET", "/")
            except (OSError, Ended) as error:
                self.wrong.append(f"new GET: {error!r}")

    def _kept(self, kind: str, method: str, target: str) -> None:
        while self._pauses():
            try:
                with Downstream(self._port) as downstream:
                    while self._ask(kind, downstream, method, target).get("connection") != "close" and self._pauses():
                        pass
            except (OSError, Ended) as error:
                self.wrong.append(f"{kind}: {error!r}")

    def _ask(self, kind: str, downstream: Downstream, method: str, target: str) -> Answer:
        body = os.urandom(2_000) if method == "POST" else b""
        began = time.monotonic()
        answer = downstream.ask(method, target, body=body)
        self._check(kind, began, answer.status, answer.body, body or (b"slow\n" if "slow" in target else b"ok"))
        return answer

    def _check(self, kind: str, began: float, status: int, got: bytes, wanted: bytes) -> None:
        self.answered[kind] += 1
        self.longest = max(self.longest, time.monotonic() - began)
        if (status, got) != (200, wanted):
            self.wrong.append(f"{kind}: {status} {got[:50]!r}")

    def _streams(self) -> None:
        """A GET, a POST and a slow GET at a time, until the connection is to be left."""
        while self._pauses():
            asked: dict[int, bytes] = {}
            try:
                with Http2Socket(self._port) as them:
                    while not them.goaways and not them.has_ended and self._pauses():
                        began, body = time.monotonic(), os.urandom(2_000)
                        asked = {them.get("/"): b"ok", them.get(f"/slow/{SLOW}"): b"slow\n"}
                        asked[number := them.post("/echo")] = body
                        them.send(number, body, ends=True)
                        for number in list(asked):
                            answer = them.answer(number)
                            self._check("HTTP/2", began, answer.status, answer.body, asked.pop(number))
            except (OSError, AssertionError) as error:
                # What comes after the last stream that GOAWAY names has not been looked at: RFC 9113, 6.8.
                last = them.goaways[-1][0] if them.goaways else 1 << 31
                if not them.goaways or any(number <= last for number in asked):
                    self.wrong.append(f"HTTP/2: {error!r}")

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Lab:
    """An lbd under a manager, with an endpoint that lives and one that does not."""

    def __init__(self, origin: ScriptedOrigin, directory: Path, chat: int) -> None:
        self.directory = directory
        self.port, admin, self.dead = free_ports(3)
        text = f"""
[lbd]
workers = 2
user = "root"
upgrade_timeout = "{UPGRADE_TIMEOUT}s"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{self.port}"
cluster = "web"
[[listener.web.route]]
path_exact = "/chat"
cluster = "chat"
[cluster.chat]
endpoints = ["127.0.0.1:{chat}"]
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
        self.lbd.stop()
        self.manager.close()


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


@pytest.fixture(scope="module")
def chat() -> Iterator[int]:
    """The port of a WebSocket that says everything again."""

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def lab(origin: ScriptedOrigin, chat: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    started = Lab(origin, tmp_path_factory.mktemp("upgrades"), chat)
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
    assert load.answered.total() > 0
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
    faulthandler.cancel_dump_traceback_later()  # pytest's, which takes a minute for a test that hangs
    wait_until(lambda: lab.lbd.metric("lbd_endpoint_up", endpoint=f"127.0.0.1:{lab.dead}") == 0, "the dead endpoint to be found out")
    load = Load(lab.port)
    mains = [lab.manager.main]
    seconds = []
    for number in range(1, UPGRADES + 1):
        old, answered, began = lab.manager.main, load.answered.copy(), time.monotonic()
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: lab.manager.heard("READY", "1") and lab.manager.main != old, "the new master")  # noqa: B023
        seconds.append(time.monotonic() - began)
        wait_until(lambda: not procfs.is_alive(old), "the old one's end")  # noqa: B023
        mains.append(lab.manager.main)
        wait_until(lambda: all(load.answered[kind] > answered[kind] for kind in KINDS), "an answer of each kind")  # noqa: B023
        assert lab.lbd.json("/api/v1/status")["pid"] == lab.manager.main
        assert lab.lbd.metric("lbd_upgrades_total", result="ok") == number
        assert lab.attempts_at_the_dead() == 0
    load.stop()
    print(
        f"{UPGRADES} upgrades, of {min(seconds):.2f} to {max(seconds):.2f} s; {load.answered.total()} requests answered meanwhile, "
        f"{len(load.wrong)} not; nobody waited for longer than {load.longest:.2f} s: {dict(load.answered)}"
    )
    if max(seconds) >= UPGRADE_TIMEOUT:
        raise TimeoutError(f"{seconds} s")
    assert len(set(mains)) == UPGRADES + 1
    assert load.wrong == []
    assert load.answered.total() > 100
    assert lab.manager.unheard == []
    assert not any(name == "STOPPING" for _, name, _ in lab.manager.said), "the service has not stopped"
    for old, new in pairwise(mains):
        last = [(name, value) for sender, name, value in lab.manager.said if sender == old][-2:]
        assert last == [("MAINPID", str(new)), ("WATCHDOG", "1")]
    assert get(lab.port).status == 200


def test_a_websocket_stays_through_an_upgrade(lab: Lab) -> None:
    """The old worker has it until it ends, and then ends too; whoever comes meanwhile is the new one's."""
    old = lab.manager.main
    with connect(f"ws://127.0.0.1:{lab.port}/chat", proxy=None) as kept:
        kept.send("before")
        assert kept.recv(PATIENCE) == "before"
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: lab.manager.heard("READY", "1") and lab.manager.main != old, "the new master")
        assert lab.lbd.json("/api/v1/status")["pid"] == lab.manager.main
        for number in range(20):
            kept.send(f"after {number}")
            assert kept.recv(PATIENCE) == f"after {number}"
            with connect(f"ws://127.0.0.1:{lab.port}/chat", proxy=None) as fresh:
                fresh.send("fresh")
                assert fresh.recv(PATIENCE) == "fresh"
        assert procfs.is_alive(old)
    wait_until(lambda: not procfs.is_alive(old), "the old one's end")
    assert "cut short" not in lab.lbd.log().replace("nothing was cut short", "")
