"""The files behind the logs."""

from __future__ import annotations

import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.errors import EnvironmentFault
from lbd.master import logs
from lbd.master.logs import LogFiles, open_logs
from lbd.worker.log import LogPolicy
from lbd.worker.log_file import write_lines
from tests.support.patience import PATIENCE
from tests.support.processes import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_leaked_fds")


def test_files_are_appended_to_and_not_for_everybody(tmp_path: Path) -> None:
    log, access = tmp_path / "lbd.log", tmp_path / "access.log"
    log.write_text("old\n")
    files = LogFiles.open(LogPolicy(file=str(log), access=str(access)))
    os.write(files.log, b"new\n")
    os.write(files.access, b"GET /\n")
    files.close()
    assert log.read_text() == "old\nnew\n"
    assert access.read_text() == "GET /\n"
    assert stat.S_IMODE(access.stat().st_mode) & ~0o640 == 0


def test_standard_streams_are_copies() -> None:
    files = LogFiles.open(LogPolicy(file="stderr", access="stdout"))
    assert files.fds == [files.log, files.access]
    assert os.fstat(files.log).st_ino == os.fstat(2).st_ino
    assert os.fstat(files.access).st_ino == os.fstat(1).st_ino
    files.close()
    os.fstat(2)


def test_an_access_log_that_is_off_has_no_descriptor() -> None:
    files = LogFiles.open(LogPolicy(access="off"))
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
        LogFiles.open(LogPolicy(file=file, access=access))
    assert str(caught.value).startswith(sentence)


async def test_a_fifo_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    policy = LogPolicy(access=fifo)
    for open_files in (LogFiles.open, lambda policy: trio.from_thread.run(open_logs, policy)):
        with pytest.raises(EnvironmentFault) as caught:
            await trio.to_thread.run_sync(open_files, policy)
        assert str(caught.value) == (f"cannot write to {fifo}: it is a FIFO that nobody reads; start its reader first, or choose a file")
        assert caught.value.path == ("log", "access")


def test_a_fifo_whose_reader_sleeps_costs_lines_and_no_time(tmp_path: Path) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    files = LogFiles.open(LogPolicy(access=fifo))
    written, why = write_lines(files.access, b"GET /\n" * 100_000)  # more than any pipe takes
    assert 0 < written < 600_000
    assert why == "nobody reads them"
    assert os.read(reader, 6) == b"GET /\n"
    files.close()
    os.close(reader)


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "log.sock")
    with socket.socket(socket.AF_UNIX) as other:  # noqa: TID251
        other.bind(path)
        with pytest.raises(EnvironmentFault, match='it is a socket; write "stdout" or "stderr" where that is one of them'):
            LogFiles.open(LogPolicy(access=path))


class HangingDisk:
    """Files on it open when it wakes up."""

    def __init__(self) -> None:
        self.asked, self.awake = threading.Event(), threading.Event()
        self.fd = -1

    def open(self, key: str, path: str) -> int:
        if path == "stderr":
            return os.open("/dev/null", os.O_WRONLY)
        self.asked.set()
        assert self.awake.wait(PATIENCE)
        self.fd = os.open("/dev/null", os.O_WRONLY)
        return self.fd

    def wait_closed(self) -> None:
        """Until what it opened in the end is closed again by whoever had left it behind."""
        self.awake.set()
        wait_until(lambda: self.fd >= 0 and not is_null(self.fd), "the late descriptor to be closed")


def is_null(fd: int) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingDisk]:
    hanging = HangingDisk()
    monkeypatch.setattr(logs, "_open", hanging.open)
    yield hanging
    hanging.awake.set()


async def test_a_disk_that_hangs_is_left_behind(disk: HangingDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PATIENCE", 0.01)
    with pytest.raises(EnvironmentFault, match=r"cannot write to /mnt/access.log: it is not open after 0.01 s; see to its disk") as caught:
        await open_logs(LogPolicy(access="/mnt/access.log"))
    assert caught.value.path == ("log", "access")
    await trio.to_thread.run_sync(disk.wait_closed)


async def test_whoever_stops_meanwhile_does_not_wait_for_the_disk(disk: HangingDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "PATIENCE", PATIENCE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_logs, LogPolicy(access="/mnt/access.log"))
        await trio.to_thread.run_sync(disk.asked.wait)
        nursery.cancel_scope.cancel()
    await trio.to_thread.run_sync(disk.wait_closed)


def test_which_policy_wants_other_files() -> None:
    files = LogFiles.open(LogPolicy(access="off"))
    assert files.is_for(LogPolicy(access="off", level="debug"))
    assert not files.is_for(LogPolicy(access="stdout"))
    files.close()
