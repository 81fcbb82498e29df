"""Who is out of service, when all others have failed a request: as transcripts on virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cluster.admission import LimitPolicy
from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy
from lbd.worker.messages import EndpointState
from tests.support.script import Playbook

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint

pytestmark = pytest.mark.usefixtures("autojump_clock")

NAMES = ("out:1", "two:2", "three:3", "four:4")
TCP = ListenerPolicy("web", ("test",), protocol="tcp")
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def cluster(count: int = 3, **settings: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of the policy
    return ClusterPolicy("web", tuple(EndpointPolicy(name) for name in NAMES[:count]), **settings)


def fail(play: Playbook, out: EndpointState | None = None) -> None:
    """The first endpoint is out and well, all others are in and refuse."""
    endpoints = play.clusters["web"].endpoints
    states = [EndpointState(endpoint.address, 1, number) for number, endpoint in enumerate(endpoints)]
    play.clusters["web"].update([out or replace(states[0], up=False), *states[1:]])
    play.refuse.update(endpoint.address for endpoint in endpoints[1:])


async def answered(play: Playbook) -> bool:
    """One GET; whether somebody has taken it, or it was lost."""
    play.downstream >> GET
    with trio.move_on_after(1.0):
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"\r\n\r\nok")
        return True
    await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
    return False


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("sticky", [None, StickyPolicy(secret="s" * 32)])
async def test_who_is_out_gets_what_all_others_have_failed(count: int, sticky: StickyPolicy | None) -> None:
    """As it is when it was ejected, is well again, and the others have just died."""
    async with Playbook(clusters=[cluster(count, sticky=sticky)]) as play:
        fail(play)
        assert await answered(play)
        assert play.dialled[-1] == "out:1"
        assert sorted(play.dialled[:-1]) == sorted(NAMES[1:count])


async def test_its_turn_comes_before_anybodys_second() -> None:
    retry = RetryPolicy(attempts=8, budget=100.0)
    async with Playbook(clusters=[cluster(4, retry=retry)]) as play:
        fail(play)
        play.refuse.add("out:1")
        assert not await answered(play)
        assert len(play.dialled) == 9
        for round_ in (play.dialled[:4], play.dialled[4:8]):
            assert sorted(round_) == sorted(NAMES)


def only_the_third_is_up(play: Playbook, max_requests: int = 0) -> tuple[Endpoint, Endpoint]:
    """And it refuses connections. The other two, of which the first may have so many requests."""
    states = [EndpointState(name, 1, number, up=number == 2) for number, name in enumerate(NAMES[:3])]
    play.clusters["web"].update([replace(states[0], max_requests=max_requests), *states[1:]])
    play.refuse.add("three:3")
    first, second, _ = play.clusters["web"].endpoints
    return first, second


async def test_it_is_the_one_that_has_least_to_do() -> None:
    async with Playbook(clusters=[cluster(3, panic=0.0)]) as play:
        out, other = only_the_third_is_up(play)
        out.begin()
        out.begin()
        other.begin()
        assert await answered(play)
        assert play.dialled == ["three:3", "two:2"]


async def test_never_who_is_drained() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        fail(play, EndpointState("out:1", 1, 0, up=False, drained=True))
        assert not await answered(play)
        assert "out:1" not in play.dialled


@pytest.mark.parametrize("count", [2, 3])
async def test_never_who_has_as_much_as_it_may(count: int) -> None:
    async with Playbook(clusters=[cluster(count)]) as play:
        fail(play, EndpointState("out:1", 1, 0, up=False, max_requests=1))
        out = play.clusters["web"].endpoints[0]
        out.begin()
        assert not await answered(play)
        assert "out:1" not in play.dialled
        out.end()
        assert await answered(play)


async def test_who_has_room_is_taken_before_who_has_less_to_do_and_none() -> None:
    async with Playbook(clusters=[cluster(3, panic=0.0)]) as play:
        full, other = only_the_third_is_up(play, max_requests=1)
        full.begin()
        other.begin()
        other.begin()
        assert await answered(play)
        assert play.dialled == ["three:3", "two:2"]


async def test_never_past_a_breaker() -> None:
    async with Playbook(clusters=[cluster(breaker=BreakerPolicy())]) as play:
        fail(play)
        assert not await answered(play)
        assert "out:1" not in play.dialled


@pytest.mark.parametrize("version", ["1", "2"])
async def test_only_of_the_routes_subset(version: str) -> None:
    route = RoutePolicy(name="all", cluster="web", subset=(("version", "1"),))
    async with Playbook(clusters=[cluster(2)], routes=[route]) as play:
        states = [
            EndpointState("out:1", 1, 0, up=False, metadata=(("version", version),)),
            EndpointState("two:2", 1, 1, metadata=(("version", "1"),)),
        ]
        play.clusters["web"].update(states)
        play.refuse.add("two:2")
        assert await answered(play) == (version == "1")
        assert ("out:1" in play.dialled) == (version == "1")


async def test_nobody_who_has_left_meanwhile() -> None:
    retry = RetryPolicy(backoff=10.0, max_backoff=10.0)
    async with Playbook(clusters=[cluster(3, retry=retry)]) as play:
        fail(play)
        play.listener.random = lambda: 0.5
        play.downstream >> GET
        await trio.sleep(1.0)
        assert len(play.dialled) == 2  # and it waits, for the last resort
        play.clusters["web"].update([EndpointState("two:2", 1, 1), EndpointState("three:3", 1, 2)])
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n", seconds=20.0)
        assert "out:1" not in play.dialled


# Sessions of TCP


async def carried(play: Playbook) -> bool:
    """One session; whether somebody has taken it."""
    client = play.connect()
    with trio.move_on_after(1.0):
        up = await play.upstream()
        up >> b"hi"
        await client.expect(b"hi", until=b"hi")
        client.end()
        up.end()
        await client.expect_end()
        await up.expect_end()
        return True
    await client.expect_end()
    return False


@pytest.mark.parametrize("count", [2, 3])
async def test_sessions_too(count: int) -> None:
    async with Playbook(listener=TCP, clusters=[cluster(count)], checks_bytes=False) as play:
        fail(play)
        play.downstream.close()
        await trio.sleep(0.1)
        while play.dialled:
            play.dialled.pop()
        up = await play.upstream()  # of the one that has gone
        up.close()
        for _ in range(3):
            assert await carried(play)
            assert play.dialled.pop() == "out:1"
            assert sorted(play.dialled) == sorted(NAMES[1:count])
            play.dialled.clear()


@pytest.mark.parametrize("settings", [{"drained": True}, {"max_requests": 1}])
async def test_but_within_the_same_limits(settings: dict[str, Any]) -> None:
    async with Playbook(listener=TCP, clusters=[cluster(2)], checks_bytes=False) as play:
        fail(play, EndpointState("out:1", 1, 0, up=False, **settings))
        play.clusters["web"].endpoints[0].begin()
        await play.downstream.expect_end()
        assert play.dialled == ["two:2"]
        assert play.lines[0].reason == "connect_refused"  # type: ignore[attr-defined]


async def test_and_only_once_somebody_has_failed() -> None:
    async with Playbook(listener=TCP, clusters=[cluster(1, panic=0.0)]) as play:
        play.clusters["web"].update([EndpointState("out:1", 1, 0, up=False)])
        await play.downstream.expect_end()
        assert play.lines[0].reason == "no_healthy_endpoint"  # type: ignore[attr-defined]


async def test_and_not_above_what_the_cluster_may_have() -> None:
    policy = cluster(2, limits=LimitPolicy(max_requests=1), timeouts=TimeoutPolicy(connect=0.5))
    async with Playbook(listener=TCP, clusters=[policy], checks_bytes=False) as play:
        fail(play)
        play.silent.add("two:2")
        play.refuse.clear()
        second = play.connect()  # it waits for room, and gets the place that the first one leaves
        await play.downstream.expect_end()
        assert play.lines[0].reason == "connect_timeout"  # type: ignore[attr-defined]
        up = await play.upstream()
        up >> b"hi"
        await second.expect(b"hi", until=b"hi")
        assert play.dialled == ["two:2", "two:2", "out:1"]
