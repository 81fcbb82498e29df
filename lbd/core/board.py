"""The board: numbers in shared memory, which workers count in and the master reads.

One memfd. A worker adds to plain 64-bit cells of its own segment: no lock, no system call, nobody else writes there. The
master sums the segments when it is scraped, and counts survive the worker that made them: its successor in the slot finds the
records of the series (core/records.py) and counts on.

    head of the board | segment 0: head, tables, cells, records | segment 1 ...

The tables are of requests in flight, of connections open, and of requests that wait. Each has one cell an endpoint or cluster, at a
place that the master gives out, the same in every segment: so a worker can see what all of them have there without knowing any names.

The file is as large as it may ever have to be; a page that nobody wrote to takes no memory. It is sealed against being
shrunk, since whoever touches a mapped page that is gone dies of SIGBUS.
"""

from __future__ import annotations

import fcntl
import os
from mmap import PAGESIZE, mmap
from typing import TYPE_CHECKING

from lbd.core.records import BEATS, DOWNSTREAMS, GENERATION, LOST, MOST_WIDTH, Record, Records, RecordWriter, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Board", "Segment"]

MAGIC = 0x0A64726F6264626C  # "lbdbord\n"
LAYOUT = 3  # of everything here and in records.py; boards are not carried from one version of lbd to another
WORD = 8
HEAD = PAGESIZE // WORD  # words of the board's head, and of a segment's

# Room for 20,000 endpoints of eight series each, and as many histograms as fit beside them. 32 MiB a worker, of which
# 1,000 endpoints use about one.
CELLS = 1 << 18
ENDPOINTS = 1 << 16  # and clusters: places of a table
TABLES = 3
RECORD_WORDS = 14  # words of records a cell: a series of one cell takes 16 where its labels are of usual length, a histogram less


class Segment:
    """One worker's part of the board. Cells 0 and following, as many as the widest series has, belong to those without room."""

    def __init__(self, board: Board, slot: int) -> None:
        start = HEAD + slot * board.stride
        tables = start + HEAD
        cells = tables + TABLES * board.endpoints
        records = cells + board.cells
        words = board.words
        self._fd = board.fd
        self._tables_at = tables * WORD
        self._head = words[start:tables]
        self._tables = words[tables:cells]
        self._inflight = words[tables : tables + board.endpoints]
        self._connections = words[tables + board.endpoints : tables + 2 * board.endpoints]
        self._waiting = words[tables + 2 * board.endpoints : cells]
        self._cells = words[cells:records]
        self._views = (words[start : start + HEAD], words[records : start + board.stride], words[cells:records])
        self._writer: RecordWriter | None = None
        self._seen: dict[int, Record] = {}  # the records as of `_seen_at`, and the end of their cells
        self._used = 0
        self._seen_at = -1

    # For its worker

    @property
    def cells(self) -> memoryview:
        """The cells themselves, of 64 bits, for those who count on every request: `cells[i] += 1` saves the call of add()."""
        return self._cells

    @property
    def flights(self) -> memoryview:
        """Likewise the table of requests in flight, for those who would call add_inflight() for each."""
        return self._inflight

    def series(self, number: int, labels: tuple[str, ...], width: int = 1) -> int:
        """The first cell of a series: the same for as long as the series lives, also for the worker's successor.

        When the segment is full, a cell that is in no series, and one more in `lost`.
        """
        if not 0 < width <= MOST_WIDTH:
            raise ValueError(f"a series has 1 to {MOST_WIDTH} cells, not {width}")
        return self._records().register((number, labels), width)

    def add(self, cell: int, amount: int = 1) -> None:
        self._cells[cell] += amount

    def put(self, cell: int, value: int) -> None:
        self._cells[cell] = value

    def value(self, cell: int) -> int:
        return self._cells[cell]

    def add_inflight(self, endpoint: int, delta: int) -> None:
        self._inflight[endpoint] += delta

    def inflight(self, endpoint: int) -> int:
        return self._inflight[endpoint]

    def add_connections(self, place: int, delta: int) -> None:
        self._connections[place] += delta

    def add_waiting(self, place: int, delta: int) -> None:
        self._waiting[place] += delta

    def waiting(self, place: int) -> int:
        return self._waiting[place]

    def clear_tables(self) -> None:
        """At a worker's start, or after its end: whoever was killed in mid-request has left its counts."""
        # Read through the file: to look at a mapped page of it is to allocate it.
        counts = memoryview(os.pread(self._fd, len(self._tables) * WORD, self._tables_at)).cast("q").tolist()
        for at, count in enumerate(counts):
            if count:
                self._tables[at] = 0
        self._head[DOWNSTREAMS] = 0

    def reset_gauges(self, numbers: Collection[int]) -> None:
        """Of these metrics, likewise; counters count on."""
        for (number, _labels), (_at, record) in self._records().records.items():
            if number in numbers:
                for cell in range(record.cell, record.cell + record.width):
                    self.put(cell, 0)

    def begin(self, generation: int) -> None:
        """A configuration comes into force."""
        self._head[GENERATION] = generation

    def beat(self) -> None:
        """A sign of life."""
        self._head[BEATS] += 1

    def hold(self, downstreams: int) -> None:
        """So many connections from downstream are here."""
        self._head[DOWNSTREAMS] = downstreams

    def retire(self, keep: Callable[[int, tuple[str, ...]], bool]) -> None:
        """Frees every series for which keep(number, labels) is false. Nobody may count in them any more.

        Their cells are not given to other series before the next retire(), for the sake of those who do so all the same.
        """
        self._records().retire(keep)

    def _records(self) -> RecordWriter:
        if self._writer is None:
            self._writer = RecordWriter(*self._views)
        return self._writer

    # For everybody

    @property
    def generation(self) -> int:
        return int(self._head[GENERATION])

    @property
    def beats(self) -> int:
        """Signs of life of all workers that this segment has had."""
        return int(self._head[BEATS])

    @property
    def downstreams(self) -> int:
        """Connections from downstream that its worker has."""
        return int(self._head[DOWNSTREAMS])

    @property
    def lost(self) -> int:
        """How often a series found no room."""
        return int(self._head[LOST])

    def totals(self, into: dict[Series, list[int]]) -> None:
        """Adds this segment's cells to those of the other segments."""
        records = Records(*self._views)
        before = records.changes
        if before != self._seen_at:
            self._seen, self._used = records.scan(self._seen)
            self._seen_at = before
        seen = self._seen
        cells: list[int] = self._views[2][: self._used].tolist()
        if records.changes != before:  # what was freed or reused meanwhile has cells of who knows whom
            seen = records.still(seen)
        for _version, series, cell, width in seen.values():
            sums = into.get(series)
            if sums is None:
                into[series] = cells[cell : cell + width]
            elif width == 1:
                sums[0] += cells[cell]
            else:
                for i in range(width):
                    sums[i] += cells[cell + i]


class Board:
    """Owns `fd`, which is what a worker is given to open the same board."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < HEAD * WORD:
            raise ValueError(f"descriptor {fd} is not a board: it has only {size} bytes")
        words = memoryview(mmap(fd, size)).cast("q")
        if words[0] != MAGIC or words[1] != LAYOUT:
            raise ValueError(f"descriptor {fd} is not a board of layout {LAYOUT}")
        self.slots: int = words[2]
        self.cells: int = words[3]  # a segment
        self.endpoints: int = words[4]
        self.stride = segment_words(self.cells, self.endpoints)
        if size < (HEAD + self.slots * self.stride) * WORD:
            raise ValueError(f"descriptor {fd} is not a whole board: it has only {size} bytes")
        self.words: memoryview = words
        self._words = words
        self._segments = [Segment(self, slot) for slot in range(self.slots)]

    @classmethod
    def create(cls, slots: int, *, cells: int = CELLS, endpoints: int = ENDPOINTS) -> Board:
        """A new one, all zero. `cells` and `endpoints` are for one segment."""
        fd = os.memfd_create("lbd-board", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, (HEAD + slots * segment_words(cells, endpoints)) * WORD)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.pwrite(fd, b"".join(word.to_bytes(WORD, "little") for word in (MAGIC, LAYOUT, slots, cells, endpoints)), 0)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def open(cls, fd: int) -> Board:
        return cls(fd)

    def close(self) -> None:
        """Idempotent. The memory goes when the last segment of it is let go of."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._segments = []

    def segment(self, slot: int) -> Segment:
        return self._segments[slot]

    def forget(self, slot: int) -> None:
        """Its worker is dead: what it had at work is over, and must not count against limits until there is a successor."""
        self._segments[slot].clear_tables()

    def inflight(self, endpoint: int) -> int:
        """What all workers have in flight at an endpoint, or a cluster."""
        return self._sum(0, endpoint)

    def connections(self, place: int) -> int:
        """Connections of all workers to an endpoint, or a cluster."""
        return self._sum(1, place)

    def waiting(self, place: int) -> int:
        """Requests that wait for room in a cluster, in all workers."""
        return self._sum(2, place)

    def _sum(self, table: int, place: int) -> int:
        if not 0 <= place < self.endpoints:
            raise IndexError(f"place {place} is not one of {self.endpoints}")
        at = 2 * HEAD + table * self.endpoints + place
        total = 0
        for _ in range(self.slots):
            total += self._words[at]
            at += self.stride
        return total

    def totals(self) -> dict[Series, list[int]]:
        """Every series that some worker has counted in, cells summed over the workers."""
        sums: dict[Series, list[int]] = {}
        for segment in self._segments:
            segment.totals(sums)
        return sums

    @property
    def lost(self) -> int:
        """How often, in all workers, a series found no room; above zero the numbers are not complete."""
        return sum(segment.lost for segment in self._segments)


def segment_words(cells: int, endpoints: int) -> int:
    """A whole number of pages, so that no two workers write to the same one."""
    wanted = HEAD + TABLES * endpoints + cells + RECORD_WORDS * cells
    return -(-wanted // HEAD) * HEAD
