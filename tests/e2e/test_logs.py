"""Log files that are none: a FIFO must hold up nobody, whoever reads it or not."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.http import get
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Setting:
    """A daemon that answers by itself, and a FIFO that it may be told to write its access log to."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.admin = free_ports(2)
        self.fifo = directory / "access.fifo"
        os.mkfifo(self.fifo)

    def text(self, access: str) -> str:
        return f"""
[lbd]
workers = 1
[log]
access = "{access}"
[admin]
bind = "127.0.0.1:{self.admin}"
[listener.web]
bind = "127.0.0.1:{self.port}"
route = [{{ respond = {{ status = 200, body = "well" }} }}]
"""

    def is_well(self, lbd: LbdDaemon) -> None:
        """It answers, mourns its workers and ends when it is told to."""
        assert lbd.ask("/healthz")
        assert get(self.port).body == b"well"
        (worker,) = lbd.workers()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: lbd.workers() not in ([worker], [lbd.pid]) and lbd.is_ready(), "a successor")
        assert get(self.port).body == b"well"
        lbd.signal(signal.SIGTERM)
        assert lbd.wait() == 0

    @contextmanager
    def reader(self) -> Iterator[int]:
        """Of the FIFO; it does not read by itself."""
        fd = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path)


UNREAD = "log.access: cannot write to .*/access.fifo: it is a FIFO that nobody reads; start its reader first, or choose a file"


def test_a_start_with_a_fifo_that_nobody_reads_is_refused(setting: Setting) -> None:
    with LbdDaemon(setting.text(str(setting.fifo)), setting.directory) as lbd:
        assert lbd.wait() == 1
        lbd.wait_for_log(UNREAD)


def test_a_reload_to_a_fifo_that_nobody_reads_is_refused(setting: Setting) -> None:
    with start_lbd(setting.text("off"), setting.directory) as lbd:
        lbd.reload(setting.text(str(setting.fifo)))
        lbd.wait_for_log(UNREAD)
        lbd.wait_for_log("reload refused, generation 1 stays in force: 1 error")
        assert lbd.metric("lbd_reloads_total", result="failed") == 1
        setting.is_well(lbd)


def test_logs_reopened_when_the_fifos_reader_has_gone_stay_as_they_are(setting: Setting) -> None:
    with setting.reader() as reader:
        lbd = start_lbd(setting.text(str(setting.fifo)), setting.directory)
        assert get(setting.port, "/read").body == b"well"
        wait_until(lambda: b"/read" in read_some(reader), "the line in the FIFO")
    with lbd:
        lbd.signal(signal.SIGUSR1)
        lbd.wait_for_log(UNREAD + "; the old files stay open")
        setting.is_well(lbd)


def test_a_fifo_whose_reader_sleeps_costs_lines_only(setting: Setting) -> None:
    with setting.reader() as reader, start_lbd(setting.text(str(setting.fifo)), setting.directory) as lbd:
        for _ in range(300):  # more than the FIFO takes
            assert get(setting.port, "/" + "x" * 500).body == b"well"
        wait_until(lambda: lbd.metric("lbd_log_lines_dropped_total", log="access") > 0, "lines to be dropped")
        while read_some(reader):
            pass
        assert get(setting.port, "/awake").body == b"well"
        wait_until(lambda: b"/awake" in read_some(reader), "a line after the sleep")
        setting.is_well(lbd)


def read_some(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except BlockingIOError:
        return b""
