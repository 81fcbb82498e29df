"""Bodies from stream to stream: past us through a pipe, or by hand where there are no sockets or no pipes."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

import pytest

from lbd.core.fiber import Expired
from lbd.core.memory import memory_stream_pair
from lbd.core.pipes import KEPT, LARGEST, USEFUL, PipePool
from lbd.core.splice import splice
from tests.core.reactors import KINDS, pair_of, recv_all, recv_some, result_of, running

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream

WINDOW = 64 * 1024
DATA = bytes(range(251)) * 8000  # two megabytes in which no window looks like another


class Way:
    """from_, a source that we read, and to, a sink that we fill; and the far ends of both."""

    def __init__(self, kind: str, reactor: Reactor) -> None:
        self.reactor = reactor
        self.origin, self.source = pair_of(kind, reactor)
        self.sink, self.reader = pair_of(kind, reactor)
        self.moves: list[int] = []

    async def splice(self, count: int, window: int = WINDOW) -> int:
        return await splice(self.source, self.sink, count, window, self.moves.append)

    async def feed(self, data: bytes, *, ends: bool = True) -> None:
        await self.origin.send_all(data)
        if ends:
            self.origin.send_eof()

    def close(self) -> None:
        for stream in (self.origin, self.source, self.sink, self.reader):
            stream.close()


@pytest.fixture(params=[*KINDS, "no pipes"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every kind of stream; and sockets where no pipe is to be had, so that the copying is tested on them too."""
    if request.param == "no pipes":
        monkeypatch.setattr(PipePool, "take", lambda self: None)
        return "tcp"
    return str(request.param)


@pytest.mark.parametrize(("count", "expected"), [(-1, DATA), (len(DATA), DATA), (100_001, DATA[:100_001]), (1, DATA[:1]), (0, b"")])
async def test_as_many_bytes_as_wanted(kind: str, count: int, expected: bytes) -> None:
    async with running() as reactor:
        way = Way(kind, reactor)

        async def body() -> tuple[int, bytes, bytes]:
            reactor.spawn(way.feed(DATA), "feed")
            reading = reactor.spawn(gather(way.reader, got), "read")
            total = await way.splice(count)
            way.sink.send_eof()
            rest = await recv_all(way.source)
            await reading.done.wait()
            return total, got[0], rest

        got: list[bytes] = []
        assert await result_of(reactor, body()) == (len(expected), expected, DATA[len(expected) :])
        assert sum(way.moves) == len(expected)
        way.close()


async def gather(stream: Stream, into: list[bytes]) -> None:
    into.append(await recv_all(stream))


async def test_a_source_that_ends_early(kind: str) -> None:
    async with running() as reactor:
        way = Way(kind, reactor)

        async def body() -> int:
            await way.feed(b"x" * 1000)
            return await way.splice(5000)

        assert await result_of(reactor, body()) == 1000
        assert await result_of(reactor, recv_some(way.reader)) == b"x" * 1000
        way.close()


async def test_a_source_that_breaks(kind: str) -> None:
    async with running() as reactor:
        way = Way(kind, reactor)

        async def body() -> None:
            way.source.send(b"unread")  # so that closing resets, on a unix socket too
            way.origin.send(b"x" * 1000)
            await reactor.yield_turn()
            if kind == "unix":
                way.origin.close()
            else:
                way.origin.reset()
            await way.splice(5000)

        with pytest.raises(ConnectionResetError) as caught:
            await result_of(reactor, body())
        assert caught.value.filename == "source"
        way.close()


async def test_a_sink_that_breaks_with_bytes_on_the_way(kind: str) -> None:
    """What was in the pipe then reaches nobody: not the next body either."""
    async with running(faults=[]) as reactor:
        way, next_way = Way(kind, reactor), Way(kind, reactor)

        async def body() -> None:
            feeding = reactor.spawn(way.feed(DATA), "feed")
            splicing = reactor.spawn(way.splice(-1), "splice")  # type: ignore[arg-type]
            while way.sink.may_write:
                await reactor.yield_turn()
            way.sink.send_eof()
            way.reader.close()
            await splicing.done.wait()
            feeding.cancel()  # nobody reads any more
            assert isinstance(splicing.error, (BrokenPipeError, ConnectionResetError))
            assert splicing.error.filename == "sink"

        async def again() -> bytes:
            reactor.spawn(next_way.feed(b"clean"), "feed")
            await next_way.splice(-1)
            next_way.sink.send_eof()
            return await recv_all(next_way.reader)

        await result_of(reactor, body())
        assert await result_of(reactor, again()) == b"clean"
        way.close()
        next_way.close()


async def test_one_broken_off_leaves_nothing_behind(kind: str) -> None:
    async with running() as reactor:
        way, next_way = Way(kind, reactor), Way(kind, reactor)

        async def body() -> bytes:
            feeding = reactor.spawn(way.feed(DATA), "feed")
            reactor.running().arm(0.02, 5)
            with pytest.raises(Expired):
                await way.splice(-1)  # nobody reads
            feeding.cancel()
            reactor.spawn(next_way.feed(b"clean"), "feed")
            await next_way.splice(5)
            return await recv_some(next_way.reader)

        assert await result_of(reactor, body()) == b"clean"
        way.close()
        next_way.close()


async def test_no_more_is_held_than_the_window(kind: str) -> None:
    """A reader that reads nothing stops the origin: what is between the two is bounded."""
    async with running() as reactor:
        way = Way(kind, reactor)

        async def body() -> None:
            feeding = reactor.spawn(way.feed(DATA * 5), "feed")
            splicing = reactor.spawn(way.splice(-1), "splice")  # type: ignore[arg-type]
            for _ in range(200):
                await reactor.yield_turn()
            assert feeding.coroutine is not None
            assert splicing.coroutine is not None
            delivered = sum(way.moves)
            taken = delivered
            while len(await recv_some(way.reader)) and taken > 0:
                taken -= WINDOW
            feeding.cancel()
            splicing.cancel()

        await result_of(reactor, body())
        assert sum(way.moves) < len(DATA) * 5
        way.close()


async def test_a_slow_reader_is_not_one_that_stands_still(kind: str) -> None:
    """Every piece that the sink takes is told at once, not each window: deadlines hang on it."""
    async with running() as reactor:
        way = Way(kind, reactor)

        async def body() -> None:
            feeding = reactor.spawn(way.feed(DATA), "feed")
            splicing = reactor.spawn(way.splice(-1, 512 * 1024), "splice")  # type: ignore[arg-type]
            while way.sink.may_write:
                await reactor.yield_turn()
            before = len(way.moves)
            left = len(DATA)
            while left > 0:
                left -= len(await recv_some(way.reader, 128 * 1024))
                await reactor.yield_turn()
            await splicing.done.wait()
            await feeding.done.wait()
            assert len(way.moves) - before >= 4

        await result_of(reactor, body())
        way.close()


async def test_others_have_their_turn_meanwhile(kind: str) -> None:
    async with running() as reactor:
        way = Way(kind, reactor)
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await reactor.yield_turn()

        async def body() -> None:
            counting = reactor.spawn(count(), "count")
            reactor.spawn(way.feed(DATA * 4), "feed")
            reading = reactor.spawn(gather(way.reader, got), "read")
            await way.splice(-1)
            way.sink.send_eof()
            await reading.done.wait()
            counting.cancel()

        got: list[bytes] = []
        await result_of(reactor, body())
        assert got == [DATA * 4]
        assert turns > 4
        way.close()


# Pipes


def test_an_empty_pipe_is_used_again_and_no_other() -> None:
    pool = PipePool()
    first = pool.take()
    second = pool.take()
    assert first is not None
    assert second is not None
    pool.give(first, is_empty=True)
    pool.give(second, is_empty=False)
    assert len(pool) == 1
    assert pool.take() == first
    with pytest.raises(OSError):
        os.fstat(second.reading)
    pool.give(first, is_empty=True)
    pool.close()
    assert len(pool) == 0


def test_only_so_many_are_kept() -> None:
    pool = PipePool()
    pipes = [pipe for _ in range(KEPT + 3) if (pipe := pool.take()) is not None]
    for pipe in pipes:
        pool.give(pipe, is_empty=True)
    assert len(pool) == KEPT
    late = pool.take()
    pool.close()
    assert late is not None
    pool.give(late, is_empty=True)  # comes back after the end
    assert len(pool) == 0


@pytest.mark.parametrize(("allowed", "is_useful"), [(LARGEST, True), (256 * 1024, True), (USEFUL, True), (0, False)])
def test_one_who_has_too_many_pages_gets_smaller_pipes_or_none(allowed: int, is_useful: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def limited(fd: int, command: int, argument: int = 0) -> int:
        if command == fcntl.F_SETPIPE_SZ and argument > allowed:
            raise PermissionError
        if command == fcntl.F_GETPIPE_SZ:
            return real(fd, command) if allowed else 8192
        return real(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", limited)
    pool = PipePool()
    pipe = pool.take()
    assert (pipe is not None) is is_useful
    if pipe is not None:
        pool.give(pipe, is_empty=True)
    pool.close()


async def test_a_copy_whose_steps_take_long_lets_others_through(autojump_clock: MockClock) -> None:
    """Of TLS, whose every window is enciphered: a turn's time counts, not only steps."""
    async with running(has_sockets=False) as reactor:
        origin, source = memory_stream_pair(reactor, buffer=len(DATA))
        sink, reader = memory_stream_pair(reactor, buffer=len(DATA))
        took = [0]

        def moved(count: int) -> None:
            took[-1] += count
            autojump_clock.jump(0.0004)

        async def watch() -> None:
            while sum(took) < len(DATA):
                took.append(0)
                await reactor.yield_turn()

        origin.send(DATA)
        watching = reactor.spawn(watch(), "watch")
        assert await result_of(reactor, splice(source, sink, len(DATA), WINDOW, moved)) == len(DATA)
        await result_of(reactor, wait_for(watching))
        assert max(took) <= 3 * WINDOW  # of 0.4 ms each: a turn's time and no more than the step that ends it
        for stream in (origin, source, sink, reader):
            stream.close()


async def wait_for(fiber: Fiber) -> None:
    await fiber.done.wait()
