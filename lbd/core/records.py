"""What the cells of one segment of the board mean: its records of series, in the same shared memory.

A record names a series (metric number, label values) and owns `width` cells for as long as the board lives. Its worker writes
it, the master reads it, and no lock is shared between them, since a worker may be killed while it holds one. Instead:

- Records lie end to end, each a whole number of units long. One beyond the end mark does not exist. So an appended record is
  written first and counted last; a worker that dies in between has done nothing, and its successor writes over it.
- `version` is even while the record counts, odd while it is free or being rewritten. A reader looks at it before and after;
  what it has decoded once it keeps for as long as the version stays.
- A record that is freed keeps its place, size and cells; only a series of the same size and width gets them. So neither can be
  torn: a rewrite touches the number and the labels alone, while the version is odd, and publishes after zeroing the cells.
- `changes` moves before and after every change: while it stands still, a reader need not look at the records at all.

Whoever registered a series may hold its cells' index a little longer than the series lives (an exchange that outlasts its
route). So what is freed rests until the next retire(), before it is given to another.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

from lbd.core.syscalls import fence

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BEATS", "DOWNSTREAMS", "GENERATION", "LOST", "MOST_WIDTH", "Record", "RecordWriter", "Records", "Series"]

Series = tuple[int, tuple[str, ...]]  # metric number, label values

WORD = 8
UNIT = 8  # words; most series of an endpoint take two units
MOST_UNITS = 64  # labels of 4 KiB: a name that long is somebody's mistake or attack
MOST_WIDTH = 64  # cells; the first so many belong to all series that found no room

GENERATION, CHANGES, END, LOST, BEATS, DOWNSTREAMS = range(6)  # words of the segment's head; END in units
VERSION, UNITS, WIDTH, CELL, NUMBER, LENGTH, TEXT = range(7)  # words of a record; LENGTH is the text's, in bytes


class Record(NamedTuple):
    """One series as it was decoded."""

    version: int
    series: Series
    cell: int
    width: int


class Records:
    """`head` is the segment's, `words` the records' part of it; both of 64-bit words, in shared memory."""

    def __init__(self, head: memoryview, words: memoryview, cells: memoryview) -> None:
        self._head = head
        self._words = words
        self._text = words.cast("B")
        self._cells = cells

    @property
    def changes(self) -> int:
        return int(self._head[CHANGES])

    def scan(self, known: dict[int, Record]) -> tuple[dict[int, Record], int]:
        """Every record that counts, by its place, and where their cells end. What still holds of `known` is not decoded again."""
        words = self._words
        used = 0
        found: dict[int, Record] = {}
        at, end = 0, self._head[END] * UNIT
        while at < end:
            version, units = words[at + VERSION], words[at + UNITS]
            if not 0 < units <= MOST_UNITS:
                break  # no worker of ours wrote that; what follows cannot be found
            record = known.get(at)
            if record is None or record.version != version:
                record = self._decode(at, version) if version % 2 == 0 else None
            if record is not None:
                found[at] = record
                used = max(used, record.cell + record.width)
            at += units * UNIT
        return found, used

    def still(self, found: dict[int, Record]) -> dict[int, Record]:
        """Those of `found` that nobody has touched since."""
        return {at: record for at, record in found.items() if self._words[at + VERSION] == record.version}

    def _decode(self, at: int, version: int) -> Record | None:
        _, _, width, cell, number, length = self._words[at : at + TEXT].tolist()
        start = (at + TEXT) * WORD
        try:
            labels = decode_labels(bytes(self._text[start : start + min(length, MOST_UNITS * UNIT * WORD)]))
        except ValueError:
            return None  # rewritten while we read
        fence()
        return Record(version, (number, labels), cell, width) if self._words[at + VERSION] == version else None


class RecordWriter(Records):
    """The worker's side: one for each segment, ever, at a time."""

    def __init__(self, head: memoryview, words: memoryview, cells: memoryview) -> None:
        """Takes over what the predecessor has left, torn or whole."""
        super().__init__(head, words, cells)
        self.records: dict[Series, tuple[int, Record]] = {}  # with their places
        self._free: dict[tuple[int, int], list[int]] = {}  # (units, width) -> places of records without a series
        self._resting: list[int] = []
        self._next_cell = MOST_WIDTH
        self._take_over()

    def _take_over(self) -> None:
        found, _used = self.scan({})
        at, end = 0, self._head[END] * UNIT
        while at < end:
            units, width = self._words[at + UNITS], self._words[at + WIDTH]
            if not 0 < units <= MOST_UNITS:
                self._head[END] = at // UNIT
                break
            record = found.get(at)
            if record is None or record.series in self.records:
                self._words[at + VERSION] |= 1
                self._free.setdefault((units, width), []).append(at)
            else:
                self.records[record.series] = at, record
            self._next_cell += width
            at += units * UNIT

    def register(self, series: Series, width: int) -> int:
        """The first cell of the series; 0 when there is no room for it."""
        known = self.records.get(series)
        if known is not None:
            if known[1].width != width:
                raise ValueError(f"series {series} has {known[1].width} cells, not {width}")
            return known[1].cell
        text = encode_labels(series[1])
        units = -(-(TEXT + -(-len(text) // WORD)) // UNIT)
        at = self._place(units, width)
        if at < 0:
            self._head[LOST] += 1
            return 0
        self._head[CHANGES] += 1
        self._write(at, series[0], text)
        self._head[END] = max(self._head[END], at // UNIT + units)
        self._head[CHANGES] += 1
        words = self._words
        record = Record(words[at + VERSION], series, words[at + CELL], width)
        self.records[series] = at, record
        return record.cell

    def _place(self, units: int, width: int) -> int:
        """A record that is free, or a new one beyond the end mark; -1 when there is no room."""
        free = self._free.get((units, width))
        if free:
            return free.pop()
        words, at = self._words, self._head[END] * UNIT
        if units > MOST_UNITS or at + units * UNIT > len(words) or self._next_cell + width > len(self._cells):
            return -1
        words[at + VERSION] |= 1
        words[at + UNITS], words[at + WIDTH], words[at + CELL] = units, width, self._next_cell
        self._next_cell += width
        return int(at)

    def _write(self, at: int, number: int, text: bytes) -> None:
        words = self._words
        cell, width = words[at + CELL], words[at + WIDTH]
        self._cells[cell : cell + width] = memoryview(bytes(width * WORD)).cast("q")
        words[at + NUMBER], words[at + LENGTH] = number, len(text)
        start = (at + TEXT) * WORD
        self._text[start : start + len(text)] = text
        fence()
        words[at + VERSION] += 1
        fence()

    def retire(self, keep: Callable[[int, tuple[str, ...]], bool]) -> None:
        """Frees the series that are not to be kept; what was freed the last time may now be given to others."""
        words = self._words
        for at in self._resting:
            self._free.setdefault((words[at + UNITS], words[at + WIDTH]), []).append(at)
        leaving = [series for series in self.records if not keep(*series)]
        self._head[CHANGES] += 1
        fence()
        self._resting = [self.records.pop(series)[0] for series in leaving]
        for at in self._resting:
            words[at + VERSION] += 1
        fence()
        self._head[CHANGES] += 1


def encode_labels(labels: tuple[str, ...]) -> bytes:
    """Each label in UTF-8 after its length in two bytes."""
    encoded = [label.encode("utf-8", "backslashreplace")[:0xFFFF] for label in labels]
    return b"".join(len(label).to_bytes(2, "little") + label for label in encoded)


def decode_labels(text: bytes) -> tuple[str, ...]:
    """ValueError: not what encode_labels() wrote."""
    labels, at = [], 0
    while at < len(text):
        start = at + 2
        at = start + int.from_bytes(text[at:start], "little")
        if at > len(text):
            raise ValueError("a label that is longer than its record")
        # Interned: the same label stands in many series and in every worker's segment, and finding equal ones is quick.
        labels.append(sys.intern(text[start:at].decode()))
    return tuple(labels)
