"""The reactor that tests run in complains about what they leave behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.core.reactors import running

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor

LONG = 1000.0


async def end_soon(reactor: Reactor) -> None:
    for _ in range(10):
        await reactor.yield_turn()


@pytest.mark.parametrize("has_sockets", [False, True])
async def test_a_fiber_that_goes_on_fails_the_test(has_sockets: bool) -> None:
    with pytest.raises(AssertionError, match=r"left running: \['sleeper'\]"):
        async with running(has_sockets=has_sockets) as reactor:
            reactor.spawn(reactor.sleep(LONG), "sleeper")


@pytest.mark.parametrize("has_sockets", [False, True])
async def test_one_that_is_about_to_end_does_not(has_sockets: bool) -> None:
    async with running(has_sockets=has_sockets) as reactor:
        reactor.spawn(end_soon(reactor), "ending")


async def test_what_is_left_on_purpose_must_be_left() -> None:
    async with running(leaves="to see whether it may") as reactor:
        reactor.spawn(reactor.sleep(LONG), "sleeper")
    with pytest.raises(AssertionError, match="nothing was left running"):
        async with running(leaves="to see whether it may"):
            pass
