"""One connection does not take the worker for itself, whatever it sends."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.proxy.listener import ListenerLimits, ListenerPolicy
from lbd.routing.route import RespondPolicy, RoutePolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from trio.testing import MockClock

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
MEBIBYTE = 1 << 20


class Crowd(Playbook):
    """Answers by itself. `room` is what lbd had read of the first connection when it answered to the second."""

    def __init__(self) -> None:
        super().__init__(routes=[RoutePolicy(name="fixed", respond=RespondPolicy(200, "x"))], buffer=MEBIBYTE, checks_bytes=False)
        self.room = 0

    def write(self, exchange: object) -> None:
        super().write(exchange)
        if exchange.client == "192.0.2.2":  # type: ignore[attr-defined]
            self.room = self.downstream.stream.send(bytes(MEBIBYTE))


async def test_pipelined_requests_without_end_let_others_through() -> None:
    async with Crowd() as play:
        other = play.connect("192.0.2.2")
        play.downstream >> GET * 1000
        other >> GET
        await other.read_until(b"\r\n\r\nx")
        clients = [line.client for line in play.lines]  # type: ignore[attr-defined]
        assert clients.index("192.0.2.2") <= 16


async def test_bytes_without_end_after_the_last_answer_let_others_through() -> None:
    async with Crowd() as play:
        other = play.connect("192.0.2.2")
        play.downstream >> b"NONSENSE\r\n\r\n".ljust(MEBIBYTE, b"x")
        other >> GET
        await other.read_until(b"\r\n\r\nx")
        assert 0 < play.room <= MEBIBYTE // 2
        await trio.sleep(3)  # more than it is listened to
        with pytest.raises(ConnectionError):
            play.downstream.stream.send(b"x")


@pytest.mark.parametrize("is_upload", [False, True])
async def test_reads_that_take_long_let_others_through(is_upload: bool, autojump_clock: MockClock) -> None:
    """A window of tiny chunks is milliseconds of work."""
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(window=4096))
    async with Playbook(listener=policy, buffer=MEBIBYTE, checks_bytes=False) as play:
        play.downstream >> (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" if is_upload else GET)
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        source, sink = (play.downstream, up) if is_upload else (up, play.downstream)
        source >> (b"" if is_upload else b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") + b"ffff\r\n"
        await trio.sleep(0.1)
        took = [len(sink.stream.inbox)]

        def slow_clock() -> float:
            autojump_clock.jump(0.001)
            return trio.current_time()

        async def watch() -> None:
            source >> b"x" * 0xFFFF
            while took[-1] < 0xFFFF:
                await play.reactor.yield_turn()
                took.append(len(sink.stream.inbox))

        play.reactor.clock = slow_clock
        fiber = play.reactor.spawn(watch(), "watch")
        while fiber.coroutine is not None:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)
        assert max(after - before for before, after in pairwise(took)) < 2 * 4096
