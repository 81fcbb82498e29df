"""The files behind the logs."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from lbd.errors import EnvironmentFault
from lbd.master.logs import LogFiles
from lbd.worker.log import LogPolicy

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaked_fds")


def test_files_are_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    log, access = tmp_path / "lbd.log", tmp_path / "access.log"
    log.write_text("old\n")
    files = LogFiles(LogPolicy(file=str(log), access=str(access)))
    os.write(files.log, b"new\n")
    os.write(files.access, b"GET /\n")
    files.close()
    assert log.read_text() == "old\nnew\n"
    assert access.read_text() == "GET /\n"
    assert stat.S_IMODE(access.stat().st_mode) & ~0o640 == 0


def test_standard_streams_are_copies() -> None:
    files = LogFiles(LogPolicy(file="stderr", access="stdout"))
    assert files.fds == [files.log, files.access]
    assert os.fstat(files.log).st_ino == os.fstat(2).st_ino
    assert os.fstat(files.access).st_ino == os.fstat(1).st_ino
    files.close()
    os.fstat(2)


def test_an_access_log_that_is_off_has_no_descriptor() -> None:
    files = LogFiles(LogPolicy(access="off"))
    assert not files.has_access
    assert files.fds == [files.log]
    files.close()


@pytest.mark.parametrize(
    ("file", "access", "sentence"),
    [
        (
            "/nowhere/lbd.log",
            "off",
            "cannot write to /nowhere/lbd.log: No such file or directory; see to its directory and rights",
        ),
        ("stderr", "/nowhere/access.log", "cannot write to /nowhere/access.log: No such file or directory"),
        ("stderr", "/", "cannot write to /: Is a directory"),
    ],
)
def test_what_cannot_be_written_is_named(file: str, access: str, sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        LogFiles(LogPolicy(file=file, access=access))
    assert str(caught.value).startswith(sentence)


def test_which_policy_wants_other_files() -> None:
    files = LogFiles(LogPolicy(access="off"))
    assert files.is_for(LogPolicy(access="off", level="debug"))
    assert not files.is_for(LogPolicy(access="stdout"))
    files.close()
