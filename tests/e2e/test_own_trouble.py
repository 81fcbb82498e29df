"""lbd's own trouble, with real processes: workers that hang or crash again and again, and a daemon that was suspended."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.http import Ended, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# In every worker: a file with its pid in its name makes it loop for ever, in the middle of whatever it does.
TRAP = """\
import ctypes, os, sys, threading, time
if sys.orig_argv[3:4] == ["lbd.worker"]:
    path = f"{directory}/hang-{{os.getpid()}}"
    def loop_for_ever(_):
        while os.path.exists(path):
            pass
        return 0
    loop = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(loop_for_ever)
    def wait():
        while not os.path.exists(path):
            time.sleep(0.02)
        ctypes.pythonapi.Py_AddPendingCall(loop, None)
    threading.Thread(target=wait, daemon=True).start()
"""


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


class Lab:
    """An lbd whose workers can be made to hang."""

    def __init__(self, origin: ScriptedOrigin, directory: Path) -> None:
        self.directory = directory
        self.port, admin = free_ports(2)
        text = f"""
[lbd]
workers = 2
user = "root"
hang_timeout = "3s"
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{self.port}"
cluster = "web"
[cluster.web]
endpoints = ["{origin.address}"]
"""
        environment = begin_with(directory, TRAP.format(directory=directory))
        self.lbd: LbdDaemon = start_lbd(text, directory, environment=environment)

    def hang(self, worker: int) -> None:
        (self.directory / f"hang-{worker}").touch()

    def wait_replaced(self, victim: int) -> None:
        wait_until(lambda: victim not in self.lbd.workers() and len(self.lbd.workers()) == 2 and self.serving() == 2, "a successor")

    def serving(self) -> int:
        return sum(worker["state"] == "serving" for worker in self.lbd.json("/api/v1/status")["workers"])


@pytest.fixture(scope="module")
def lab(origin: ScriptedOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    started = Lab(origin, tmp_path_factory.mktemp("trouble"))
    with started.lbd:
        yield started


class Asking:
    """Requests one after the other, in a thread, until told to stop: what came of them."""

    def __init__(self, port: int, target: str = "/") -> None:
        self.statuses: list[int] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(port, target))
        self._thread.start()

    def _ask(self, port: int, target: str) -> None:
        while not self._stop.is_set():
            try:
                self.statuses.append(get(port, target).status)
            except (OSError, Ended) as error:
                self.errors.append(error)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()


def test_a_worker_that_loops_is_dumped_and_replaced(lab: Lab) -> None:
    victim, survivor = lab.lbd.workers()
    asking = Asking(lab.port)
    start = len(lab.lbd.log())
    lab.hang(victim)
    lab.wait_replaced(victim)
    asking.stop()
    assert survivor in lab.lbd.workers()
    assert set(asking.statuses) == {200}
    assert len(asking.errors) <= 1, "what the victim was serving"
    lab.lbd.wait_for_log("end of the dump", start=start)
    log = lab.lbd.log()[start:]
    said = [line.split("| ", 1)[1] for line in log.splitlines() if f"(pid {victim}) | " in line]
    assert any(line.startswith("State: R") for line in said), log
    assert any('sitecustomize.py", line 5 in loop_for_ever' in line for line in said), "faulthandler's stack"
    assert any('sitecustomize.py", line 5, in loop_for_ever' in line for line in said), "the interpreter's own"
    assert any(line.strip().startswith(f"accept 127.0.0.1:{lab.port}: serve_acceptor") for line in said), "the fibers"
    assert any("_sweep" in line for line in said), "the tasks"
    assert said[-1] == "end of the dump"
    assert lab.lbd.metric("lbd_worker_hangs_total") == 1


def test_a_worker_that_was_stopped_is_replaced(lab: Lab) -> None:
    hangs = lab.lbd.metric("lbd_worker_hangs_total")
    victim = lab.lbd.workers()[0]
    start = len(lab.lbd.log())
    os.kill(victim, signal.SIGSTOP)
    lab.wait_replaced(victim)
    lab.lbd.wait_for_log(rf"\(pid {victim}\) was killed by SIGKILL: it hung: no sign of life for ", start=start)
    assert f"(pid {victim}) | State: T (stopped)" in lab.lbd.log()[start:]
    assert lab.lbd.metric("lbd_worker_hangs_total") == hangs + 1
    assert [get(lab.port).status for _ in range(10)] == [200] * 10


def test_a_daemon_that_was_suspended_goes_on(lab: Lab) -> None:
    """Longer than a worker may hang. What is under way is answered, and nobody is taken for hung."""
    hangs, workers = lab.lbd.metric("lbd_worker_hangs_total"), lab.lbd.workers()
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(get(lab.port, "/slow/1").status))
    slow.start()
    wait_until(lambda: lab.lbd.metric("lbd_endpoint_inflight") == 1, "the request to be under way")
    everybody = [lab.lbd.pid, *workers]
    for pid in everybody:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4.0)
    for pid in everybody:  # the master first
        os.kill(pid, signal.SIGCONT)
    slow.join()
    assert answers == [200]
    time.sleep(3.5)  # some looks of the master, and more than `hang_timeout`
    assert lab.lbd.workers() == workers
    assert all(map(procfs.is_alive, workers))
    assert lab.lbd.metric("lbd_worker_hangs_total") == hangs


def test_a_master_that_is_killed_costs_nobody_an_answer(origin: ScriptedOrigin, tmp_path: Path) -> None:
    """Its workers finish what they have; the next one can be started at once. Only between the two nobody listens.

    Whom the kernel let in between the last accept() and the end of a listening socket is reset by the kernel: each of those who ask, once.
    """
    port, first, second = free_ports(3)
    text = f"""
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{first}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = ["{origin.address}"]
"""
    with start_lbd(text, tmp_path / "first") as lbd:
        (worker,) = lbd.workers()
        asking = [Asking(port) for _ in range(3)]
        answers: list[int] = []
        slow = threading.Thread(target=lambda: answers.append(get(port, "/slow/2").status))
        slow.start()
        wait_until(lambda: any("/slow/2" in str(request) for request in origin.received), "the slow request")
        os.kill(lbd.pid, signal.SIGKILL)
        with start_lbd(text.replace(str(first), str(second)), tmp_path / "second"):
            slow.join()
            assert answers == [200]
            wait_until(lambda: not procfs.is_alive(worker), "the orphan's end")
            before = sum(len(each.statuses) for each in asking)
            wait_until(lambda: sum(len(each.statuses) for each in asking) > before + 10, "answers of the next one")
            for each in asking:
                each.stop()
    assert {status for each in asking for status in each.statuses} == {200}
    errors = [error for each in asking for error in each.errors if not isinstance(error, ConnectionRefusedError)]
    assert {type(error) for error in errors} <= {ConnectionResetError}
    assert len(errors) <= len(asking)
