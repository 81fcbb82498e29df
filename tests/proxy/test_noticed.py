"""What of an exchange tells against its endpoint, and what a trial and a breaker do to those that come after."""

from __future__ import annotations

import pytest
import trio

from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.proxy.listener import ListenerPolicy
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
END = b"\r\n\r\n"
TCP = ListenerPolicy("tcp", ("test",), protocol="tcp", cluster="web")
REASONED = ListenerPolicy("web", ("test",), reason_header=True)
OUTLIER = OutlierPolicy(failures=2)


def cluster(*addresses: str, **settings: object) -> ClusterPolicy:
    once = {"retry": RetryPolicy(attempts=0), "outlier": OUTLIER, "slow_start": 0.0, **settings}
    return ClusterPolicy("web", tuple(EndpointPolicy(address) for address in addresses), **once)  # type: ignore[arg-type]


async def settle() -> None:
    """Everything that can happen without the clock has."""
    await trio.sleep(0.01)


def answer(status: int) -> bytes:
    return f"HTTP/1.1 {status} Said\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("statuses", "noticed"),
    [
        ((503, 502), ["gateway"]),
        ((503, 200, 503), []),
        ((503, 500, 503), []),
        ((504, 504, 504, 504), ["gateway"]),
    ],
)
async def test_statuses(statuses: tuple[int, ...], noticed: list[str]) -> None:
    async with Playbook(clusters=[cluster("one:1")], checks_bytes=False) as play:
        play.downstream >> GET
        up = await play.upstream()
        for status in statuses:
            await up.read_until(END)
            up >> answer(status)
            await play.downstream.read_until(END)
            play.downstream >> GET
        assert [kind for _, kind in play.noticed] == noticed


async def test_refusals_and_silence() -> None:
    timeouts = TimeoutPolicy(response=0.5)
    async with Playbook(clusters=[cluster("one:1", timeouts=timeouts)], checks_bytes=False) as play:
        play.refuse = {"one:1"}
        play.downstream >> GET
        await play.downstream.read_until(b"Bad Gateway\n")
        assert play.noticed == []
        play.refuse = set()
        play.downstream >> GET
        await play.upstream()
        await play.downstream.expect(b"HTTP/1.1 504", until=END)
        assert play.noticed == [("one:1", "gateway")]


async def test_an_idle_connection_that_ends_as_it_is_used_is_nobodys_fault() -> None:
    async with Playbook(clusters=[cluster("one:1", outlier=OutlierPolicy(failures=1))], checks_bytes=False) as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        up >> answer(200)
        await play.downstream.read_until(END)
        play.downstream >> GET
        await up.read_until(END)
        up.close()
        up = await play.upstream()
        await up.read_until(END)
        up >> answer(200)
        await play.downstream.expect(b"HTTP/1.1 200", until=END)
        assert play.noticed == []


async def test_how_a_session_ends_is_not_the_endpoints_fault() -> None:
    policy = cluster("one:1", outlier=OutlierPolicy(failures=1))
    async with Playbook(listener=TCP, clusters=[policy], checks_bytes=False) as play:
        (await play.upstream()).reset()
        await settle()
        assert play.noticed == []
        play.refuse = {"one:1"}
        await play.connect().expect_end()
        assert play.noticed == [("one:1", "gateway")]


async def test_on_trial_it_gets_few_at_a_time_and_each_is_told_of() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2")], checks_bytes=False) as play:
        play.clusters["web"].set_health("one:1", False)
        play.clusters["web"].set_health("one:1", True, 1)
        downstreams = [play.connect() for _ in range(40)]
        for downstream in downstreams:
            downstream >> GET
        ups = [await play.upstream() for _ in downstreams]
        assert sorted(play.dialled).count("one:1") == 1
        for up in ups:
            up >> answer(200)
        await settle()
        assert play.noticed == [("one:1", "proved")]


async def test_while_a_breaker_is_open_everybody_is_told_when_to_come_again() -> None:
    policy = cluster("one:1", breaker=BreakerPolicy(volume=2, open=30.0, probes=1), outlier=OutlierPolicy(enabled=False))
    async with Playbook(listener=REASONED, clusters=[policy], checks_bytes=False) as play:
        play.downstream >> GET
        up = await play.upstream()
        for _ in range(2):
            await up.read_until(END)
            up >> answer(503)
            await play.downstream.read_until(END)
            play.downstream >> GET
        refused = await play.downstream.expect(b"HTTP/1.1 503", until=b"\ncircuit_open\n")
        assert b"\r\nRetry-After: 30\r\n" in refused
        assert b"\r\nX-LBD-Reason: circuit_open\r\n".lower() in refused.lower()
        await trio.sleep(30.0)
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        up >> answer(200)
        await play.downstream.expect(b"HTTP/1.1 200", until=END)


@pytest.mark.parametrize("ending", ["hangs up", "resets", "is outrun"])
async def test_a_probe_of_which_nobody_will_tell_gives_its_place_back(ending: str) -> None:
    """Its client leaves, or another endpoint was faster: the next request is let through at once, not after `open`."""
    retry = RetryPolicy(attempts=1, hedge_after="1s") if ending == "is outrun" else RetryPolicy(attempts=0)
    breaker = BreakerPolicy(volume=2, open=30.0, probes=2 if ending == "is outrun" else 1)
    policy = cluster("one:1", "two:2", breaker=breaker, outlier=OutlierPolicy(enabled=False), retry=retry)
    async with Playbook(listener=REASONED, clusters=[policy], checks_bytes=False) as play:
        play.downstream >> GET
        for _ in range(2):
            up = await play.upstream()
            await up.read_until(END)
            up >> answer(503)
            await play.downstream.read_until(END)
            play.downstream >> GET
        await play.downstream.read_until(b"\ncircuit_open\n")
        await trio.sleep(30.0)
        probing = play.connect()
        probing >> GET
        silent = await play.upstream()
        await silent.read_until(END)
        if ending == "is outrun":
            await (rival := await play.upstream()).read_until(END)
            rival >> b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            await probing.expect(b"HTTP/1.1 200", until=END)
            probing >> GET  # of the two places one is this one's
            await (await play.upstream()).read_until(END)
        else:
            play.downstream >> GET
            await play.downstream.read_until(b"\ncircuit_open\n")
            probing.close() if ending == "hangs up" else probing.reset()
            await silent.expect_end()
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        up >> answer(200)
        await play.downstream.expect(b"HTTP/1.1 200", until=END)
        await settle()
        assert play.clusters["web"].circuit.is_closed


async def test_a_breaker_before_sessions() -> None:
    policy = cluster("one:1", breaker=BreakerPolicy(volume=1), outlier=OutlierPolicy(enabled=False))
    async with Playbook(listener=TCP, clusters=[policy], checks_bytes=False) as play:
        play.refuse = {"one:1"}
        await play.downstream.expect_end()
        await play.connect().expect_end()
        await settle()
        assert [line.reason for line in play.lines] == ["connect_refused", "circuit_open"]  # type: ignore[attr-defined]
        assert play.dialled == ["one:1"]
