"""How many connections one process takes, and whether it has more than its share.

A connection that is served takes two descriptors, one on each side. Were all of them given to those who come, nobody could be served:
every connection upstream would fail, and the upstreams would be blamed. So those who come get a share of what the limit on open files
allows, over all listeners of the process; the others wait in the kernel's queue until somebody leaves. HAProxy reckons with half (its
maxconn); three fifths is more for keep-alive connections that do nothing.

A socket that all workers share, a unix socket or one that a supervisor brought, wakes them all, and gives its connections to whoever is
quickest: mostly the same few. So a worker leaves them to others while it has more than its share (accept.py). The share is one of those
who give signs of life: nobody waits for workers that are dead, or hang.

`may_accept` is for who watches the process: while it is false nobody comes in, however much room there is.
"""

from __future__ import annotations

import resource
import sys
from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, Signal

if TYPE_CHECKING:
    from lbd.core.board import Board
    from lbd.core.reactor import Reactor
    from lbd.proxy.listening import Listener

__all__ = ["Room", "room_of_process"]

SHARE = 0.6
COMPLAINT_SECONDS = 60.0  # between two complaints
WAIT = 60  # a kind of deadline
# What a worker may have beyond an even share of all connections before it leaves those who come to others: as little as keeps 1000 of them
# within the 1.3 that are promised, and enough that few, short ones never wait for somebody else.
MARGIN, SLACK = 1.125, 4
SILENCE = 3  # looks without a sign of life, after which nobody counts on a worker


class Room:
    """`taken` connections of all `listeners`, of at most `limit`; `leaving` of them have been told to end."""

    __slots__ = (
        "_alive",
        "_leaving",
        "_next_complaint",
        "_segment",
        "_signs",
        "_silence",
        "leaving",
        "limit",
        "listeners",
        "may_accept",
        "taken",
    )

    def __init__(self, limit: int = sys.maxsize, board: Board | None = None, slot: int = 0) -> None:
        """`board`: where each worker writes down what it has."""
        segments = [board.segment(number) for number in range(board.slots)] if board is not None else []
        self._segment = segments[slot] if segments else None
        self._signs = [(segment, segment.beats) for segment in segments]  # of each worker, when it was seen to give the last one
        self._silence = [0] * len(segments)  # looks since then
        self._alive = segments
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

    @property
    def has_more_than_its_share(self) -> bool:
        alive = len(self._alive)
        return alive > 1 and self.taken > SLACK + MARGIN * (self.taken + self.elsewhere) / alive

    @property
    def elsewhere(self) -> int:
        """Connections of the other workers."""
        return sum(segment.downstreams for segment in self._alive) - self.taken

    def look(self) -> None:
        """Who is alive; about once a second, as often as workers give signs of life."""
        for slot, (segment, beats) in enumerate(self._signs):
            self._silence[slot] = self._silence[slot] + 1 if segment.beats == beats else 0
            self._signs[slot] = segment, segment.beats
        self._alive = [
            segment
            for (segment, _), silence in zip(self._signs, self._silence, strict=True)
            if silence < SILENCE or segment is self._segment
        ]

    def enter(self) -> None:
        self.taken += 1
        if self._segment is not None:
            self._segment.hold(self.taken)

    def leave(self) -> None:
        self.taken -= 1
        if self._segment is not None:
            self._segment.hold(self.taken)
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


def room_of_process(board: Board | None = None, slot: int = 0) -> Room:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Room(sys.maxsize if soft == resource.RLIM_INFINITY else max(1, int(soft * SHARE)), board, slot)
