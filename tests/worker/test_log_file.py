"""The descriptor of a log, and the thread that writes to it."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.worker import log_file as module
from lbd.worker.log_file import LogFile, WriteThread, end_of_piece, write_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def open_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


PIECES = [
    # (data, limit, ends of the pieces)
    (b"aa\nbb\n", 10, [6]),
    (b"aa\nbb\n", 3, [3, 6]),
    (b"aa\nbb\ncc\n", 6, [6, 9]),
    (b"aa\nbb\ncc\n", 7, [6, 9]),
    (b"aaaaaaa\nb\n", 3, [8, 10]),  # a line that is too long stays in one piece
    (b"aaaaaaa", 3, [7]),
    (b"a\nbbbbbb", 3, [2, 8]),
]


@pytest.mark.parametrize(("data", "limit", "ends"), PIECES)
def test_pieces_end_with_lines(data: bytes, limit: int, ends: list[int]) -> None:
    found = [0]
    while found[-1] < len(data):
        found.append(end_of_piece(data, found[-1], limit))
    assert found[1:] == ends


def test_lines_for_a_pipe_arrive_whole() -> None:
    line = b"x" * 999 + b"\n"
    with open_pipe() as (reader, writer):
        received: list[bytes] = []

        def read() -> None:
            while sum(len(part) for part in received) < 100_000:
                received.append(os.read(reader, 1 << 20))

        thread = threading.Thread(target=read)
        thread.start()
        assert write_lines(writer, line * 100) == (100_000, "")
        thread.join()
        assert b"".join(received) == line * 100


def test_a_pipe_that_nobody_reads_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert write_lines(writer, b"x\n") == (0, f"writing failed: {os.strerror(errno.EPIPE)}")
    os.close(writer)
    assert write_lines(writer, b"x\n") == (0, f"writing failed: {os.strerror(errno.EBADF)}")


def test_a_full_non_blocking_pipe_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STALL_MILLISECONDS", 1)
    with open_pipe() as (_, writer):
        os.set_blocking(writer, False)
        written, fault = write_lines(writer, b"x" * 99 + b"\n" + b"y\n" * 100_000)
        assert 0 < written < 200_100
        assert fault == "nobody reads them"


def test_a_full_disk() -> None:
    fd = os.open("/dev/full", os.O_WRONLY)
    assert write_lines(fd, b"x\n") == (0, f"writing failed: {os.strerror(errno.ENOSPC)}")
    os.close(fd)


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def test_a_descriptor_is_not_closed_under_a_write(tmp_path: Path, no_leaked_fds: None) -> None:
    old, new = open_log(tmp_path / "old"), open_log(tmp_path / "new")
    file = LogFile(old)
    assert file.acquire() == old
    file.reopen(new)
    os.write(old, b"still open")
    file.release()
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(old)
    file.close()


def test_standard_descriptors_stay_open() -> None:
    LogFile(2).close()
    os.fstat(2)


async def test_a_thread_writes_what_comes_and_ends(tmp_path: Path) -> None:
    file = LogFile(open_log(tmp_path / "log"))
    with WriteThread() as thread:
        assert await thread.write(file, b"a\n") == (2, "")
        assert await thread.write(file, b"b\n") == (2, "")
        assert [other.name for other in threading.enumerate()].count("log") == 1
        file.close()
        assert await thread.write(file, b"c\n") == (0, f"writing failed: {os.strerror(errno.EBADF)}")
    with trio.fail_after(5):
        while any(other.name == "log" for other in threading.enumerate()):  # noqa: ASYNC110
            await trio.sleep(0.001)
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"


async def test_a_thread_that_is_never_needed_never_starts() -> None:
    with WriteThread():
        assert all(other.name != "log" for other in threading.enumerate())


def test_a_thread_outlives_the_loop_that_left_it_behind() -> None:
    reader, writer = os.pipe()
    file = LogFile(writer)

    async def leave() -> None:
        with WriteThread() as thread, trio.move_on_after(0.01) as scope:
            await thread.write(file, b"x" * 100_000)
        assert scope.cancelled_caught

    trio.run(leave)
    stuck = [thread for thread in threading.enumerate() if thread.name == "log"]
    left = 100_000
    while left:
        left -= len(os.read(reader, left))
    for thread in stuck:
        thread.join(5)
        assert not thread.is_alive()
    file.close()
    os.close(reader)
