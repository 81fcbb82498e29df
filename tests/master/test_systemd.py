"""The units: systemd's own opinion of them, and that they agree with the code."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from lbd.cli.remote import PACKAGED_CONTROL
from lbd.config.daemon import DaemonPolicy
from lbd.config.schema import Config
from lbd.errors import Exit
from lbd.master.doors import control_bind
from lbd.master.state_directory import state_path

UNITS = Path(__file__).resolve().parent.parent.parent / "systemd"
EXPOSURE_LIMIT = 3.0  # of 10; "OK" ends at 5
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def unit(name: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read_string((UNITS / name).read_text())
    return parser


@needs_systemd
@pytest.mark.parametrize("name", ["lbd.service", "lbd.socket"])
def test_systemd_finds_nothing_wrong(name: str) -> None:
    # Both units, since a socket names its service; --man=no, --recursive-errors=no: of these two only.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", UNITS / name], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_LIMIT * 10:.0f}", UNITS / "lbd.service"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze knows no --offline")
    assert done.returncode == 0, done.stdout[-500:]


def test_the_service_agrees_with_the_code() -> None:
    service = unit("lbd.service")["Service"]
    assert service["RestartPreventExitStatus"] == str(int(Exit.CONFIG))
    assert float(service["TimeoutStopSec"]) > DaemonPolicy().drain_timeout + DaemonPolicy().ready_delay
    # SIGTERM to the workers too would end them before the master has said that it leaves; "mixed" kills them when the master has died.
    assert service["KillMode"] == "process"
    assert service["Type"] == "notify"
    assert service["NotifyAccess"] == "main"  # of old and new master in an upgrade one speaks at a time


def test_what_outlives_a_restart_has_a_place_and_commands_are_heard() -> None:
    service = unit("lbd.service")["Service"]
    environ = {"STATE_DIRECTORY": f"/var/lib/{service['StateDirectory']}", "RUNTIME_DIRECTORY": f"/run/{service['RuntimeDirectory']}"}
    assert state_path("", environ) == Path("/var/lib/lbd")
    assert control_bind(Config("lb.toml"), environ) == PACKAGED_CONTROL
    assert service["StateDirectoryMode"] == "0700"


def test_workers_can_be_killed_and_become_their_user() -> None:
    capabilities = unit("lbd.service")["Service"]["CapabilityBoundingSet"].split()
    assert {"CAP_NET_BIND_SERVICE", "CAP_SETUID", "CAP_SETGID", "CAP_KILL"} <= set(capabilities)
