"""Making room: who comes is worth more than who has been idle for longest.

A client may keep its connections between requests for as long as `timeouts.keepalive`, and somebody who means harm keeps as many as it
can get. Were those who come turned away then, the hoarder would have what it wants. So where there is no room, the connection that has
been idle for longest ends (nginx does the same with its `worker_connections`). Where none is idle, the one ends that has owed the rest
of a request's head for longest, if it has had half of `timeouts.head` for it: slowloris fills a table as well as silence does. Only where
there is none of these either, somebody is refused, or waits.

An idle connection of HTTP/1 loses nothing by its end. One of HTTP/2 is told (GOAWAY), so that a request on its way is not in doubt; it is
gone a moment later, and counts as gone already.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lbd.core.timers import SOON
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.proxy.listening import Listener
    from lbd.proxy.room import Room

__all__ = ["make_room", "make_room_anywhere"]

SHARE = 0.5  # of timeouts.head, which each has
IDLE = 1  # the kind of deadline that http1.py and http2.py have for a connection between requests

log = logging.getLogger("lbd.proxy")


def make_room(listener: Listener, now: float) -> bool:
    """Ends the connection of this listener that is worth least; False: each is at work."""
    idle, heads = listener.idle, listener.heads
    if idle:
        fiber, is_shared = next(iter(idle.items()))
        del idle[fiber]
        if is_shared and fiber not in listener.leaving:
            fiber.arm(SOON, IDLE)
        else:
            fiber.cancel()
    elif heads:
        fiber, since = next(iter(heads.items()))
        if now - since < listener.head_timeout * SHARE:
            return False
        del heads[fiber]
        fiber.interrupt(failure("head_displaced"))
    else:
        return False
    listener.evicted(fiber)
    if count := listener.complaints.count("evicted", now):
        log.warning(
            "listener %s has no room for more connections (%d are here): those that are idle, or owe a request's head, are closed, %d "
            "since it was last said; raise listener.%s.limits.connections or the limit of open files, or lower its timeouts.keepalive",
            listener.policy.name, len(listener.fibers), count, listener.policy.name,
        )  # fmt: skip
    return True


def make_room_anywhere(room: Room, now: float) -> bool:
    """Likewise, of all listeners in the process: the one that has most of them gives one up."""
    listener = max(room.listeners, key=count_dispensable, default=None)
    return listener is not None and make_room(listener, now)


def count_dispensable(listener: Listener) -> tuple[int, int]:
    return len(listener.idle), len(listener.heads)
