"""Accepting, when the kernel says no, or when there is no room for more."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.board import Board
from lbd.core.fiber import Signal
from lbd.core.memory import memory_stream_pair
from lbd.proxy.accept import serve_acceptor
from lbd.proxy.room import SHARE, SILENCE, Room, room_of_process
from tests.support.script import Playbook

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from lbd.core.board import Segment
    from lbd.core.fiber import Fiber
    from lbd.core.memory import MemoryStream
    from lbd.core.reactor import Reactor

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Refusing:
    """An acceptor whose accept() fails with one error after another, and closes when there are no more."""

    name = "test"
    port = 80
    is_closed = False

    def __init__(self, reactor: Reactor, errors: list[int]) -> None:
        self.reactor = reactor
        self.errors = errors

    def accept(self) -> None:
        code = self.errors.pop()
        self.is_closed = not self.errors
        raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "seconds", "levels"),
    [(errno.EMFILE, 0.1, {"WARNING"}), (errno.EINVAL, 1.0, {"ERROR"}), (errno.ECONNABORTED, 0.0, set())],
)
async def test_an_error_is_waited_out(code: int, seconds: float, levels: set[str], caplog: pytest.LogCaptureFixture) -> None:
    """Otherwise one that stays, as of a socket that somebody has shut down, would leave nobody else a turn."""
    async with Playbook() as play:
        acceptor = Refusing(play.reactor, [code] * 100)
        began = trio.current_time()
        fiber = play.reactor.spawn(serve_acceptor(acceptor, play.listener), "accept")  # type: ignore[arg-type]
        while fiber.coroutine is not None:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)
        assert 100 * seconds <= trio.current_time() - began <= 100 * seconds * 1.2 + 0.1
        assert {record.levelname for record in caplog.records} == levels


class Queue:
    """An acceptor at which so many wait."""

    name = "test"
    port = 80
    is_closed = False

    def __init__(self, reactor: Reactor, count: int) -> None:
        self.reactor = reactor
        pairs = [memory_stream_pair(reactor, names=(f"192.0.2.{number}", "test"), buffer=1024) for number in range(count)]
        self.downstreams = [ours for ours, _ in pairs]
        self._waiting = [theirs for _, theirs in pairs]

    def accept(self) -> MemoryStream | None:
        return self._waiting.pop(0) if self._waiting else None

    @property
    def readable(self) -> Coroutine[None, None, None]:
        return Signal(self.reactor).wait()


async def test_who_finds_no_room_waits_until_somebody_leaves(caplog: pytest.LogCaptureFixture) -> None:
    async with Playbook() as play:
        listener = play.listener
        listener.room = room = Room(3)  # the playbook's own connection has taken none of it
        queues = [Queue(play.reactor, 3), Queue(play.reactor, 3)]
        fibers = [play.reactor.spawn(serve_acceptor(queue, listener), "accept") for queue in queues]  # type: ignore[arg-type]
        await trio.sleep(0.1)
        assert (room.taken, [len(queue._waiting) for queue in queues]) == (3, [0, 3])
        for stream in queues[0].downstreams[:2]:
            stream.close()
        await trio.sleep(0.1)
        assert (room.taken, len(queues[1]._waiting)) == (3, 1)
        (record,) = caplog.records
        assert record.getMessage() == (
            "listener web cannot accept: 3 connections are here, as many as the limit of open files allows; raise it, "
            "or lower listener.web.limits.connections: who comes waits until somebody leaves"
        )
        for fiber in fibers:
            fiber.cancel()
        for stream in (*queues[0].downstreams, *queues[1].downstreams):
            stream.close()
        await trio.sleep(1)
        assert room.taken == 0
        listener.room = Room()


def test_complaints_are_rare() -> None:
    room = Room(1)
    assert [room.complains(now) for now in (0.0, 1.0, 59.0, 61.0, 62.0)] == [True, False, False, True, False]


def test_a_share_of_the_limit_is_for_those_who_come() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert room_of_process().limit == int(soft * SHARE)


# One socket for all workers


class SharedQueue(Queue):
    """Who has taken how many of those who wait is the other worker's business, too."""

    name = "unix:/run/lbd.sock"
    may_read = True

    def leave(self, count: int) -> None:
        """The other worker takes all but so many."""
        self._waiting = self._waiting[-count:] if count else []


def two_workers(here: int, there: int) -> tuple[Room, Segment]:
    """Of which the first has so many connections, and the other one so many."""
    board = Board.create(2, cells=256, endpoints=8)
    room = Room(board=board)
    for _ in range(here):
        room.enter()
    other = board.segment(1)
    other.hold(there)
    board.close()
    return room, other


@pytest.mark.parametrize(
    ("here", "there", "is_over"),
    [
        (0, 0, False),
        (4, 0, False),
        (9, 0, False),
        (10, 0, True),
        (100, 100, False),
        (114, 100, False),
        (137, 100, False),
        (140, 100, True),
        (5, 1000, False),
    ],
)
async def test_who_has_more_than_its_share_is_so_by_more_than_chance(here: int, there: int, is_over: bool) -> None:
    room, _ = two_workers(here, there)
    assert room.has_more_than_its_share == is_over
    assert room.elsewhere == there


async def test_who_comes_by_a_shared_socket_is_left_to_workers_with_fewer_for_a_moment() -> None:
    async with Playbook() as play:
        play.listener.room, other = two_workers(100, 0)
        queue = SharedQueue(play.reactor, 12)
        began = trio.current_time()
        fiber = play.reactor.spawn(serve_acceptor(queue, play.listener), "accept")  # type: ignore[arg-type]
        await trio.sleep(0.001)
        queue.leave(8)  # the other worker takes four
        other.hold(4)
        await trio.sleep(0.002)
        assert play.listener.room.taken == 100  # and gets as long again
        await trio.sleep(0.002)
        assert play.listener.room.taken == 104  # it took no more, so nobody waits for it any longer
        await trio.sleep(0.05)
        assert play.listener.room.taken == 108
        assert trio.current_time() - began < 0.06
        await close_all(play, queue, fiber)


@pytest.mark.parametrize(("name", "here"), [("unix:/run/lbd.sock", 100), ("fd:3", 100), ("127.0.0.1:80", 200), ("unix:/run/lbd.sock", 8)])
async def test_whoever_has_no_more_than_its_share_or_a_socket_of_its_own_takes_all_at_once(name: str, here: int) -> None:
    async with Playbook() as play:
        play.listener.room, _ = two_workers(here, 100)
        queue = SharedQueue(play.reactor, 4)
        queue.name = name
        fiber = play.reactor.spawn(serve_acceptor(queue, play.listener), "accept")  # type: ignore[arg-type]
        await trio.sleep(0.001)
        assert play.listener.room.taken == here + 4
        await close_all(play, queue, fiber)


async def test_nobody_waits_for_a_worker_that_gives_no_signs_of_life() -> None:
    room, other = two_workers(100, 0)
    for _ in range(SILENCE - 1):
        room.look()
        assert room.has_more_than_its_share
    room.look()
    assert not room.has_more_than_its_share
    other.beat()
    room.look()
    assert room.has_more_than_its_share


async def close_all(play: Playbook, queue: Queue, fiber: Fiber) -> None:
    fiber.cancel()
    for stream in queue.downstreams:
        stream.close()
    await trio.sleep(1)
    play.listener.room = Room()
