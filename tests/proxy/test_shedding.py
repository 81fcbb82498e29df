"""Overload, decided on a clock that the test turns: when the pressure rises and falls, and whom it hits."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given, strategies as st

from lbd.proxy.listener import ListenerPolicy
from lbd.proxy.shedding import STALE, OverloadPolicy, Shedding
from lbd.routing.route import PRIORITIES, RespondPolicy, RoutePolicy
from tests.support.script import Playbook

LOW, NORMAL, HIGH, CRITICAL = range(4)


class Scene:
    """A worker whose lag is said, reading by reading."""

    def __init__(self, lag: float = 1.0, memory: int = 0) -> None:
        self.shedding = Shedding(OverloadPolicy(lag, memory))
        self.now = 100.0

    def run(self, seconds: float, lag: float) -> None:
        """Readings as take_readings() makes them."""
        until = self.now + seconds
        while self.now < until:
            self.now += 0.1 + lag
            self.shedding.heard(lag, self.now)

    def share(self, rank: int) -> float:
        """Refused of a thousand."""
        return sum(self.shedding.sheds(rank) for _ in range(1000)) / 1000


def test_a_worker_that_keeps_up_refuses_nobody() -> None:
    scene = Scene()
    scene.run(60.0, 0.3)
    assert (scene.shedding.level, scene.shedding.pressure) == (0, 0.0)
    assert [scene.share(rank) for rank in range(4)] == [0.0] * 4


def test_the_lowest_priority_goes_first_and_what_is_critical_never() -> None:
    scene, shares = Scene(), []
    for _ in range(40):
        scene.run(1.0, 1.2)
        shares.append([scene.share(rank) for rank in range(4)])
    for low, normal, high, critical in shares:
        assert low >= normal >= high
        assert normal == 0.0 or low == 1.0
        assert high == 0.0 or normal == 1.0
        assert critical == 0.0
    assert shares[-1] == [1.0, 1.0, 1.0, 0.0]
    assert shares == sorted(shares)  # ever more


def test_the_further_above_the_faster() -> None:
    mild, wild = Scene(0.1), Scene(0.1)
    mild.run(2.0, 0.15)
    wild.run(2.0, 0.5)
    assert wild.shedding.pressure > 2 * mild.shedding.pressure > 0


def test_a_stall_is_no_overload() -> None:
    """Nor are many of them, as long as there is air between."""
    scene = Scene()
    for _ in range(20):
        scene.run(0.4, 0.01)
        scene.now += 5.0
        scene.shedding.heard(5.0, scene.now)
    assert scene.shedding.level == 0


def test_it_stays_between_the_limit_and_its_half() -> None:
    scene = Scene()
    scene.run(5.0, 1.5)
    before = scene.shedding.pressure
    assert before > 0
    scene.run(30.0, 0.7)
    assert scene.shedding.pressure == before


def test_it_recovers_slower_than_it_came_and_wholly() -> None:
    scene = Scene(0.1)
    scene.run(2.0, 0.2)
    peak = scene.shedding.pressure
    scene.run(2.0, 0.01)
    assert peak / 3 < scene.shedding.pressure < peak
    scene.run(30.0, 0.01)
    assert (scene.shedding.level, scene.shedding.pressure) == (0, 0.0)


def test_without_anything_to_do_it_is_over() -> None:
    scene = Scene()
    scene.run(10.0, 1.5)
    scene.shedding.rested(scene.now + STALE / 2)
    assert scene.shedding.level > 0
    scene.shedding.rested(scene.now + STALE + 0.1)
    assert scene.shedding.level == 0


def test_it_can_be_turned_off() -> None:
    scene = Scene(lag=0.0)
    scene.run(60.0, 5.0)
    assert scene.shedding.level == 0


def test_a_reload_may_turn_it_off() -> None:
    scene = Scene()
    scene.run(10.0, 2.0)
    assert scene.shedding.level > 0
    scene.shedding.obey(OverloadPolicy(0.0))
    assert scene.shedding.level == 0


@pytest.mark.parametrize(
    ("resident", "shares"), [(800, (0, 0, 0)), (900, (0, 0, 0)), (950, (1, 0.5, 0)), (1000, (1, 1, 1)), (5000, (1, 1, 1))]
)
def test_memory(resident: int, shares: tuple[float, float, float]) -> None:
    scene = Scene(memory=1000)
    scene.shedding.weighed(resident)
    assert tuple(scene.share(rank) for rank in range(3)) == pytest.approx(shares, abs=0.002)
    assert scene.share(CRITICAL) == 0


def test_accepting_stops_when_memory_is_used_up_and_does_not_flap() -> None:
    scene, said = Scene(memory=1000), []
    for resident in (990, 1000, 990, 960, 950, 940, 990):
        scene.shedding.weighed(resident)
        said.append(scene.shedding.may_accept)
    assert said == [True, False, False, False, False, True, True]


def test_of_lag_and_memory_the_worse_counts() -> None:
    scene = Scene(memory=1000)
    scene.shedding.weighed(960)
    scene.run(0.1, 0.0)
    assert scene.shedding.pressure == pytest.approx(1.8)
    scene.run(100.0, 2.0)
    assert scene.shedding.pressure == 3.0
    scene.shedding.weighed(100)
    assert scene.shedding.pressure == 3.0


@given(st.floats(0.01, 0.99), st.integers(10, 500))
def test_a_share_is_refused_evenly(share: float, count: int) -> None:
    scene = Scene(memory=1_000_000)
    scene.shedding.weighed(int(900_000 + 100_000 * share / 3))
    refused = 0
    for number in range(1, count + 1):
        refused += scene.shedding.sheds(LOW)
        assert abs(refused - number * scene.shedding.pressure) <= 1.0


def test_a_server_asked_for_twice_what_it_can_settles_and_serves_what_it_can() -> None:
    """A worker that handles 1,000 requests a second is sent 2,000, of which a quarter are low and a quarter high, for two minutes."""
    scene, draw = Scene(lag=0.2), random.Random(1)
    backlog = next_reading = 0.0  # requests that wait
    sent, waits, pressures = -1.0, [], []
    for step in range(15_000):
        scene.now += 0.01
        for _ in range(20 if step < 12_000 else 2):
            backlog += 0.1 if scene.shedding.sheds(draw.choice((LOW, NORMAL, NORMAL, HIGH))) else 1.0  # refusing is work, too
        backlog = max(0.0, backlog - 10.0)
        if sent < 0 and scene.now >= next_reading:
            sent, ahead = scene.now, backlog
        if sent >= 0 and scene.now >= sent + ahead / 1000.0:
            scene.shedding.heard(scene.now - sent, scene.now)
            sent, next_reading = -1.0, scene.now + 0.1
        elif sent >= 0:
            scene.shedding.heard(scene.now - sent, scene.now, has_come=False)
        waits.append(backlog / 1000.0)
        pressures.append(scene.shedding.pressure)
    settled = slice(5_000, 12_000)
    assert max(waits[settled]) < 0.6  # seconds
    assert all(1.2 < pressure < 2.5 for pressure in pressures[settled])  # a part of the normal ones is served all the time
    assert sum(wait > 0 for wait in waits[settled]) > 2_000  # and the worker is not idle for it
    assert max(waits[-1_000:]) == 0.0
    assert pressures[-1] < pressures[11_999]


# What is told to whom


def pressed(share: float) -> Shedding:
    """With this pressure."""
    shedding = Shedding(OverloadPolicy(memory=1_000_000))
    shedding.weighed(900_001 + int(100_000 * share / 3))
    return shedding


@pytest.mark.usefixtures("autojump_clock")
async def test_requests_of_low_priority_are_refused_and_their_connections_closed() -> None:
    routes = [RoutePolicy(name=name, path=f"/{name}", respond=RespondPolicy(200, name), priority=name) for name in PRIORITIES]
    async with Playbook(routes=routes, listener=ListenerPolicy("web", ("test",), reason_header=True)) as play:
        play.listener.shedding = pressed(2.0)
        for name, is_served in zip(PRIORITIES, (False, False, True, True), strict=True):
            end = play.connect()
            end >> b"GET /%b HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()
            head = await end.read_until(b"\r\n\r\n")
            if is_served:
                assert head.startswith(b"HTTP/1.1 200 ")
                await end.read_until(name.encode())
            else:
                assert head.startswith(b"HTTP/1.1 503 ")
                assert b"Retry-After: 2\r\n" in head
                assert b"Connection: close\r\n" in head
                assert b"x-lbd-reason: overloaded\r\n" in head
                await end.read_until(b"overloaded\n")
                await end.expect_end()
        assert [(line.reason, line.route_name) for line in play.lines[:2]] == [("overloaded", "low"), ("overloaded", "normal")]  # type: ignore[attr-defined]


@pytest.mark.usefixtures("autojump_clock")
async def test_sessions_of_tcp_are_refused_as_requests_are() -> None:
    async with Playbook(listener=ListenerPolicy("web", ("test",), protocol="tcp")) as play:
        await play.upstream()
        play.listener.shedding = pressed(3.0)
        second = play.connect()
        await second.expect_end()
        await trio.sleep(0.1)
        assert [line.reason for line in play.lines] == ["overloaded"]  # type: ignore[attr-defined]
        assert play.dialled == ["one:1"]
