"""SIGUSR2: a new master on the same sockets, and not one request lost."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


def config(origin: ScriptedOrigin, admin: int, *binds: str, workers: int = 2) -> str:
    return f"""
[lbd]
workers = {workers}
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = {json.dumps(binds)}
cluster = "web"
[cluster.web]
endpoints = ["{origin.address}"]
"""


def pid_of(lbd: LbdDaemon) -> int:
    """The master's that answers."""
    try:
        pid = lbd.json("/api/v1/status")["pid"]
    except OSError:
        return 0
    assert isinstance(pid, int)
    return pid


def test_a_new_master_takes_over(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    unix = tmp_path / "lbd.sock"
    with start_lbd(config(origin, admin, f"127.0.0.1:{port}", f"unix:{unix}"), tmp_path) as lbd, Downstream(port) as slow:
        slow.send(b"GET /slow/2 HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_until(lambda: len(origin.received) == 1, "the slow request")
        lbd.rewrite(config(origin, admin, f"127.0.0.1:{port}", f"unix:{unix}", workers=3))
        begin = time.monotonic()
        lbd.signal(signal.SIGUSR2)
        served = 0
        while pid_of(lbd) in (0, lbd.pid):
            assert get(port).status == 200
            assert get(str(unix)).status == 200
            served += 1
            assert time.monotonic() - begin < 20
        assert served > 0
        assert slow.response().body == b"slow\n"
        assert lbd.wait(10) == 0
        assert len(procfs.children(pid_of(lbd))) == 3
        assert [get(address).status for address in (port, str(unix), port)] == [200] * 3
        lbd.stop()
        assert not unix.exists()


def test_an_upgrade_that_fails_changes_nothing(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    unix = tmp_path / "lbd.sock"
    binds = f"127.0.0.1:{port}", f"unix:{unix}"
    with start_lbd(config(origin, admin, *binds), tmp_path) as lbd:
        for text, code in (("nonsense", 78), (config(origin, admin, *binds, "fd:web"), 1)):
            lbd.rewrite(text)
            lbd.signal(signal.SIGUSR2)
            lbd.wait_for_log(rf"the new master exited with {code} before it was ready; this one stays")
            assert [get(address).status for address in (port, str(unix))] == [200, 200]
        lbd.reload(config(origin, admin, *binds))
        assert lbd.is_ready()
        lbd.signal(signal.SIGUSR2)
        wait_until(lambda: pid_of(lbd) not in (0, lbd.pid), "the new master", 20)
        assert lbd.wait(10) == 0
        assert get(port).status == 200
        lbd.stop()


def test_a_new_master_whose_predecessor_dies_makes_room_for_another(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    text = config(origin, admin, f"127.0.0.1:{port}")
    with start_lbd(text, tmp_path) as lbd:
        lbd.signal(signal.SIGUSR2)
        lbd.wait_for_log("upgrading: starting a new master")
        lbd.signal(signal.SIGKILL)
        lbd.wait_for_log("the old master died before this one was ready; .* so this one goes")
        lbd.wait_for_log("stopped: nothing was cut short")
        assert "Traceback" not in lbd.log()
    with start_lbd(text, tmp_path):
        assert get(port).status == 200


def test_a_reload_during_an_upgrade_is_done_by_the_new_one(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with start_lbd(config(origin, admin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        lbd.signal(signal.SIGUSR2)
        lbd.wait_for_log("upgrading: starting a new master")
        lbd.signal(signal.SIGHUP)
        assert lbd.wait(20) == 0
        wait_until(lambda: pid_of(lbd) not in (0, lbd.pid), "the new master", 20)
        lbd.wait_for_log("reloaded, generation 2: nothing has changed")
        lbd.stop()
