"""The lag of a reactor: what is read off is what others wait, and nothing is read when there is nothing to read."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.lag import take_readings
from lbd.core.reactor import Reactor

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber

pytestmark = pytest.mark.usefixtures("no_leaked_fds")


class Readings:
    def __init__(self) -> None:
        self.lags: list[float] = []
        self.goes_on = True

    def heard(self, lag: float, now: float, *, has_come: bool = True) -> None:
        if has_come:
            self.lags.append(lag)


def faulted(fiber: Fiber, error: BaseException) -> None:
    raise AssertionError(f"{fiber!r}: {error!r}")


async def measured(busy: float, count: int) -> list[float]:
    """Readings beside a fiber whose every step takes so long."""
    readings = Readings()

    async def work() -> None:
        while readings.goes_on:
            until = perf_counter() + busy
            while perf_counter() < until:
                pass
            await reactor.yield_turn()

    reactor = Reactor(on_fault=faulted)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(reactor.run)
            fiber = reactor.spawn(take_readings(reactor, lambda: readings.goes_on, readings.heard), "lag")
            if busy:
                reactor.spawn(work(), "work")
            while len(readings.lags) < count:  # noqa: ASYNC110 - real time
                await trio.sleep(0.01)
            readings.goes_on = False
            with trio.move_on_after(30):
                while fiber.coroutine is not None:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert fiber.coroutine is None
            nursery.cancel_scope.cancel()
    return readings.lags


async def test_who_is_stopped_for_long_reads_it() -> None:
    lags = await measured(0.3, 3)
    assert max(lags) > 0.2


async def test_readings_end_and_leave_nothing() -> None:
    lags = await measured(0.0, 3)
    assert len(lags) >= 3
    assert min(lags) >= 0.0
