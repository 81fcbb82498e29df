"""Fibers on virtual time: order, deadlines, cancellation, faults, and the way to trio and back."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.fiber import PAUSE, Expired, FiberCancelled, HungUp, Signal
from lbd.core.memory import memory_stream_pair
from tests.core.reactors import recv_some, result_of, running

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor

pytestmark = pytest.mark.usefixtures("autojump_clock")
LONG = 1e6
TICKS_LATE = 2 / 64


# Steps


async def test_fibers_take_turns_in_the_order_of_their_wakes() -> None:
    steps: list[str] = []

    async def worker(reactor: Reactor, name: str) -> None:
        for i in range(3):
            steps.append(f"{name}{i}")
            await reactor.yield_turn()

    async with running(has_sockets=False) as reactor:
        fibers = [reactor.spawn(worker(reactor, name), name) for name in "abc"]
        assert steps == []  # spawn() steps nobody
        await result_of(reactor, wait_for(*fibers))
    assert steps == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


async def test_ten_thousand_fibers() -> None:
    count = 10_000
    woken = 0

    async def sleeper(reactor: Reactor, seconds: float) -> None:
        nonlocal woken
        await reactor.sleep(seconds)
        woken += 1

    async with running(has_sockets=False) as reactor:
        fibers = [reactor.spawn(sleeper(reactor, 1 + i % 60), "sleeper") for i in range(count)]
        await trio.sleep(30.5)
        assert woken == count // 60 * 30 + min(count % 60, 30)
        await result_of(reactor, wait_for(*fibers), LONG)
    assert woken == count


async def test_one_that_always_yields_stops_neither_the_others_nor_trio() -> None:
    async with running(has_sockets=False) as reactor:
        stopped = False
        turns = 0

        async def restless() -> None:
            nonlocal turns
            while not stopped:
                turns += 1
                await reactor.yield_turn()

        fiber = reactor.spawn(restless(), "restless")
        for _ in range(10):
            await trio.lowlevel.checkpoint()
        assert turns > 0
        stopped = True
        await result_of(reactor, wait_for(fiber))


async def test_what_is_spawned_ends_with_the_reactor_even_then() -> None:
    steps: list[str] = []

    async def child() -> None:
        steps.append("began")
        try:
            await PAUSE
        finally:
            steps.append("ended")

    async def parent(reactor: Reactor) -> None:
        try:
            await reactor.sleep(LONG)
        finally:
            reactor.spawn(child(), "child")

    async with running(has_sockets=False, leaves="the reactor's end is what is tested") as reactor:
        reactor.spawn(parent(reactor), "parent")
        await trio.sleep(1)
    assert steps == ["began", "ended"]
    late = reactor.spawn(child(), "late")  # the reactor is over: it never begins
    assert late.coroutine is None
    assert late.done.is_set
    assert steps == ["began", "ended"]


# Signals


async def test_a_signal_wakes_all_who_wait_and_stays_set() -> None:
    heard: list[int] = []

    async def listen(signal: Signal, i: int) -> None:
        await signal.wait()
        heard.append(i)

    async with running(has_sockets=False) as reactor:
        signal = Signal(reactor)
        fibers = [reactor.spawn(listen(signal, i), "listener") for i in range(3)]
        await trio.sleep(1)
        assert heard == []
        signal.set()
        await result_of(reactor, wait_for(*fibers))
        await result_of(reactor, listen(signal, 3))
    assert heard == [0, 1, 2, 3]


async def test_whoever_stops_waiting_for_a_signal_is_forgotten() -> None:
    async with running(has_sockets=False) as reactor:
        signal = Signal(reactor)

        async def impatient() -> str:
            reactor.running().arm(1.0, 7)
            with pytest.raises(Expired):
                await signal.wait()
            reactor.spawn(setter(), "setter")
            # The signal's wake must not end this wait early.
            begin = reactor.now
            await reactor.sleep(5)
            assert reactor.now - begin >= 5
            return "done"

        async def setter() -> None:
            signal.set()

        assert await result_of(reactor, impatient(), LONG) == "done"


async def test_a_spurious_wake_ends_no_wait() -> None:
    async with running(has_sockets=False) as reactor:
        signal = Signal(reactor)
        left, right = memory_stream_pair(reactor)
        ended: list[str] = []

        async def wait_for_signal() -> None:
            await signal.wait()
            ended.append("signal")

        async def sleep() -> None:
            await reactor.sleep(10)
            ended.append("sleep")

        async def read() -> None:
            assert await recv_some(left) == b"x"
            ended.append("read")

        fibers = [reactor.spawn(body(), "waits") for body in (wait_for_signal, sleep, read)]
        for _ in range(3):
            await trio.sleep(1)
            for fiber in fibers:
                reactor.wake(fiber)
        assert ended == []
        signal.set()
        right.send(b"x")
        await result_of(reactor, wait_for(*fibers), LONG)
        assert sorted(ended) == ["read", "signal", "sleep"]
        left.close()
        right.close()


# Deadlines


async def test_deadlines_pass_in_order() -> None:
    order: list[float] = []

    async def wait(reactor: Reactor, seconds: float) -> None:
        reactor.running().arm(seconds, 1)
        with pytest.raises(Expired):
            await Signal(reactor).wait()
        order.append(seconds)
        assert seconds <= trio.current_time() - start <= seconds + TICKS_LATE

    async with running(has_sockets=False) as reactor:
        start = trio.current_time()
        fibers = [reactor.spawn(wait(reactor, seconds), "waits") for seconds in (3.0, 0.5, 100.0, 1.0, 2.0, 4000.0)]
        await result_of(reactor, wait_for(*fibers), LONG)
    assert order == [0.5, 1.0, 2.0, 3.0, 100.0, 4000.0]


async def test_a_deadline_tells_its_kind_and_strikes_once() -> None:
    async with running(has_sockets=False) as reactor:
        signal = Signal(reactor)
        kinds: list[int] = []

        async def body() -> None:
            fiber = reactor.running()
            fiber.arm(1.0, 7)
            fiber.arm(2.0, 8)  # in place of the first
            try:
                await signal.wait()
            except Expired as expired:
                kinds.append(expired.kind)
            await signal.wait()

        fiber = reactor.spawn(body(), "body")
        await trio.sleep(100)
        assert kinds == [8]
        signal.set()
        await result_of(reactor, wait_for(fiber))
        assert fiber.error is None


@pytest.mark.parametrize("disarm", ["disarm", "arm(0)"])
async def test_without_a_deadline_it_waits_for_ever(disarm: str) -> None:
    async with running(has_sockets=False) as reactor:
        signal = Signal(reactor)

        async def body() -> None:
            fiber = reactor.running()
            fiber.arm(1.0, 7)
            if disarm == "disarm":
                fiber.disarm()
            else:
                fiber.arm(0, 7)
            await signal.wait()

        fiber = reactor.spawn(body(), "patient")
        await trio.sleep(1000)
        assert fiber.coroutine is not None
        signal.set()
        await result_of(reactor, wait_for(fiber))


async def test_a_deadline_may_be_set_from_outside_while_all_sleep() -> None:
    async with running(has_sockets=False) as reactor:
        ended: list[float] = []

        async def body() -> None:
            with pytest.raises(Expired):
                await Signal(reactor).wait()
            ended.append(trio.current_time())

        fiber = reactor.spawn(body(), "body")
        await trio.sleep(100)
        armed = trio.current_time()
        fiber.arm(5.0, 1)
        await trio.sleep(50)
        assert len(ended) == 1
        assert 5 <= ended[0] - armed <= 5 + TICKS_LATE


async def test_a_sleep_that_is_broken_off_leaves_no_deadline() -> None:
    async with running(has_sockets=False) as reactor:

        async def body() -> None:
            with pytest.raises(HungUp):
                await reactor.sleep(1)
            await Signal(reactor).wait()

        fiber = reactor.spawn(body(), "sleeper")
        await trio.sleep(0.5)
        fiber.interrupt(HungUp())
        await trio.sleep(100)
        assert fiber.coroutine is not None
        fiber.cancel()


# Cancellation


async def test_cancelling_runs_the_cleaning_up() -> None:
    steps: list[str] = []

    async def body(reactor: Reactor) -> None:
        try:
            await reactor.sleep(LONG)
        finally:
            await reactor.yield_turn()  # may still wait
            steps.append("cleaned")

    async with running(has_sockets=False) as reactor:
        fiber = reactor.spawn(body(reactor), "sleeper")
        await trio.sleep(1)
        fiber.cancel()
        assert steps == []  # cancel() steps nobody
        await result_of(reactor, wait_for(fiber))
        assert isinstance(fiber.error, FiberCancelled)
        fiber.cancel()
    assert steps == ["cleaned"]


async def test_one_cancelled_before_its_first_step_still_cleans_up() -> None:
    steps: list[str] = []

    async def body(reactor: Reactor) -> None:
        try:
            steps.append("began")
            await reactor.sleep(LONG)
            steps.append("went on")
        finally:
            steps.append("cleaned")

    async with running(has_sockets=False) as reactor:
        fiber = reactor.spawn(body(reactor), "unlucky")
        fiber.cancel()
        await result_of(reactor, wait_for(fiber))
    assert steps == ["began", "cleaned"]


@pytest.mark.parametrize(("first", "second"), [(FiberCancelled(), HungUp()), (FiberCancelled(), Expired(1)), (HungUp(), FiberCancelled())])
async def test_a_cancellation_is_not_overtaken(first: BaseException, second: BaseException) -> None:
    async with running(has_sockets=False) as reactor:
        fiber = reactor.spawn(reactor.sleep(LONG), "sleeper")
        await trio.sleep(1)
        fiber.interrupt(first)
        fiber.interrupt(second)
        await result_of(reactor, wait_for(fiber))
        assert isinstance(fiber.error, FiberCancelled)


async def test_the_reactors_end_cancels_every_fiber_and_abandons_the_stubborn() -> None:
    ended: list[str] = []

    async def good(reactor: Reactor) -> None:
        try:
            await reactor.sleep(LONG)
        finally:
            ended.append("good")

    async def stubborn(reactor: Reactor) -> None:
        while not reactor.is_over:
            try:
                await PAUSE
            except FiberCancelled:
                ended.append("stubborn")

    async def mad(reactor: Reactor) -> None:
        while True:
            try:
                await reactor.sleep(LONG)
            except FiberCancelled:
                ended.append("mad")
            except GeneratorExit:
                raise ZeroDivisionError from None

    faults: list[tuple[str, BaseException]] = []
    async with running(has_sockets=False, faults=faults, leaves="the reactor's end is what is tested") as reactor:
        for body in (good, stubborn, mad):
            reactor.spawn(body(reactor), body.__name__)
        await trio.sleep(1)
    assert sorted(ended) == ["good", "mad", "stubborn"]
    assert [(name, type(error)) for name, error in faults] == [("mad", ZeroDivisionError)]


# Faults


async def test_one_that_raises_hurts_nobody_else() -> None:
    faults: list[tuple[str, BaseException]] = []

    async def bad() -> None:
        raise ZeroDivisionError

    async with running(has_sockets=False, faults=faults) as reactor:
        good = reactor.spawn(reactor.sleep(5), "good")
        fiber = reactor.spawn(bad(), "bad")
        await result_of(reactor, wait_for(fiber, good), LONG)
        assert good.error is None
        assert isinstance(fiber.error, ZeroDivisionError)
    assert [(name, type(error)) for name, error in faults] == [("bad", ZeroDivisionError)]


async def test_ctrl_c_is_nobodys_fault() -> None:
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async def run() -> None:
        async with running(has_sockets=False, faults=[]) as reactor:
            reactor.spawn(interrupted(), "interrupted")
            await trio.sleep(1)

    with pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert caught.group_contains(KeyboardInterrupt)


async def test_awaiting_trio_itself_is_a_fault_with_a_remedy() -> None:
    faults: list[tuple[str, BaseException]] = []
    async with running(has_sockets=False, faults=faults) as reactor:
        fiber = reactor.spawn(trio.sleep(1), "lost")  # noqa: ASYNC105
        await result_of(reactor, wait_for(fiber))
    ((name, error),) = faults
    assert name == "lost"
    assert "in_trio" in str(error)


# Trio and back


async def shout(word: str) -> str:
    await trio.sleep(1)
    if word == "fail":
        raise ValueError(word)
    return word.upper()


async def test_a_trio_function_gives_its_result_or_its_exception() -> None:
    async with running(has_sockets=False) as reactor:
        assert await result_of(reactor, reactor.in_trio(shout, "hi")) == "HI"
        with pytest.raises(ValueError, match="fail"):
            await result_of(reactor, reactor.in_trio(shout, "fail"))
    with pytest.raises(RuntimeError, match="does not run"):
        await reactor.in_trio(shout, "hi")


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_whoever_leaves_cancels_the_task(how: str) -> None:
    ended: list[float] = []

    async def long() -> None:
        try:
            await trio.sleep(LONG)
        finally:
            ended.append(trio.current_time())

    async def body(reactor: Reactor) -> None:
        if how == "deadline":
            reactor.running().arm(5.0, 1)
        try:
            await reactor.in_trio(long)
        except Expired:
            pass

    async with running(has_sockets=False) as reactor:
        start = trio.current_time()
        fiber = reactor.spawn(body(reactor), "asks")
        await trio.sleep(5)
        if how == "cancel":
            fiber.cancel()
        await result_of(reactor, wait_for(fiber))
        await trio.sleep(1)
        assert len(ended) == 1
        assert 5 <= ended[0] - start <= 5 + TICKS_LATE


async def test_trio_goes_on_while_a_fiber_waits_for_it() -> None:
    async with running(has_sockets=False) as reactor:

        async def ask() -> None:
            assert await reactor.in_trio(shout, "x") == "X"

        fibers = [reactor.spawn(ask(), "asks") for _ in range(100)]
        start = trio.current_time()
        await result_of(reactor, wait_for(*fibers))
        assert trio.current_time() - start == pytest.approx(1)


# Garbage


@pytest.mark.parametrize("end", ["by itself", "cancelled", "raises"])
async def test_an_ended_fiber_is_no_garbage(end: str) -> None:
    """Reference counts alone free it: the collector has nothing to do, however many connections come and go."""

    class Load:
        """What weak references can follow."""

    async def body(reactor: Reactor, load: Load, fiber_of: list[Fiber]) -> None:
        mine = fiber_of[0]
        assert mine is reactor.running()
        await reactor.sleep(1)
        if end == "raises":
            raise ZeroDivisionError

    gc.collect()
    gc.disable()
    try:
        async with running(has_sockets=False, faults=[]) as reactor:
            load = Load()
            fiber_of: list[Fiber] = []
            fiber = reactor.spawn(body(reactor, load, fiber_of), "body")
            fiber_of.append(fiber)
            gone = weakref.ref(load)
            await trio.sleep(0.5)
            if end == "cancelled":
                fiber.cancel()
            await trio.sleep(1)
            assert fiber.coroutine is None
            del fiber, fiber_of, load
            assert gone() is None
    finally:
        gc.enable()


async def wait_for(*fibers: Fiber) -> None:
    for fiber in fibers:
        await fiber.done.wait()
