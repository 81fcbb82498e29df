"""Reloads one at a time: who asks during one gets the next, with everybody else who asked."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lbd.master.reload import ReloadReport
from lbd.master.reloads import Reloads

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Slow:
    """A reload that takes ten seconds."""

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.reloads = Reloads(self)

    async def __call__(self) -> ReloadReport:
        self.begun.append(trio.current_time())
        await trio.sleep(10)
        return ReloadReport(len(self.begun))


async def test_requests_during_one_become_one_more() -> None:
    slow = Slow()
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        first = slow.reloads.request()
        await trio.sleep(1)
        later = [slow.reloads.request() for _ in range(5)]
        assert (await first.wait()).generation == 1
        assert {(await request.wait()).generation for request in later} == {2}
        assert [begun - start for begun in slow.begun] == [0, 10]
        await trio.sleep(100)
        assert len(slow.begun) == 2
        nursery.cancel_scope.cancel()


async def test_requests_before_it_runs_wait_for_it() -> None:
    slow = Slow()
    request = slow.reloads.request()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        assert (await request.wait()).generation == 1
        nursery.cancel_scope.cancel()


async def test_who_waits_when_it_stops_is_told() -> None:
    slow = Slow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        running = slow.reloads.request()
        await trio.sleep(1)
        waiting = slow.reloads.request()
        nursery.cancel_scope.cancel()
    for request in (running, waiting, slow.reloads.request()):
        assert (await request.wait()).errors == ("lbd is stopping",)


async def test_who_waits_during_an_upgrade_asks_the_successor() -> None:
    slow = Slow()
    asked: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        running = slow.reloads.request()
        await trio.sleep(1)
        slow.reloads.pass_on(lambda: asked.append(trio.current_time()))
        assert asked == []  # it may still be done
        nursery.cancel_scope.cancel()
    assert len(asked) == 1
    late = slow.reloads.request()
    assert len(asked) == 2
    for request in (running, late):
        assert (await request.wait()).errors[0].startswith("lbd has been upgraded meanwhile")


async def test_with_a_successor_nobody_asks_for_what_nobody_wants() -> None:
    slow = Slow()
    asked: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        slow.reloads.pass_on(lambda: asked.append(0.0))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert asked == []


async def test_a_waiter_that_gives_up_does_not_stop_the_reload() -> None:
    slow = Slow()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(slow.reloads.run)
        request = slow.reloads.request()
        with trio.move_on_after(1):
            await request.wait()
        assert (await request.wait()).generation == 1
        nursery.cancel_scope.cancel()
