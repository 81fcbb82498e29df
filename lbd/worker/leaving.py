"""How connections are seen off when their listener goes, or all of the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lbd.proxy.http1 import DRAIN_GRACE, KEEPALIVE
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbd.core.reactor import Reactor
    from lbd.proxy.listening import Listener

__all__ = ["cut_short", "hurry", "wait_empty"]

POLL = 0.05  # seconds between two looks at what is left to drain
LAST_WORDS = 1.0  # for what is cut: a line in the access log, an end that says why


async def hurry(listener: Listener, reactor: Reactor) -> None:
    """Connections between requests get a moment more: a request may be on its way. A fiber, so that the reactor sees the deadlines."""
    for fiber in listener.idle:
        fiber.arm(DRAIN_GRACE, KEEPALIVE)
    for fiber in listener.fibers:
        reactor.wake(fiber)  # what carries many requests looks up, and says that it will take no more


async def wait_empty(listeners: Sequence[Listener], timeout: float) -> None:
    with trio.move_on_after(timeout):
        while any(listener.fibers for listener in listeners):  # noqa: ASYNC110 - only while something drains
            await trio.sleep(POLL)


async def cut_short(listeners: Sequence[Listener], reactor: Reactor) -> int:
    """Ends what is left, with a line in the access log for each exchange; how many connections there were."""
    left = sum(len(listener.fibers) for listener in listeners)
    if left:
        reactor.spawn(_end_connections(listeners), "drain")
        await wait_empty(listeners, LAST_WORDS)
    return left


async def _end_connections(listeners: Sequence[Listener]) -> None:
    """A fiber, so that the reactor sees it."""
    for listener in listeners:
        for fiber in list(listener.fibers):
            if fiber in listener.idle:
                fiber.cancel()
            else:
                fiber.interrupt(failure("drain_timeout"))
