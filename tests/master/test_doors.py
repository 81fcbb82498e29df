"""The admin listener's and the control socket's places, and what happens when they cannot be had."""

from __future__ import annotations

import logging
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from lbd.config.daemon import AdminPolicy, DaemonPolicy
from lbd.config.schema import Config
from lbd.master.doors import Doors, control_bind
from lbd.master.faults import Faults
from lbd.master.inherited import Inherited
from lbd.master.sockets import Sockets
from lbd.master.upgrade import STATE_LOCK, VARIABLE, Handover

if TYPE_CHECKING:
    from pathlib import Path

    from lbd.errors import EnvironmentFault


def config(control: str = "auto", state: str = "", bind: str = "off") -> Config:
    return Config("lb.toml", lbd=DaemonPolicy(state_directory=state), admin=AdminPolicy(bind=bind, control=control))


@pytest.mark.parametrize(
    ("control", "state", "environ", "bind"),
    [
        ("auto", "", {}, ""),
        ("auto", "/var/lib/lbd", {}, "unix:/var/lib/lbd/control.sock"),
        ("auto", "", {"STATE_DIRECTORY": "/var/lib/lbd"}, "unix:/var/lib/lbd/control.sock"),
        ("auto", "/var/lib/lbd", {"RUNTIME_DIRECTORY": "/run/lbd:/run/more"}, "unix:/run/lbd/control.sock"),
        ("off", "/var/lib/lbd", {"RUNTIME_DIRECTORY": "/run/lbd"}, ""),
        ("unix:/tmp/c.sock", "/var/lib/lbd", {"RUNTIME_DIRECTORY": "/run/lbd"}, "unix:/tmp/c.sock"),
    ],
)
def test_where_commands_are_heard(control: str, state: str, environ: dict[str, str], bind: str) -> None:
    assert control_bind(config(control, state), environ) == bind


async def opened(policy: Config) -> tuple[Doors, list[EnvironmentFault]]:
    doors, faults = Doors(), Faults()
    await doors.open(Sockets(1, Inherited({}, os.getpid(), set()), Handover({})), policy, {}, faults)
    return doors, faults.found


async def test_both_are_open_and_their_files_go_with_them(tmp_path: Path, no_leaked_fds: None) -> None:
    admin, control = tmp_path / "admin.sock", tmp_path / "control.sock"
    doors, faults = await opened(config(state=str(tmp_path), bind=f"unix:{admin}"))
    assert faults == []
    assert [stat.S_IMODE(path.stat().st_mode) for path in (admin, control)] == [0o660, 0o600]
    assert list(doors.handed()) == [f"unix:{admin}", f"unix:{control}"]
    doors.close(keep_files=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("is_asked_for", [True, False])
@pytest.mark.parametrize("trouble", ["taken", "long", "missing"])
async def test_one_that_nobody_asked_for_ends_no_start(
    is_asked_for: bool, trouble: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, no_leaked_fds: None
) -> None:
    state = tmp_path / ("d" * 120 if trouble == "long" else "d")
    if trouble != "missing":
        state.mkdir()
    path = state / "control.sock"
    holder = socket.create_server(str(path), family=socket.AF_UNIX) if trouble == "taken" else None
    doors, faults = await opened(config(f"unix:{path}") if is_asked_for else config(state=str(state)))
    assert doors.control is None
    assert [fault.path for fault in faults] == [("admin", "control")] * is_asked_for
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [sentence.startswith("no control socket: ") for sentence in warned] == [True] * (not is_asked_for)
    if holder is not None:
        holder.close()


def test_a_predecessors_lock_is_taken_once(no_leaked_fds: None) -> None:
    reader, writer = os.pipe()
    handover = Handover({VARIABLE: f'{{"sockets": {{"{STATE_LOCK}": [{reader}]}}, "ready": {writer}}}'})
    assert (handover.take_lock(), handover.take_lock()) == (reader, -1)
    handover.finish()
    assert os.read(reader, 10) == b"ready", "what was taken stays open"
    os.close(reader)
    os.close(writer)
