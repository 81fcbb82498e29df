"""The reactor with real sockets: fairness, descriptors, and sleep that is sleep."""

from __future__ import annotations

import gc
import os
import socket
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.fiber import Signal
from lbd.core.reactor import Pollable, Reactor
from lbd.core.stream import Stream
from tests.core.reactors import pair_of, recv_all, recv_some, result_of, running

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber


# Fairness


async def test_a_busy_connection_starves_nobody() -> None:
    """Counted in steps: while one connection floods us, each of the quiet ones is answered before the flood's next few steps."""
    async with running() as reactor:
        flood, floods = pair_of("unix", reactor)
        quiet = [pair_of("unix", reactor) for _ in range(50)]
        steps = 0
        stopped = False

        async def pump() -> None:
            while not stopped:
                while not floods.send(b"x" * 65536):
                    await floods.writable
                await reactor.yield_turn()

        async def swallow() -> None:
            nonlocal steps
            while not stopped:
                await recv_some(flood)
                steps += 1
                if steps % 4 == 0:
                    await reactor.yield_turn()

        async def echo(stream: Stream) -> None:
            while data := await recv_some(stream):
                stream.send(data)

        async def ask(stream: Stream) -> int:
            longest = 0
            for _ in range(20):
                asked = steps
                stream.send(b"?")
                assert await recv_some(stream) == b"?"
                longest = max(longest, steps - asked)
            return longest

        async def body() -> None:
            nonlocal stopped
            others = [reactor.spawn(pump(), "pump"), reactor.spawn(swallow(), "swallow")]
            others += [reactor.spawn(echo(left), "echo") for left, _ in quiet]
            askers = [reactor.spawn(note(longest, ask(right)), "ask") for _, right in quiet]
            for fiber in askers:
                await fiber.done.wait()
            stopped = True
            for fiber in others:
                fiber.cancel()

        longest: list[int] = []
        await result_of(reactor, body())
        assert steps >= 20  # the flood went on
        assert max(longest) <= 16
        for pair in [*quiet, (flood, floods)]:
            for stream in pair:
                stream.close()


async def note(into: list[int], coroutine: object) -> None:
    into.append(await coroutine)  # type: ignore[misc]


async def test_trio_goes_on_while_events_trickle_in() -> None:
    """Each of them comes before the reactor has given up waiting for it, so it is never idle."""
    async with running() as reactor:
        left, right = pair_of("unix", reactor)
        turns = 0

        async def trickle() -> None:
            for _ in range(400):
                right.send(b"x")
                await recv_some(left)
                await Pause(reactor, left, right).wait()

        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_turns)
            await result_of(reactor, trickle())
            nursery.cancel_scope.cancel()
        assert turns >= 3
        left.close()
        right.close()


class Pause:
    """A round trip over a socket: an event for the next poll."""

    def __init__(self, reactor: Reactor, left: Stream, right: Stream) -> None:
        self._reactor = reactor
        self._left = left
        self._right = right

    async def wait(self) -> None:
        self._left.send(b"y")
        assert await recv_some(self._right) == b"y"


async def test_more_events_than_one_poll_brings() -> None:
    async with running() as reactor:
        pairs = [pair_of("unix", reactor) for _ in range(200)]
        got: list[bytes] = []

        async def read(stream: Stream) -> None:
            got.append(await recv_some(stream))

        async def body() -> None:
            fibers = [reactor.spawn(read(left), "read") for left, _ in pairs]
            await reactor.yield_turn()
            for _, right in pairs:
                right.send(b"x")
            for fiber in fibers:
                await fiber.done.wait()

        await result_of(reactor, body())
        assert got == [b"x"] * 200
        for pair in pairs:
            for stream in pair:
                stream.close()


# Descriptors


async def test_a_number_that_is_used_again_gets_none_of_the_old_events() -> None:
    """A connection is closed by a fiber of the batch in which its own event waits; a new one must not be taken for it."""
    async with running() as reactor:
        first, first_end = pair_of("unix", reactor)
        second, second_end = pair_of("unix", reactor)
        number = second.fd
        fresh: list[Stream] = []

        async def closer() -> None:
            await recv_some(first)
            second.close()
            ours, theirs = socket.socketpair()
            assert number not in (ours.fileno(), theirs.fileno())
            ours.setblocking(False)
            fresh.append(Stream(reactor, ours.detach(), "fresh"))
            fresh[0].may_read = False
            for _ in range(5):
                await reactor.yield_turn()
            assert not fresh[0].may_read
            theirs.close()
            for _ in range(5):
                await reactor.yield_turn()
            assert fresh[0].hung_up

        async def body() -> None:
            fiber = reactor.spawn(closer(), "closer")
            await reactor.yield_turn()
            first_end.send(b"x")  # both events come with the same poll
            second_end.send(b"x")
            await fiber.done.wait()

        await result_of(reactor, body())
        for stream in (first, first_end, second_end, *fresh):
            stream.close()


async def test_closing_another_ones_stream_within_a_batch() -> None:
    """Whichever of the two is stepped first closes both; the other's event finds nobody."""
    async with running(leaves="whoever waits for a stream that another one closes is not woken") as reactor:
        left, left_end = pair_of("unix", reactor)
        right, right_end = pair_of("unix", reactor)
        steps: list[str] = []

        async def close_both(stream: Stream, name: str) -> None:
            await recv_some(stream)
            steps.append(name)
            left.close()
            right.close()

        async def body() -> None:
            reactor.spawn(close_both(left, "left"), "left")
            reactor.spawn(close_both(right, "right"), "right")
            await reactor.yield_turn()
            left_end.send(b"x")
            right_end.send(b"x")
            for _ in range(5):
                await reactor.yield_turn()

        await result_of(reactor, body())
        assert len(steps) == 1
        left_end.close()
        right_end.close()


async def test_a_descriptor_that_cannot_be_watched_is_closed() -> None:
    async with running() as reactor:
        with open("/dev/null", "rb") as file:  # noqa: ASYNC230  # epoll refuses regular files and their like
            fd = os.dup(file.fileno())
        with pytest.raises(PermissionError):
            Stream(reactor, fd, "file")
        with pytest.raises(OSError):
            os.fstat(fd)


async def test_what_it_watches_is_closed_with_it() -> None:
    async with running() as reactor:
        left, right = pair_of("unix", reactor)
    assert left.is_closed
    assert right.is_closed
    left.close()
    with pytest.raises(OSError):
        left.send(b"x")


async def test_a_descriptor_closed_behind_its_back_costs_nobody_anything() -> None:
    async with running() as reactor:
        left, right = pair_of("unix", reactor)
        os.close(left.fd)
        left.close()
        assert await result_of(reactor, recv_all(right)) == b""
        right.close()


async def test_an_idle_connection_takes_little_memory() -> None:
    """Stream, fiber, coroutines and deadline; what a proxy adds is its own."""
    count = 1000
    async with running() as reactor:
        ends = [socket.socketpair() for _ in range(count)]
        for ours, _ in ends:
            ours.setblocking(False)
        numbers = [ours.detach() for ours, _ in ends]
        await trio.lowlevel.checkpoint()
        gc.collect()
        objects = len(gc.get_objects())
        tracemalloc.start()
        for number in numbers:
            stream = Stream(reactor, number, "127.0.0.1")
            reactor.spawn(serve_idle(reactor, stream), "127.0.0.1")
        await trio.testing.wait_all_tasks_blocked(0.01)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        each, looked_at = size / count, (len(gc.get_objects()) - objects) / count
        print(f"an idle connection: {each:.0f} bytes, {looked_at:.1f} objects for the collector")
        assert each < 2560
        assert looked_at < 10
        for _, theirs in ends:
            theirs.close()


# Sleep


async def test_idle_it_never_wakes() -> None:
    """No turn at all while nothing happens, whatever connections, far deadlines and cancelled ones there are."""
    turns = 0

    def clock() -> float:
        nonlocal turns
        turns += 1
        return trio.current_time()

    reactor = Reactor(clock, on_fault=fail)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        pairs = [pair_of("unix", reactor) for _ in range(20)]
        for left, _ in pairs:
            reactor.spawn(serve_idle(reactor, left), "idle")
        before = -1
        while turns != before:  # settling: an armed deadline that was disarmed still costs one look
            before = turns
            await trio.testing.wait_all_tasks_blocked(0.05)
        await trio.sleep(0.1)
        assert turns == before
        pairs[0][1].send(b"x")  # and it is not dead
        await trio.sleep(0.05)
        assert turns > before
        nursery.cancel_scope.cancel()


def fail(fiber: Fiber, error: BaseException) -> None:
    raise AssertionError(fiber) from error


async def serve_idle(reactor: Reactor, stream: Stream) -> None:
    fiber = reactor.running()
    fiber.arm(0.02, 1)
    fiber.disarm()
    fiber.arm(60.0, 1)
    await recv_all(stream)


@pytest.mark.parametrize("how", ["wake", "signal", "spawn", "close", "interrupt"])
async def test_what_trio_tasks_do_wakes_it(how: str) -> None:
    """The reactor sleeps in trio while somebody outside has something for it."""
    async with running() as reactor:
        left, right = pair_of("unix", reactor)
        signal = Signal(reactor)
        ended = trio.Event()

        async def body() -> None:
            try:
                if how == "close":
                    await recv_all(right)
                else:
                    await signal.wait()
            finally:
                ended.set()

        fiber = reactor.spawn(body(), "body") if how != "spawn" else None
        await trio.testing.wait_all_tasks_blocked(0.01)
        if how == "wake":
            signal.is_set = True
            reactor.wake(fiber or reactor.running())
        elif how == "signal":
            signal.set()
        elif how == "spawn":
            signal.set()
            reactor.spawn(body(), "body")
        elif how == "close":
            left.close()
        elif fiber is not None:
            fiber.cancel()
        with trio.fail_after(5):
            await ended.wait()
        left.close()
        right.close()


async def test_each_turn_is_told_how_long_it_took() -> None:
    lags: list[float] = []
    async with running(on_turn=lags.append) as reactor:
        await result_of(reactor, reactor.sleep(0.02))
    assert lags
    assert all(lag > 0 for lag in lags)


async def test_without_sockets_none_can_be_watched() -> None:
    async with running(has_sockets=False) as reactor:
        left, right = socket.socketpair()
        with pytest.raises(AssertionError):
            reactor.watch(Pollable(reactor, left.fileno()))
        left.close()
        right.close()
