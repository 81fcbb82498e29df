"""Virtual time, servers that can be overloaded, and a balancer made of lbd's own policies: a discrete-event simulation.

Nothing here waits, and nothing is lbd's but what decides: `Cluster.pick`, `retry.decide` and its budget, ejections, slow start. An hour of
traffic to a thousand endpoints takes seconds.

A `Server` works on `slots` requests at a time; those above wait in its queue, in the order of their coming. It does not know when
whoever asked has given up, and works on: that is what makes an overload last after its cause has gone (Bronson et al., "Metastable
failures in distributed systems", HotOS 2021).
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

__all__ = ["Server", "World"]


class World:
    """The clock, and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._order), action))

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.after(max(0.0, when - self.now), action)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
        self.now = until


class Server:
    """One endpoint's process. `done(ok)` is called when a request has been worked on, or at once with False while it fails."""

    def __init__(self, world: World, random: Random, *, slots: int, seconds: float, queue: int = 1000) -> None:
        self.world, self.random = world, random
        self.slots, self.seconds, self.queue_limit = slots, seconds, queue
        self.error_share = 0.0
        self.slowness = 1.0  # times that a request takes longer than usual
        self.is_dead = False
        self.busy = 0
        self.served = 0
        self.waiting: deque[Callable[[bool], None]] = deque()

    def take(self, done: Callable[[bool], None]) -> None:
        if self.is_dead or len(self.waiting) >= self.queue_limit:
            self.world.after(0.001, lambda: done(False))
        elif self.busy < self.slots:
            self._begin(done)
        else:
            self.waiting.append(done)

    def _begin(self, done: Callable[[bool], None]) -> None:
        self.busy += 1
        seconds = self.random.expovariate(1.0 / self.seconds) * self.slowness
        self.world.after(seconds, lambda: self._finish(done))

    def _finish(self, done: Callable[[bool], None]) -> None:
        self.busy -= 1
        self.served += 1
        done(not self.is_dead and self.random.random() >= self.error_share)
        if self.waiting:
            self._begin(self.waiting.popleft())

    def die(self) -> None:
        """What waits is lost."""
        self.is_dead = True
        waiting, self.waiting = self.waiting, deque()
        for done in waiting:
            done(False)

    def revive(self) -> None:
        self.is_dead = False
