"""How connections are seen off when their listener goes, or all of the worker; and what must not be left behind then."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

import trio

from lbd.proxy.http1 import KEEPALIVE
from lbd.proxy.opening import DRAIN_GRACE, hurry_opening
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lbd.cluster.cluster import Cluster
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.proxy.listening import Listener

__all__ = ["cut_short", "descriptors", "hurry", "leave_nothing", "wait_empty"]

log = logging.getLogger("lbd.worker")

POLL = 0.05  # seconds between two looks at what is left to drain
SHORT_POLL = 0.005
LOGS = 2
HOUSEKEEPING = ("drain", "lag", "pulse")  # fibers that belong to the worker, not to what it serves
LAST_WORDS = 1.0  # for what is cut: a line in the access log, an end that says why


async def hurry(listener: Listener, reactor: Reactor) -> None:
    """Connections between requests get a moment more: a request may be on its way. A fiber, so that the reactor sees the deadlines."""
    for fiber in listener.idle:
        fiber.arm(DRAIN_GRACE, KEEPALIVE)
    hurry_opening(listener)
    for fiber in listener.fibers:
        reactor.wake(fiber)  # what carries many requests looks up, and says that it will take no more


async def wait_empty(listeners: Sequence[Listener], timeout: float) -> None:
    with trio.move_on_after(timeout):
        while any(listener.fibers for listener in listeners):  # noqa: ASYNC110 - only while something drains
            await trio.sleep(POLL)


async def cut_short(listeners: Sequence[Listener], reactor: Reactor) -> int:
    """Ends what is left, with a line in the access log for each exchange; on how many connections something was asked."""
    busy = sum(len(listener.fibers - listener.idle.keys() - listener.opening) for listener in listeners)
    if any(listener.fibers for listener in listeners):
        reactor.spawn(_end_connections(listeners), "drain")
        await wait_empty(listeners, LAST_WORDS)
    return busy


async def _end_connections(listeners: Sequence[Listener]) -> None:
    """A fiber, so that the reactor sees it."""
    for listener in listeners:
        for fiber in list(listener.fibers):
            if fiber in listener.idle:
                fiber.cancel()
            else:
                fiber.interrupt(failure("drain_timeout"))


# What is left over


def descriptors() -> dict[int, str]:
    """Those of this process, and what they lead to; none where /proc does not say."""
    found = {}
    try:
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the directory's own
                found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    except OSError:
        return {}
    return found


async def leave_nothing(reactor: Reactor, clusters: Iterable[Cluster], before: Mapping[int, str]) -> None:
    """When all exchanges are done: closes idle upstream connections too, and complains of every fiber, and of descriptors beyond those
    `before`. They would have stayed for as long as the worker lives: each is a bug."""
    reactor.spawn(_close_pools(clusters), "drain")
    with trio.move_on_after(LAST_WORDS):
        while _left_fibers(reactor) or _left_descriptors(reactor, before):  # noqa: ASYNC110 - for milliseconds, and once
            await trio.sleep(SHORT_POLL)
        return
    if fibers := _left_fibers(reactor):
        log.error("a bug: %d fibers are left over: %s", len(fibers), ", ".join(fiber.name for fiber in fibers[:20]))
    if left := _left_descriptors(reactor, before):
        log.error("a bug: %d descriptors are left over: %s", len(left), ", ".join(left[:20]))


def _left_fibers(reactor: Reactor) -> list[Fiber]:
    return [fiber for fiber in reactor.fibers if fiber.name not in HOUSEKEEPING]


def _left_descriptors(reactor: Reactor, before: Mapping[int, str]) -> list[str]:
    """What they lead to. Pipes are kept for the next body; logs may have been opened anew."""
    if not before:
        return []
    new = [target for fd, target in descriptors().items() if before.get(fd) != target]
    sockets = [target for target in new if target.startswith("socket:")]
    return sockets if sockets or len(new) <= len(reactor.pipes) * 2 + LOGS else new


async def _close_pools(clusters: Iterable[Cluster]) -> None:
    """A fiber, so that the reactor sees it."""
    for cluster in clusters:
        for endpoint in cluster.endpoints:
            endpoint.pool.close_all()
