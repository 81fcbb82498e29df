"""Connections that change to another protocol, as transcripts between two scripted ends on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.proxy.listener import ListenerPolicy, ListenerTimeouts
from lbd.proxy.reasons import failure
from lbd.routing.route import HeaderEdits, RewritePolicy, RoutePolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

END = b"\r\n\r\n"
ASK = b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
YES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ONE_TRY = ClusterPolicy("web", (EndpointPolicy("one:1"),), retry=RetryPolicy(attempts=0))


def listener(**settings: Any) -> ListenerPolicy:  # noqa: ANN401 - any field of the policy
    return ListenerPolicy("web", ("test",), **settings)


async def open_tunnel(play: Playbook) -> End:
    """The upstream's end."""
    play.downstream >> ASK
    up = await play.upstream()
    await up.expect(b"GET /chat HTTP/1.1\r\n", until=END)
    up >> YES
    await play.downstream.expect(b"HTTP/1.1 101 ", until=END)
    return up


def last_line(play: Playbook) -> tuple[int, str]:
    line: Any = play.lines[-1]
    return line.status, line.reason


def count(play: Playbook, name: str, **labels: str) -> int:
    """A number on the board."""
    from lbd import metrics

    metric = next(metric for metric in metrics.CATALOGUE.values() if metric.name == name)
    wanted = tuple(labels[label] for label in metric.labels)
    return int(play.board.segment(0).cells[play.board.segment(0).series(metric.number, wanted, metric.width)])


async def test_bytes_pass_both_ways_after_the_101() -> None:
    asks, says = b"\x81\x02hi GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 500 no\r\n\r\n"  # whatever it looks like
    async with Playbook() as play:
        play.downstream >> ASK
        up = await play.upstream()
        request = await up.expect(b"GET /chat HTTP/1.1\r\nHost: a\r\n", until=END)
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in request
        assert b"Sec-WebSocket-Key: k\r\n" in request
        up >> YES
        answer = await play.downstream.expect(b"HTTP/1.1 101 Switching Protocols\r\n", until=END)
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in answer
        assert b"Sec-WebSocket-Accept: a\r\n" in answer
        assert b"ontent-" not in answer
        for _ in range(3):
            play.downstream >> asks
            assert await up.read() == asks
            up >> says
            assert await play.downstream.read() == says
        assert play.lines == []
        assert count(play, "lbd_tunnels", listener="web") == 1
        assert count(play, "lbd_requests_total", listener="web", route="all", cluster="web", code="101") == 1
        play.downstream.close()
        await up.expect_end()
        up.close()
        await trio.sleep(0.1)
        line: Any = play.lines[0]
        assert (line.status, line.reason, line.attempts) == (101, "", 1)
        assert line.bytes_in == len(ASK) + 3 * len(asks)
        assert line.bytes_out == len(answer) + 3 * len(says)
        assert line.upstream_out == len(request) + 3 * len(asks)
        assert line.upstream_in == len(YES) + 3 * len(says)
        for direction, side, size in (
            ("in", "downstream", line.bytes_in),
            ("out", "downstream", line.bytes_out),
            ("in", "upstream", line.upstream_in),
            ("out", "upstream", line.upstream_out),
        ):
            assert count(play, "lbd_bytes_total", direction=direction, side=side) == size
        assert count(play, "lbd_tunnels", listener="web") == 0
        assert count(play, "lbd_tunnels_opened_total", listener="web") == 1
        assert count(play, "lbd_requests_total", listener="web", route="all", cluster="web", code="101") == 1
        assert play.listener.fibers == set()


async def test_bytes_are_counted_while_the_tunnel_lasts() -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        before = count(play, "lbd_bytes_total", direction="in", side="downstream")
        play.downstream >> b"0123456789"
        await up.read()
        assert count(play, "lbd_bytes_total", direction="in", side="downstream") == before + 10
        assert count(play, "lbd_bytes_total", direction="out", side="upstream") == before + 10


async def test_what_comes_with_the_101_is_the_tunnels() -> None:
    async with Playbook() as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        up >> YES + b"\x81\x05hello"
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END + b"\x81\x05hello")


async def test_what_the_client_sends_early_waits_for_the_101() -> None:
    """CVE-2026-2833: not one byte of it may go up before."""
    async with Playbook() as play:
        play.downstream >> ASK + b"early"
        up = await play.upstream()
        await up.read_until(END)
        await up.expect_silence(1)
        up >> YES
        assert await up.read() == b"early"
        await play.downstream.read_until(END)


@pytest.mark.parametrize(
    "refusal",
    [
        OK,
        b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
async def test_early_bytes_are_the_next_request_where_nothing_is_switched(refusal: bytes) -> None:
    async with Playbook() as play:
        play.downstream >> ASK + b"GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\n\r\n"
        up = await play.upstream()
        await up.expect(b"GET /chat ", until=END)
        await up.expect_silence(1)
        up >> refusal
        await play.downstream.read_until(b"ok")
        if b"chunked" in refusal:
            await play.downstream.read_until(END)
        request = await up.expect(b"GET /admin HTTP/1.1\r\n", until=END)
        assert b"127.0.0.1" not in request
        assert b"pgrade" not in request
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_early_bytes_that_are_no_request_are_refused_where_nothing_is_switched() -> None:
    async with Playbook() as play:
        play.downstream >> ASK + b"\x81\x02hi\r\n\r\n"
        up = await play.upstream()
        await up.read_until(END)
        up >> OK
        await play.downstream.read_until(b"ok")
        await play.downstream.expect(b"HTTP/1.1 400 ", until=b"400 Bad Request\n")


@pytest.mark.parametrize(
    ("allowed", "head", "forwarded"),
    [
        (("websocket",), b"Connection: Upgrade\r\nUpgrade: WebSocket\r\n", b"WebSocket"),
        (("websocket",), b"Connection: keep-alive, upgrade\r\nUpgrade: h2c, websocket\r\n", b"websocket"),
        (("websocket",), b"Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket\r\n", b"websocket"),
        (("websocket", "tcp"), b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b"tcp"),
        (("WebSocket", "imap/4"), b"Connection: Upgrade\r\nUpgrade: IMAP/4, websocket\r\n", b"IMAP/4, websocket"),
        (("websocket",), b"Connection: Upgrade\r\nUpgrade: websocket/13\r\n", b""),
        (("websocket",), b"Connection: Upgrade\r\nUpgrade: tcp\r\n", b""),
        (("websocket",), b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", b""),
        (("websocket",), b"Upgrade: websocket\r\n", b""),
        (("websocket",), b"Connection: upgrade\r\n", b""),
        ((), b"Connection: Upgrade\r\nUpgrade: websocket\r\n", b""),
    ],
)
async def test_only_what_the_listener_names_is_offered(allowed: tuple[str, ...], head: bytes, forwarded: bytes) -> None:
    async with Playbook(listener=listener(upgrades=allowed)) as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n"
        up = await play.upstream()
        request = await up.read_until(END)
        if forwarded:
            assert b"\r\nConnection: upgrade\r\nUpgrade: " + forwarded + b"\r\n" in request
        else:
            assert b"onnection" not in request
        assert request.count(b"pgrade:") == bool(forwarded)
        assert b"HTTP2-Settings" not in request
        up >> OK
        await play.downstream.read_until(b"ok")


@pytest.mark.parametrize(
    ("ask", "yes"),
    [
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n"),
        (ASK, b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket, tcp\r\n\r\n"),
        (ASK.replace(b"websocket", b"h2c"), b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
        (ASK.replace(b"websocket", b"tcp"), b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n"),
        (ASK.replace(b"HTTP/1.1", b"HTTP/1.0"), YES),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", YES),
    ],
)
async def test_an_upstream_that_switches_to_what_nobody_asked_for(ask: bytes, yes: bytes) -> None:
    async with Playbook(clusters=[ONE_TRY]) as play:
        play.downstream >> ask
        up = await play.upstream()
        await up.read_until(END)
        up >> yes + b"raw"
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        await up.expect_end()
        assert last_line(play) == (502, "bad_response")


@pytest.mark.parametrize("early", [b"", b"more"])
async def test_a_body_goes_up_framed_before_anything_is_switched(early: bytes) -> None:
    async with Playbook() as play:
        play.downstream >> ASK.replace(END, b"\r\nTransfer-Encoding: chunked\r\n\r\n") + b"3\r\nabc\r\n"
        up = await play.upstream()
        await up.read_until(b"3\r\nabc\r\n")
        up >> YES + b"said"  # before it has the whole body
        await play.downstream.expect_silence(1)
        play.downstream >> b"2\r\nde\r\n0\r\n\r\n" + early
        await up.read_until(b"2\r\nde\r\n0\r\n\r\n")
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END + b"said")
        if early:
            assert await up.read_until(early) == early
        play.downstream >> b"tunnel"
        await up.expect(b"tunnel", until=b"tunnel")


async def test_a_body_that_came_along_goes_up_in_one_piece() -> None:
    async with Playbook() as play:
        play.downstream >> ASK.replace(END, b"\r\nContent-Length: 3\r\n\r\n") + b"abcearly"
        up = await play.upstream()
        await up.read_until(END + b"abc")
        await up.expect_silence(1)
        up >> YES
        await up.expect(b"early", until=b"early")
        await play.downstream.read_until(END)


async def test_interim_responses_come_before_the_101() -> None:
    async with Playbook() as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        up >> b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + YES
        await play.downstream.expect(b"HTTP/1.1 103 ", until=END)
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END)
        play.downstream >> b"x"
        assert await up.read() == b"x"


async def test_a_rewritten_101() -> None:
    edits = RewritePolicy(response_headers=HeaderEdits(set=(("X-A", "1"),), remove=("Server",)))
    async with Playbook(routes=[RoutePolicy(name="all", cluster="web", rewrite=edits)]) as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        up >> YES.replace(END, b"\r\nServer: x\r\n\r\n")
        answer = await play.downstream.read_until(END)
        assert b"X-A: 1\r\n" in answer
        assert b"Server" not in answer


async def test_one_direction_ends_and_the_other_goes_on() -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        play.downstream >> b"all"
        play.downstream.end()
        await up.expect(b"all", until=b"all")
        await up.expect_end()
        for _ in range(2):
            await trio.sleep(100)
            up >> b"still here"
            assert await play.downstream.read() == b"still here"
        up.end()
        await play.downstream.expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, "")
        assert play.listener.fibers == set()


async def test_the_upstream_ends_first() -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        up >> b"bye"
        up.end()
        await play.downstream.expect(b"bye", until=b"bye")
        await play.downstream.expect_end()
        play.downstream >> b"one more"
        await up.expect(b"one more", until=b"one more")
        play.downstream.close()
        await up.expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, "")


@pytest.mark.parametrize(("who", "reason"), [("downstream", "downstream_reset"), ("upstream", "upstream_reset")])
async def test_a_reset_ends_both(who: str, reason: str) -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        (play.downstream if who == "downstream" else up).reset()
        await (up if who == "downstream" else play.downstream).expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, reason)
        assert play.listener.fibers == set()
        assert count(play, "lbd_tunnels", listener="web") == 0


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_reset_after_an_end_ends_both_too(who: str) -> None:
    """Though nobody reads from that side any more, and nothing is sent to it."""
    async with Playbook() as play:
        up = await open_tunnel(play)
        first, second = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        first.end()
        await second.expect_end()
        await trio.sleep(1.0)
        assert count(play, "lbd_tunnels", listener="web") == 1
        first.reset()
        await trio.sleep(0.1)
        assert last_line(play) == (101, f"{who}_reset")
        assert play.listener.fibers == set()
        assert count(play, "lbd_tunnels", listener="web") == 0


async def test_no_limit_of_requests_holds_in_a_tunnel() -> None:
    short = TimeoutPolicy(response=1.0, idle=1.0, total=2.0)
    timeouts = ListenerTimeouts(head=1.0, keepalive=1.0, body=1.0)
    clusters = [ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=short)]
    async with Playbook(listener=listener(timeouts=timeouts), clusters=clusters) as play:
        up = await open_tunnel(play)
        await trio.sleep(3000)
        play.downstream >> b"x"
        assert await up.read() == b"x"
        await trio.sleep(3000)
        up >> b"y"
        assert await play.downstream.read() == b"y"


async def test_the_time_to_the_101_is_the_responses() -> None:
    clusters = [ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(response=5.0), retry=RetryPolicy(attempts=0))]
    async with Playbook(clusters=clusters) as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n", seconds=6)
        await up.expect_end()


@pytest.mark.parametrize(
    ("timeouts", "lives", "reason"),
    [
        (ListenerTimeouts(tunnel_idle=10.0), 10.0, "tunnel_idle"),
        (ListenerTimeouts(tunnel_idle=10.0, tunnel_lifetime=3.0), 3.0, "tunnel_lifetime"),
        (ListenerTimeouts(tunnel_idle=0.0, tunnel_lifetime=20_000.0), 20_000.0, "tunnel_lifetime"),
        (ListenerTimeouts(), 3600.0, "tunnel_idle"),
    ],
)
async def test_a_tunnels_own_limits(timeouts: ListenerTimeouts, lives: float, reason: str) -> None:
    async with Playbook(listener=listener(timeouts=timeouts)) as play:
        up = await open_tunnel(play)
        began = trio.current_time()
        await trio.sleep(lives - 1)
        assert play.lines == []
        await up.expect_end(seconds=3)
        await play.downstream.expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, reason)
        assert trio.current_time() - began == pytest.approx(lives, abs=1.0)


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_a_byte_in_either_direction_is_life_to_both(who: str) -> None:
    async with Playbook(listener=listener(timeouts=ListenerTimeouts(tunnel_idle=10.0))) as play:
        up = await open_tunnel(play)
        speaks, hears = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        for _ in range(5):
            await trio.sleep(8)
            speaks >> b"x"
            assert await hears.read() == b"x"
        await hears.expect_end(seconds=15)


async def test_busy_does_not_prolong_a_lifetime() -> None:
    async with Playbook(listener=listener(timeouts=ListenerTimeouts(tunnel_lifetime=10.0)), checks_bytes=False) as play:
        up = await open_tunnel(play)
        for _ in range(9):
            await trio.sleep(1)
            play.downstream >> b"x"
            await up.read()
        await up.expect_end(seconds=3)
        await trio.sleep(0.1)
        assert last_line(play) == (101, "tunnel_lifetime")


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_who_takes_nothing_holds_the_other_up_and_no_more_than_a_window(who: str) -> None:
    async with Playbook(buffer=4096) as play:
        up = await open_tunnel(play)
        speaks, hears = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        sent = 0
        while count_sent := speaks.stream.send(b"x" * 1000):
            sent += count_sent
            await trio.sleep(0.01)
        assert sent <= 3 * 64 * 1024
        got = 0
        while got < sent:
            got += len(await hears.read())
            await trio.sleep(0.01)
        assert got == sent


@pytest.mark.parametrize("who", ["downstream", "upstream"])
async def test_much_arrives_whole(who: str) -> None:
    data = bytes(range(256)) * 8192  # 2 MiB
    async with Playbook() as play:
        up = await open_tunnel(play)
        speaks, hears = (play.downstream, up) if who == "downstream" else (up, play.downstream)
        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(speaks.send, data)
            while len(got) < len(data):
                got += await hears.read()
        assert got == data
        hears >> b"small again"
        assert await speaks.read() == b"small again"


async def test_a_drain_waits_for_a_tunnel_and_then_cuts_it() -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        play.listener.is_draining = True
        play.downstream >> b"x"
        assert await up.read() == b"x"
        for fiber in play.listener.fibers:
            fiber.interrupt(failure("drain_timeout"))
        await play.downstream.expect_end()
        await up.expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, "drain_timeout")


async def test_an_upgrade_during_a_drain_still_switches() -> None:
    async with Playbook() as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        play.listener.is_draining = True
        up >> YES
        answer = await play.downstream.read_until(END)
        assert b"Connection: upgrade\r\n" in answer
        assert b"close" not in answer


async def test_a_client_that_goes_before_the_101() -> None:
    async with Playbook() as play:
        play.downstream >> ASK
        up = await play.upstream()
        await up.read_until(END)
        play.downstream.close()
        await up.expect_end()
        await trio.sleep(0.1)
        assert last_line(play) == (0, "downstream_closed")


async def test_a_tunnels_connection_is_never_used_again() -> None:
    async with Playbook() as play:
        up = await open_tunnel(play)
        up.close()
        await play.downstream.expect_end()
        play.downstream.close()
        await trio.sleep(0.1)
        other = play.connect()
        other >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        again = await play.upstream()
        await again.expect(b"GET / ", until=END)
        again >> OK
        await other.read_until(b"ok")
        assert play.dialled == ["one:1", "one:1"]


async def test_a_tunnel_over_a_connection_that_was_used_before() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        up = await play.upstream()
        await up.read_until(END)
        up >> OK
        await play.downstream.read_until(b"ok")
        play.downstream >> ASK
        await up.expect(b"GET /chat ", until=END)
        up >> YES
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END)
        play.downstream >> b"x"
        assert await up.read() == b"x"
        assert play.dialled == ["one:1"]
        assert play.clusters["web"].endpoints[0].load() == 1
        play.downstream.close()
        up.close()
        await trio.sleep(0.1)
        assert play.clusters["web"].endpoints[0].load() == 0
