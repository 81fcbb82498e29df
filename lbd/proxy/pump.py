"""Bytes from one connection to another, as they are, until the first one ends.

A piece is read when the one before it was taken, so that a slow reader holds the writer up and nothing gathers here. Pieces are small
at first, for most messages are, and an idle session holds no memory. Where full ones come one after the other there is much to move, and it
goes by splice, past Python, for as long as every burst of it is worth the pipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.splice import splice

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Pollable
    from lbd.core.stream import Stream

__all__ = ["pump", "watch"]

PIECE = 16 * 1024  # first reads; core/syscalls.pyx copies those instead of resizing
FULL = 2  # full windows in a row after which splicing is worth its pipe
STEPS = 16  # pieces before other fibers get a turn


async def pump(source: Stream, sink: Stream, window: int, moved: Callable[[int], None], first: bytes = b"") -> None:
    """Sends `first`, then all that comes, then the end. `moved(n)` hears of every n bytes that the sink took.

    OSError: one of the two broke; `error.filename` is "source" or "sink", as of splice().
    """
    reactor = source.reactor
    limit = smallest = min(PIECE, window)
    full = steps = 0
    await send(sink, first, moved)
    while True:
        if full >= FULL:
            if await splice(source, sink, -1, window, moved, waits=False) < window:
                full, limit = 0, smallest
            else:
                await source.readable
            continue
        data = recv(source, limit)
        if data is None:
            await source.readable
            continue
        if not data:
            break
        full = full + 1 if len(data) >= window else 0
        limit = window if len(data) >= limit else smallest
        await send(sink, data, moved)
        steps += 1
        if steps % STEPS == 0 or reactor.is_turn_over():
            await reactor.yield_turn()
    sink.send_eof()


async def watch(ended: Pollable, pumping: Fiber, fiber: Fiber, error: Exception) -> None:
    """A fiber of its own, for a side that has said that it is done: it is read no more, and while the other one is silent nothing is sent
    to it. When it breaks now, `fiber` gets `error`, unless `pumping`, which serves it, has come to its end too: then it is closed.
    """
    while not ended.broken:
        ended.may_read = False
        await ended.readable
    if pumping.coroutine is not None:
        fiber.interrupt(error)


def recv(source: Stream, limit: int) -> bytes | None:
    try:
        return source.recv(limit)
    except OSError as error:
        error.filename = "source"
        raise


async def send(sink: Stream, data: bytes, moved: Callable[[int], None]) -> None:
    rest: bytes | memoryview = data
    while rest:
        try:
            sent = sink.send(rest)
        except OSError as error:
            error.filename = "sink"
            raise
        if sent:
            moved(sent)
        if sent == len(rest):
            return
        rest = memoryview(rest)[sent:]
        await sink.writable
