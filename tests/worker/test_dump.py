"""What a worker says of itself: where its fibers and tasks are, and that it lives."""

from __future__ import annotations

import sys

import pytest
import trio

from lbd.core.board import Board
from lbd.core.fiber import Fiber, Signal
from lbd.core.reactor import Reactor
from lbd.worker.dump import MOST_NAMES, describe
from lbd.worker.pulse import Pulse


def unexpected(fiber: Fiber, error: BaseException) -> None:
    raise AssertionError(fiber) from error


async def waits(signal: Signal) -> None:
    await signal.wait()


async def outer(signal: Signal) -> None:
    await waits(signal)


async def test_fibers_at_the_same_place_are_told_of_together(autojump_clock: trio.testing.MockClock) -> None:
    reactor = Reactor(on_fault=unexpected, has_sockets=False)
    signal = Signal(reactor)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        for number in range(MOST_NAMES + 2):
            reactor.spawn(outer(signal), f"10.0.0.{number}:80")
        reactor.spawn(waits(signal), "alone")
        await trio.sleep(0.1)
        lines = list(describe(sys._getframe(), reactor.fibers))
        nursery.cancel_scope.cancel()
    start = lines.index("11 fibers:")
    many, one = lines[start + 1 : start + 3]
    assert many.startswith("  10.0.0.0:80, 10.0.0.1:80, ")
    assert " and 2 more: outer (tests/worker/test_dump.py:" in many
    assert " > waits (tests/worker/test_dump.py:" in many
    assert many.endswith(" > suspended")
    assert one.startswith("  alone: waits (")
    assert "test_dump.py" in "".join(lines[:start]), "the main thread's stack comes first"


async def sleeper() -> None:
    await trio.sleep_forever()


async def test_tasks_of_all_nurseries_are_told_of(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as outside, trio.open_nursery() as inside:
        outside.start_soon(sleeper, name="first")
        inside.start_soon(sleeper, name="second")
        await trio.sleep(0.1)
        text = "\n".join(describe(None, []))
        outside.cancel_scope.cancel()
    assert "0 fibers:" in text
    assert "first, second: sleeper (tests/worker/test_dump.py:" in text or "second, first: sleeper (tests/worker/test_dump.py:" in text
    assert "running" in text, "the task that asks"


async def test_a_beat_takes_trio_and_the_reactor(autojump_clock: trio.testing.MockClock) -> None:
    board = Board.create(1, cells=1024, endpoints=16)
    segment = board.segment(0)
    reactor = Reactor(on_fault=unexpected, has_sockets=False)
    pulse = Pulse(reactor, segment, 0)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        for _ in range(3):
            pulse.beat()
            await trio.sleep(1)
        assert segment.beats == 3
        nursery.cancel_scope.cancel()
    pulse.beat()
    pulse.beat()
    assert segment.beats == 3, "a reactor that has stopped is silent"
    totals = board.totals()
    assert totals[71, ("0",)][0] > 0
    board.close()


@pytest.mark.parametrize("count", [0, 5])
async def test_fibers_and_tasks_are_gauges(autojump_clock: trio.testing.MockClock, count: int) -> None:
    board = Board.create(1, cells=1024, endpoints=16)
    reactor = Reactor(on_fault=unexpected, has_sockets=False)
    pulse = Pulse(reactor, board.segment(0), 0)
    signal = Signal(reactor)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        for number in range(count):
            reactor.spawn(waits(signal), str(number))
        pulse.beat()
        assert board.totals()[70, ("0",)] == [count], "without the pulse's own"
        nursery.cancel_scope.cancel()
    board.close()
