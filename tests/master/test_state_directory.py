"""The state directory: whole files, one daemon, and trouble with the disk that ends nothing."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbd.errors import EnvironmentFault
from lbd.master import state_directory
from lbd.master.state_directory import StateDirectory, state_path
from tests.support.processes import ROOT, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[StateDirectory]:
    directory = StateDirectory(tmp_path / "state")
    yield directory
    directory.close()


@pytest.mark.parametrize(
    ("configured", "environ", "found"),
    [
        ("", {}, None),
        ("/var/lib/lbd", {}, "/var/lib/lbd"),
        ("", {"STATE_DIRECTORY": "/var/lib/lbd"}, "/var/lib/lbd"),
        ("", {"STATE_DIRECTORY": "/var/lib/lbd:/var/lib/more"}, "/var/lib/lbd"),
        ("/srv/lbd", {"STATE_DIRECTORY": "/var/lib/lbd"}, "/srv/lbd"),
    ],
)
def test_where_it_is(configured: str, environ: dict[str, str], found: str | None) -> None:
    assert state_path(configured, environ) == (Path(found) if found else None)


def test_what_is_written_is_read_by_the_next_daemon(tmp_path: Path, no_leaked_fds: None) -> None:
    first = StateDirectory(tmp_path / "state")
    assert first.read("overlays.json") is None
    assert first.write("overlays.json", b"one")
    assert first.write("overlays.json", b"two")
    first.close()
    first.close()
    second = StateDirectory(tmp_path / "state")
    assert second.read("overlays.json") == b"two"
    assert sorted(os.listdir(tmp_path / "state")) == ["lock", "overlays.json"]
    second.close()


def test_nobody_else_may_look(kept: StateDirectory) -> None:
    assert kept.path is not None
    kept.write("key", b"secret")
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o700
    assert stat.S_IMODE((kept.path / "key").stat().st_mode) == 0o600


def test_without_a_directory_nothing_is_kept() -> None:
    none = StateDirectory(None)
    assert not none.write("key", b"secret")
    assert none.read("key") is None
    none.set_aside("key", "a test")
    assert none.failures == 0, "nothing was promised"


def test_two_daemons_do_not_share_one(kept: StateDirectory, no_leaked_fds: None) -> None:
    with pytest.raises(EnvironmentFault, match="another lbd's, which runs; give each its own"):
        StateDirectory(kept.path)


def test_a_successor_inherits_the_lock(tmp_path: Path, no_leaked_fds: None) -> None:
    old = StateDirectory(tmp_path / "state")
    new = StateDirectory(tmp_path / "state", os.dup(old.lock))
    old.close()
    with pytest.raises(EnvironmentFault, match="another lbd's"):
        StateDirectory(tmp_path / "state")
    new.close()
    StateDirectory(tmp_path / "state").close()


def test_a_successor_with_another_directory_lets_go_of_the_old_one(tmp_path: Path, no_leaked_fds: None) -> None:
    old = StateDirectory(tmp_path / "old")
    new = StateDirectory(tmp_path / "new", os.dup(old.lock))
    none = StateDirectory(None, os.dup(old.lock))
    old.close()
    StateDirectory(tmp_path / "old").close()
    new.close()
    none.close()


@pytest.mark.parametrize("configured", [True, False])
def test_what_somebody_has_configured_wrong_ends_the_start(configured: bool, tmp_path: Path, no_leaked_fds: None) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for name, sentence in (
        ("file", "is not a directory"),
        ("none/state", f"there is no {tmp_path}/none; create it"),
        ("open", "others may write in .*chmod 0700"),
    ):
        path = str(tmp_path / name)
        with pytest.raises(EnvironmentFault, match=sentence) as fault:
            StateDirectory.find(*((path, {}) if configured else ("", {"STATE_DIRECTORY": path})))
        assert fault.value.path == (("lbd", "state_directory") if configured else ())
        assert str(fault.value).startswith("$STATE_DIRECTORY: ") is not configured


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leaked_fds: None) -> None:
    """Of the workers' user above all."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, -1)
    else:
        monkeypatch.setattr(state_directory.os, "geteuid", lambda: 65534)  # type: ignore[attr-defined]
    with pytest.raises(EnvironmentFault, match=r"belongs to uid \d+, who could give lbd orders there; chown it to uid \d+"):
        StateDirectory(tmp_path)


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_start_survives_a_sick_disk(
    trouble: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def refuse(*_: object, **__: object) -> int:
        raise OSError(trouble, os.strerror(trouble))

    with monkeypatch.context() as patch:
        patch.setattr(state_directory.os, "open", refuse)  # type: ignore[attr-defined]
        sick = StateDirectory(tmp_path)
        assert not sick.write("key", b"1")
        assert not sick.write("key", b"2")
    assert sick.failures == 2
    assert sick.read("key") is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, "of the start, and of the first write"
    assert os.strerror(trouble) in said[0]
    assert sick.write("key", b"3")
    assert "can be written again" in caplog.records[-1].getMessage()


def test_a_write_that_fails_leaves_the_old_file(kept: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.write("key", b"old")

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(state_directory.os, "fsync", refuse)  # type: ignore[attr-defined]
        assert not kept.write("key", b"new")
    assert kept.read("key") == b"old"
    assert kept.failures == 1
    assert kept.path is not None
    assert sorted(os.listdir(kept.path)) == ["key", "lock"], "nothing is left lying there"


def test_each_file_has_its_own_complaints(kept: StateDirectory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    def refuse(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(state_directory.os, "fsync", refuse)  # type: ignore[attr-defined]
        for name in ("key", "overlays", "key", "overlays"):
            assert not kept.write(name, b"new")
    assert kept.write("overlays", b"new")
    assert kept.write("overlays", b"newer")
    assert kept.write("key", b"new")
    said = [record.getMessage() for record in caplog.records]
    full = "cannot be written: No space left on device; make room there"
    again = "can be written again"
    assert said == [f"{kept.path}/{line}" for line in (f"key {full}", f"overlays {full}", f"overlays {again}", f"key {again}")]


def test_a_file_that_is_no_use_is_set_aside(kept: StateDirectory, caplog: pytest.LogCaptureFixture) -> None:
    kept.write("key", b"???")
    kept.set_aside("key", "not a key")
    assert kept.read("key") is None
    assert kept.read("key.bad") == b"???"
    (record,) = caplog.records
    assert (record.levelno, "not a key" in record.getMessage()) == (logging.WARNING, True)
    kept.set_aside("key", "gone meanwhile")
    assert "cannot be renamed" in caplog.records[-1].getMessage()


WRITER = """\
import sys
from pathlib import Path
from lbd.master.state_directory import StateDirectory
directory = StateDirectory(Path(sys.argv[1]))
number = 0
while True:
    directory.write("file", (b"%d " % number) * 20_000)
    number += 1
"""


@pytest.mark.parametrize("count", [1, 4, 9, 17, 40])
def test_a_writer_that_is_killed_leaves_a_whole_file(count: int, tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "state")], cwd=ROOT)
    try:
        wait_until(lambda: last_number(tmp_path / "state") >= count, "some files")
    finally:
        writer.kill()  # while it writes the next one
        writer.wait()
    directory = StateDirectory(tmp_path / "state")  # the lock went with the process
    content = directory.read("file")
    assert content is not None
    assert content == (content.split()[0] + b" ") * 20_000
    assert directory.write("file", b"mine")
    assert sorted(os.listdir(tmp_path / "state")) == ["file", "lock"]
    directory.close()


def last_number(state: Path) -> int:
    try:
        return int((state / "file").read_bytes().split()[-1])
    except FileNotFoundError:
        return -1
