"""Logs: lines gather and are written; a stuck or full file costs lines, never time."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lbd.worker import log as log_module
from lbd.worker.log import (
    FLUSH_SIZE,
    LineBuffer,
    LogPolicy,
    flush_lines,
    setup_logging,
)
from lbd.worker.log_file import LogFile, write_and_release

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The buffer


def test_lines_come_out_in_order_and_once() -> None:
    buffer = LineBuffer()
    for line in (b"a\n", b"bb\n"):
        buffer.append(line)
    assert (buffer.size, buffer.take(), buffer.size, buffer.take()) == (5, b"a\nbb\n", 0, b"")


def test_what_does_not_fit_is_counted() -> None:
    buffer = LineBuffer(limit=10)
    for line in (b"12345\n", b"12345\n", b"123\n", b"\n"):
        buffer.append(line)
    assert (buffer.take(), buffer.lost) == (b"12345\n123\n", 2)
    buffer.append(b"123456789\n")
    assert (buffer.take(), buffer.lost) == (b"123456789\n", 2)


def test_the_alarm_rings_once_at_its_size() -> None:
    buffer, rung = LineBuffer(), []
    buffer.set_alarm(4, lambda: rung.append(buffer.size))
    for _ in range(4):
        buffer.append(b"ab\n")
    assert rung == [6]
    buffer.set_alarm(12, lambda: rung.append(buffer.size))
    assert rung == [6, 12], "there is as much already"
    buffer.set_alarm(1, None)
    buffer.append(b"ab\n")
    assert rung == [6, 12]


def test_lines_of_many_threads_are_all_there() -> None:
    buffer, taken = LineBuffer(), []

    def append(name: int) -> None:
        for i in range(2000):
            buffer.append(b"%d %d\n" % (name, i))

    threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken.append(buffer.take())
    for thread in threads:
        thread.join()
    lines = (b"".join(taken) + buffer.take()).splitlines()
    assert buffer.lost == 0
    assert sorted(lines) == sorted(b"%d %d" % (name, i) for name in range(4) for i in range(2000))


# The task


def open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


async def write_now(file: LogFile, data: bytes) -> tuple[int, str]:
    """As the thread does it, but without one: virtual time would not wait for it."""
    return write_and_release(file, file.acquire(), data)


async def until(condition: Callable[[], bool]) -> None:
    """Waits for a thread: in real time, and without an event that it could set."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.001)


async def test_lines_reach_the_file_and_an_idle_writer_sleeps(tmp_path: Path) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, interval=0.001))
        for line in (b"a\n", b"b\n"):
            buffer.append(line)
            await until(lambda: buffer.size == 0)
        await until(lambda: (tmp_path / "log").read_bytes() == b"a\nb\n")
        await trio.testing.wait_all_tasks_blocked(0.005)
        # Nothing is scheduled: neither a deadline nor a call.
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        nursery.cancel_scope.cancel()
    file.close()


async def test_lines_gather_for_a_moment(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, write=write_now))
        started = trio.current_time()
        buffer.append(b"a\n")
        await trio.sleep(0.05)
        buffer.append(b"b\n")
        await trio.sleep(0.049)
        assert buffer.size == 4
        assert trio.current_time() - started == pytest.approx(0.099)
        await trio.sleep(0.002)
        assert buffer.size == 0
        nursery.cancel_scope.cancel()
    assert (tmp_path / "log").read_bytes() == b"a\nb\n"
    file.close()


async def test_many_lines_do_not_wait(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, write=write_now))
        await trio.testing.wait_all_tasks_blocked()
        started = trio.current_time()
        buffer.append(b"x" * FLUSH_SIZE + b"\n")
        while buffer.size:
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == started
        nursery.cancel_scope.cancel()
    assert (tmp_path / "log").stat().st_size == FLUSH_SIZE + 1
    file.close()


async def test_what_is_left_is_written_at_the_end(tmp_path: Path) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(flush_lines, buffer, file)
        await trio.testing.wait_all_tasks_blocked()
        buffer.append(b"last words\n")
        nursery.cancel_scope.cancel()
    assert (tmp_path / "log").read_bytes() == b"last words\n"
    file.close()


async def test_a_stuck_pipe_holds_up_nothing_but_its_own_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "EXIT_SECONDS", 0.05)
    reader, writer = os.pipe()
    buffer, file = LineBuffer(limit=200_000), LogFile(writer)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, interval=0.0))
        buffer.append(b"x" * 99_999 + b"\n")
        await until(lambda: buffer.size == 0)  # the thread has it, and the pipe takes 64 KiB
        for _ in range(5):
            buffer.append(b"y" * 49_999 + b"\n")
        assert buffer.lost == 1
        nursery.cancel_scope.cancel()
    # Both threads are stuck in the pipe still; reading it empty lets them go.
    left = 300_000
    while left:
        left -= len(os.read(reader, left))
    await until(lambda: file._writers == 0)
    file.close()
    os.close(reader)


async def test_lost_lines_are_told_of_once_a_minute(autojump_clock: trio.testing.MockClock) -> None:
    complaints: list[str] = []
    buffer, file = LineBuffer(), LogFile(os.open("/dev/full", os.O_WRONLY))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, complaints.append, write=write_now))
        for _ in range(50):
            buffer.append(b"a\nb\n")
            await trio.sleep(1)
        reason = f"writing failed: {os.strerror(errno.ENOSPC)}"
        assert complaints == [f"the access log lost 2 lines: {reason}"]
        await trio.sleep(20)
        buffer.append(b"a\n")
        await trio.sleep(1)
        assert complaints[1:] == [f"the access log lost 99 lines: {reason}"]
        nursery.cancel_scope.cancel()
    assert buffer.lost == 101
    file.close()


async def test_lines_that_found_no_room_are_told_of(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    complaints: list[str] = []
    buffer, file = LineBuffer(limit=2), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, complaints.append, write=write_now))
        for _ in range(3):
            buffer.append(b"a\n")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert len(complaints) == 1
    assert complaints[0].startswith("the access log lost 2 lines: they came faster than they could be written")
    file.close()


async def test_a_log_tells_of_its_own_losses_when_it_can(autojump_clock: trio.testing.MockClock) -> None:
    written, is_full = bytearray(), True

    async def write(file: LogFile, data: bytes) -> tuple[int, str]:
        await trio.lowlevel.checkpoint()
        if is_full:
            return 0, "writing failed: No space left on device"
        written.extend(data)
        return len(data), ""

    buffer, file = LineBuffer(), LogFile(-1)

    def say(sentence: str) -> None:
        buffer.append(sentence.encode() + b"\n")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, say, is_own=True, write=write))
        for _ in range(100):
            buffer.append(b"a\n")
            await trio.sleep(1)
        assert (buffer.lost, buffer.size) == (100, 0), "what nobody can read it does not say"
        is_full = False
        buffer.append(b"b\n")
        await trio.sleep(1)
        assert written == b"b\nthis log lost 100 lines: writing failed: No space left on device\n"
        for _ in range(10):  # it comes and goes
            is_full = not is_full
            buffer.append(b"c\n")
            await trio.sleep(1)
        assert written.count(b"lost") == 1
        await trio.sleep(60)
        buffer.append(b"d\n")
        await trio.sleep(1)
        assert bytes(written).endswith(b"d\nthis log lost 5 lines: writing failed: No space left on device\n")
        nursery.cancel_scope.cancel()


async def test_a_write_that_is_stuck_is_told_of(autojump_clock: trio.testing.MockClock) -> None:
    complaints: list[str] = []

    async def never(file: LogFile, data: bytes) -> tuple[int, str]:
        await trio.sleep_forever()
        raise AssertionError

    buffer, file = LineBuffer(limit=4), LogFile(-1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, complaints.append, write=never))
        buffer.append(b"a\n")
        await trio.sleep(1)
        for _ in range(5):
            buffer.append(b"a\n")
        assert buffer.lost == 3
        await trio.sleep(2)
        assert complaints == ["the access log lost 3 lines: a write does not return; nobody reads the pipe, or the disk hangs"]
        buffer.append(b"a\n")
        await trio.sleep(70)
        buffer.append(b"a\n")
        await trio.sleep(2)
        assert [text.partition(":")[0] for text in complaints[1:]] == ["the access log lost 2 lines"]
        nursery.cancel_scope.cancel()


async def test_a_file_is_exchanged(tmp_path: Path, autojump_clock: trio.testing.MockClock, no_leaked_fds: None) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, write=write_now))
        buffer.append(b"before\n")
        await trio.sleep(1)
        (tmp_path / "log").rename(tmp_path / "log.1")
        file.reopen(open_log(tmp_path / "log"))
        buffer.append(b"after\n")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "log.1").read_bytes() == b"before\n"
    assert (tmp_path / "log").read_bytes() == b"after\n"
    file.close()


async def test_a_torn_line_does_not_spoil_the_next(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    buffer, file = LineBuffer(), LogFile(open_log(tmp_path / "log"))
    file.is_torn = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, buffer, file, write=write_now))
        buffer.append(b"a\n")
        await trio.sleep(1)
        buffer.append(b"b\n")
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "log").read_bytes() == b"\na\nb\n"
    file.close()


# The `lbd` logger


@pytest.fixture
def lines() -> Iterator[list[bytes]]:
    """What the process log has been given; the logger is put back as it was."""
    logger = logging.getLogger("lbd")
    before = (logger.handlers, logger.level, logger.propagate)
    yield []
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
TEXTS = [
    (("plain",), {}, "plain"),
    (("%s of %d", "two", 3), {}, "two of 3"),
    (("told",), {"file": "lb.toml", "count": 3, "took": 0.25}, "told file=lb.toml count=3 took=0.25"),
    (("told",), {"why": "a b", "empty": "", "pair": "a=b"}, 'told why="a b" empty="" pair="a=b"'),
    (("a\nforged line",), {"x": 'q"\n'}, 'a\\nforged line x="q\\"\\n"'),
    (("\x1b[2J\r",), {}, "\\x1b[2J\\r"),
    (("b\u00fc",), {}, "b\u00fc"),
    (("%d", "x"), {}, "%d (with ('x',): %d format: a real number is required, not str)"),
]


@pytest.mark.parametrize(("message", "extra", "text"), TEXTS)
def test_text(lines: list[bytes], message: tuple[object, ...], extra: dict[str, object], text: str) -> None:
    setup_logging(LogPolicy(), lines.append, process="worker-0")
    logging.getLogger("lbd.proxy").warning(*message, extra=extra)
    (line,) = lines
    stamp, _, rest = line.decode().partition(" ")
    assert re.fullmatch(STAMP, stamp + " ")
    assert rest == f"WARNING lbd.worker-0: {text}\n"


@pytest.mark.parametrize(
    ("process", "name"), [("master", "lbd.master"), ("master", "lbd.health"), ("worker-0", "lbd.worker"), ("worker-0", "lbd.proxy")]
)
def test_who_speaks(lines: list[bytes], process: str, name: str) -> None:
    setup_logging(LogPolicy(), lines.append, process=process)
    logging.getLogger(name).info("text")
    assert lines[0].split()[2].decode() == (f"{name}:" if process == "master" else "lbd.worker-0:")


def test_json(lines: list[bytes]) -> None:
    setup_logging(LogPolicy(format="json"), lines.append, process="master")
    logging.getLogger("lbd.master").error("b\u00fc \n %s", "x", extra={"line": 3, "path": object})
    (line,) = lines
    entry = json.loads(line)
    assert line.count(b"\n") == 1
    assert entry.pop("time").endswith("Z")
    assert entry == {
        "level": "error",
        "process": "master",
        "logger": "lbd.master",
        "message": "b\u00fc \n x",
        "line": 3,
        "path": "<class 'object'>",
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_tracebacks(lines: list[bytes], format: str) -> None:  # noqa: A002
    setup_logging(LogPolicy(format=format), lines.append, process="master")
    try:
        raise ValueError("first\nsecond\x1b")
    except ValueError:
        logging.getLogger("lbd.admin").exception("a bug")
    (record,) = lines
    if format == "json":
        assert json.loads(record)["traceback"].endswith("ValueError: first\nsecond\x1b")
        return
    first, *rest = record.decode().splitlines()
    assert first.endswith("ERROR lbd.admin: a bug")
    assert rest[0] == "    Traceback (most recent call last):"
    assert rest[-2:] == ["    ValueError: first", "    second\\x1b"]
    assert all(line.startswith("    ") for line in rest), "nothing looks like a record of its own"


def test_levels_and_setting_up_again(lines: list[bytes]) -> None:
    logger = logging.getLogger("lbd.x")
    setup_logging(LogPolicy(level="warning"), lines.append, process="master")
    logger.info("unheard")
    setup_logging(LogPolicy(level="debug"), lines.append, process="master")
    logger.debug("heard")
    assert len(lines) == 1
    assert lines[0].endswith(b"DEBUG lbd.x: heard\n")


def test_odd_text_is_written_somehow(lines: list[bytes]) -> None:
    setup_logging(LogPolicy(), lines.append, process="master")
    logging.getLogger("lbd").info("%s", "\udcff")
    assert lines[0].endswith(b"\\udcff\n")
