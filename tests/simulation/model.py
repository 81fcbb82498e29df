"""Virtual time, servers that can be overloaded, and a balancer made of lbd's own policies: a discrete-event simulation.

Nothing here waits, and nothing is lbd's but what decides: `Cluster.pick`, `retry.decide` and its budget, ejections, slow start. Hours of
traffic to thousands of endpoints take seconds.

A `Server` works on `slots` requests at a time; those above wait in its queue, in the order of their coming. It does not know when
whoever asked has given up, and works on: that is what makes an overload last after its cause has gone (Bronson et al., "Metastable
failures in distributed systems", HotOS 2021).

An event is a tuple on a heap, a function and what it is called with: most requests are two of them, one coming and one being done with.
A time limit is one only where it may be reached: a server says when it will be done, unless the request has to queue there.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from math import inf, log
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

__all__ = ["Server", "Task", "World"]


class World:
    """The clock, and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0  # of events: those of the same moment happen in the order in which they were asked for

    def push(self, when: float, action: Callable[[Any], None], argument: object) -> None:
        self._count += 1
        heappush(self._events, (when, self._count, action, argument))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self.push(self.now + seconds, lambda _: action(), None)

    def at(self, when: float, action: Callable[[], None]) -> None:
        self.after(max(0.0, when - self.now), action)

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, until: float) -> None:
        events = self._events
        while events and events[0][0] <= until:
            self.now, _, action, argument = heappop(events)
            action(argument)
        self.now = until


class Task(Protocol):
    """What a server works on."""

    def done(self, ok: bool, reason: str = "upstream_reset") -> None:
        """It has been worked on, or was lost."""


class Server:
    """One endpoint's process."""

    __slots__ = ("busy", "error_share", "is_dead", "queue_limit", "random", "seconds", "served", "slots", "slowness", "waiting", "world")

    def __init__(self, world: World, random: Random, *, slots: int, seconds: float, queue: int = 1000) -> None:
        self.world, self.random = world, random
        self.slots, self.seconds, self.queue_limit = slots, seconds, queue
        self.error_share = 0.0
        self.slowness = 1.0  # times that a request takes longer than usual
        self.is_dead = False
        self.busy = 0
        self.served = 0
        self.waiting: deque[Task] = deque()

    def take(self, task: Task) -> float:
        """Returns when it will be done; infinity: nobody knows yet."""
        if self.is_dead or len(self.waiting) >= self.queue_limit:
            at = self.world.now + 0.001
            self.world.push(at, self._refuse, task)
            return at
        if self.busy < self.slots:
            return self._begin(task)
        self.waiting.append(task)
        return inf

    def _begin(self, task: Task) -> float:
        self.busy += 1
        at = self.world.now - log(1.0 - self.random.random()) * self.seconds * self.slowness  # an exponential distribution
        self.world.push(at, self._finish, task)
        return at

    def _finish(self, task: Task) -> None:
        self.busy -= 1
        self.served += 1
        task.done(not self.is_dead and self.random.random() >= self.error_share)
        if self.waiting:
            self._begin(self.waiting.popleft())

    def _refuse(self, task: Task) -> None:
        task.done(False)

    def die(self) -> None:
        """What waits is lost."""
        self.is_dead = True
        waiting, self.waiting = self.waiting, deque()
        for task in waiting:
            task.done(False)

    def revive(self) -> None:
        self.is_dead = False
