"""The board: what workers count and the master reads, over processes that come and die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from lbd.core.board import Board

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def board_of(slots: int = 2, *, cells: int = 4096, endpoints: int = 64) -> Iterator[Board]:
    board = Board.create(slots, cells=cells, endpoints=endpoints)
    try:
        yield board
    finally:
        board.close()


def reopened(board: Board) -> Board:
    """As another process sees it."""
    return Board(os.dup(board.fd))


def test_a_new_board_is_empty() -> None:
    with board_of(3) as board:
        assert board.slots == 3
        assert board.endpoints == 64
        assert board.totals() == {}
        assert board.lost == 0
        assert [board.inflight(i) for i in (0, 63)] == [0, 0]
        assert [board.segment(slot).generation for slot in range(3)] == [0, 0, 0]


def test_counting() -> None:
    with board_of() as board:
        segment = board.segment(0)
        cell = segment.series(1, ("a",))
        wide = segment.series(2, (), 3)
        segment.add(cell)
        segment.add(cell, 41)
        segment.put(wide, 5)
        segment.add(wide + 2, -7)
        assert segment.value(cell) == 42
        assert board.totals() == {(1, ("a",)): [42], (2, ()): [5, 0, -7]}


def test_tables_are_of_all_workers_and_one_that_is_dead_is_forgotten() -> None:
    with board_of() as board:
        for slot in range(2):
            board.segment(slot).add_inflight(5, 1 + slot)
            board.segment(slot).add_connections(5, 10 + slot)
            board.segment(slot).add_waiting(63, 100 + slot)
            board.segment(slot).hold(7)
        counts = [(board.inflight(place), board.connections(place), board.waiting(place)) for place in (5, 63)]
        assert counts == [(3, 21, 0), (0, 0, 201)]
        board.forget(1)
        counts = [(board.inflight(place), board.connections(place), board.waiting(place)) for place in (5, 63)]
        assert counts == [(1, 10, 0), (0, 0, 100)]
        assert [board.segment(slot).downstreams for slot in range(2)] == [7, 0]


@pytest.mark.parametrize("value", [2**62, -(2**62), 2**63 - 1])
def test_cells_have_64_bits(value: int) -> None:
    with board_of() as board:
        cell = board.segment(1).series(1, ())
        board.segment(1).put(cell, value)
        assert board.segment(1).value(cell) == value
        assert board.totals() == {(1, ()): [value]}


def test_totals_are_sums_over_the_slots() -> None:
    with board_of(3) as board:
        for slot in range(3):
            segment = board.segment(slot)
            for i in range(slot, 3):  # in another order in each, and not all in all
                segment.add(segment.series(i, ("all",)), 10**slot)
                wide = segment.series(10 + i, ("wide",), 2)
                segment.add(wide, 10**slot)
                segment.add(wide + 1, 2 * 10**slot)
        expected = {0: 1, 1: 11, 2: 111}
        assert board.totals() == {
            **{(i, ("all",)): [n] for i, n in expected.items()},
            **{(10 + i, ("wide",)): [n, 2 * n] for i, n in expected.items()},
        }
        assert board.totals() == board.totals()


def test_the_sums_are_the_callers() -> None:
    with board_of() as board:
        board.segment(0).add(board.segment(0).series(1, ()), 1)
        board.totals()[1, ()][0] = 1000
        assert board.totals() == {(1, ()): [1]}


def test_another_process_sees_the_same() -> None:
    with board_of() as board:
        other = reopened(board)
        cell = other.segment(1).series(1, ("x",))
        other.segment(1).add(cell, 3)
        other.segment(1).begin(7)
        other.segment(1).add_inflight(5, 2)
        board.segment(0).add_inflight(5, 1)
        assert board.totals() == {(1, ("x",)): [3]}
        assert board.segment(1).generation == 7
        assert board.inflight(5) == other.inflight(5) == 3
        assert other.segment(0).inflight(5) == 1
        other.close()


def test_a_successor_counts_on_but_for_gauges_and_what_was_in_flight() -> None:
    with board_of() as board:
        worker = reopened(board)
        counter, gauge = worker.segment(0).series(1, ("c",)), worker.segment(0).series(2, ("g",), 2)
        for cell in (counter, gauge, gauge + 1):
            worker.segment(0).add(cell, 5)
        worker.segment(0).add_inflight(3, 9)
        worker.segment(0).add_inflight(63, 1)
        board.segment(1).add_inflight(3, 1)
        worker.close()
        successor = reopened(board)
        segment = successor.segment(0)
        segment.clear_tables()
        segment.reset_gauges((2,))
        assert (segment.series(1, ("c",)), segment.series(2, ("g",), 2)) == (counter, gauge)
        segment.add(counter)
        assert board.totals() == {(1, ("c",)): [6], (2, ("g",)): [0, 0]}
        assert (board.inflight(3), board.inflight(63)) == (1, 0)
        successor.close()


def test_retired_series_leave_the_totals() -> None:
    with board_of() as board:
        segment = board.segment(0)
        segment.add(segment.series(1, ("stays",)), 1)
        segment.add(segment.series(1, ("goes",)), 2)
        assert len(board.totals()) == 2
        segment.retire(lambda number, labels: labels == ("stays",))
        assert board.totals() == {(1, ("stays",)): [1]}
        segment.retire(lambda number, labels: True)
        segment.add(segment.series(1, ("comes",)), 4)
        assert board.totals() == {(1, ("stays",)): [1], (1, ("comes",)): [4]}


@pytest.mark.parametrize("width", [1, 18, 64])
def test_what_finds_no_room_is_counted_and_hurts_no_series(width: int) -> None:
    with board_of(1, cells=70) as board:
        segment = board.segment(0)
        first = segment.series(1, ("fits",))
        for i in range(10):
            segment.series(2, (str(i),))
        cell = segment.series(3, ("no room",), width)
        for i in range(width):
            segment.add(cell + i, 1000)
        segment.add(first, 1)
        assert segment.lost == board.lost == 10 - 5 + 1
        assert board.totals()[1, ("fits",)] == [1]
        assert all(cells == [0] for series, cells in board.totals().items() if series[0] == 2)


@pytest.mark.parametrize("width", [0, -1, 65])
def test_a_width_that_is_none(width: int) -> None:
    with board_of(1) as board, pytest.raises(ValueError, match="1 to 64 cells"):
        board.segment(0).series(1, (), width)


@pytest.mark.parametrize("index", [64, 10_000_000])
def test_indexes_out_of_range_touch_nobody(index: int) -> None:
    with board_of() as board:
        segment = board.segment(0)
        for use in (lambda: segment.add_inflight(index, 1), lambda: segment.inflight(index), lambda: board.inflight(index)):
            with pytest.raises(IndexError):
                use()
        with pytest.raises(IndexError):
            segment.add(4096, 1)
        with pytest.raises(IndexError):
            board.inflight(-1)


# The file


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\0" * 8192, b"lbdbord\n" + b"\0" * 8192])
def test_what_is_not_a_board_is_refused(content: bytes) -> None:
    fd = os.memfd_create("test")
    os.write(fd, content)
    with pytest.raises(ValueError, match="is not a"):
        Board(fd)
    os.close(fd)


def test_nobody_can_take_its_pages_away() -> None:
    with board_of() as board:
        with pytest.raises(PermissionError):
            os.ftruncate(board.fd, 4096)
        assert not os.get_inheritable(board.fd)


def test_it_takes_no_more_memory_than_is_written() -> None:
    """The default is large enough for 20,000 endpoints of eight series in each of many workers; an empty one costs a few pages."""
    board = Board.create(64)
    assert board.cells >= 20_000 * 8
    assert board.endpoints >= 20_000
    for slot in range(64):
        board.segment(slot).clear_tables()
        board.segment(slot).add(board.segment(slot).series(1, ("a",)))
    board.totals()
    assert os.fstat(board.fd).st_size > 1 << 30
    assert os.fstat(board.fd).st_blocks * 512 < 64 * 64 * 1024
    board.close()


def test_closing_twice() -> None:
    board = Board.create(1, cells=100, endpoints=1)
    board.close()
    board.close()
    assert board.fd == -1


# Cost, counted


def test_a_scrape_decodes_nothing_twice() -> None:
    """What it allocates the second time is the sums: no labels, no records."""
    with board_of(2, cells=16_384) as board:
        for slot in range(2):
            for i in range(2000):
                segment = board.segment(slot)
                segment.add(segment.series(1, ("cluster", f"10.0.0.{i}:9000", "ok")), i)
        first = board.totals()
        tracemalloc.start()
        second = board.totals()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert second == first
        assert all(ours is theirs for ours, theirs in zip(first, second, strict=True))
        assert peak < 2000 * 300


# Killed


WORKER = """
import os, sys
from itertools import count
from lbd.core.board import Board
segment = Board(int(sys.argv[1])).segment(0)
segment.reset_gauges((9,))
os.write(1, b"!")
for i in count():
    for number in (1, 2, 3):
        cell = segment.series(number, ("worker", str(i % 40), "x" * (i % 50)), number)
        for j in range(number):
            segment.add(cell + j, 1)
    segment.add(segment.series(7, ()), 1)
    if i % 10 == 9:
        segment.retire(lambda number, labels: number == 7 or hash(labels) % 3 > 0)
"""


def test_workers_killed_at_any_moment() -> None:
    """A worker registers, counts and retires as fast as it can and is killed; the master reads all the time."""
    with board_of(1, cells=65_536) as board:
        fd = os.dup(board.fd)
        total = 0
        for _ in range(4):
            worker = subprocess.Popen([sys.executable, "-c", WORKER, str(fd)], pass_fds=[fd], stdout=subprocess.PIPE)
            assert worker.stdout is not None
            worker.stdout.read(1)
            reads, goal = 0, total + 50
            while reads < 150 or total < goal:
                reads += 1
                sums = board.totals()
                assert all(
                    labels[:1] == ("worker",) and len(cells) == number and all(n >= 0 for n in cells)
                    for (number, labels), cells in sums.items()
                    if number != 7
                )
                assert {number for number, _ in sums} <= {1, 2, 3, 7}
                now = sums.get((7, ()), [0])[0]
                assert now >= total, "a counter went back"
                total = now
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        assert board.lost == 0
        os.close(fd)
