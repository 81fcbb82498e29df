"""What may fail once all workers have applied a new configuration: it is in force then, and the rest of it follows all the same."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import begin_with, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import LbdDaemon


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


class Text:
    """A configuration whose next version takes other health checks, endpoints and a mode."""

    def __init__(self, origin: ScriptedOrigin, directory: Path) -> None:
        self.origin = origin
        self.unix = directory / "lbd.sock"
        self.port, self.admin, self.dead = free_ports(3)

    def __call__(self, *, mode: str, endpoints: int = 1, more: str = "") -> str:
        addresses = [f"127.0.0.1:{self.dead}", self.origin.address][-endpoints:]
        return f"""
[lbd]
workers = 2
[log]
access = "off"
[admin]
bind = "127.0.0.1:{self.admin}"
[listener.web]
bind = ["127.0.0.1:{self.port}", "unix:{self.unix}"]
mode = "{mode}"
cluster = "web"
[cluster.web]
endpoints = {addresses}
{more}
"""


CHECKED = '[cluster.web.health]\npath = "/"\ninterval = "1s"'


@pytest.fixture
def text(origin: ScriptedOrigin, tmp_path: Path) -> Text:
    return Text(origin, tmp_path)


def is_checked(lbd: LbdDaemon) -> bool:
    endpoints = lbd.json("/api/v1/clusters")["web"]["endpoints"]
    return [endpoint["checked"] for endpoint in endpoints] == [True]


def test_a_unix_socket_whose_file_has_gone_is_there_again_after_a_reload(text: Text, tmp_path: Path) -> None:
    with start_lbd(text(mode="0600", endpoints=2), tmp_path) as lbd:
        text.unix.unlink()
        lbd.reload(text(mode="0666", more=CHECKED))
        report = lbd.json("/api/v1/status")["last_reload"]
        assert (report["result"], report["generation"], report["errors"]) == ("ok", 2, [])
        assert report["binds"]["changed"] == {f"unix:{text.unix}": ["file"]}
        assert report["binds"]["kept"] == [f"127.0.0.1:{text.port}"]
        (warning,) = report["warnings"]
        assert warning.startswith(f"{lbd.config}:9: listener.web.bind[2]: the file of unix:{text.unix} had gone, or was another's")
        assert stat.S_IMODE(text.unix.stat().st_mode) == 0o666
        assert [get(str(text.unix)).status for _ in range(4)] == [200] * 4
        wait_until(lambda: is_checked(lbd), "the first check")
        text.unix.unlink()
        lbd.reload(text(mode="0666", more=CHECKED.replace("1s", "2s")))
        assert get(str(text.unix)).status == 200
        assert lbd.metric("lbd_reloads_total", result="ok") == 2
        assert lbd.metric("lbd_faults_total") == 0


# A bug in the middle of what follows the workers' word, the first time that a reload comes there.
BUG = """\
import sys
def trap(event, args):
    if event == "import" and args[0] == "lbd.master.master":
        import lbd.master.vault
        update, calls = lbd.master.vault.Vault.update, []
        def broken(self, *rest):
            calls.append(self)
            if len(calls) == 3:
                raise KeyError("a bug")
            update(self, *rest)
        lbd.master.vault.Vault.update = broken
sys.addaudithook(trap)
"""


def test_a_bug_after_the_workers_have_applied_stops_nothing_that_follows(text: Text, tmp_path: Path) -> None:
    with start_lbd(text(mode="0600", endpoints=2), tmp_path, environment=begin_with(tmp_path, BUG)) as lbd:
        lbd.reload(text(mode="0666", more=CHECKED))
        report = lbd.json("/api/v1/status")["last_reload"]
        assert (report["result"], report["generation"]) == ("ok", 2)
        assert report["warnings"] == ["a bug in lbd: this is in force, but not all that belongs to it; the trace is in the log"]
        lbd.wait_for_log("KeyError: 'a bug'")
        assert lbd.metric("lbd_faults_total", where="master") == 1
        assert lbd.metric("lbd_config_generation") == 2
        wait_until(lambda: is_checked(lbd), "the first check")
        lbd.reload(text(mode="0600"))
        assert lbd.json("/api/v1/status")["last_reload"]["warnings"] == []
        assert stat.S_IMODE(text.unix.stat().st_mode) == 0o600
        assert get(text.port).status == 200
