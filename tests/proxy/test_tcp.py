"""Sessions: connections carried as they are, on virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.queue import QueuePolicy
from lbd.proxy.listener import ListenerPolicy, ListenerTimeouts
from lbd.proxy.reasons import failure
from lbd.routing.hello import PassthroughPolicy
from lbd.routing.route import RoutePolicy
from tests.support.script import Playbook
from tests.wire.hellos import hello_of, over_records

pytestmark = pytest.mark.usefixtures("autojump_clock")

TIMEOUTS = ListenerTimeouts(handshake=3.0, tunnel_idle=100.0)
TCP = ListenerPolicy("web", ("test",), protocol="tcp", timeouts=TIMEOUTS)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def cluster(*addresses: str, name: str = "web", **settings: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of the policy
    return ClusterPolicy(name, tuple(EndpointPolicy(address) for address in addresses or ("one:1",)), **settings)


def line(play: Playbook) -> Any:  # noqa: ANN401 - a Session, or a refusal
    [written] = play.lines
    return written


def counted(play: Playbook) -> dict[tuple[str, ...], int]:
    totals = play.board.totals()
    return {labels: values[0] for (number, labels), values in totals.items() if number == metrics.SESSIONS.number}


async def settle() -> None:
    await trio.sleep(0.05)


async def test_both_ways_and_what_is_written_down() -> None:
    async with Playbook(listener=TCP) as play:
        play.downstream >> b"hello"
        up = await play.upstream()
        await up.expect(b"hello", until=b"hello")
        up >> b"welcome"
        await play.downstream.expect(b"welcome", until=b"welcome")
        play.downstream >> b"!"
        await up.expect(b"!", until=b"!")
        up.end()
        await play.downstream.expect_end()
        play.downstream.end()
        await up.expect_end()
        await settle()
        written = line(play)
        assert (written.reason, written.listener_name, written.route_name, written.cluster_name) == ("", "web", "all", "web")
        assert (written.bytes_in, written.bytes_out, written.attempts) == (6, 7, 1)
        assert (written.client, written.endpoint_address, written.request.authority) == ("192.0.2.1", "one:1", b"")
        assert counted(play) == {("web", "all", "web", "ok"): 1}
        assert play.clusters["web"].endpoints[0].load() == 0


async def test_the_endpoint_may_speak_first() -> None:
    async with Playbook(listener=TCP) as play:
        up = await play.upstream()
        up >> b"220 ready\r\n"
        await play.downstream.expect(b"220", until=b"\r\n")


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_half_close_leaves_the_other_direction(who: str) -> None:
    async with Playbook(listener=TCP) as play:
        up = await play.upstream()
        first, second = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        first >> b"that was all"
        first.end()
        await second.expect(b"that", until=b"all")
        await second.expect_end()
        for _ in range(3):
            await trio.sleep(60.0)
            second >> b"x" * 1000
            await first.read_until(b"x" * 1000)
        assert not play.lines
        second.end()
        await first.expect_end()
        await settle()
        assert line(play).reason == ""


async def test_a_client_that_has_said_all_before_the_endpoint_is_found() -> None:
    async with Playbook(listener=TCP) as play:
        play.downstream >> b"all"
        play.downstream.end()
        up = await play.upstream()
        await up.expect(b"all", until=b"all")
        await up.expect_end()
        up >> b"answer"
        up.end()
        await play.downstream.expect(b"answer", until=b"answer")
        await play.downstream.expect_end()


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_reset_is_handed_on(who: str) -> None:
    async with Playbook(listener=TCP) as play:
        up = await play.upstream()
        first, second = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        first >> b"some"
        await second.read_until(b"some")
        first.reset()
        with pytest.raises(ConnectionResetError):
            await second.read()
        await settle()
        assert line(play).reason == f"{who}_reset"
        assert counted(play) == {("web", "all", "web", f"{who}_reset"): 1}


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_reset_after_an_end_is_handed_on_too(who: str) -> None:
    async with Playbook(listener=TCP) as play:
        up = await play.upstream()
        first, second = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        first >> b"some"
        first.end()
        await second.read_until(b"some")
        await second.expect_end()
        await trio.sleep(1.0)
        assert not play.lines
        first.reset()
        await settle()
        assert line(play).reason == f"{who}_reset"


async def test_the_next_endpoint_takes_what_one_refuses() -> None:
    async with Playbook(listener=TCP, clusters=[cluster("one:1", "two:2", "three:3")]) as play:
        play.refuse = {"one:1", "two:2"}
        play.downstream >> b"hello"
        up = await play.upstream()
        await up.expect(b"hello", until=b"hello")
        assert play.dialled[-1] == "three:3"
        play.downstream.reset()
        await settle()
        assert line(play).attempts == len(play.dialled)


async def test_the_next_endpoint_takes_over_from_one_that_does_not_answer() -> None:
    timeouts = TimeoutPolicy(connect=2.0)
    async with Playbook(listener=TCP, clusters=[cluster("one:1", "two:2", timeouts=timeouts)]) as play:
        play.silent = {"one:1"}
        other = play.connect()
        first, second = await play.upstream(), await play.upstream()
        assert sorted(play.dialled) == ["one:1", "two:2", "two:2"]
        play.downstream >> b"a"
        other >> b"b"
        assert {(await first.read(1.0)), (await second.read(1.0))} == {b"a", b"b"}
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 2]


@pytest.mark.parametrize(("attempts", "dialled"), [(0, 1), (1, 2), (9, 3)])
async def test_when_all_refuse_it_is_over(attempts: int, dialled: int) -> None:
    policy = cluster("one:1", "two:2", "three:3", retry=RetryPolicy(attempts))
    async with Playbook(listener=TCP, clusters=[policy]) as play:
        play.refuse = {"one:1", "two:2", "three:3"}
        await play.downstream.expect_end()
        await settle()
        assert (line(play).reason, line(play).attempts, len(play.dialled)) == ("connect_refused", dialled, dialled)


async def test_the_retry_budget_holds_for_sessions_too() -> None:
    policy = cluster("one:1", "two:2", retry=RetryPolicy(budget=0.2, budget_min=0))
    async with Playbook(listener=TCP, clusters=[policy]) as play:
        play.refuse = {"one:1", "two:2"}
        await play.downstream.expect_end()
        for _ in range(49):
            await play.connect().expect_end()
        await settle()
        assert 55 <= len(play.dialled) <= 60
        assert {each.reason for each in play.lines} == {"connect_refused"}  # type: ignore[attr-defined]
        assert {(each.attempts, len(each.tried)) for each in play.lines} == {(1, 0), (2, 1)}  # type: ignore[attr-defined]


async def test_no_healthy_endpoint() -> None:
    async with Playbook(listener=TCP, clusters=[cluster("one:1", panic=0.0)]) as play:
        play.clusters["web"].set_health("one:1", False)
        await play.downstream.expect_end()
        await settle()
        assert (line(play).reason, line(play).endpoint_address) == ("no_healthy_endpoint", "")


async def test_an_endpoint_has_as_many_sessions_as_it_takes_requests() -> None:
    endpoints = tuple(EndpointPolicy(f"{name}:1", max_requests=1) for name in ("one", "two"))
    policy = ClusterPolicy("web", endpoints, panic=0.0, queue=QueuePolicy(size=0))
    async with Playbook(listener=TCP, clusters=[policy]) as play:
        others = [play.connect() for _ in range(2)]
        first, _ = await play.upstream(), await play.upstream()
        assert sorted(play.dialled) == ["one:1", "two:1"]
        await settle()
        assert line(play).reason == "concurrency_limited"
        first.reset()  # and there is room again
        await settle()
        others.append(play.connect())
        await play.upstream()
        assert len(play.dialled) == 3


async def test_idle() -> None:
    async with Playbook(listener=TCP) as play:
        up = await play.upstream()
        for _ in range(3):  # either direction counts
            await trio.sleep(90.0)
            play.downstream >> b"up"
            await up.read_until(b"up")
            await trio.sleep(90.0)
            up >> b"down"
            await play.downstream.read_until(b"down")
        await trio.sleep(98.0)
        assert not play.lines
        await trio.sleep(4.0)
        assert line(play).reason == "tunnel_idle"
        with pytest.raises(ConnectionResetError):
            await play.downstream.read()


async def test_lifetime() -> None:
    policy = replace(TCP, timeouts=replace(TIMEOUTS, tunnel_lifetime=250.0))
    async with Playbook(listener=policy, checks_bytes=False) as play:
        await play.upstream()
        for _ in range(4):
            await trio.sleep(60.0)
            play.downstream >> b"x"
        assert not play.lines
        await trio.sleep(15.0)
        assert line(play).reason == "tunnel_lifetime"


async def test_a_reader_that_takes_nothing_ends_it_in_the_end() -> None:
    async with Playbook(listener=TCP, checks_bytes=False, buffer=1000) as play:
        await play.upstream()
        play.downstream >> b"x" * 1000  # which the upstream never reads
        await trio.sleep(1.0)
        play.downstream >> b"x" * 1000
        await trio.sleep(102.0)
        assert line(play).reason == "tunnel_idle"
        assert line(play).bytes_in == 1000


async def test_much_in_both_directions_at_once() -> None:
    down, up_data = bytes(range(256)) * 4000, bytes(range(255, -1, -1)) * 3000
    async with Playbook(listener=TCP, checks_bytes=False) as play:
        up = await play.upstream()
        got: dict[str, bytes] = {"up": b"", "down": b""}

        async def take(name: str, end: Any) -> None:  # noqa: ANN401
            while data := await end.read():
                got[name] += data

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, "up", up)
            nursery.start_soon(take, "down", play.downstream)
            async with trio.open_nursery() as senders:
                senders.start_soon(play.downstream.send, up_data)
                senders.start_soon(up.send, down)
            up.end()
            play.downstream.end()
        assert got == {"up": up_data, "down": down}
        await settle()
        assert (line(play).bytes_in, line(play).bytes_out) == (len(up_data), len(down))


async def test_a_drain_that_has_waited_long_enough() -> None:
    async with Playbook(listener=TCP) as play:
        await play.upstream()
        [fiber] = play.listener.fibers
        assert not play.listener.idle
        fiber.interrupt(failure("drain_timeout"))
        await settle()
        assert line(play).reason == "drain_timeout"
        with pytest.raises(ConnectionResetError):
            await play.downstream.read()


# Routes


ROUTES = [
    RoutePolicy(name="acme", sni=("*.example",), alpn=("acme-tls/1",), cluster="acme"),
    RoutePolicy(name="a", sni=("a.example", "b.example"), cluster="a"),
    RoutePolicy(name="wild", sni=("*.example",), cluster="wild"),
    RoutePolicy(name="deep", sni=("*.deep.example",), cluster="deep"),
    RoutePolicy(name="h2", alpn=("h2",), cluster="h2"),
    RoutePolicy(name="rest", cluster="rest"),
]
CLUSTERS = [cluster(f"{name}:1", name=name) for name in ("acme", "a", "wild", "deep", "h2", "rest")]


@pytest.mark.parametrize(
    ("hello", "route"),
    [
        (hello_of("a.example"), "a"),
        (hello_of("B.EXAMPLE"), "a"),
        (hello_of("c.example"), "wild"),
        (hello_of("x.c.example"), "wild"),
        (hello_of("x.deep.example"), "deep"),
        (hello_of("deep.example"), "wild"),
        (hello_of("c.example", ("acme-tls/1",)), "acme"),
        (hello_of("a.example", ("acme-tls/1",)), "a"),
        (hello_of("example"), "rest"),
        (hello_of("other.test", ("h2", "http/1.1")), "h2"),
        (hello_of("other.test", ("http/1.1",)), "rest"),
        (hello_of(None), "rest"),
        (hello_of(None, ("h2",)), "h2"),
        (b"SSH-2.0-x\r\n", "rest"),
    ],
)
@pytest.mark.parametrize("size", [20, 5000])
async def test_routes(hello: bytes, route: str, size: int) -> None:
    data = over_records(hello, size) if hello.startswith(b"\x16") else hello
    async with Playbook(listener=TCP, clusters=CLUSTERS, routes=ROUTES) as play:
        for at in range(0, len(data), 100):
            play.downstream >> data[at : at + 100]
            await trio.sleep(0.01)
        up = await play.upstream()
        assert play.dialled == [f"{route}:1"]
        await up.expect(data, until=data)
        up.end()
        play.downstream.end()
        await settle()
        assert (line(play).route_name, line(play).bytes_in) == (route, len(data))


async def test_who_says_nothing_goes_where_what_has_no_name_goes() -> None:
    async with Playbook(listener=TCP, clusters=CLUSTERS, routes=ROUTES) as play:
        await trio.sleep(2.9)
        assert play.dialled == []
        assert play.listener.idle, "a drain may end it"
        up = await play.upstream()
        assert play.dialled == ["rest:1"]
        assert not play.listener.idle
        up >> b"220 ready\r\n"
        await play.downstream.read_until(b"\r\n")


@pytest.mark.parametrize(
    ("data", "seconds", "reason"),
    [
        (b"\x16\3\1\0\4\2\0\0\0", 0.1, "client_hello_invalid"),
        (hello_of()[:50], 3.1, "client_hello_timeout"),
        (hello_of("nobody.test"), 0.1, "no_session_route"),
        (b"no TLS", 0.1, "no_session_route"),
    ],
)
async def test_what_has_no_route(data: bytes, seconds: float, reason: str) -> None:
    async with Playbook(listener=TCP, clusters=CLUSTERS, routes=ROUTES[:4]) as play:
        play.downstream >> data
        await trio.sleep(seconds)
        await play.downstream.expect_end()
        assert (line(play).reason, line(play).bytes_in) == (reason, len(data))
        assert play.dialled == []


async def test_a_hello_that_breaks_off() -> None:
    async with Playbook(listener=TCP, clusters=CLUSTERS, routes=ROUTES) as play:
        play.downstream >> hello_of()[:50]
        play.downstream.end()
        await play.downstream.expect_end()
        await settle()
        assert line(play).reason == "client_hello_invalid"


async def test_some_names_pass_an_http_listener() -> None:
    policy = ListenerPolicy("web", ("test",), passthrough=(PassthroughPolicy(("a.example",), cluster="a", name="pass"),), timeouts=TIMEOUTS)
    async with Playbook(listener=policy, clusters=CLUSTERS, routes=[RoutePolicy(name="all", cluster="rest")]) as play:
        hello = hello_of("a.example")
        play.downstream >> hello
        up = await play.upstream()
        assert play.dialled == ["a:1"]
        await up.expect(hello, until=hello)
        other = play.connect()
        other >> GET
        up = await play.upstream()
        assert play.dialled == ["a:1", "rest:1"]
        await up.expect(b"GET / ", until=b"\r\n\r\n")
