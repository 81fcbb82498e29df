"""The records of series, torn in every place where a worker can be killed."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Literal

import pytest
from hypothesis import given, settings, strategies as st

from lbd.core.records import END, LOST, MOST_UNITS, MOST_WIDTH, UNIT, Records, RecordWriter, Series, decode_labels, encode_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CELLS = 600
WORDS = 200 * UNIT


class Memory:
    """A segment's part of a board, and the people who look at it."""

    def __init__(self, words: int = WORDS, cells: int = CELLS) -> None:
        self.head = memoryview(bytearray(64)).cast("q")
        self.words = memoryview(bytearray(words * 8)).cast("q")
        self.cells = memoryview(bytearray(cells * 8)).cast("q")

    def writer(self) -> RecordWriter:
        return RecordWriter(self.head, self.words, self.cells)

    def dying_writer(self, writes: int) -> RecordWriter:
        """A worker that is killed after so many stores."""
        left = iter(range(writes))
        views = [DyingView(view, left) for view in (self.head, self.words, self.cells)]
        return RecordWriter(*views)  # type: ignore[arg-type]

    def series(self) -> dict[Series, tuple[int, int]]:
        """What a reader finds: series -> first cell and width."""
        found, used = Records(self.head, self.words, self.cells).scan({})
        assert used <= len(self.cells)
        result = {record.series: (record.cell, record.width) for record in found.values()}
        assert len(result) == len(found), "one series in two records"
        taken = [cell for record in found.values() for cell in range(record.cell, record.cell + record.width)]
        assert len(taken) == len(set(taken)), "two series in one cell"
        assert min(taken, default=MOST_WIDTH) >= MOST_WIDTH
        return result


class Killed(BaseException):
    pass


class DyingView:
    """A memoryview whose owner dies after some stores; a store of many bytes may be torn in the middle."""

    def __init__(self, view: memoryview, left: Iterator[int]) -> None:
        self._view = view
        self._left = left

    def __len__(self) -> int:
        return len(self._view)

    def __getitem__(self, key: int | slice) -> int | memoryview:
        return self._view[key]

    def __setitem__(self, key: int | slice, value: int | bytes | memoryview) -> None:
        if isinstance(value, int):
            self._store(key, value)
        elif isinstance(key, slice):
            for i, one in zip(range(*key.indices(len(self._view))), value, strict=True):
                self._store(i, one)

    def _store(self, key: int | slice, value: int) -> None:
        if next(self._left, None) is None:
            raise Killed
        self._view[key] = value  # type: ignore[index]

    def cast(self, form: Literal["B"]) -> DyingView:
        return DyingView(self._view.cast(form), self._left)


def test_a_series_keeps_its_cells() -> None:
    memory = Memory()
    writer = memory.writer()
    first = writer.register((1, ("a", "b")), 1)
    wide = writer.register((2, ("a",)), 18)
    other = writer.register((1, ("a", "c")), 1)
    assert writer.register((1, ("a", "b")), 1) == first
    assert memory.series() == {(1, ("a", "b")): (first, 1), (2, ("a",)): (wide, 18), (1, ("a", "c")): (other, 1)}


def test_a_successor_finds_everything_again() -> None:
    memory = Memory()
    cells = {series: memory.writer().register(series, width) for series, width in SOME}
    for series, width in SOME:
        assert memory.writer().register(series, width) == cells[series]


SOME: list[tuple[Series, int]] = [
    ((1, ()), 1),
    ((1, ("",)), 1),
    ((1, ("", "")), 1),
    ((2, ("listener", "route", "cluster", "200")), 1),
    ((3, ("x" * 1000, "y")), 1),
    ((4, ("caf\xe9", "\U0001f600", "\0", "a\nb")), 18),
    ((2**31, ("z",)), MOST_WIDTH),
]


def test_another_width_is_a_bug() -> None:
    writer = Memory().writer()
    writer.register((1, ("a",)), 1)
    with pytest.raises(ValueError, match="has 1 cells, not 2"):
        writer.register((1, ("a",)), 2)


# Full


@pytest.mark.parametrize(
    ("words", "cells", "fit"), [(10 * UNIT, CELLS, 10), (WORDS, MOST_WIDTH + 7, 7), (0, CELLS, 0), (WORDS, MOST_WIDTH, 0)]
)
def test_when_it_is_full_the_rest_share_a_cell_of_no_series(words: int, cells: int, fit: int) -> None:
    memory = Memory(words, cells)
    writer = memory.writer()
    found = [writer.register((i, ("a",)), 1) for i in range(20)]
    assert sorted(found[:fit]) == list(range(MOST_WIDTH, MOST_WIDTH + fit))
    assert found[fit:] == [0] * (20 - fit)
    assert memory.head[LOST] == 20 - fit
    assert len(memory.series()) == fit


def test_labels_too_long_for_any_record_find_no_room() -> None:
    memory = Memory()
    assert memory.writer().register((1, ("x" * MOST_UNITS * UNIT * 8,)), 1) == 0
    assert memory.series() == {}
    assert memory.head[LOST] == 1


# Retired


def test_cells_rest_before_they_are_given_away() -> None:
    memory = Memory()
    writer = memory.writer()
    old = writer.register((1, ("old",)), 1)
    memory.cells[old] = 7
    writer.retire(lambda number, labels: labels != ("old",))
    assert memory.series() == {}
    new = writer.register((1, ("new",)), 1)
    assert new != old
    memory.cells[old] += 1  # somebody who has not heard yet
    assert memory.cells[new] == 0
    writer.retire(lambda number, labels: True)
    third = writer.register((1, ("3rd",)), 1)
    assert third == old
    assert memory.cells[third] == 0
    assert memory.series() == {(1, ("new",)): (new, 1), (1, ("3rd",)): (old, 1)}


def test_endpoints_that_come_and_go_for_ever_need_no_more_room() -> None:
    memory = Memory()
    writer = memory.writer()
    for generation in range(300):
        keep = {(number, (f"10.0.{generation}.{i}:80",)) for number in (1, 2) for i in range(5)}
        for number, labels in keep:
            writer.register((number, labels), 1)
        writer.retire(lambda number, labels, keep=keep: (number, labels) in keep)  # type: ignore[misc]
        assert memory.series().keys() == keep
    assert memory.head[LOST] == 0
    assert memory.head[END] < 100


def test_a_reader_never_takes_a_new_series_for_an_old_one() -> None:
    """It has decoded a record, and before it reads the cells, the record becomes another's."""
    memory = Memory()
    writer = memory.writer()
    reader = Records(memory.head, memory.words, memory.cells)
    cell = writer.register((1, ("old",)), 1)
    stays = writer.register((1, ("stays",)), 1)
    seen, _ = reader.scan({})
    before = reader.changes
    writer.retire(lambda number, labels: labels != ("old",))
    writer.retire(lambda number, labels: True)
    assert writer.register((1, ("new",)), 1) == cell
    assert reader.changes != before
    assert [record.series for record in reader.still(seen).values()] == [(1, ("stays",))]
    again, _ = reader.scan(seen)
    assert {record.series: record.cell for record in again.values()} == {(1, ("new",)): cell, (1, ("stays",)): stays}
    at = next(at for at, record in again.items() if record.cell == stays)
    assert again[at] is seen[at]  # not decoded a second time


# Killed


def scenario(writer: RecordWriter, done: dict[Series, int]) -> None:
    """Registers, retires and registers into what is free; `done` is what has been promised."""
    for i in range(4):
        done[i, ("first", str(i))] = writer.register((i, ("first", str(i))), 1 + i)
    retire(writer, done, lambda number, labels: number % 2 == 0)
    retire(writer, done, lambda number, labels: True)
    for i in range(4):
        done[i, ("other", str(i))] = writer.register((i, ("other", str(i))), 1 + i)
    retire(writer, done, lambda number, labels: labels[0] == "other")


def retire(writer: RecordWriter, done: dict[Series, int], keep: Callable[[int, tuple[str, ...]], bool]) -> None:
    for series in [series for series in done if not keep(*series)]:
        del done[series]
    writer.retire(keep)


def test_killed_anywhere_it_leaves_a_segment_that_its_successor_can_use() -> None:
    for writes in count():
        memory = Memory()
        done: dict[Series, int] = {}
        try:
            scenario(memory.dying_writer(writes), done)
        except Killed:
            survived = False
        else:
            survived = True
        found = memory.series()
        assert done.items() <= {series: cell for series, (cell, _) in found.items()}.items()
        for series, (cell, width) in found.items():
            for i in range(width):
                memory.cells[cell + i] = hash(series) % 1000
        check_successor(memory, found)
        if survived:
            assert writes > 100
            return


def check_successor(memory: Memory, found: dict[Series, tuple[int, int]]) -> None:
    """It finds what a reader found, counts on, and what it adds disturbs nothing."""
    successor = memory.writer()
    for series, (cell, width) in found.items():
        assert successor.register(series, width) == cell
        assert memory.cells[cell] == hash(series) % 1000
    for i in range(8):
        assert successor.register((i, ("new", "s")), 1 + i % 4)
    again = memory.series()
    assert found.items() <= again.items()
    assert len(again) == len(found) + 8
    assert memory.head[LOST] == 0


def test_a_successor_that_is_killed_while_taking_over() -> None:
    for first in range(0, 150, 7):
        for second in range(6):
            memory = Memory()
            for writes in (first, second):
                try:
                    scenario(memory.dying_writer(writes), {})
                except Killed:
                    pass
            found = memory.series()
            for series, (cell, _) in found.items():
                memory.cells[cell] = hash(series) % 1000
            check_successor(memory, found)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64 * UNIT), st.integers(0, 12))
def test_garbage_is_read_without_harm(garbage: bytes, end: int) -> None:
    memory = Memory()
    memory.words.cast("B")[: len(garbage)] = garbage
    memory.head[END] = end
    Records(memory.head, memory.words, memory.cells).scan({})


# Labels


@given(st.lists(st.text(max_size=40), max_size=6))
def test_labels_come_back_as_they_were(labels: list[str]) -> None:
    assert decode_labels(encode_labels(tuple(labels))) == tuple(labels)


def test_labels_that_are_no_text_come_back_escaped() -> None:
    assert decode_labels(encode_labels(("\udcff",))) == ("\\udcff",)


@given(st.binary(max_size=40))
def test_decoding_never_fails_but_by_value_error(data: bytes) -> None:
    try:
        labels = decode_labels(data)
    except ValueError:
        return
    assert encode_labels(labels) == data
