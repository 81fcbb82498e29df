"""What a worker complains of when all is over. On virtual time."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.fiber import Fiber, Signal
from lbd.core.reactor import Reactor
from lbd.worker.leaving import LAST_WORDS, descriptors, leave_nothing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.usefixtures("autojump_clock", "no_leaked_fds")


def unexpected(fiber: Fiber, error: BaseException) -> None:
    raise AssertionError(fiber) from error


@asynccontextmanager
async def running() -> AsyncIterator[Reactor]:
    logging.getLogger("lbd").propagate = True
    reactor = Reactor(on_fault=unexpected, has_sockets=False)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        yield reactor
        nursery.cancel_scope.cancel()


async def waits(signal: Signal) -> None:
    await signal.wait()


async def test_nothing_left_takes_no_time(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as reactor:
        reactor.spawn(waits(Signal(reactor)), "pulse")
        start = trio.current_time()
        await leave_nothing(reactor, [], {})
        assert trio.current_time() - start < 0.1
    assert caplog.text == ""


async def test_a_fiber_that_ends_soon_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as reactor:
        signal = Signal(reactor)
        reactor.spawn(waits(signal), "upstream 10.0.0.1:80")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leave_nothing, reactor, [], {})
            await trio.sleep(LAST_WORDS / 2)
            signal.set()
    assert caplog.text == ""


async def test_a_fiber_that_stays_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as reactor:
        reactor.spawn(waits(Signal(reactor)), "10.0.0.9:4711")
        await leave_nothing(reactor, [], {})
    assert "a bug: 1 fibers are left over: 10.0.0.9:4711" in caplog.text


async def test_a_descriptor_that_stays_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    fds = [os.memfd_create("left") for _ in range(3)]  # two might be logs that were opened anew
    async with running() as reactor:
        await leave_nothing(reactor, [], before)
    assert "a bug: 3 descriptors are left over: /memfd:left" in caplog.text
    for fd in fds:
        os.close(fd)


async def test_a_socket_that_stays_is_a_bug(caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    async with running() as reactor:
        with socket.socket():  # noqa: TID251 - the worker has lost it
            await leave_nothing(reactor, [], before)
    assert "a bug: 1 descriptors are left over: socket:[" in caplog.text


async def test_pipes_are_kept_for_the_next_body(caplog: pytest.LogCaptureFixture) -> None:
    before = descriptors()
    async with running() as reactor:
        pipe = reactor.pipes.take()
        assert pipe is not None
        reactor.pipes.give(pipe, is_empty=True)
        await leave_nothing(reactor, [], before)
    assert caplog.text == ""
