"""How many connections one process takes.

A connection that is served takes two descriptors, one on each side. Were all of them given to those who come, nobody could be served:
every connection upstream would fail, and the upstreams would be blamed. So those who come get a share of what the limit on open files
allows, over all listeners of the process; the others wait in the kernel's queue until somebody leaves. HAProxy reckons with half (its
maxconn); three fifths is more for keep-alive connections that do nothing.

`may_accept` is for who watches the process: while it is false nobody comes in, however much room there is.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, Signal

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor
    from lbd.proxy.listening import Listener

__all__ = ["Room", "room_of_process"]

SHARE = 0.6
COMPLAINT_SECONDS = 60.0  # between two complaints
WAIT = 60  # a kind of deadline


class Room:
    """`taken` connections of all `listeners`, of at most `limit`; `leaving` of them have been told to end."""

    __slots__ = ("_leaving", "_next_complaint", "leaving", "limit", "listeners", "may_accept", "taken")

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self.taken = 0
        self.leaving = 0
        self.listeners: list[Listener] = []
        self.may_accept = True  # false while there is no memory for more
        self._leaving: Signal | None = None  # what those who wait for room wait for
        self._next_complaint = float("-inf")

    @property
    def is_full(self) -> bool:
        return self.taken >= self.limit or not self.may_accept

    @property
    def is_short(self) -> bool:
        """Whether it stays full when those have gone who are leaving."""
        return self.taken - self.leaving >= self.limit

    def enter(self) -> None:
        self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        if self._leaving is not None:
            self._leaving.set()
            self._leaving = None

    async def wait(self, reactor: Reactor, seconds: float) -> None:
        """Until somebody has left, or for so long."""
        if self._leaving is None:
            self._leaving = Signal(reactor)
        fiber = reactor.running()
        fiber.arm(seconds, WAIT)
        try:
            await self._leaving.wait()
        except Expired:
            pass
        fiber.disarm()

    def complains(self, now: float) -> bool:
        """Whether it is time to say that there is none: a state that stays needs no line for each who waits."""
        if now < self._next_complaint:
            return False
        self._next_complaint = now + COMPLAINT_SECONDS
        return True


def room_of_process() -> Room:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room() if soft == resource.RLIM_INFINITY else Room(max(1, int(soft * SHARE)))
