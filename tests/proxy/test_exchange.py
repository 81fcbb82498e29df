"""One request's life, as transcripts between two scripted ends on virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.routing.route import HeaderEdits, RedirectPolicy, RespondPolicy, RewritePolicy, RoutePolicy, RouteTimeouts
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


def cluster(*addresses: str, **settings: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of the policy
    return ClusterPolicy("web", tuple(EndpointPolicy(address) for address in addresses or ("one:1",)), **settings)


async def serve_one(play: Playbook, answer: bytes = OK, up: End | None = None) -> End:
    """The upstream takes one request without a body and answers."""
    up = up or await play.upstream()
    await up.read_until(END)
    up >> answer
    return up


async def test_a_get_and_its_answer() -> None:
    async with Playbook() as play:
        (
            play.downstream
            >> b"GET /a?b=1 HTTP/1.1\r\nHost: Example.com:80\r\nAccept: */*\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\n\r\n"
        )
        up = await play.upstream()
        request = await up.expect(b"GET /a?b=1 HTTP/1.1\r\nHost: example.com:80\r\n", until=END)
        assert b"Accept: */*\r\n" in request
        assert b"X-Forwarded-For: 192.0.2.1\r\n" in request
        assert b"Via: 1.1 lbd\r\n" in request
        assert b"X-Request-Id: " in request
        assert b"onnection" not in request
        assert b"X-Hop" not in request
        up >> b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nX-A: 1\r\n\r\nok"
        answer = await play.downstream.expect(b"HTTP/1.1 200 Fine\r\n", until=b"ok")
        assert b"X-A: 1\r\n" in answer
        assert b"Keep-Alive" not in answer
        line: Any = play.lines[0]
        assert (line.status, line.route_name, line.cluster_name, line.endpoint_address, line.attempts) == (200, "all", "web", "one:1", 1)
        assert (line.reason, line.is_reused, line.client) == ("", False, "192.0.2.1")
        assert line.bytes_out == len(answer)


async def test_credentials_for_a_proxy_do_not_cross() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nProxy-Authorization: Basic eDp5\r\nAuthorization: Basic YTpi\r\n\r\n"
        up = await play.upstream()
        request = await up.expect(b"GET / HTTP/1.1\r\n", until=END)
        assert b"roxy-" not in request
        assert b"Authorization: Basic YTpi\r\n" in request
        up >> b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\nContent-Length: 2\r\n\r\nno"
        answer = await play.downstream.expect(b"HTTP/1.1 407 No\r\n", until=b"no")
        assert b"roxy-" not in answer


async def test_connections_are_reused_on_both_sides() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        play.downstream >> GET
        await serve_one(play, up=up)
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]
        assert [line.is_reused for line in play.lines] == [False, True]  # type: ignore[attr-defined]


async def test_another_downstream_uses_the_same_upstream_connection() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        other = play.connect("192.0.2.9")
        other >> GET
        assert b"X-Forwarded-For: 192.0.2.9\r\n" in await up.read_until(END)
        up >> OK
        await other.read_until(b"ok")


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with Playbook() as play:
        play.downstream >> b"".join(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % i for i in range(3))
        up = await play.upstream()
        for i in range(3):
            await up.expect(b"GET /%d " % i, until=END)
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % i
            await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"\r\n\r\n%d" % i)


@pytest.mark.parametrize(
    ("request_line", "answer", "expected_end"),
    [
        (b"GET / HTTP/1.1", b"HTTP/1.1 204 No Content\r\n\r\n", END),
        (b"GET / HTTP/1.1", b"HTTP/1.1 304 Not Modified\r\nETag: 1\r\nContent-Length: 99\r\n\r\n", END),
        (b"HEAD / HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", END),
        (b"HEAD / HTTP/1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", END),
        (b"GET / HTTP/1.1", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", END),
        (b"GET / HTTP/1.1", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"0\r\n\r\n"),
        (b"GET / HTTP/1.1", b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    ],
)
async def test_responses_leave_both_connections_usable(request_line: bytes, answer: bytes, expected_end: bytes) -> None:
    async with Playbook() as play:
        play.downstream >> request_line + b"\r\nHost: a\r\n\r\n"
        up = await serve_one(play, answer)
        await play.downstream.read_until(expected_end)
        play.downstream >> GET
        await serve_one(play, up=up)
        await play.downstream.read_until(b"ok")


async def test_chunks_go_through_as_they_come_with_trailers_and_without_extensions() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n")
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"3\r\nabc\r\n")
        up >> b"4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n"
        assert await play.downstream.read_until(END) == b"4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n"


async def test_a_close_delimited_answer_becomes_chunks() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play, b"HTTP/1.1 200 OK\r\n\r\nabc")
        head = await play.downstream.read_until(b"3\r\nabc\r\n")
        assert b"ransfer-" in head
        up.close()
        await play.downstream.expect(b"0\r\n\r\n", until=END)
        play.downstream >> GET
        await serve_one(play)  # a new upstream connection, the same downstream one
        await play.downstream.read_until(b"ok")


async def test_http10_gets_no_chunks_and_its_connection_closed() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.0\r\n\r\n"
        await serve_one(play, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        answer = await play.downstream.read_until(b"abc")
        assert b"ransfer-" not in answer
        assert b"Connection: close\r\n" in answer
        await play.downstream.expect_end()


async def test_http10_without_host_gets_one_upstream() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.0\r\n\r\n"
        up = await play.upstream()
        await up.expect(b"GET / HTTP/1.1\r\nHost: web\r\n", until=END)
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_http10_keep_alive() -> None:
    async with Playbook() as play:
        for _ in range(2):
            play.downstream >> b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
            up = await play.latest_upstream()
            await serve_one(play, up=up)
            assert b"Connection: keep-alive\r\n" in await play.downstream.read_until(b"ok")


async def test_connection_close_of_the_client_does_not_cost_the_upstream_connection() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        up = await serve_one(play)
        assert b"Connection: close\r\n" in await play.downstream.read_until(b"ok")
        await play.downstream.expect_end()
        other = play.connect()
        other >> GET
        await serve_one(play, up=up)
        await other.read_until(b"ok")


async def test_connection_close_of_the_upstream_does_not_cost_the_clients_connection() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
        assert b"Connection" not in await play.downstream.read_until(b"ok")
        await up.expect_end()
        play.downstream >> GET
        await serve_one(play)
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1", "one:1"]


# Bodies


async def test_a_body_that_came_with_its_head_goes_up_in_one_piece() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
        up = await play.upstream()
        assert b"Content-Length: 4\r\n" in await up.read_until(b"\r\n\r\nbody")
        up >> OK
        await play.downstream.read_until(b"ok")


@pytest.mark.parametrize(
    ("length", "behind", "is_whole"),
    [(20_000, b"", True), (20_000, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True), (60_000, b"", True), (65_537, b"", False)],
    ids=["a second read", "the next request behind it", "all but the window", "beyond the window"],
)
async def test_the_rest_of_a_body_that_is_there_goes_up_with_the_head(length: int, behind: bytes, is_whole: bool) -> None:
    body = b"x" * (length - 3) + b"end"
    request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + body
    async with Playbook(buffer=128 * 1024) as play:
        play.downstream >> request + behind
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        assert await up.read_until(b"end") == body
        up >> OK
        await play.downstream.read_until(b"\r\n\r\nok")
        if behind:
            await up.read_until(b"\r\n\r\n")
            up >> OK
            await play.downstream.read_until(b"\r\n\r\nok")
        exchange: Any = play.lines[0]
        assert (exchange.upload is None) is is_whole, "a fiber brings up what has not come with its head"
        assert exchange.bytes_in == len(request)


async def test_a_body_in_pieces_streams_up() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nab")
        play.downstream >> b"cd"
        await up.read_until(b"cd")
        play.downstream >> b"ef" + GET
        await up.read_until(b"ef")
        up >> OK
        await play.downstream.read_until(b"ok")
        await serve_one(play, up=up)
        await play.downstream.read_until(b"ok")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (b"Connection: TE\r\nTE: trailers\r\n", True),
        (b"Connection: keep-alive, te, X-Own\r\nTE: gzip;q=0.5, Trailers , deflate\r\nX-Own: 1\r\n", True),
        (b"TE: trailers\r\n", True),
        (b"TE: x\r\nTE: trailers\r\n", True),
        (b"Connection: TE\r\nTE: gzip\r\n", False),
        (b"Connection: TE\r\nTE: \r\n", False),
        (b"Connection: TE\r\n", False),
        (b"Connection: TE, upgrade\r\nUpgrade: websocket\r\nTE: trailers\r\n", False),
    ],
)
async def test_who_takes_trailers_says_so_to_the_endpoint(lines: bytes, told: bool) -> None:
    """And that alone: what else TE says is about this connection."""
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n"
        head = await (await play.upstream()).read_until(END)
        assert (b"\r\nConnection: TE\r\nTE: trailers\r\n" in head) is told
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")]
        assert (names.count(b"te"), names.count(b"connection")) == (told, told or b"upgrade" in lines)
        assert b"x-own" not in names


async def test_old_clients_cannot_take_trailers() -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> b"GET / HTTP/1.0\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n"
        head = await (await play.upstream()).read_until(END)
        assert b"TE:" not in head
        assert b"Connection" not in head


async def test_trailers_that_were_asked_for_go_down() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: trailers\r\n\r\n"
        up = await play.upstream()
        assert b"\r\nTE: trailers\r\n" in await up.read_until(END)
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n"
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n")


async def test_a_chunked_body_is_forwarded_with_its_trailers() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;ext\r\nabc\r\n"
        up = await play.upstream()
        assert b"Transfer-Encoding: chunked\r\n" in await up.read_until(b"3\r\nabc\r\n")
        play.downstream >> b"1\r\nd\r\n0\r\nX-T: 1\r\n\r\n"
        await up.expect(b"1\r\nd\r\n0\r\n", until=b"X-T: 1\r\n\r\n")
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_both_directions_stream_at_once() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"
        up = await play.upstream()
        await up.read_until(b"1\r\na\r\n")
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nA\r\n"
        await play.downstream.read_until(b"1\r\nA\r\n")
        play.downstream >> b"1\r\nb\r\n"
        await up.read_until(b"1\r\nb\r\n")
        up >> b"1\r\nB\r\n"
        await play.downstream.read_until(b"1\r\nB\r\n")
        play.downstream >> b"0\r\n\r\n"
        await up.read_until(b"0\r\n\r\n")
        up >> b"0\r\n\r\n"
        await play.downstream.read_until(b"0\r\n\r\n")
        play.downstream >> GET
        await serve_one(play, up=up)
        await play.downstream.read_until(b"ok")


async def test_an_early_answer_that_closes_ends_both_connections() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nab"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nab")
        up >> b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno"
        assert b"Connection: close\r\n" in await play.downstream.read_until(b"no")
        await up.expect_end()
        await play.downstream.expect_end()


async def test_after_an_early_answer_the_rest_of_the_body_still_goes_up() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nab")
        up >> OK
        await play.downstream.read_until(b"ok")
        play.downstream >> b"cd" + GET
        await up.read_until(b"cd")
        await serve_one(play, up=up)
        await play.downstream.read_until(b"ok")


async def test_expect_100_continue_is_the_upstreams_to_answer() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        up = await play.upstream()
        assert b"100-continue" in await up.read_until(END)
        up >> b"HTTP/1.1 100 Continue\r\n\r\n"
        await play.downstream.expect(b"HTTP/1.1 100 Continue\r\n", until=END)
        play.downstream >> b"hi"
        await up.read_until(b"hi")
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_expect_100_continue_refused() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await serve_one(play, b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
        # Whether the client sends its body now is anybody's guess: the connection cannot be used again.
        assert b"Connection: close\r\n" in await play.downstream.expect(b"HTTP/1.1 417 ", until=END)
        await play.downstream.expect_end()


async def test_interim_responses_pass_but_not_to_http10() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with Playbook() as play:
        play.downstream >> GET
        await serve_one(play, hints + hints + OK)
        await play.downstream.expect(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n", until=END)
        await play.downstream.expect(b"HTTP/1.1 103 ", until=END)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.0\r\n\r\n"
        await serve_one(play, hints + OK)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")


async def test_endless_interim_responses_are_an_upstreams_fault() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        await serve_one(play, b"HTTP/1.1 102 Processing\r\n\r\n" * 40)
        await play.downstream.read_until(b"HTTP/1.1 502 Bad Gateway\r\n")
        await play.downstream.read_until(b"502 Bad Gateway\n")
        assert play.lines[0].reason == "bad_response"  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [100_000, 1_000_000])
async def test_large_bodies_both_ways_with_a_small_buffer(size: int) -> None:
    body = bytes(range(256)) * (size // 256)
    async with Playbook(buffer=5_000) as play, trio.open_nursery() as nursery:
        nursery.start_soon(play.downstream.send, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        up = await play.upstream()
        await up.read_until(END)
        while len(up.unseen) < len(body):
            up.unseen += await up.read()
        assert up.unseen == body
        up.unseen = b""
        nursery.start_soon(up.send, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await play.downstream.read_until(END)
        while len(play.downstream.unseen) < len(body):
            play.downstream.unseen += await play.downstream.read()
        assert play.downstream.unseen == body
        play.downstream.unseen = b""


async def test_a_slow_reader_stops_the_upstream_within_a_window() -> None:
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(window=8192))
    async with Playbook(listener=policy, buffer=4096, checks_bytes=False) as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        sent = 0
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(200):  # nobody reads at the other end
            sent += up.stream.send(b"400\r\n" + b"x" * 1024 + b"\r\n")
            await trio.sleep(0.01)
        # Two socket buffers, and what lbd may hold: a window read, and a head read before it.
        assert sent <= 2 * 4096 + 8192 + 16384 + 4096
        assert sent >= 8192


# What fails


async def test_a_refused_connection_goes_to_the_next_endpoint() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", "three:3")]) as play:
        play.refuse = {"one:1", "three:3"}
        for _ in range(3):
            play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
            up = await play.latest_upstream()
            await up.read_until(b"x")
            up >> OK
            await play.downstream.read_until(b"ok")
        assert {line.endpoint_address for line in play.lines} == {"two:2"}  # type: ignore[attr-defined]
        assert max(line.attempts for line in play.lines) <= 3  # type: ignore[attr-defined]


async def test_all_refuse() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2")]) as play:
        play.refuse = {"one:1", "two:2"}
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 502 Bad Gateway\r\n", until=b"502 Bad Gateway\n")
        assert sorted(play.dialled[:2]) == ["one:1", "two:2"]  # both, and then one of them again
        assert len(play.dialled) == 3
        assert play.lines[0].reason == "connect_refused"  # type: ignore[attr-defined]
        play.downstream >> GET  # the connection is still good
        await play.downstream.read_until(b"502 Bad Gateway\n")


async def test_attempts_are_bounded() -> None:
    addresses = [f"e{i}:1" for i in range(9)]
    async with Playbook(clusters=[cluster(*addresses, retry=RetryPolicy(attempts=2))]) as play:
        play.refuse = set(addresses)
        play.downstream >> GET
        await play.downstream.read_until(b"502 Bad Gateway\n")
        assert len(play.dialled) == 3


async def test_connecting_has_a_deadline_and_then_the_next_endpoint_gets_the_request() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", timeouts=TimeoutPolicy(connect=0.5))]) as play:
        play.silent = {"one:1"}
        for _ in range(2):
            play.downstream >> GET
            up = await play.latest_upstream()
            await serve_one(play, up=up)
            await play.downstream.read_until(b"ok")
        slow = max(play.lines, key=lambda line: line.duration)  # type: ignore[attr-defined]
        assert 0.5 <= slow.duration < 0.6  # type: ignore[attr-defined]
    async with Playbook(clusters=[cluster("one:1", timeouts=TimeoutPolicy(connect=0.5))]) as play:
        play.silent = {"one:1"}
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n")
        assert play.lines[0].reason == "connect_timeout"  # type: ignore[attr-defined]


async def test_a_get_on_a_reused_connection_that_dies_is_replayed() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        play.downstream >> GET
        await up.read_until(END)
        up.close()  # read the request, answered nothing
        await serve_one(play)
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert play.dialled == ["one:1", "one:1"]


async def test_a_post_on_a_reused_connection_that_dies_is_not_sent_twice() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        await up.read_until(b"x")
        up.close()
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("spoil", ["close", "write"])
async def test_an_idle_connection_that_the_upstream_spoiled_is_not_used(spoil: str) -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        if spoil == "close":
            up.close()
        else:
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsmuggle"
        await trio.sleep(0.01)
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        new = await play.upstream()
        await new.read_until(b"x")
        new >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


async def test_bytes_behind_an_answer_spoil_the_connection_and_reach_nobody() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play, OK + b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsmuggle")
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        await up.expect_end()
        play.downstream >> GET
        await serve_one(play)
        await play.downstream.read_until(b"ok")


async def test_a_get_whose_new_connection_dies_goes_to_the_next_endpoint() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2")]) as play:
        play.downstream >> GET
        first = await play.upstream()
        await first.read_until(END)
        first.reset()
        await serve_one(play)
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert sorted(play.dialled) == ["one:1", "two:2"]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "upstream_closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "upstream_closed"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", "bad_response"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n", "bad_response"),
    ],
)
async def test_a_useless_answer_is_a_502_with_its_reason(answer: bytes, reason: str) -> None:
    policy = ListenerPolicy("web", ("test",), reason_header=True)
    async with Playbook(listener=policy, clusters=[cluster(retry=RetryPolicy(attempts=0))]) as play:
        play.downstream >> GET
        up = await serve_one(play, answer)
        up.close()
        got = await play.downstream.expect(b"HTTP/1.1 502 Bad Gateway\r\n", until=END)
        assert b"x-lbd-reason: %s\r\n" % reason.encode() in got
        await play.downstream.read_until(reason.encode() + b"\n")
        assert (play.lines[0].status, play.lines[0].reason) == (502, reason)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf",
    ],
)
async def test_an_answer_cut_in_the_middle_is_cut_for_the_client_too(answer: bytes) -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await serve_one(play, answer)
        up.close()
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"half")
        assert play.downstream.unseen in (b"", b"\r\n")  # what ends the chunk, but not the body
        play.downstream.unseen = b""
        await play.downstream.expect_end()
        assert play.lines[0].reason == "upstream_truncated"  # type: ignore[attr-defined]


async def test_no_answer_in_time() -> None:
    async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(response=3.0))]) as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n")
        await up.expect_end()
        assert play.lines[0].reason == "response_timeout"  # type: ignore[attr-defined]
        assert 3.0 <= play.lines[0].duration < 3.1  # type: ignore[attr-defined]


async def test_a_body_that_stalls_upstream() -> None:
    async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(idle=2.0))]) as play:
        play.downstream >> GET
        await serve_one(play, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await play.downstream.read_until(b"half")
        await play.downstream.expect_end()
        assert play.lines[0].reason == "upstream_stalled"  # type: ignore[attr-defined]


async def test_the_total_deadline() -> None:
    async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(total=2.0))]) as play:
        play.downstream >> GET
        up = await serve_one(play, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await play.downstream.read_until(END)
        for _ in range(5):
            up >> b"x"
            await trio.sleep(0.5)
            with trio.move_on_after(0.01):
                await play.downstream.read()
        assert play.lines[0].reason == "total_timeout"  # type: ignore[attr-defined]
        assert 2.0 <= play.lines[0].duration < 2.1  # type: ignore[attr-defined]


async def test_a_client_that_goes_away_cancels_the_upstreams_work() -> None:
    async with Playbook() as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        play.downstream.close()
        await up.expect_end()
        assert (play.lines[0].status, play.lines[0].reason) == (0, "downstream_closed")  # type: ignore[attr-defined]


async def test_half_close_where_it_is_allowed() -> None:
    async with Playbook(listener=ListenerPolicy("web", ("test",), half_close="allow")) as play:
        play.downstream >> GET
        play.downstream.end()
        await serve_one(play)
        await play.downstream.read_until(b"ok")
        await play.downstream.expect_end()


async def test_no_route_and_the_connection_goes_on() -> None:
    async with Playbook(routes=[RoutePolicy(name="a", path="/a", cluster="web")]) as play:
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 404 Not Found\r\n", until=b"404 Not Found\n")
        play.downstream >> b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
        await serve_one(play)
        await play.downstream.read_until(b"ok")
        assert [line.reason for line in play.lines] == ["no_route", ""]  # type: ignore[attr-defined]


async def test_no_endpoint() -> None:
    async with Playbook(clusters=[ClusterPolicy("web", ())]) as play:
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 503 ", until=b"503 Service Unavailable\n")
        assert play.lines[0].reason == "no_healthy_endpoint"  # type: ignore[attr-defined]


# What downstreams may not do


@pytest.mark.parametrize(
    ("sent", "status", "reason"),
    [
        (b"NONSENSE\r\n\r\n", 400, None),
        (b"GET / HTTP/1.1\r\n\r\n", 400, None),
        (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, None),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, None),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431, None),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400, None),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n", 413, "request_too_large"),
    ],
)
async def test_refused_requests(sent: bytes, status: int, reason: str | None) -> None:
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(body=1000))
    async with Playbook(listener=policy) as play:
        play.downstream >> sent
        got = await play.downstream.expect(b"HTTP/1.1 %d " % status, until=END)
        assert b"Connection: close\r\n" in got
        await play.downstream.read_until(b"\n")
        await play.downstream.expect_end(10.0)
        line: Any = play.lines[0]
        assert line.status == status
        assert line.reason
        assert reason in (None, line.reason)
        assert not play.dialled


async def test_a_chunked_body_above_the_limit() -> None:
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(body=4096))
    async with Playbook(listener=policy, checks_bytes=False) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        for _ in range(5):
            play.downstream >> b"400\r\n" + b"x" * 1024 + b"\r\n"
        await play.downstream.expect(b"HTTP/1.1 413 ", until=END)
        up = await play.upstream()
        await up.read()
        with pytest.raises((AssertionError, ConnectionResetError)):  # it ends without the last chunk
            await up.read_until(b"0\r\n\r\n")


async def test_a_head_in_drips_is_timed_as_a_whole() -> None:
    policy = ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(head=2.0))
    async with Playbook(listener=policy) as play:
        for byte in b"GET / HTTP/1.1\r\n"[:5]:
            play.downstream >> bytes((byte,))
            await trio.sleep(0.5)
        await play.downstream.expect(b"HTTP/1.1 408 ", until=b"408 Request Timeout\n")
        await play.downstream.expect_end()
        assert play.lines[0].reason == "header_timeout"  # type: ignore[attr-defined]


async def test_a_body_that_stalls_downstream() -> None:
    policy = ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(body=2.0))
    async with Playbook(listener=policy) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nab"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nab")
        await play.downstream.expect(b"HTTP/1.1 408 ", until=b"408 Request Timeout\n")
        await up.expect_end()
        assert play.lines[0].reason == "body_timeout"  # type: ignore[attr-defined]


async def test_idle_connections_end() -> None:
    policy = ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(keepalive=3.0, head=1.0))
    async with Playbook(listener=policy) as play:
        never_asked = play.connect()
        play.downstream >> GET
        await serve_one(play)
        await play.downstream.read_until(b"ok")
        await never_asked.expect_end(1.2)
        await play.downstream.expect_end(3.2)


async def test_requests_of_a_connection_are_limited() -> None:
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(requests=2))
    async with Playbook(listener=policy) as play:
        play.downstream >> GET
        up = await serve_one(play)
        assert b"Connection: close" not in await play.downstream.read_until(b"ok")
        play.downstream >> GET
        await serve_one(play, up=up)
        assert b"Connection: close" in await play.downstream.read_until(b"ok")
        await play.downstream.expect_end()


# What routes do


async def test_fixed_answers_and_redirects() -> None:
    routes = [
        RoutePolicy(name="fixed", path="/fixed", respond=RespondPolicy(200, "hello\n", headers=(("X-A", "1"),))),
        RoutePolicy(name="moved", path="/moved", redirect=RedirectPolicy(scheme="https", status=301)),
    ]
    async with Playbook(routes=routes) as play:
        play.downstream >> b"GET /fixed HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"hello\n")
        assert b"X-A: 1\r\n" in answer
        assert b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n" in answer
        play.downstream >> b"HEAD /fixed HTTP/1.1\r\nHost: a\r\n\r\n"
        assert b"Content-Length: 6\r\n" in await play.downstream.expect(b"HTTP/1.1 200 OK", until=END)
        play.downstream >> b"GET /moved?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"
        assert b"Location: https://a/moved?x=1\r\n" in await play.downstream.expect(b"HTTP/1.1 301 ", until=END)
        play.downstream >> b"POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"hello\n")


async def test_a_client_without_a_host_is_not_redirected_in_a_circle() -> None:
    async with Playbook(routes=[RoutePolicy(name="https", redirect=RedirectPolicy(scheme="https"))], checks_bytes=False) as play:
        play.downstream >> b"GET /x HTTP/1.0\r\n\r\n"
        assert b"Location" not in await play.downstream.expect(b"HTTP/1.1 400 ", until=END)
        assert play.lines[0].reason == "bad_host"  # type: ignore[attr-defined]


async def test_rewrites() -> None:
    edits = RewritePolicy(
        prefix="/new",
        host="inner.example",
        request_headers=HeaderEdits(set=(("X-Set", "1"),), remove=("x-secret",)),
        response_headers=HeaderEdits(add=(("X-Added", "2"),), remove=("server",)),
    )
    async with Playbook(routes=[RoutePolicy(name="r", path="/old", cluster="web", rewrite=edits)]) as play:
        play.downstream >> b"GET /old/x?q=1 HTTP/1.1\r\nHost: a\r\nX-Secret: s\r\n\r\n"
        up = await play.upstream()
        request = await up.expect(b"GET /new/x?q=1 HTTP/1.1\r\nHost: inner.example\r\n", until=END)
        assert b"X-Set: 1\r\n" in request
        assert b"ecret" not in request
        up >> b"HTTP/1.1 200 OK\r\nServer: secret/1\r\nContent-Length: 2\r\n\r\nok"
        answer = await play.downstream.read_until(b"ok")
        assert b"X-Added: 2\r\n" in answer
        assert b"secret" not in answer


async def test_a_route_overrides_timeouts_and_the_body_limit() -> None:
    route = RoutePolicy(name="r", cluster="web", timeouts=RouteTimeouts(response=1.0), max_body=2)
    async with Playbook(routes=[route]) as play:
        play.downstream >> GET
        await (await play.upstream()).read_until(END)
        await play.downstream.read_until(b"504 Gateway Timeout\n")
        assert 1.0 <= play.lines[0].duration < 1.1  # type: ignore[attr-defined]
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
        await play.downstream.read_until(b"413 Content Too Large\n")


async def test_consistent_hash_keeps_a_client_at_its_endpoint() -> None:
    policy = replace(cluster("one:1", "two:2", "three:3"), balance="consistent-hash", hash_key="header:x-user")
    async with Playbook(clusters=[policy]) as play:
        ends: dict[str, End] = {}
        seen: dict[bytes, set[str]] = {}
        for _ in range(2):
            for user in (b"ann", b"bob", b"cid", b"dan", b"eve"):
                play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nX-User: %s\r\n\r\n" % user
                before = len(play.dialled)
                await trio.sleep(0.01)
                if len(play.dialled) > before:
                    ends[play.dialled[-1]] = await play.upstream()
                up = next(end for end in ends.values() if end.stream.inbox)
                await serve_one(play, up=up)
                await play.downstream.read_until(b"ok")
                seen.setdefault(user, set()).add(play.lines[-1].endpoint_address)  # type: ignore[attr-defined]
        assert all(len(addresses) == 1 for addresses in seen.values())
        assert len(set.union(*seen.values())) > 1


async def test_pooled_connections_age() -> None:
    async with Playbook(clusters=[cluster(pool=PoolPolicy(idle_timeout=2.0))]) as play:
        play.downstream >> GET
        up = await serve_one(play)
        await play.downstream.read_until(b"ok")
        await trio.sleep(2.5)
        play.downstream >> GET
        await serve_one(play)
        await play.downstream.read_until(b"ok")
        await up.expect_end()
