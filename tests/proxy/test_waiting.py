"""How long a quiet connection waits beside a busy one, to the microsecond: time passes only where lbd works, a fixed amount a step.

The reactor's clock is the world's: whoever looks at it has done a step of work, and pays for it, and so does a request that has been
answered. Fibers look when they could go on and want to know whether their turn is over, the reactor before and after each batch.
Peers of the busy connection are always ready, and what the quiet one asks comes in the middle of the busy one's work. So the worst
that a real machine brings by chance is the rule here.
"""

from __future__ import annotations

import random
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.routing.route import RespondPolicy, RoutePolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from lbd.core.fiber import Fiber
    from lbd.core.memory import MemoryStream
    from lbd.core.reactor import Reactor
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

TURN = 0.001  # seconds that the reactor, and each fiber, may work before others have their turn (core/reactor.py)
ASKED = 120  # times, so that there is a p99
PAUSE = 0.0031  # seconds between two
QUIET = "192.0.2.2"
PIPELINED = b"GET /busy HTTP/1.1\r\nHost: a\r\n\r\n" * 100
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
PIECE = bytes(64 * 1024)
MEBIBYTE = 1 << 20
ENDLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n"
UPLOAD = b"POST /endless HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n"
ROUTES = [
    RoutePolicy(name="busy", path="/busy", respond=RespondPolicy(200, "x")),
    RoutePolicy(name="near", path="/near", respond=RespondPolicy(200, "x")),
    RoutePolicy(name="endless", path="/endless", cluster="endless"),
    RoutePolicy(name="far", path="/far", cluster="far"),
]
CLUSTERS = [ClusterPolicy(name, (EndpointPolicy(f"{name}:1"),)) for name in ("far", "endless")]


class World(Playbook):
    """`cost`: seconds of a step; `distance`: seconds in which the origin of /far answers."""

    def __init__(self, clock: MockClock, cost: float, distance: float) -> None:
        super().__init__(routes=ROUTES, clusters=CLUSTERS, buffer=MEBIBYTE, checks_bytes=False)
        self.mock, self.cost, self.distance = clock, cost, distance
        self.waits: list[float] = []  # of the quiet one
        self.greedy: list[Callable[[], object]] = []  # what busy peers do whenever they can
        self.asked_at = 0.0
        self.quiet: End | None = None
        self._numbers = count()
        self._chance = random.Random(1)
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._is_passing = False
        self._nap = trio.CancelScope()
        self.steps = 0
        self.origins: list[Fiber] = []

    def at(self, when: float, what: Callable[[], object]) -> None:
        heappush(self._coming, (when, next(self._numbers), what))
        self._nap.deadline = min(self._nap.deadline, when)

    def step(self) -> float:
        """The reactor's clock."""
        if not self._is_passing:  # what happens may rouse the reactor, which looks at the clock
            self._is_passing = True
            self.steps += 1
            self.mock.jump(self.cost)
            self.happen()
            self._is_passing = False
        return trio.current_time()

    def happen(self) -> None:
        for act in self.greedy:
            act()
        while self._coming and self._coming[0][0] <= trio.current_time():
            heappop(self._coming)[2]()

    async def pass_time(self) -> None:
        """Where lbd has nothing to do."""
        while True:
            with trio.CancelScope(deadline=self._coming[0][0] if self._coming else trio.current_time() + PAUSE) as self._nap:
                await trio.sleep_forever()
            self.happen()

    def write(self, exchange: object) -> None:
        self.step()
        if exchange.client == QUIET:  # type: ignore[attr-defined]
            self.waits.append(trio.current_time() - self.asked_at)

    async def _connect(self, reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> MemoryStream:
        ours = await Playbook._connect(self, reactor, family, address, name)
        if name == "far:1":
            self.origins.append(reactor.spawn(self._answer(self._waiting.pop().stream), "origin"))
        return ours

    async def _answer(self, stream: MemoryStream) -> None:
        while True:
            while (data := stream.recv(65536)) is None:
                await stream.readable
            if not data:
                return
            self.at(trio.current_time() + self.distance, lambda: stream.send(OK))

    async def ask(self, path: str) -> float:
        """The p99 of how long the quiet one waits."""
        self.waits.clear()
        quiet = self.quiet = self.quiet or self.connect(QUIET)
        request = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()

        def send() -> None:
            quiet.stream.may_read = True
            quiet.stream.recv(1 << 20)
            self.asked_at = trio.current_time()
            quiet >> request

        for number in range(ASKED):
            self.at(trio.current_time() + self._chance.uniform(PAUSE, 2 * PAUSE), send)
            while len(self.waits) <= number:  # noqa: ASYNC110 - virtual time
                await trio.sleep(PAUSE / 10)
        return sorted(self.waits)[ASKED * 99 // 100]

    async def make_busy(self, kind: str) -> None:
        """One connection that could always go on."""
        end = self.connect("192.0.2.3")
        self.greedy.append(lambda: drain(end))
        if kind == "pipelining":
            inbox = self._given[-1].inbox
            self.greedy.append(lambda: end.stream.send(PIPELINED) if len(inbox) < len(PIPELINED) else 0)
            return
        end >> (UPLOAD if kind == "an upload" else b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        up = await self.upstream()
        await up.read_until(b"\r\n\r\n")
        if kind == "a download":
            up >> ENDLESS
        self.greedy += [lambda: drain(up), lambda: pour(end if kind == "an upload" else up)]

    async def rest(self) -> None:
        self.greedy.clear()
        for fiber in self.origins:
            fiber.cancel()


def pour(end: End) -> None:
    end.stream.send(PIECE)


def drain(end: End) -> None:
    end.stream.may_read = True
    end.stream.recv(1 << 20)


async def p99s(clock: MockClock, kind: str, path: str, cost: float, distance: float = 0.0) -> tuple[float, float]:
    """Alone, and beside a busy one."""
    async with World(clock, cost, distance) as world:
        world.reactor.clock = world.step
        world._nursery.start_soon(world.pass_time)
        alone = await world.ask(path)
        await world.make_busy(kind)
        steps = world.steps
        beside = await world.ask(path)
        assert (world.steps - steps) * cost > ASKED * PAUSE * 0.9, "it was busy all the time"
        await world.rest()
    print(f"{kind}, {path}: p99 {alone * 1e6:.0f} us alone, {beside * 1e6:.0f} us beside it ({beside / alone:.2f} times)")
    return alone, beside


BUSY = ["pipelining", "a download", "an upload"]
COSTS = [0.000_05, 0.000_2]  # a fast machine and a slow one


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("kind", BUSY)
async def test_who_is_near_waits_for_one_turn_of_the_busy_one(autojump_clock: MockClock, kind: str, cost: float) -> None:
    alone, beside = await p99s(autojump_clock, kind, "/near", cost)
    assert beside <= alone + TURN + 2 * cost  # a request of the busy one, which is not divided


@pytest.mark.parametrize("kind", BUSY)
async def test_where_an_answer_takes_some_milliseconds_the_p99_stays_within_twice_its_quiet_value(
    autojump_clock: MockClock, kind: str
) -> None:
    alone, beside = await p99s(autojump_clock, kind, "/far", COSTS[-1], 0.005)
    assert beside <= 2 * alone
