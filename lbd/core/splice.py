"""Bytes from one stream to another, for bodies too large to be looked at.

With sockets the bytes go through a pipe by splice(2): the kernel moves references to pages, Python never sees them. What costs is
the number of steps, each of which wakes somebody up: per 100 MB on one machine 620 us/MB in steps of 64 KiB, 440 of 256 KiB, 340
of 1 MiB (nginx: 1150). So a step takes as much as the sink has room for, up to LARGEST; beyond that room only a window, which
is what lies in the pipe when the reader is slow.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbd.core.pipes import LARGEST
from lbd.core.stream import send_buffer_of, unsent_bytes_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.core.pipes import Pipe
    from lbd.core.stream import Stream

__all__ = ["splice"]

SPLICE_MOVE_NONBLOCK = 1 | 2  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
STEPS = 8  # between two questions how large the sink's buffer has become, and before other fibers get a turn


async def splice(
    source: Stream,
    sink: Stream,
    count: int,
    window: int,
    moved: Callable[[int], None],
    *,
    stuck: Callable[[], Awaitable[None]] | None = None,
    waits: bool = True,
) -> int:
    """Moves `count` bytes (-1: all there are) and tells how many; fewer than `count` when the source ended, or, unless it `waits`,
    has nothing for now.

    At most `window` bytes are held for a sink that has no room. `moved(n)` hears of every n bytes that the sink took, so that a
    sink that is slow but takes something is not one that stands still. `await stuck()` waits for the sink, in place of its `writable`.
    OSError: one of the two broke; `error.filename` is "source" or "sink".
    """
    pipe = source.reactor.pipes.take() if source.can_splice and sink.can_splice else None
    if pipe is None:
        return await _copy(source, sink, count, window, moved, stuck, waits)
    splicing = _Splicing(source, sink, pipe, moved, stuck, waits)
    try:
        return await splicing.run(count, window)
    finally:
        source.reactor.pipes.give(pipe, is_empty=splicing.held == 0)


class _Splicing:
    """One body on its way; `held` is what the pipe holds."""

    __slots__ = ("_buffer", "_moved", "_pipe", "_sink", "_source", "_steps", "_stuck", "_waits", "held")

    def __init__(
        self,
        source: Stream,
        sink: Stream,
        pipe: Pipe,
        moved: Callable[[int], None],
        stuck: Callable[[], Awaitable[None]] | None,
        waits: bool,
    ) -> None:
        self._source = source
        self._sink = sink
        self._pipe = pipe
        self._moved = moved
        self._stuck = stuck
        self._waits = waits
        self._steps = 0
        self._buffer = 0  # what the sink's kernel side takes at most
        self.held = 0

    async def run(self, count: int, window: int) -> int:
        total, reactor = 0, self._source.reactor
        while count < 0 or total < count:
            most = self._step(window)
            filled = await self._fill(most if count < 0 else min(most, count - total))
            if filled == 0:
                break
            await self._empty()
            total += filled
            self._steps += 1
            if self._steps % STEPS == 0 or reactor.is_turn_over():  # a step of 1 MiB takes a third of a turn's time
                await reactor.yield_turn()
        return total

    async def _fill(self, wanted: int) -> int:
        """At most `wanted` bytes, from the source into the pipe; 0 at the source's end, or where nobody waits for it."""
        source = self._source
        while True:
            try:
                self.held = os.splice(source.fd, self._pipe.writing, wanted, flags=SPLICE_MOVE_NONBLOCK)
                return self.held
            except BlockingIOError:
                source.may_read = False
                if not self._waits:
                    return 0
                await source.readable
            except OSError as error:
                error.filename = "source"
                raise

    def _step(self, window: int) -> int:
        """How many bytes to take at once."""
        sink = self._sink
        try:
            if self._steps % STEPS == 0:
                self._buffer = send_buffer_of(sink)
            return max(window, min(LARGEST, self._buffer - unsent_bytes_of(sink)))
        except OSError as error:
            error.filename = "sink"
            raise

    async def _empty(self) -> None:
        """All the pipe holds, into the sink."""
        sink = self._sink
        while self.held:
            try:
                sent = os.splice(self._pipe.reading, sink.fd, self.held, flags=SPLICE_MOVE_NONBLOCK)
            except BlockingIOError:
                sink.may_write = False
                await (sink.writable if self._stuck is None else self._stuck())
            except OSError as error:
                error.filename = "sink"
                raise
            else:
                self.held -= sent
                self._moved(sent)


async def _copy(
    source: Stream,
    sink: Stream,
    count: int,
    window: int,
    moved: Callable[[int], None],
    stuck: Callable[[], Awaitable[None]] | None,
    waits: bool,
) -> int:
    total = steps = 0
    while count < 0 or total < count:
        while (data := _recv(source, window if count < 0 else min(window, count - total))) is None:
            if not waits:
                return total
            await source.readable
        if not data:
            break
        rest = memoryview(data)
        while rest:
            sent = _send(sink, rest)
            if sent:
                moved(sent)
                rest = rest[sent:]
            else:
                await (sink.writable if stuck is None else stuck())
        total += len(data)
        steps += 1
        if steps % STEPS == 0 or source.reactor.is_turn_over():  # TLS may take a tenth of it for a window
            await source.reactor.yield_turn()
    return total


def _recv(source: Stream, limit: int) -> bytes | None:
    try:
        return source.recv(limit)
    except OSError as error:
        error.filename = "source"
        raise


def _send(sink: Stream, data: memoryview) -> int:
    try:
        return sink.send(data)
    except OSError as error:
        error.filename = "sink"
        raise
