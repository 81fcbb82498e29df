"""One suite for every kind of stream: what the kernel's sockets do, the ones in memory do too."""

from __future__ import annotations

import errno
import gc
import weakref
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.fiber import Expired, HungUp, Signal
from lbd.core.syscalls import MOST_PARTS
from tests.core.reactors import KINDS, pair_of, recv_all, recv_some, result_of, running

if TYPE_CHECKING:
    from lbd.core.stream import Stream

pytestmark = pytest.mark.parametrize("kind", KINDS)


async def test_bytes_arrive_in_order_and_nothing_is_there_before(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            assert left.recv(100) is None
            assert right.send(b"one") == 3
            assert right.send(b"two") == 3
            got = b""
            while len(got) < 6:
                got += await recv_some(left)
            assert got == b"onetwo"
            assert left.recv(100) is None

        await result_of(reactor, body())
        left.close()
        right.close()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
async def test_what_the_limit_leaves_is_still_there(kind: str, size: int) -> None:
    """At exactly the limit, too: nobody will announce the rest again."""
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> list[bytes]:
            right.send(b"x" * 12)
            right.send_eof()
            got = []
            while data := await recv_some(left, size):
                got.append(data)
            return got

        assert await result_of(reactor, body()) == [b"x" * size] * (12 // size)
        left.close()
        right.close()


@pytest.mark.parametrize("how", ["send", "send_gathered", "send_all"])
async def test_a_slow_reader_makes_the_sender_wait(kind: str, how: str) -> None:
    size = 3_000_000
    data = bytes(range(251)) * (size // 251)

    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        waits = 0

        async def sender() -> None:
            nonlocal waits
            if how == "send_all":
                await left.send_all(data)
            rest = memoryview(b"" if how == "send_all" else data)
            while rest:
                sent = left.send(rest) if how == "send" else left.send_gathered([bytes(rest[:1000]), bytes(rest[1000:100_000])])
                rest = rest[sent:]
                if not sent:
                    waits += 1
                    await left.writable
            left.send_eof()

        async def body() -> bytes:
            fiber = reactor.spawn(sender(), "sender")
            for _ in range(10):  # the buffers fill, and stay full
                await reactor.yield_turn()
            assert fiber.coroutine is not None
            got = await recv_all(right)
            assert fiber.coroutine is None
            return got

        assert await result_of(reactor, body()) == data
        assert waits or how == "send_all"
        left.close()
        right.close()


async def test_what_the_other_side_has_not_taken_is_known(kind: str) -> None:
    """For a slow reader: its socket becomes writable again long after it has begun to read."""
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            assert left.untaken() == 0
            while left.send(b"x" * 100_000):
                pass
            full = left.untaken()
            assert full > 0
            taken = b"x"
            while left.untaken() == full:
                taken = await recv_some(right, 1000)
                await reactor.yield_turn()
            assert taken
            assert left.untaken() < full

        await result_of(reactor, body())
        left.close()
        right.close()


@pytest.mark.parametrize("count", [1, 2, MOST_PARTS, MOST_PARTS + 1, 100])
async def test_gathered_pieces_arrive_as_one(kind: str, count: int) -> None:
    """More pieces than one call takes are not sent, which the result tells."""
    parts = [bytes([65 + i % 26]) * (i + 1) for i in range(count)]
    whole = b"".join(parts)

    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> bytes:
            sent = left.send_gathered(parts)
            assert sent in (len(whole), len(b"".join(parts[:MOST_PARTS])))
            await left.send_all(whole[sent:])
            left.send_eof()
            return await recv_all(right)

        assert await result_of(reactor, body()) == whole
        left.close()
        right.close()


async def test_half_close(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            left.send(b"question")
            left.send_eof()
            left.send_eof()
            assert await recv_all(right) == b"question"
            assert right.hung_up
            assert right.recv(100) == b""  # and again
            right.send(b"answer")
            assert await recv_some(left) == b"answer"
            assert not left.hung_up
            with pytest.raises(BrokenPipeError):
                left.send(b"more")
            right.close()
            assert await recv_some(left) == b""

        await result_of(reactor, body())
        left.close()


async def test_the_end_is_heard_by_whoever_waits(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        fiber = reactor.spawn(recv_some(left), "reader")  # type: ignore[arg-type]

        async def body() -> None:
            await reactor.yield_turn()
            right.close()
            await fiber.done.wait()

        await result_of(reactor, body())
        left.close()


async def test_a_reset_is_an_error_on_the_other_side(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            if kind == "unix":
                left.send(b"unread")  # a unix socket resets when it is closed with bytes unread
                right.close()
            else:
                right.reset()
                right.reset()
            with pytest.raises(ConnectionResetError):
                await recv_for_ever(left)
            assert left.hung_up
            assert left.broken
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                left.send(b"x")

        await result_of(reactor, body())
        left.close()
        right.close()


async def test_closing_with_bytes_unread_resets(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            left.send(b"unread")
            await reactor.yield_turn()
            right.close()
            if kind.startswith("tls"):  # what the other side has sent is whole; that it was not read is another matter
                assert await recv_some(left) == b""
                assert left.ended_whole()
                return
            with pytest.raises(ConnectionResetError):
                await recv_some(left)

        await result_of(reactor, body())
        left.close()


async def test_sending_to_one_who_has_gone_fails_in_the_end(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            right.close()
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                await send_for_ever(left)

        await result_of(reactor, body())
        left.close()


async def test_one_who_waits_to_send_hears_of_the_reset(kind: str) -> None:
    async with running(faults=[]) as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            fiber = reactor.spawn(left.send_all(b"x" * 10_000_000), "sender")
            for _ in range(5):
                await reactor.yield_turn()
            assert left.may_write is False
            right.close()
            await fiber.done.wait()
            assert isinstance(fiber.error, (BrokenPipeError, ConnectionResetError))

        await result_of(reactor, body())
        left.close()


# Freshness: may a kept connection be used again?


@pytest.mark.parametrize("event", ["nothing", "bytes", "end", "close"])
async def test_a_silent_open_connection_is_fresh(kind: str, event: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> tuple[bool, bool, bool]:
            assert left.recv(100) is None  # everything was read
            assert left.is_fresh()
            assert left.is_fresh_now()
            if event == "bytes":
                right.send(b"unasked for")
            elif event == "end":
                right.send_eof()
            elif event == "close":
                right.close()
            if event == "close":
                await reactor.yield_turn()  # descriptors are closed between two polls
            now = left.is_fresh_now()
            for _ in range(3):
                await reactor.yield_turn()
            return now, left.is_fresh(), left.is_fresh_now()

        assert await result_of(reactor, body()) == ((event == "nothing"),) * 3
        left.close()
        assert not left.is_fresh()
        assert not left.is_fresh_now()
        right.close()


async def test_a_short_answer_leaves_it_fresh(kind: str) -> None:
    """Without the call that would say "nothing more": that is what makes a kept connection cheap."""
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> bool:
            right.send(b"answer")
            assert await recv_some(left) == b"answer"
            return left.is_fresh() and left.is_fresh_now()

        assert await result_of(reactor, body())
        left.close()
        right.close()


# Guards


@pytest.mark.parametrize("event", ["end", "close"])
async def test_a_guard_hears_of_a_hang_up(kind: str, event: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def guard() -> None:
            left.guard = reactor.running()
            with pytest.raises(HungUp):
                await Signal(reactor).wait()
            assert left.guard is None
            assert left.hung_up

        async def body() -> None:
            fiber = reactor.spawn(guard(), "guard")
            await reactor.yield_turn()
            if event == "end":
                right.send_eof()
            else:
                right.close()
            await fiber.done.wait()

        await result_of(reactor, body())
        left.close()
        right.close()


async def test_bytes_do_not_disturb_a_guard(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        signal = Signal(reactor)

        async def guard() -> str:
            left.guard = reactor.running()
            await signal.wait()
            left.guard = None
            return "undisturbed"

        async def body() -> None:
            right.send(b"more of the request")
            for _ in range(5):
                await reactor.yield_turn()
            signal.set()

        reactor.spawn(body(), "body")
        assert await result_of(reactor, guard()) == "undisturbed"
        left.close()
        right.close()


async def test_reader_and_guard_may_be_the_same(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            left.guard = reactor.running()
            right.close()
            with pytest.raises(HungUp):
                await recv_some(left)
            assert await recv_some(left) == b""

        await result_of(reactor, body())
        left.close()


# Closing


async def test_a_closed_stream_is_of_no_use(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        left.close()
        left.close()
        left.reset()
        left.send_eof()
        assert left.is_closed
        for use in (lambda: left.recv(10), lambda: left.send(b"x"), lambda: left.send_gathered([b"x"])):
            left.may_read = left.may_write = True
            with pytest.raises(OSError) as caught:
                use()
            assert caught.value.errno == errno.EBADF
        right.close()


async def test_two_fibers_may_wait_for_the_two_directions(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        data = b"x" * 5_000_000

        async def body() -> None:
            sender = reactor.spawn(left.send_all(data), "sender")
            reader = reactor.spawn(expect(left, b"pong"), "reader")
            await reactor.yield_turn()
            right.send(b"pong")
            await reader.done.wait()
            assert sender.coroutine is not None
            got = 0
            while got < len(data):
                got += len(await recv_some(right))
            await sender.done.wait()

        await result_of(reactor, body())
        left.close()
        right.close()


async def test_a_deadline_ends_a_wait_and_the_stream_goes_on(kind: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)

        async def body() -> None:
            reactor.running().arm(0.02, 3)
            with pytest.raises(Expired):
                await recv_some(left)
            right.send(b"late")
            assert await recv_some(left) == b"late"

        await result_of(reactor, body())
        left.close()
        right.close()


async def test_a_closed_stream_is_no_garbage(kind: str) -> None:
    class Load:
        """What weak references can follow."""

    async def serve(stream: Stream, load: Load) -> None:
        try:
            await recv_all(stream)
        finally:
            stream.close()

    gc.collect()
    gc.disable()
    try:
        async with running() as reactor:
            left, right = pair_of(kind, reactor)
            load = Load()
            gone = weakref.ref(load)
            done = reactor.spawn(serve(left, load), "serve").done
            del left, load

            async def body() -> None:
                await reactor.yield_turn()
                right.send(b"x")
                await reactor.yield_turn()
                right.close()
                await done.wait()

            await result_of(reactor, body())
            await trio.lowlevel.checkpoint()
            assert gone() is None
    finally:
        gc.enable()


async def recv_for_ever(stream: Stream) -> None:
    while True:
        await recv_some(stream)


async def send_for_ever(stream: Stream) -> None:
    while True:
        await stream.send_all(b"x" * 10_000)
        await stream.reactor.yield_turn()


async def expect(stream: Stream, data: bytes) -> None:
    assert await recv_some(stream) == data
