"""sd_notify against a socket of our own."""

from __future__ import annotations

import os
import re
import socket
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.master.notify import Notifier, keep_watchdog, watchdog_interval

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Listener:
    """What a service manager hears."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # noqa: TID251 - the manager is a socket
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[dict[str, str]]:
        said: list[dict[str, str]] = []
        while True:
            try:
                text = self._socket.recv(4096).decode()
            except BlockingIOError:
                return said
            said.append(dict(line.split("=", 1) for line in text.splitlines()))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(str(tmp_path / "notify") if request.param == "path" else f"@lbd-test-{os.getpid()}")
    yield listening
    listening.close()


def test_what_it_says(listener: Listener) -> None:
    notifier = Notifier(listener.address)
    notifier.ready("serving")
    notifier.reloading()
    notifier.stopping("draining")
    notifier.status("3 requests")
    notifier.succeeded_by(4711)
    notifier.close()
    ready, reloading, stopping, status, successor = listener.heard()
    assert ready == {"READY": "1", "STATUS": "serving", "MAINPID": str(os.getpid())}
    assert reloading.pop("RELOADING") == "1"
    assert re.fullmatch(r"\d+", reloading["MONOTONIC_USEC"])
    assert stopping == {"STOPPING": "1", "STATUS": "draining"}
    assert status == {"STATUS": "3 requests"}
    assert successor == {"MAINPID": "4711", "WATCHDOG": "1"}


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "@nobody-is-here"])
def test_nobody_there_is_nothing_wrong(address: str) -> None:
    notifier = Notifier(address)
    notifier.ready("serving")
    notifier.close()


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "77"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "78"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "-1"}, 0.0),
    ],
)
def test_watchdog_interval(environ: dict[str, str], seconds: float) -> None:
    assert watchdog_interval(environ, 77) == seconds


async def test_signs_of_life_cease_with_health(autojump_clock: trio.testing.MockClock, tmp_path: Path) -> None:
    listening = Listener(str(tmp_path / "notify"))
    notifier = Notifier(listening.address)
    start = trio.current_time()
    with trio.move_on_after(100):
        await keep_watchdog(notifier, 10.0, lambda: trio.current_time() - start < 45)
    assert listening.heard() == [{"WATCHDOG": "1"}] * 5
    notifier.close()
    listening.close()


async def test_without_a_watchdog_it_ends_at_once(autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    await keep_watchdog(Notifier(""), 0.0, lambda: True)
    assert trio.current_time() == start
