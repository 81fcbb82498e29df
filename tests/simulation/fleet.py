"""A large cluster over two hours, in which one thing after the other goes wrong that ought to be survived.

Its requests are long ones, a report or what a model says: five seconds on the average, one at a time, and a minute is waited for. So a few
hundred requests a second are enough to keep thousands of endpoints busy, and overload is something that can happen. An endpoint gets one
request in twelve seconds: at whom they all fail is found by runs, who fails now and then by comparisons, each of ten minutes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.outlier import OutlierPolicy, Outliers
from tests.simulation.scenarios import built

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.simulation.model import Server

__all__ = ["BAD", "DEPLOY", "END", "EVENTS", "POLICY", "WITHOUT", "Fleet", "most_ejections"]

SECONDS, PATIENCE = 5.0, 60.0
LOAD, RUSH = 0.4, 0.6  # of the capacity
FALL, RISE = 6.0, 4.0  # seconds until health checks have noticed
DOWN = 30.0  # that a restart takes
LINGERS = 3 * PATIENCE  # what has begun in a time of trouble ends later, and so do its retries

BAD = 600.0  # a bad build gets to some
SLOW, SLOW_ENDS = 1500.0, 2100.0  # a zone is ten times slower
DEPLOY, BATCHES, PACE = 2700.0, 60, 40.0  # all are restarted, with a build that is well
WRONG, WRONG_ENDS = 5400.0, 5700.0  # health checks have most for down
STALL, STALL_ENDS = 6000.0, 6060.0  # something that all depend on stalls
RUSH_BEGINS, RUSH_ENDS = 5850.0, 6600.0
END = 7200.0

EVENTS = {
    "a bad build": (BAD, DEPLOY),
    "a slow zone": (SLOW, SLOW_ENDS),
    "a rolling deployment": (DEPLOY, DEPLOY + BATCHES * PACE),
    "wrong checks": (WRONG, WRONG_ENDS),
    "a rush hour, and all stall": (RUSH_BEGINS, RUSH_ENDS),
}

POLICY = ClusterPolicy("web", (), balance="power-of-two", slow_start=60.0, outlier=OutlierPolicy(interval=600.0, min_requests=40))
WITHOUT = replace(POLICY, panic=0.0, slow_start=0.0, outlier=OutlierPolicy(enabled=False))


class Fleet:
    """Servers, what happens to them, and what there is to say about it afterwards. Every third one is of the zone that is slow, every
    twentieth gets the bad build, which fails nine of ten requests, and one in fifty limps: a third of its requests fail."""

    def __init__(self, count: int, policy: ClusterPolicy = POLICY, *, seed: int = 1, budgeted: bool = True) -> None:
        self.site = built(count, policy, seed=seed, patience=PATIENCE, budgeted=budgeted, slots=1, service=SECONDS)
        self.addresses = list(self.site.balancer.servers)
        self.servers = self.site.servers
        self.cold: dict[int, int] = {}  # who has restarted, and how many requests it had served by then
        self.bad = range(0, count, 20)
        self.limping = range(7, count, 50)

    def restart(self, number: int) -> float:
        """When it does."""
        return DEPLOY + PACE * (number * BATCHES // len(self.servers))

    # The story

    def run(self) -> Fleet:
        world = self.site.world
        world.at(BAD, self._get_bad_build)
        world.at(SLOW, lambda: self._slow_down(self.servers[1::3], 10.0))
        world.at(SLOW_ENDS, lambda: self._slow_down(self.servers[1::3], 1.0))
        for number in range(len(self.servers)):
            world.push(self.restart(number), self._stop, number)
        for at, is_up in ((WRONG, False), (WRONG_ENDS, True)):
            world.push(at, self._check, is_up)
        world.at(STALL, lambda: self._slow_down(self.servers, 20.0))
        world.at(STALL_ENDS, lambda: self._slow_down(self.servers, 1.0))
        world.every(1.0, self._warm)
        self.site.traffic(lambda now: RUSH if RUSH_BEGINS <= now < RUSH_ENDS else LOAD)
        world.run(END)
        return self

    def _get_bad_build(self) -> None:
        for number in self.bad:
            self.servers[number].error_share = 0.9
        for number in self.limping:
            self.servers[number].error_share = max(0.35, self.servers[number].error_share)

    def _slow_down(self, servers: list[Server], times: float) -> None:
        for server in servers:
            server.slowness = times

    def _stop(self, number: int) -> None:
        world, balancer, address = self.site.world, self.site.balancer, self.addresses[number]
        self.servers[number].die()
        world.after(FALL, lambda: balancer.set_checked(address, False))
        world.after(DOWN, lambda: self._start(number))
        world.after(DOWN + RISE, lambda: balancer.set_checked(address, True))

    def _start(self, number: int) -> None:
        """Well, but four times slower until it has served some."""
        server = self.servers[number]
        server.revive()
        server.error_share = 0.0
        self.cold[number] = server.served
        self._warm()

    def _warm(self) -> None:
        for number, served in tuple(self.cold.items()):
            server = self.servers[number]
            server.slowness = max(1.0, 4.0 * 0.5 ** ((server.served - served) / 5.0))
            if server.slowness == 1.0:
                del self.cold[number]

    def _check(self, is_up: bool) -> None:
        for address in self.addresses[: len(self.addresses) * 7 // 10]:
            self.site.balancer.set_checked(address, is_up)

    # Afterwards

    def times(self, numbers: Iterable[int], first: float, last: float) -> list[int]:
        """How often each of them was ejected in that time."""
        return [sum(first <= at < last for at in self.site.balancer.ejections.get(self.addresses[number], ())) for number in numbers]

    def unjust(self) -> list[tuple[str, float]]:
        """Ejections of those with which nothing was wrong."""
        return [
            (address, at)
            for number, address in enumerate(self.addresses)
            for at in self.site.balancer.ejections.get(address, ())
            if not any(begins <= at < ends for begins, ends in self._troubles(number))
        ]

    def _troubles(self, number: int) -> Iterator[tuple[float, float]]:
        """Times at which it was not well, or was judged by what it did when it was not: a comparison looks back."""
        restart = self.restart(number)
        if number in self.bad or number in self.limping:
            yield BAD, restart + DOWN
        if number % 3 == 1:
            yield SLOW, SLOW_ENDS + LINGERS + POLICY.outlier.interval
        yield restart, restart + DOWN + POLICY.slow_start + LINGERS + POLICY.outlier.interval
        yield STALL, RUSH_ENDS + LINGERS + POLICY.outlier.interval

    def answered(self, first: float, last: float) -> float:
        """The share of what ended in that time."""
        seconds = self.site.balancer.seconds[int(first) : int(last)]
        return sum(second.ok for second in seconds) / max(1, sum(second.ok + second.failed for second in seconds))

    def attempts(self, first: float, last: float) -> float:
        """For each request."""
        seconds = self.site.balancer.seconds[int(first) : int(last)]
        return sum(second.attempts for second in seconds) / max(1, sum(second.requests for second in seconds))


def most_ejections(seconds: float, policy: OutlierPolicy = POLICY.outlier) -> int:
    """Of an endpoint that fails for so long: each is longer than the one before."""
    judge, count, spent = Outliers(policy), 0, 0.0
    while spent < seconds:
        count += 1
        spent += judge.duration(count)
    return count
