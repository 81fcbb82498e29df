"""Requests to an endpoint that speaks HTTP/2 (the h2 package's), as transcripts on virtual time."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import DataReceived, PingReceived, RemoteSettingsChanged, RequestReceived, StreamEnded, StreamReset, TrailersReceived

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.shared import Http2UpstreamPolicy
from lbd.core.tls import TlsStream
from lbd.errors import ProxyError, Retry
from lbd.wire.body import NO_BODY
from lbd.wire.message import RequestHead
from tests.support.certificates import downstream_context, upstream_context
from tests.support.http2 import Http2End
from tests.support.http2_upstream import Http2Far
from tests.support.script import End, Playbook

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
END = b"\r\n\r\n"


def cluster(*addresses: str, http2: dict[str, Any] | None = None, **settings: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of the policy
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1",))
    settings.setdefault("pool", PoolPolicy(idle_timeout=1000.0))
    return ClusterPolicy("web", endpoints, protocol="h2", http2=Http2UpstreamPolicy(**(http2 or {})), **settings)


def playbook(*addresses: str, http2: dict[str, Any] | None = None, **settings: Any) -> Playbook:  # noqa: ANN401
    return Playbook(clusters=(cluster(*addresses, http2=http2, **settings),), checks_bytes=False)


async def test_a_get_and_its_answer() -> None:
    async with playbook() as play:
        (
            play.downstream
            >> b"GET /a?b=1 HTTP/1.1\r\nHost: Example.com:80\r\nAccept: */*\r\n"
            + b"Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nTE: trailers\r\n\r\n"
        )
        origin = await Http2Far.of(play)
        request = await origin.next(RequestReceived)
        fields = dict(request.headers)
        assert [fields[name] for name in (b":method", b":path", b":authority", b":scheme")] == [
            b"GET",
            b"/a?b=1",
            b"example.com:80",
            b"http",
        ]
        assert fields[b"accept"] == b"*/*"
        assert fields[b"x-forwarded-for"] == b"192.0.2.1"
        assert fields[b"te"] == b"trailers"
        assert not {b"connection", b"x-hop", b"host", b"transfer-encoding", b"content-length"} & fields.keys()
        await origin.next(StreamEnded)
        origin.respond(request.stream_id, b"ok", [(b"x-a", b"1")])
        answer = await play.downstream.expect(b"HTTP/1.1 200 OK\r\n", until=b"ok")
        assert b"x-a: 1\r\n" in answer
        assert b"content-length: 2\r\n" in answer.lower()
        assert b"Via: 2.0 lbd\r\n" in answer
        line: Any = play.lines[0]
        assert (line.status, line.endpoint_address, line.attempts, line.reason, line.is_reused) == (200, "one:1", 1, "", False)


async def test_requests_share_a_connection_and_are_answered_in_any_order() -> None:
    async with playbook() as play:
        ends = [play.downstream, *(play.connect() for _ in range(4))]
        for number, end in enumerate(ends):
            end >> b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
        origin = await Http2Far.of(play)
        paths = {}
        for _ in ends:
            request = await origin.next(RequestReceived)
            paths[dict(request.headers)[b":path"]] = request.stream_id
        for number, end in reversed(list(enumerate(ends))):
            origin.respond(paths[b"/%d" % number], b"number %d" % number)
            await end.expect(b"HTTP/1.1 200", until=b"number %d" % number)
        assert play.dialled == ["one:1"]


async def test_a_later_request_takes_the_connection_that_is_there() -> None:
    async with playbook() as play:
        origin = None
        for _ in range(3):
            play.downstream >> GET
            origin = origin or await Http2Far.of(play)
            origin.respond((await origin.requests(1))[0])
            await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]
        assert [line.is_reused for line in play.lines] == [False, True, True]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("request_line", "status", "fields", "expected"),
    [
        (b"HEAD / HTTP/1.1", 200, [(b"content-length", b"1000")], b"content-length: 1000\r\n"),
        (b"GET / HTTP/1.1", 204, [], b"HTTP/1.1 204 No Content\r\n"),
        (b"GET / HTTP/1.1", 304, [(b"content-length", b"99"), (b"etag", b"1")], b"etag: 1\r\n"),
        (b"GET / HTTP/1.1", 200, [], b"transfer-encoding: chunked\r\n"),
        (b"GET / HTTP/1.1", 200, [(b"content-length", b"0")], b"content-length: 0\r\n"),
    ],
)
async def test_responses_without_a_body(request_line: bytes, status: int, fields: list[tuple[bytes, bytes]], expected: bytes) -> None:
    async with playbook() as play:
        play.downstream >> request_line + b"\r\nHost: a\r\n\r\n"
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.head(stream, fields, status=status, ended=True)
        answer = await play.downstream.read_until(END)
        assert expected.lower() in answer.lower()
        if b"chunked" in expected:
            await play.downstream.read_until(b"0\r\n\r\n")
        play.downstream >> GET
        origin.respond((await origin.requests(1))[0])
        await play.downstream.read_until(b"ok")


@pytest.mark.parametrize(("method", "status"), [(b"GET", 304), (b"GET", 204), (b"HEAD", 200)])
async def test_a_response_without_a_body_ends_with_its_head_though_the_endpoint_says_so_later(method: bytes, status: int) -> None:
    async with playbook() as play:
        them = Http2End(play.downstream)
        number = them.get(method=method)
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.head(stream, [(b"content-length", b"5")] if status != 204 else [], status=status)
        answer = await them.answer(number)
        assert (answer.status, answer.body, answer.has_ended) == (status, b"", True)
        origin.h2.end_stream(stream)
        origin.flush()
        await origin.expect_quiet(1.0)
        assert [event for event in origin.events if isinstance(event, StreamReset)] == []
        number = them.get()
        origin.respond((await origin.requests(1))[0])
        assert (await them.answer(number)).body == b"ok"
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("is_at_once", [False, True])
async def test_a_body_of_unknown_length_with_trailers(is_at_once: bool) -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.h2.send_headers(stream, [(b":status", b"200")])
        origin.h2.send_data(stream, b"hello")
        if not is_at_once:
            origin.flush()
            await play.downstream.read_until(b"hello\r\n")
        origin.h2.send_headers(stream, [(b"x-sum", b"5")], end_stream=True)
        origin.flush()
        answer = await play.downstream.read_until(b"x-sum: 5\r\n\r\n")
        assert answer.endswith(b"0\r\nx-sum: 5\r\n\r\n")


async def test_interim_responses_pass() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.h2.send_headers(stream, [(b":status", b"103"), (b"link", b"</a.css>")])
        origin.respond(stream)
        await play.downstream.expect(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n", until=END)
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")


async def test_interim_responses_that_nobody_reads_are_bounded() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        for _ in range(40):
            origin.h2.send_headers(stream, [(b":status", b"103"), (b"link", b"x" * 1000)])
        origin.flush()
        await play.downstream.read_until(b"HTTP/1.1 502 ")
        assert (await origin.next(StreamReset)).error_code == ErrorCodes.CANCEL


async def test_an_upload_with_expect_waits_for_the_100() -> None:
    async with playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.h2.send_headers(stream, [(b":status", b"100")])
        origin.flush()
        await play.downstream.expect(b"HTTP/1.1 100 Continue\r\n", until=END)
        play.downstream >> b"hello"
        assert await origin.body(stream) == b"hello"
        origin.respond(stream)
        await play.downstream.read_until(b"ok")


async def test_a_body_that_came_with_its_head() -> None:
    async with playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
        origin = await Http2Far.of(play)
        request = await origin.next(RequestReceived)
        assert dict(request.headers)[b"content-length"] == b"5"
        assert await origin.body(request.stream_id) == b"hello"
        origin.respond(request.stream_id)
        await play.downstream.read_until(b"ok")


async def test_chunks_and_trailers_go_up() -> None:
    async with playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
        origin = await Http2Far.of(play)
        request = await origin.next(RequestReceived)
        assert b"content-length" not in dict(request.headers)
        assert (await origin.next(DataReceived)).data == b"hello"
        play.downstream >> b"1\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n"
        assert (await origin.next(DataReceived)).data == b"!"
        assert (await origin.next(TrailersReceived)).headers == [(b"x-sum", b"6")]
        origin.respond(request.stream_id)
        await play.downstream.read_until(b"ok")


def some_bytes(count: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(count)


async def test_an_upload_goes_as_far_as_windows_let_it() -> None:
    body = some_bytes(1_000_000)
    async with playbook() as play, trio.open_nursery() as nursery:
        nursery.start_soon(play.downstream.send, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        await trio.sleep(1.0)
        await origin.expect_quiet(1.0)
        came = sum(len(event.data) for event in origin.events if isinstance(event, DataReceived))
        assert came == 65535  # the window of an endpoint that has not opened any
        assert hashlib.sha256(await origin.body(stream)).digest() == hashlib.sha256(body).digest()
        origin.respond(stream)
        await play.downstream.read_until(b"ok")


async def test_a_slow_reader_stops_its_own_stream_only() -> None:
    body = some_bytes(2_000_000)
    async with playbook(http2={"window": 65535, "max_streams": 10}) as play, trio.open_nursery() as nursery:
        play.downstream >> b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
        origin = await Http2Far.of(play)
        (slow,) = await origin.requests(1)
        await origin.next(RemoteSettingsChanged)
        origin.head(slow, [(b"content-length", b"%d" % len(body))])
        sent: list[int] = []

        async def send() -> None:
            for at in range(0, len(body), 10_000):
                await origin.send_body(slow, body[at : at + 10_000], ended=False)
                sent.append(at + 10_000)
            origin.h2.end_stream(slow)
            origin.flush()

        nursery.start_soon(send)
        await trio.sleep(5.0)
        held = sent[-1]
        assert held < 65536 + 65535 + 65536 + 20_000  # its window, one piece on its way, and what the downstream's stream holds
        other = play.connect()
        for _ in range(20):
            other >> GET
            stream = (await origin.next(RequestReceived)).stream_id
            origin.respond(stream, b"x" * 16_000)
            await other.read_until(b"x" * 16_000)
        assert sent[-1] == held
        got = await play.downstream.read_until(body[-50:])
        assert got.endswith(body)


async def test_a_downstream_that_goes_away_cancels_its_stream() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        play.downstream.close()
        reset = await origin.next(StreamReset)
        assert (reset.stream_id, reset.error_code) == (stream, ErrorCodes.CANCEL)
        other = play.connect()
        other >> GET
        origin.respond((await origin.requests(1))[0])
        await other.read_until(b"ok")
        assert play.dialled == ["one:1"]


async def test_a_response_that_takes_too_long_is_cancelled() -> None:
    async with playbook(timeouts=TimeoutPolicy(response=2.0)) as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=END)
        assert (await origin.next(StreamReset)).stream_id == stream


# (code, method) -> what the downstream gets when there is nobody else to ask
RESETS = [
    (ErrorCodes.REFUSED_STREAM, b"GET", 200),
    (ErrorCodes.REFUSED_STREAM, b"POST", 200),
    (ErrorCodes.INTERNAL_ERROR, b"GET", 200),
    (ErrorCodes.INTERNAL_ERROR, b"POST", 502),
    (ErrorCodes.CANCEL, b"POST", 502),
    (ErrorCodes.NO_ERROR, b"POST", 502),
    (0xBADC0DE, b"GET", 200),  # nobody knows it: as INTERNAL_ERROR (RFC 9113 7)
    (0xBADC0DE, b"POST", 502),
]


@pytest.mark.parametrize(("code", "method", "expected"), RESETS)
async def test_a_stream_that_the_endpoint_resets(code: int, method: bytes, expected: int) -> None:
    async with playbook("one:1", "two:1") as play:
        play.downstream >> method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.reset(stream, code)
        if expected == 200:
            other = await Http2Far.of(play)
            other.respond((await other.requests(1))[0])
            assert len(set(play.dialled)) == 2
        await play.downstream.expect(b"HTTP/1.1 %d " % expected, until=END)


async def test_a_stream_refused_on_an_old_connection_is_tried_on_a_new_one_of_the_same_endpoint() -> None:
    async with playbook() as play:
        other = play.connect()
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (held,) = await origin.requests(1)
        other >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        (stream,) = await origin.requests(1)
        origin.reset(stream, ErrorCodes.REFUSED_STREAM)
        second = await Http2Far.of(play)
        (again,) = await second.requests(1)
        assert await second.body(again) == b"hi"
        second.respond(again)
        await other.expect(b"HTTP/1.1 200 ", until=b"ok")
        origin.respond(held)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1", "one:1"]


async def test_goaway_retries_what_was_not_looked_at_and_finishes_the_rest() -> None:
    async with playbook(retry=RetryPolicy(0)) as play:
        ends = [play.downstream, play.connect(), play.connect()]
        play.downstream >> GET
        origin = await Http2Far.of(play)
        streams = await origin.requests(1)
        for end in ends[1:]:
            end >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
            streams += await origin.requests(1)
        origin.go_away(streams[1])
        second = await Http2Far.of(play)
        (again,) = await second.requests(1)
        second.respond(again, b"from the second")
        await ends[2].expect(b"HTTP/1.1 200 ", until=b"from the second")
        for end, stream in zip(ends[:2], streams[:2], strict=True):
            origin.respond(stream, b"from the first")
            await end.expect(b"HTTP/1.1 200 ", until=b"from the first")
        with pytest.raises(AssertionError, match="lbd closed"):  # its last stream has ended
            await origin.expect_quiet(1.0)
        play.downstream >> GET
        second.respond((await second.requests(1))[0])
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1", "one:1"]


async def test_a_goaway_with_a_code_that_nobody_knows_is_one_like_others() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.go_away(stream, 0xBADC0DE)
        origin.respond(stream)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        play.downstream >> GET
        other = await Http2Far.of(play)
        other.respond((await other.requests(1))[0])
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")


async def test_what_is_being_answered_was_looked_at_whatever_a_goaway_says() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.head(stream, [(b"content-length", b"2")])
        await play.downstream.expect(b"HTTP/1.1 200 ", until=END)
        origin.go_away(0)
        origin.h2.send_data(stream, b"ok", end_stream=True)
        origin.flush()
        await play.downstream.read_until(b"ok")
        play.downstream >> GET
        second = await Http2Far.of(play)
        second.respond((await second.requests(1))[0])
        await play.downstream.read_until(b"ok")


async def test_a_connection_that_breaks_fails_all_its_streams_and_gets_are_sent_again() -> None:
    async with playbook(retry=RetryPolicy(0)) as play:
        ends = [play.connect() for _ in range(3)]
        play.downstream >> GET
        origin = await Http2Far.of(play)
        origin.respond((await origin.requests(1))[0])
        await play.downstream.read_until(b"ok")
        for end in ends[:2]:
            end >> GET
        ends[2] >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        await origin.requests(3)
        origin.end.reset()
        second = await Http2Far.of(play)
        for stream in await second.requests(2):
            second.respond(stream)
        for end in ends[:2]:
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        await ends[2].expect(b"HTTP/1.1 502 ", until=END)
        assert play.dialled == ["one:1", "one:1"]


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_who_has_a_place_on_a_connection_that_breaks_before_the_request_hears_of_it(how: str) -> None:
    """Many wait for one dial, and the endpoint is gone before the last of them has been stepped."""
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        origin.respond((await origin.requests(1))[0])
        await play.downstream.read_until(b"ok")
        (endpoint,) = play.clusters["web"].endpoints
        place = endpoint.pool.take(play.reactor.now)
        getattr(origin.end, how)()
        await trio.sleep(0.1)
        with pytest.raises(ProxyError) as caught:
            place.send_request(RequestHead.make(authority=b"a"), b"/", b"a", NO_BODY, b"", b"")
        assert caught.value.retry is Retry.UNSENT_HERE
        place.close()


async def test_a_response_cut_in_the_middle_is_cut_downstream() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.head(stream, [(b"content-length", b"10")])
        origin.h2.send_data(stream, b"hello")
        origin.reset(stream, ErrorCodes.INTERNAL_ERROR)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"hello")
        await play.downstream.expect_end()
        assert play.lines[0].reason == "upstream_reset"  # type: ignore[attr-defined]


async def test_an_early_response_is_a_response_though_the_stream_is_reset_behind_it() -> None:
    async with playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome of it"
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.respond(stream, b"too large", status=413)
        origin.reset(stream, ErrorCodes.NO_ERROR)
        await play.downstream.expect(b"HTTP/1.1 413 ", until=b"too large")


async def test_an_endpoint_with_few_streams_gets_more_connections() -> None:
    async with playbook() as play:
        ends = [play.connect() for _ in range(5)]
        for end in ends:
            end >> GET
        first = await Http2Far.of(play, max_concurrent_streams=2)
        second = await Http2Far.of(play, max_concurrent_streams=2)
        third = await Http2Far.of(play, max_concurrent_streams=2)
        for origin, count in ((first, 2), (second, 2), (third, 1)):
            for stream in await origin.requests(count):
                origin.respond(stream)
        for end in ends:
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert len(play.dialled) == 3


async def test_above_max_connections_requests_wait_for_room() -> None:
    async with playbook(http2={"max_connections": 1, "max_streams": 1}) as play:
        ends = [play.connect() for _ in range(3)]
        for end in ends:
            end >> GET
            await trio.sleep(0.01)
        origin = await Http2Far.of(play)
        for end in ends:
            (stream,) = await origin.requests(1)
            assert not any(isinstance(event, RequestReceived) for event in origin.events)
            origin.respond(stream)
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1"]


async def test_who_waits_for_room_waits_as_long_as_connecting_may_take() -> None:
    async with playbook(http2={"max_connections": 1, "max_streams": 1}, timeouts=TimeoutPolicy(connect=0.5)) as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        other = play.connect()
        other >> GET
        await other.expect(b"HTTP/1.1 504 ", until=END)
        origin.respond(stream)
        await play.downstream.read_until(b"ok")


async def test_an_endpoint_that_speaks_no_http2_is_none_and_a_post_may_go_elsewhere() -> None:
    async with playbook("one:1", "two:1") as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
        wrong = await play.upstream()
        wrong >> b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        origin.respond(stream)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")


async def test_a_dial_that_fails_fails_all_who_waited_for_it() -> None:
    async with playbook() as play:
        play.refuse.add("one:1")
        ends = [play.connect() for _ in range(5)]
        for end in ends:
            end >> GET
        for end in ends:
            await end.expect(b"HTTP/1.1 502 ", until=END)
        assert {line.reason for line in play.lines} == {"connect_refused"}  # type: ignore[attr-defined]


async def test_who_gives_up_during_the_dial_leaves_it_to_others() -> None:
    async with playbook() as play:
        ends = [play.connect() for _ in range(3)]
        for end in ends:
            end >> GET
        far = await play.upstream()  # no SETTINGS yet
        for end in ends[:2]:
            end.close()
        await trio.sleep(0.1)
        origin = Http2Far(far)
        (stream,) = await origin.requests(1)
        origin.respond(stream)
        await ends[2].expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1"]
        (endpoint,) = play.clusters["web"].endpoints
        assert endpoint.load() == 0


async def test_a_dial_outlives_who_began_it() -> None:
    async with playbook() as play:
        play.downstream >> GET
        far = await play.upstream()
        play.downstream.close()
        await trio.sleep(0.1)
        origin = Http2Far(far)
        await trio.sleep(0.1)
        other = play.connect()
        other >> GET
        origin.respond((await origin.requests(1))[0])
        await other.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("delay", [0.0, 0.0005, 0.001, 0.0015, 0.002])
async def test_a_place_that_is_granted_to_who_has_just_gone_is_given_back(delay: float) -> None:
    async with playbook(http2={"max_streams": 1, "max_connections": 1}) as play:
        play.downstream >> GET
        far = await play.upstream()
        origin = Http2Far(far)
        await trio.sleep(delay)
        play.downstream.close()
        await trio.sleep(0.1)
        other = play.connect()
        other >> GET
        while not (streams := [event.stream_id for event in origin.events if isinstance(event, RequestReceived)]):
            await origin.receive()
        if any(isinstance(event, StreamReset) for event in origin.events):
            streams = await origin.requests(2)
        origin.respond(streams[-1])
        await other.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1"]


async def test_an_endpoint_that_never_answers_the_dial_takes_the_time_of_a_dial() -> None:
    async with playbook(timeouts=TimeoutPolicy(connect=0.5)) as play:
        play.downstream >> GET
        silent = await play.upstream()  # connected, but no SETTINGS come
        await play.downstream.expect(b"HTTP/1.1 504 ", until=END)
        assert play.lines[0].reason == "connect_timeout"  # type: ignore[attr-defined]
        while await silent.read():
            pass


async def test_a_silent_connection_is_pinged_and_given_up_without_an_answer() -> None:
    async with playbook(http2={"ping_interval": 10.0, "ping_timeout": 3.0}, timeouts=TimeoutPolicy(response=0.0)) as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        for _ in range(3):  # alive
            await origin.next(PingReceived, seconds=12.0)
        began = trio.current_time()
        await trio.sleep(10.5)  # dead: it reads, and answers nothing
        await play.downstream.expect(b"HTTP/1.1 504 ", until=END, seconds=5.0)
        assert play.lines[0].reason == "upstream_stalled"  # type: ignore[attr-defined]
        assert 12.5 < trio.current_time() - began < 14.0
        assert stream == 1


async def test_after_a_timeout_in_silence_others_go_elsewhere_until_the_connection_answers() -> None:
    async with playbook(http2={"ping_interval": 0.0, "ping_timeout": 3.0}, timeouts=TimeoutPolicy(response=2.0)) as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        await origin.requests(1)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=END)
        play.downstream >> GET
        second = await Http2Far.of(play)
        second.respond((await second.requests(1))[0])
        await play.downstream.read_until(b"ok")
        await origin.next(PingReceived)  # and is answered
        await trio.sleep(0.1)
        play.downstream >> GET
        origin.respond((await origin.requests(1))[0])
        await play.downstream.read_until(b"ok")


POOLS = [
    PoolPolicy(idle_timeout=2.0),
    PoolPolicy(idle_timeout=1000.0, max_age=2.0),
    PoolPolicy(idle_timeout=1000.0, max_requests=1),
    PoolPolicy(idle_timeout=0.0),
]


@pytest.mark.parametrize("pool", POOLS, ids=["idle", "old", "used", "not kept"])
async def test_the_pools_policy_holds(pool: PoolPolicy) -> None:
    async with playbook(pool=pool) as play:
        for _ in range(2):
            play.downstream >> GET
            origin = await Http2Far.of(play)
            origin.respond((await origin.requests(1))[0])
            await play.downstream.read_until(b"ok")
            await trio.sleep(2.5)
        assert len(play.dialled) == 2


async def test_an_endpoint_that_leaves_finishes_what_it_has() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        (endpoint,) = play.clusters["web"].endpoints
        endpoint.pool.retire()
        origin.respond(stream)
        await play.downstream.read_until(b"ok")
        with pytest.raises(AssertionError, match="lbd closed"):
            await origin.expect_quiet(1.0)


async def test_a_change_of_protocol_makes_new_connections() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (stream,) = await origin.requests(1)
        plain = ClusterPolicy("web", (EndpointPolicy("one:1"),))
        play.clusters["web"].apply_policy(plain)
        origin.respond(stream)
        await play.downstream.read_until(b"ok")
        play.downstream >> GET
        up = await play.upstream()
        await up.expect(b"GET / HTTP/1.1\r\n", until=END)
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await play.downstream.read_until(b"ok")


async def test_an_endpoint_that_breaks_the_rules_is_told_and_left() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        await origin.requests(1)
        origin.end >> b"\0\0\4\x08\0\0\0\0\0\0\0\0\0"  # WINDOW_UPDATE by nothing
        await play.downstream.expect(b"HTTP/1.1 502 ", until=END)
        assert play.lines[0].reason == "bad_response"  # type: ignore[attr-defined]


async def test_a_head_that_is_no_response_fails_its_stream_only() -> None:
    async with playbook() as play:
        other = play.connect()
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (bad,) = await origin.requests(1)
        other >> GET
        (good,) = await origin.requests(1)
        origin.h2.config.validate_outbound_headers = False
        origin.h2.config.normalize_outbound_headers = False
        origin.head(bad, [(b"Upper-Case", b"1")])
        await play.downstream.expect(b"HTTP/1.1 502 ", until=END)
        origin.respond(good)
        await other.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.dialled == ["one:1"]


class TlsPlaybook(Playbook):
    """Upstream connections have TLS, and the far end takes these protocols."""

    def __init__(self, policy: ClusterPolicy, *protocols: str) -> None:
        super().__init__(clusters=(policy,), checks_bytes=False)
        self.context = upstream_context()
        if protocols:
            self.context.set_alpn_protocols(list(protocols))

    async def _connect(self, reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> Stream:  # type: ignore[override]
        raw = await super()._connect(reactor, family, address, name)
        end = self._waiting.pop()
        far = TlsStream(end.stream, self.context, "", None, b"")
        reactor.spawn(shake(far), "far end")
        context = downstream_context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        near = TlsStream(raw, context, "localhost", None, b"")
        await near.handshake()
        self._waiting.append(End(far))  # type: ignore[arg-type]  # it has all that an End wants but its inbox
        return near


async def shake(stream: TlsStream) -> None:
    try:
        await stream.handshake()
    except OSError:
        pass  # lbd has closed it at once


async def test_auto_speaks_http2_with_whom_chooses_it() -> None:
    async with TlsPlaybook(replace(cluster(), protocol="auto"), "h2") as play:
        origin = None
        for _ in range(2):
            play.downstream >> GET
            origin = origin or await Http2Far.of(play)
            origin.respond((await origin.requests(1))[0])
            await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("protocols", [("http/1.1",), ()])
async def test_auto_speaks_http1_with_whom_does_not(protocols: tuple[str, ...]) -> None:
    async with TlsPlaybook(replace(cluster(), protocol="auto"), *protocols) as play:
        up = None
        for _ in range(2):
            play.downstream >> GET
            up = up or await play.upstream()
            await up.expect(b"GET / HTTP/1.1\r\n", until=END)
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]


async def test_h2_is_not_spoken_with_whom_did_not_choose_it() -> None:
    async with TlsPlaybook(cluster(), "http/1.1") as play:
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 502 ", until=END)
        assert play.lines[0].reason == "connect_failed"  # type: ignore[attr-defined]


@pytest.mark.parametrize("request_bytes", [GET, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"])
async def test_auto_speaks_http1_with_whom_wants_it_after_all(request_bytes: bytes) -> None:
    """RFC 9113 7, HTTP_1_1_REQUIRED: the same endpoint at once, and all that comes in the next minutes."""
    async with TlsPlaybook(replace(cluster(), protocol="auto"), "h2") as play:
        play.downstream >> request_bytes
        origin = await Http2Far.of(play)
        origin.reset((await origin.requests(1))[0], ErrorCodes.HTTP_1_1_REQUIRED)
        up = await play.upstream()
        for _ in range(2):
            await up.expect(request_bytes[:15], until=END)
            if request_bytes is not GET:
                await up.read_until(b"ab")
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            await play.downstream.read_until(b"ok")
            play.downstream >> request_bytes
        assert play.dialled == ["one:1", "one:1"]
        assert [line.status for line in play.lines] == [200, 200]  # type: ignore[attr-defined]


async def test_h2_is_all_that_is_spoken_where_nothing_else_is_allowed() -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        origin.reset((await origin.requests(1))[0], ErrorCodes.HTTP_1_1_REQUIRED)
        await play.downstream.expect(b"HTTP/1.1 502 ", until=END)
        line: Any = play.lines[0]
        assert (line.reason, line.attempts, line.detail) == ("upstream_refused", 1, "it wants HTTP/1.1 for this request")
