"""Sticky sessions and subsets as clients and endpoints see them, on virtual time."""

from __future__ import annotations

import re

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.sticky import Sticky, StickyPolicy
from lbd.metrics import SPILLS, STICKY
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy
from lbd.worker.messages import EndpointState
from tests.cluster.fakes import make_endpoint
from tests.support.http2 import Http2End
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")

POLICY = StickyPolicy(secret="s" * 32)
ENDPOINTS = tuple(EndpointPolicy(f"{name}:1", metadata=(("version", version),)) for name, version in (("a", "1"), ("b", "2"), ("c", "2")))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


def playbook(subset: tuple[tuple[str, str], ...] = (), fallback: str = "none", sticky: StickyPolicy | None = POLICY) -> Playbook:
    cluster = ClusterPolicy("web", ENDPOINTS, sticky=sticky, pool=PoolPolicy(max_idle=0))
    return Playbook(clusters=[cluster], routes=[RoutePolicy(name="all", cluster="web", subset=subset, subset_fallback=fallback)])


def cookie_of(address: str) -> bytes:
    return Sticky("web", POLICY).line(make_endpoint(address), False).partition(b";")[0]


async def ask(play: Playbook, cookie: bytes = b"") -> tuple[bytes, bytes, bytes]:
    """The request as an endpoint saw it, who that was, and what Set-Cookie came back."""
    play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"Cookie: %b\r\n" % cookie if cookie else b"") + b"\r\n"
    end = await play.upstream()
    request = await end.read_until(b"\r\n\r\n")
    end >> OK
    answer = await play.downstream.read_until(b"\r\n\r\nhello")
    found = re.search(rb"Set-Cookie: (.*)\r\n", answer)
    return request, play.dialled[-1].encode(), found[1] if found else b""


def make_state(name: str, version: str = "1", *, max_requests: int = 0) -> EndpointState:
    return EndpointState(name, 1, ord(name[0]) - ord("a"), max_requests=max_requests, metadata=(("version", version),))


def counted(play: Playbook, number: int) -> dict[str, int]:
    return {labels[1]: cells[0] for (metric, labels), cells in play.board.totals().items() if metric == number}


def outcomes(play: Playbook) -> list[str]:
    """As the access log has them."""
    return [line.sticky for line in play.lines]  # type: ignore[attr-defined]


# Sticky sessions


async def test_a_client_comes_back_to_its_endpoint() -> None:
    async with playbook() as play:
        _, first, line = await ask(play)
        assert line == cookie_of(first.decode()) + b"; Path=/; HttpOnly; SameSite=Lax"
        for _ in range(6):
            request, again, line = await ask(play, b"x=1; " + cookie_of(first.decode()))
            assert (again, line) == (first, b"")
            assert b"\r\nCookie: x=1\r\n" in request
        assert counted(play, STICKY.number) == {"new": 1, "kept": 6}
        assert outcomes(play) == ["new", *["kept"] * 6]


async def test_clients_without_a_cookie_are_balanced() -> None:
    async with playbook() as play:
        assert {(await ask(play))[1] for _ in range(6)} == {b"a:1", b"b:1", b"c:1"}


async def test_where_no_session_is_sticky_nothing_is_said_of_any() -> None:
    async with Playbook(clusters=[ClusterPolicy("web", ENDPOINTS)]) as play:
        await ask(play, cookie_of("a:1"))
        assert outcomes(play) == [""]


@pytest.mark.parametrize("cookie", [b"lbd-web=", b"lbd-web=AAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA", b"lbd-web=10.0.0.1"])
async def test_a_forged_cookie_is_ignored_and_replaced(cookie: bytes) -> None:
    async with playbook() as play:
        request, endpoint, line = await ask(play, cookie)
        assert line.startswith(cookie_of(endpoint.decode()))
        assert b"Cookie" not in request
        assert counted(play, STICKY.number) == {"invalid": 1}
        assert outcomes(play) == ["invalid"]


async def test_who_is_out_is_left_and_the_client_stays_where_it_has_come_to() -> None:
    async with playbook() as play:
        for change in ("down", "left"):
            if change == "down":
                play.clusters["web"].set_health("a:1", False)
            else:
                play.clusters["web"].update(make_state(name) for name in ("b:1", "c:1"))
            _, endpoint, line = await ask(play, cookie_of("a:1"))
            assert endpoint != b"a:1"
            assert line.startswith(cookie_of(endpoint.decode()))
            assert (await ask(play, line.partition(b";")[0]))[1:] == (endpoint, b"")
        assert counted(play, STICKY.number) == {"moved": 2, "kept": 2}


async def test_who_is_full_is_left_for_this_request() -> None:
    async with playbook() as play:
        play.clusters["web"].update(make_state(name, max_requests=1) for name in ("a:1", "b:1"))
        a, _ = play.clusters["web"].endpoints
        a.begin()
        assert (await ask(play, cookie_of("a:1")))[1] == b"b:1"
        a.end()
        assert (await ask(play, cookie_of("a:1")))[1:] == (b"a:1", b"")


async def test_a_retry_leaves_the_endpoint_and_takes_the_cookie_along() -> None:
    async with playbook() as play:
        play.refuse.add("a:1")
        request, endpoint, line = await ask(play, cookie_of("a:1"))
        assert play.dialled[0] == "a:1"
        assert endpoint in (b"b:1", b"c:1")
        assert line.startswith(cookie_of(endpoint.decode()))
        assert b"Cookie" not in request
        assert outcomes(play) == ["moved"]


async def test_who_has_been_led_back_is_not_hedged() -> None:
    cluster = ClusterPolicy("web", ENDPOINTS, sticky=POLICY, pool=PoolPolicy(max_idle=0), retry=RetryPolicy(hedge_after="50ms"))
    async with Playbook(clusters=[cluster]) as play:
        for cookie, expected in ((cookie_of("a:1"), ["a:1"]), (b"x=1", ["a:1", "b:1"])):
            play.dialled.clear()
            play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nCookie: %b\r\n\r\n" % cookie
            up = await play.upstream()
            await up.read_until(b"\r\n\r\n")
            await trio.sleep(1.0)
            assert len(play.dialled) == len(expected)
            if len(expected) > 1:
                up = await play.upstream()
                await up.read_until(b"\r\n\r\n")
            up >> OK
            answer = await play.downstream.read_until(b"\r\n\r\nhello")
            assert (b"Set-Cookie: " + cookie_of(play.dialled[-1]) in answer) is (cookie == b"x=1")


async def test_an_answer_of_our_own_sets_no_cookie() -> None:
    async with playbook() as play:
        play.refuse |= {"a:1", "b:1", "c:1"}
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        head = await play.downstream.expect(b"HTTP/1.1 502", until=b"\r\n\r\n")
        assert b"Set-Cookie" not in head
        await play.downstream.read_until(b"\n")
        assert counted(play, STICKY.number) == {}
        assert outcomes(play) == ["new"]


async def test_a_client_of_http2_comes_back_too() -> None:
    async with playbook() as play:
        them = Http2End(play.downstream)
        cookie = cookie_of("c:1")
        for fields in ([(b"cookie", b"x=1"), (b"cookie", cookie)], [(b"cookie", b"x=1; " + cookie)]):
            number = them.get("/", *fields)
            up = await play.upstream()
            request = await up.read_until(b"\r\n\r\n")
            assert b"ookie: x=1\r\n" in request
            assert b"lbd-web" not in request
            up >> OK
            answer = await them.answer(number)
            assert (answer.status, answer.field(b"set-cookie"), play.dialled[-1]) == (200, None, "c:1")
        number = them.get("/")
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        up >> OK
        answer = await them.answer(number)
        assert (answer.field(b"set-cookie") or b"").startswith(cookie_of(play.dialled[-1]))


async def test_a_websocket_sticks() -> None:
    async with playbook() as play:
        upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        play.downstream >> upgrade + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        up >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        head = await play.downstream.expect(b"HTTP/1.1 101", until=b"\r\n\r\n")
        assert b"Set-Cookie: " + cookie_of(play.dialled[-1]) in head
        up.end()
        play.downstream.end()


@pytest.mark.parametrize(("share", "expected"), [(5, {b"n:1"}), (0, {b"a:1", b"b:1", b"c:1"})])
async def test_a_canary_does_not_change_under_a_session(share: int, expected: set[bytes]) -> None:
    """A cookie decides before the lot does, for clusters that have a share."""
    clusters = [
        ClusterPolicy("web", ENDPOINTS, sticky=POLICY, pool=PoolPolicy(max_idle=0)),
        ClusterPolicy("next", (EndpointPolicy("n:1"),), sticky=POLICY, pool=PoolPolicy(max_idle=0)),
        ClusterPolicy("plain", (EndpointPolicy("p:1"),), pool=PoolPolicy(max_idle=0)),
    ]
    route = RoutePolicy(name="all", clusters=(("web", 90), ("next", share), ("plain", 5 if share else 0)))
    async with Playbook(clusters=clusters, routes=[route]) as play:
        cookie = Sticky("next", POLICY).line(make_endpoint("n:1"), False).partition(b";")[0]
        found = set()
        for _ in range(12):
            request, endpoint, _ = await ask(play, cookie)
            found.add(endpoint)
            assert (b"Cookie" in request) is (endpoint != b"n:1")
        assert found == expected


async def test_a_forged_cookie_does_not_choose_a_cluster() -> None:
    clusters = [ClusterPolicy(name, (EndpointPolicy(f"{name}:1"),), sticky=POLICY, pool=PoolPolicy(max_idle=0)) for name in ("web", "next")]
    async with Playbook(clusters=clusters, routes=[RoutePolicy(name="all", clusters=(("web", 99), ("next", 1)))]) as play:
        assert (await ask(play, b"lbd-next=AAAAAAAAAAAA.AAAAAAAAAAAAAAAAAAAAAAAA"))[1] == b"web:1"


# Subsets


async def test_a_route_gets_its_subset() -> None:
    async with playbook((("version", "2"),), sticky=None) as play:
        assert {(await ask(play))[1] for _ in range(6)} == {b"b:1", b"c:1"}


@pytest.mark.parametrize("sticky", [None, POLICY])
async def test_a_subset_that_is_out_is_no_answer(sticky: StickyPolicy | None) -> None:
    async with playbook((("version", "1"),), sticky=sticky) as play:
        play.clusters["web"].update(make_state(name, version) for name, version in (("b:1", "2"), ("c:1", "2")))
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        await play.downstream.expect(b"HTTP/1.1 503", until=b"\r\n\r\n")
        await play.downstream.read_until(b"\n")
        assert play.dialled == []
        (line,) = play.lines
        assert line.detail == "no endpoint of web can take the request: 2 of 2 are up; the route wants one with version = 1"  # type: ignore[attr-defined]


async def test_a_subset_that_is_out_may_fall_back() -> None:
    async with playbook((("version", "1"),), "any", None) as play:
        assert {(await ask(play))[1] for _ in range(4)} == {b"a:1"}
        play.clusters["web"].set_health("a:1", False)
        assert {(await ask(play))[1] for _ in range(4)} == {b"b:1", b"c:1"}
        assert counted(play, SPILLS.number) == {"subset": 4}


async def test_a_client_is_led_back_within_the_subset_only() -> None:
    async with playbook((("version", "2"),)) as play:
        assert (await ask(play, cookie_of("c:1")))[1:] == (b"c:1", b"")
        _, endpoint, line = await ask(play, cookie_of("a:1"))
        assert endpoint in (b"b:1", b"c:1")
        assert line.startswith(cookie_of(endpoint.decode()))


async def test_connections_that_are_carried_as_they_are_have_subsets_too() -> None:
    routes = [RoutePolicy(name="all", cluster="web", subset=(("version", "2"),))]
    listener = ListenerPolicy("web", ("test",), protocol="tcp")
    async with Playbook(listener=listener, clusters=[ClusterPolicy("web", ENDPOINTS)], routes=routes) as play:
        play.refuse.add("b:1")
        ends = [play.downstream, play.connect(), play.connect()]
        for end in ends:
            up = await play.upstream()
            end >> b"hello"
            await up.expect(b"hello", until=b"hello")
        assert set(play.dialled) == {"b:1", "c:1"}
        play.clusters["web"].update([make_state("a:1")])
        await play.connect().expect_end()
        assert play.lines[-1].detail.endswith("1 of 1 are up; the route wants one with version = 2")  # type: ignore[attr-defined]
