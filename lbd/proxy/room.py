"""How many connections one process takes.

A connection that is served takes two descriptors, one on each side. Were all of them given to those who come, nobody could be served:
every connection upstream would fail, and the upstreams would be blamed. So those who come get a share of what the limit on open files
allows, over all listeners of the process; the others wait in the kernel's queue until somebody leaves. HAProxy reckons with half (its
maxconn); three fifths is more for keep-alive connections that do nothing.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

from lbd.core.fiber import Signal

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor

__all__ = ["Room", "room_of_process"]

SHARE = 0.6
COMPLAINT_SECONDS = 60.0  # between two complaints


class Room:
    """`taken` connections of all listeners, of at most `limit`."""

    __slots__ = ("_leaving", "_next_complaint", "limit", "taken")

    def __init__(self, limit: int = sys.maxsize) -> None:
        self.limit = limit
        self.taken = 0
        self._leaving: Signal | None = None  # what those who wait for room wait for
        self._next_complaint = float("-inf")

    @property
    def is_full(self) -> bool:
        return self.taken >= self.limit

    def enter(self) -> None:
        self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        if self._leaving is not None:
            self._leaving.set()
            self._leaving = None

    async def wait(self, reactor: Reactor) -> None:
        """Until there is room."""
        while self.is_full:
            if self._leaving is None:
                self._leaving = Signal(reactor)
            await self._leaving.wait()

    def complains(self, now: float) -> bool:
        """Whether it is time to say that there is none: a state that stays needs no line for each who waits."""
        if now < self._next_complaint:
            return False
        self._next_complaint = now + COMPLAINT_SECONDS
        return True


def room_of_process() -> Room:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room() if soft == resource.RLIM_INFINITY else Room(max(1, int(soft * SHARE)))
