"""A worker that watches its own load: the lag only while it is busy, the memory always."""

from __future__ import annotations

import logging
import re
from time import perf_counter
from typing import TYPE_CHECKING

import trio
import trio.testing

from lbd import metrics
from lbd.core.board import Board
from lbd.core.reactor import Reactor
from lbd.proxy.room import Room
from lbd.proxy.shedding import OverloadPolicy, Shedding
from lbd.proxy.target import Histogram
from lbd.worker.load import LoadWatch, resident_bytes

if TYPE_CHECKING:
    import pytest

    from lbd.core.fiber import Fiber


def faulted(fiber: Fiber, error: BaseException) -> None:
    raise AssertionError(f"{fiber!r}: {error!r}")


async def test_readings_are_taken_while_there_is_work_and_end_with_it() -> None:
    board = Board.create(1, cells=4096, endpoints=8)
    segment, shedding, working = board.segment(0), Shedding(OverloadPolicy(lag=0.01)), True

    async def work() -> None:
        while working:
            until = perf_counter() + 0.05
            while perf_counter() < until:
                pass
            await reactor.yield_turn()

    reactor = Reactor(on_fault=faulted, on_turn=Histogram(segment, metrics.LOOP_LAG, ()).observe)
    watch = LoadWatch(reactor, shedding, Room(), segment, 3)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            while True:  # nothing to do, nothing to read
                await trio.sleep(0.2)
                watch.look()
                if not reactor.fibers:
                    break
            reactor.spawn(work(), "work")
            while shedding.level == 0:  # a twentieth of a second is more than the hundredth that is allowed
                await trio.sleep(0.2)
                watch.look()
            level = board.totals()[(metrics.SHED_LEVEL.number, ("worker-3",))]
            assert 0 < level[0] <= 3000
            assert board.totals()[(metrics.LAG.number, ("worker-3",))][0] > 10_000
            working = False
            while reactor.fibers or shedding.level:
                await trio.sleep(0.2)
                watch.look()
            assert board.totals()[(metrics.SHED_LEVEL.number, ("worker-3",))] == [0]
            nursery.cancel_scope.cancel()
    board.close()


async def test_memory_is_weighed() -> None:
    board = Board.create(1, cells=4096, endpoints=8)
    reactor = Reactor(on_fault=faulted, has_sockets=False)
    resident = resident_bytes()
    assert resident > 1 << 20
    tight, ample = (Shedding(OverloadPolicy(memory=size)) for size in (resident // 2, resident * 10))
    rooms = [Room(), Room()]
    for shedding, room in zip((tight, ample), rooms, strict=True):
        LoadWatch(reactor, shedding, room, board.segment(0), 0).look()
    assert (tight.pressure, ample.pressure) == (3.0, 0.0)
    assert [room.is_full for room in rooms] == [True, False]
    board.close()


async def test_the_log_is_told_when_requests_begin_to_be_refused_and_when_it_is_over(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    board = Board.create(1, cells=4096, endpoints=8)
    reactor = Reactor(on_fault=faulted, has_sockets=False, clock=trio.current_time)
    shedding = Shedding(OverloadPolicy(lag=0.5, memory=resident_bytes() * 10))
    watch = LoadWatch(reactor, shedding, Room(), board.segment(0), 0)

    async def pass_with(lag: float, seconds: int) -> None:
        for _ in range(seconds):
            for _ in range(4):
                await trio.sleep(0.25)
                shedding.heard(lag, trio.current_time())
            if shedding.level:
                shedding.sheds(0)
            watch.look()

    await pass_with(0.1, 5)
    assert not caplog.records
    await pass_with(2.0, 10)  # then it comes and goes
    for _ in range(5):
        await pass_with(0.0, 20)
        await pass_with(2.0, 5)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (
            logging.WARNING,
            "overloaded, requests that matter least are refused (503 overloaded): what comes has to wait for 2 s, more than 0.5 s "
            "(lbd.overload.lag)",
        )
    ]
    await pass_with(0.0, 200)
    assert len(caplog.records) == 2
    assert re.fullmatch(r"no longer overloaded: \d+ requests were refused within \d+ s", caplog.records[1].getMessage())
    board.close()


async def test_the_log_is_told_of_memory_that_presses(caplog: pytest.LogCaptureFixture) -> None:
    board = Board.create(1, cells=4096, endpoints=8)
    shedding = Shedding(OverloadPolicy(memory=resident_bytes() // 2))
    watch = LoadWatch(Reactor(on_fault=faulted, has_sockets=False), shedding, Room(), board.segment(0), 0)
    watch.look()
    watch.look()
    (record,) = caplog.records
    assert re.search(r": \d+ MiB of memory are in use, of \d+ \(lbd\.overload\.memory\)$", record.getMessage())
    board.close()
