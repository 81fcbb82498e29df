"""A disk that is full when something is to be kept: lbd serves, says so, and keeps it as soon as there is room."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.disks import fill, tiny_disk
from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Nobody wants to wait for half a minute.
OFTEN = """\
import sys
if sys.orig_argv[1:3] == ["-m", "lbd"]:
    from lbd.master import state_directory
    state_directory.RETRY = 0.2
"""
CONFIG = """\
[lbd]
workers = 2
{state}
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
sticky = {{}}
endpoints = [{endpoints}]
"""


@pytest.fixture
def origins() -> Iterator[list[ScriptedOrigin]]:
    found = [ScriptedOrigin(name) for name in "abc"]
    yield found
    for origin in found:
        origin.stop()


def config(port: int, admin: int, origins: list[ScriptedOrigin], state: str = "") -> str:
    endpoints = ", ".join(f'"{origin.address}"' for origin in origins)
    return CONFIG.format(port=port, admin=admin, state=state, endpoints=endpoints)


def begin_session(port: int) -> tuple[str, str]:
    """Its cookie, and who serves it."""
    answer = get(port)
    return answer.get("set-cookie").partition(";")[0], answer.get("x-origin")


def is_kept(port: int, session: tuple[str, str]) -> bool:
    answers = [get(port, fields={"Cookie": session[0]}) for _ in range(6)]
    return {answer.get("x-origin") for answer in answers} == {session[1]} and not any(answer.get("set-cookie") for answer in answers)


def test_the_key_of_sticky_cookies_is_written_once_there_is_room(origins: list[ScriptedOrigin], tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with tiny_disk(tmp_path / "disk"):
        state = tmp_path / "disk" / "state"
        state.mkdir(0o700)
        ballast = fill(tmp_path / "disk")
        text = config(port, admin, origins, f'state_directory = "{state}"')
        environment = begin_with(tmp_path, OFTEN)
        with LbdDaemon(text, tmp_path, environment=environment).wait_ready() as lbd:
            session = begin_session(port)
            assert is_kept(port, session)
            lbd.wait_for_log(r"sticky\.key cannot be written: No space left on device; make room there")
            wait_until(lambda: lbd.metric("lbd_state_write_failures_total") >= 2, "another try")
            assert not list(state.glob(".*.new")), "nothing is left lying there"
            ballast.unlink()
            lbd.wait_for_log(r"sticky\.key can be written again")
            assert (state / "sticky.key").stat().st_size == 65
        with LbdDaemon(text, tmp_path, environment=environment, name="second").wait_ready():
            assert is_kept(port, session)


def test_the_log_says_what_it_has_lost_once_there_is_room(origins: list[ScriptedOrigin], tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with tiny_disk(tmp_path / "disk"):
        path = tmp_path / "disk" / "lbd.log"
        text = config(port, admin, origins).replace("[log]", f'[log]\nfile = "{path}"')
        with LbdDaemon(text, tmp_path).wait_ready() as lbd:
            ballast = fill(tmp_path / "disk")

            def lost() -> float:
                lbd.reload()
                return lbd.metric("lbd_log_lines_dropped_total", log="log")

            wait_until(lambda: lost() >= 3, "lines of the master that are lost")
            ballast.unlink()

            def is_told() -> bool:
                lbd.reload()
                return bool(re.search(r" ERROR lbd.master: this log lost \d+ lines: .*No space left on device", path.read_text()))

            wait_until(is_told, "what was lost to be told")
            assert lbd.metric("lbd_faults_total") == 0


def test_sticky_sessions_survive_an_upgrade_without_a_state_directory(origins: list[ScriptedOrigin], tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with LbdDaemon(config(port, admin, origins), tmp_path).wait_ready() as lbd:
        session = begin_session(port)
        lbd.signal(signal.SIGUSR2)
        assert lbd.wait() == 0
        assert is_kept(port, session)
