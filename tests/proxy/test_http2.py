"""HTTP/2 downstream, as transcripts on virtual time: the h2 package asks, HTTP/1 upstreams answer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.lowlevel

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.proxy.forwarding import Forwarding
from lbd.proxy.listener import Http2Policy, ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.proxy.reasons import failure
from lbd.routing.route import RedirectPolicy, RespondPolicy, RoutePolicy
from lbd.routing.table import RoutingTable
from tests.support.http2 import Http2End, pseudo
from tests.support.script import Playbook
from tests.wire.http2_frames import (
    CANCEL,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    INTERNAL_ERROR,
    NO_ERROR,
    POST,
    PREFACE,
    PROTOCOL_ERROR,
    frames_of,
    goaways_of,
    headers,
    raw,
    reset,
    settings,
    window,
)

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"
MOST = 2**31 - 1


def web(**settings: Any) -> ListenerPolicy:  # noqa: ANN401 - any field of the policy
    return ListenerPolicy("web", ("test",), **settings)


async def take_request(play: Playbook, up: End | None = None) -> End:
    up = up or await play.upstream()
    await up.read_until(END)
    return up


# Requests


async def test_a_get_and_its_answer() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        secret = (b"proxy-authorization", b"Basic eDp5")
        number = them.get("/a?b=1", (b"accept", b"*/*"), (b"cookie", b"a=1"), secret, (b"cookie", b"b=2"))
        up = await play.upstream()
        request = await up.expect(b"GET /a?b=1 HTTP/1.1\r\nHost: example.com\r\n", until=END)
        assert b"accept: */*\r\n" in request
        assert b"cookie: a=1; b=2\r\n" in request
        assert b"X-Forwarded-For: 192.0.2.1\r\n" in request
        assert b"X-Forwarded-Proto: http\r\n" in request
        assert b"Via: 2.0 lbd\r\n" in request
        assert b"ransfer-" not in request
        assert b"ontent-" not in request
        assert b"roxy-" not in request
        up >> b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nX-A: 1\r\n"
        up >> b"Proxy-Authenticate: Basic\r\n\r\nok"
        answer = await them.answer(number)
        assert (answer.status, answer.body) == (200, b"ok")
        assert answer.fields == [(b"x-a", b"1"), (b"via", b"1.1 lbd"), (b"content-length", b"2")]
        line: Any = play.lines[0]
        assert (line.status, line.route_name, line.endpoint_address, line.reason, line.client) == (200, "all", "one:1", "", "192.0.2.1")
        assert line.request.minor == 2
        assert line.bytes_out > 2


async def test_streams_run_beside_one_another_and_upstream_connections_are_used_again() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        slow, quick = them.get("/slow"), them.get("/quick")
        first = await take_request(play)
        second = await play.upstream()
        await second.expect(b"GET /quick ", until=END)
        second >> OK
        assert (await them.answer(quick)).body == b"ok"
        assert not them.answers[slow].status
        third = them.get("/third")
        await second.expect(b"GET /third ", until=END)
        second >> OK
        assert (await them.answer(third)).status == 200
        first >> OK
        assert (await them.answer(slow)).status == 200
        assert play.dialled == ["one:1", "one:1"]


@pytest.mark.parametrize(
    ("method", "answer", "status", "length"),
    [
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", 204, None),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", 304, b"99"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", 200, b"1000"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 200, None),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200, b"0"),
        (b"GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200, None),
    ],
)
async def test_responses_without_a_body(method: bytes, answer: bytes, status: int, length: bytes | None) -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.get(method=method)
        up = await take_request(play)
        up >> answer
        got = await them.answer(number)
        assert (got.status, got.body, got.field(b"content-length"), got.reset) == (status, b"", length, -1)
        again = them.get()
        await take_request(play, up)
        up >> OK
        assert (await them.answer(again)).body == b"ok"


async def test_trailers_and_interim_responses_go_down() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.get()
        up = await take_request(play)
        up >> b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        await them.until(lambda: them.answers[number].informational)
        assert them.answers[number].informational == [(103, [(b"link", b"</a.css>")])]
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nGrpc-Status: 0\r\n\r\n"
        answer = await them.answer(number)
        assert (answer.body, answer.trailers) == (b"ok", [(b"grpc-status", b"0")])
        number = them.get()
        await take_request(play, up)
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
        await them.until(lambda: them.answers[number].body)
        up >> b"0\r\nX-Last: 1\r\n\r\n"
        assert (await them.answer(number)).trailers == [(b"x-last", b"1")]


# Request bodies


async def test_a_body_with_a_length_goes_up_with_its_head() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.post("/", (b"content-length", b"5"))
        them.send(number, b"hello", ends=True)
        up = await play.upstream()
        assert b"Content-Length: 5\r\n" in await up.read_until(END)
        assert await up.read_until(b"hello") == b"hello"
        up >> OK
        assert (await them.answer(number)).status == 200


@pytest.mark.parametrize(("body", "length"), [(b"hello", b"5"), (b"", b"0")])
async def test_a_body_that_is_here_as_a_whole_has_a_length(body: bytes, length: bytes) -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.post("/")
        them.send(number, body, ends=True)
        up = await play.upstream()
        assert b"Content-Length: " + length + b"\r\n" in await up.read_until(END)
        if body:
            await up.read_until(body)
        up >> OK
        assert (await them.answer(number)).status == 200


async def test_a_post_without_a_body_says_so() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        them.get(method=b"POST")
        assert b"Content-Length: 0\r\n" in await (await play.upstream()).read_until(END)


@pytest.mark.parametrize("fields", [[(b"te", b"trailers")], []])
async def test_who_takes_trailers_says_so_to_an_endpoint_of_http1(fields: list[tuple[bytes, bytes]]) -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        them.get("/", *fields)
        head = await (await play.upstream()).read_until(b"\r\n\r\n")
        assert (b"\r\nConnection: TE\r\nTE: trailers\r\n" in head) is bool(fields)
        assert head.lower().count(b"\r\nte:") == len(fields)


async def test_a_body_without_a_length_goes_up_in_chunks_with_trailers() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.post("/")
        up = await play.upstream()
        assert b"Transfer-Encoding: chunked\r\n" in await up.read_until(END)
        them.send(number, b"hello")
        await up.expect(b"5\r\nhello\r\n", until=b"hello\r\n")
        them.connection.send_headers(number, [(b"x-last", b"1")], end_stream=True)
        them.flush()
        await up.expect(b"0\r\nx-last: 1\r\n\r\n", until=END)
        up >> OK
        assert (await them.answer(number)).status == 200


async def test_100_continue_is_the_upstreams_to_say() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.post("/", (b"content-length", b"5"), (b"expect", b"100-continue"))
        up = await play.upstream()
        assert b"expect: 100-continue\r\n" in await up.read_until(END)
        up >> b"HTTP/1.1 100 Continue\r\n\r\n"
        await them.until(lambda: them.answers[number].informational)
        them.send(number, b"hello", ends=True)
        await up.read_until(b"hello")
        up >> OK
        assert (await them.answer(number)).status == 200


async def test_an_early_answer_ends_the_request_without_an_error() -> None:
    """RFC 9113 8.1: RST_STREAM with NO_ERROR, behind a response that is whole."""
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.post("/", (b"content-length", b"100000"))
        up = await take_request(play)
        them.send(number, b"x" * 1000)
        up >> b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno"
        await them.until(lambda: them.answers[number].reset >= 0)
        answer = them.answers[number]
        assert (answer.status, answer.body, answer.has_ended, answer.reset) == (403, b"no", True, NO_ERROR)


async def test_an_upload_goes_as_the_upstream_takes_it() -> None:
    async with Playbook(buffer=16 * 1024, checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.post("/", (b"content-length", b"1000000"))
        up = await take_request(play)
        body = bytes(range(256)) * 3906 + bytes(64)
        got = b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(them.send_all, number, body)
            await trio.sleep(1.0)
            assert them.connection.local_flow_control_window(number) == 0  # until somebody reads
            while len(got) < len(body):
                got += await up.read()
        assert got == body
        up >> OK
        assert (await them.answer(number)).status == 200


async def test_a_stuck_upload_holds_up_no_other_stream() -> None:
    async with Playbook(buffer=16 * 1024, checks_bytes=False) as play:
        them = Http2End(play.downstream)
        stuck = them.post("/stuck", (b"content-length", b"1000000"))
        await take_request(play)
        data = b"x" * 16384
        for _ in range(3):
            them.connection.send_data(stuck, data)
            await them.end.send(them.connection.data_to_send())
        other = them.post("/other", (b"content-length", b"200000"))
        up = await take_request(play)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(them.send_all, other, b"y" * 200_000)
            got = b""
            while len(got) < 200_000:
                got += await up.read()
        up >> OK
        assert (await them.answer(other)).status == 200
        assert them.answers[stuck].status == 0


# Responses that wait


async def test_a_slow_reader_of_one_stream_stops_only_that_stream() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream, reads_bodies=False)
        slow = them.get("/slow")
        up = await take_request(play)
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(up.send, b"s" * 1_000_000)
            await them.until(lambda: len(them.answers[slow].body) == 65535)
            await trio.sleep(1.0)
            assert not up.stream.may_write  # the upstream is stopped too
            them.connection.increment_flow_control_window(1 << 20)  # of the connection: the stream's own stays shut
            them.flush()
            quick = them.get("/quick")
            other = await take_request(play)
            other >> b"HTTP/1.1 200 OK\r\nContent-Length: 50000\r\n\r\n" + b"q" * 50_000
            assert len((await them.answer(quick)).body) == 50_000
            assert len(them.answers[slow].body) == 65535
            them.connection.increment_flow_control_window(1 << 20, slow)
            them.flush()
            assert (await them.answer(slow)).body == b"s" * 1_000_000


async def test_streams_share_what_window_there_is() -> None:
    """The connection's window is short: no stream takes it all."""
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream, reads_bodies=False)
        numbers = [them.get(f"/{i}") for i in range(4)]
        async with trio.open_nursery() as nursery:
            for _ in numbers:
                up = await take_request(play)
                up >> b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n"
                nursery.start_soon(up.send, b"x" * 60_000)
            await them.until(lambda: sum(len(answer.body) for answer in them.answers.values()) == 65535)
            for _ in range(15):
                them.connection.increment_flow_control_window(16 * 1024)
                them.flush()
                await them.pump()
                await them.pump()
                await them.pump()
            for number in numbers:
                assert len((await them.answer(number)).body) == 60_000


async def test_a_connection_that_takes_nothing_is_not_read_and_its_streams_end() -> None:
    policy = web(timeouts=ListenerTimeouts(body=5.0))
    async with Playbook(listener=policy, buffer=4096, checks_bytes=False) as play:
        them = Http2End(play.downstream)
        them.connection.increment_flow_control_window(1 << 30)
        them.connection.increment_flow_control_window(1 << 30, them.get())
        them.flush()
        up = await take_request(play)
        with pytest.raises(OSError, match=r"pipe|reset"):
            await up.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
        line: Any = play.lines[0]
        assert line.reason == "downstream_stalled"


# What goes wrong with one stream


async def test_a_client_that_resets_its_stream_ends_the_exchange_and_nothing_else() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        gone, other = them.get("/gone"), them.get("/other")
        first = await take_request(play)
        second = await take_request(play)
        them.reset(gone, CANCEL)
        await first.expect_end()
        second >> OK
        assert (await them.answer(other)).status == 200
        line: Any = play.lines[0]
        assert (line.reason, line.status) == ("downstream_closed", 0)


async def test_a_code_that_nobody_knows_resets_like_others_and_is_no_name_of_a_series() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        gone, other = them.get("/gone"), them.get("/other")
        first = await take_request(play)
        second = await take_request(play)
        them.reset(gone, 0xBADC0DE)
        await first.expect_end()
        second >> OK
        assert (await them.answer(other)).status == 200
        assert cell(play, "lbd_http2_resets_total", "other") == 1


@pytest.mark.parametrize("when", ["upload", "download"])
async def test_a_client_that_resets_its_stream_in_the_middle_of_a_body(when: str) -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream, reads_bodies=False)
        number = them.post("/", (b"content-length", b"100000")) if when == "upload" else them.get()
        up = await take_request(play)
        if when == "upload":
            them.send(number, b"x" * 10_000)
        else:
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 50_000
            await them.until(lambda: them.answers[number].body)
        await trio.sleep(0.1)
        them.reset(number)
        while True:
            try:
                if not await up.read():
                    break
            except ConnectionResetError:
                break
        assert play.lines[0].reason in ("downstream_closed", "downstream_reset")  # type: ignore[attr-defined]
        assert (await answered(play, them)).status == 200


async def answered(play: Playbook, them: Http2End) -> Any:  # noqa: ANN401
    """Another request on the same connection."""
    number = them.get("/another")
    up = await take_request(play)
    up >> OK
    return await them.answer(number)


async def test_an_upstream_that_breaks_off_is_a_reset() -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        number = them.get()
        up = await take_request(play)
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
        await them.until(lambda: them.answers[number].body)
        up.close()
        answer = await them.answer(number)
        assert (answer.body, answer.has_ended, answer.reset) == (b"abc", False, INTERNAL_ERROR)
        assert play.lines[0].reason == "upstream_truncated"  # type: ignore[attr-defined]
        assert (await answered(play, them)).status == 200


@pytest.mark.parametrize(
    ("upstream", "status", "reason"),
    [("refuses", 502, "connect_refused"), ("closes", 502, "upstream_closed"), ("is silent", 504, "response_timeout")],
)
async def test_errors_are_answers_as_long_as_they_can_be(upstream: str, status: int, reason: str) -> None:
    cluster = ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(response=2.0))
    async with Playbook(listener=web(reason_header=True), clusters=[cluster]) as play:
        them = Http2End(play.downstream)
        if upstream == "refuses":
            play.refuse.add("one:1")
        number = them.post("/") if upstream == "closes" else them.get()
        if upstream == "closes":
            them.send(number, b"x" * 70)
            up = await take_request(play)
            await up.read_until(b"x" * 70 + b"\r\n")
            up.close()
        elif upstream == "is silent":
            await take_request(play)
        answer = await them.answer(number)
        assert answer.status == status
        assert answer.field(b"x-lbd-reason") == reason.encode()
        assert answer.field(b"date") is not None
        assert answer.body.startswith(b"%d " % status)
        assert play.lines[0].reason == reason  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
async def test_answers_of_our_own(method: bytes) -> None:
    routes = [
        RoutePolicy(name="fixed", path="/fixed", respond=RespondPolicy(status=418, body="tea", content_type="text/plain")),
        RoutePolicy(name="moved", path="/moved", redirect=RedirectPolicy(scheme="https", status=308)),
    ]
    async with Playbook(routes=routes) as play:
        them = Http2End(play.downstream)
        fixed, moved, missing = them.get("/fixed", method=method), them.get("/moved", method=method), them.get("/missing", method=method)
        answer = await them.answer(fixed)
        assert (answer.status, answer.body, answer.field(b"content-length")) == (418, b"tea" if method == b"GET" else b"", b"3")
        answer = await them.answer(moved)
        assert (answer.status, answer.field(b"location")) == (308, b"https://example.com/moved")
        assert (await them.answer(missing)).status == 404


async def test_the_scheme_is_the_connections_and_not_what_the_client_says() -> None:
    routes = [RoutePolicy(name="moved", redirect=RedirectPolicy(scheme="https", status=308))]
    async with Playbook(routes=routes) as play:
        them = Http2End(play.downstream)
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"example.com")]
        assert (await them.answer(them.request(fields))).status == 308


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        ([*pseudo(b"CONNECT", "/")[:1], (b":authority", b"a:1")], 501, "unsupported"),
        ([*pseudo(b"GET", "/"), (b"host", b"other.example")], 400, "bad_host"),
        ([*pseudo(b"GET", "/"), (b"x", b"a" * 3000)], 431, "head_too_large"),
        ([*pseudo(b"GET", "/" + "a" * 300)], 414, "target_too_long"),
    ],
)
async def test_what_is_no_request_but_can_be_answered(fields: list[tuple[bytes, bytes]], status: int, reason: str) -> None:
    async with Playbook(listener=web(limits=ListenerLimits(head=2048, target=256))) as play:
        them = Http2End(play.downstream)
        answer = await them.answer(them.request(fields))
        assert (answer.status, answer.reset) == (status, -1)
        line: Any = play.lines[0]
        assert (line.reason, line.status, line.request) == (reason, status, None)
        assert (await answered(play, them)).status == 200


@pytest.mark.parametrize("more", [(b"X-Upper", b"1"), (b"connection", b"close"), (b"x", b" 1"), (b"transfer-encoding", b"chunked")])
async def test_what_is_malformed_is_reset(more: tuple[bytes, bytes]) -> None:
    async with Playbook() as play:
        them = Http2End(play.downstream)
        answer = await them.answer(them.get("/", more))
        assert (answer.status, answer.reset) == (0, PROTOCOL_ERROR)
        assert play.lines[0].reason == "bad_request"  # type: ignore[attr-defined]
        assert (await answered(play, them)).status == 200


async def test_a_body_that_is_longer_than_it_says_never_becomes_a_request() -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> PREFACE + settings() + headers(1, [*POST, ("content-length", "3")], END_HEADERS) + raw(DATA, 0, 1, b"toolong")
        await trio.sleep(0.1)
        sent = frames_of(await play.downstream.read())
        assert [(frame.stream_id, frame.error_code) for frame in sent if frame.type == 3] == [(1, PROTOCOL_ERROR)]
        assert play.lines[0].reason == "downstream_closed"  # type: ignore[attr-defined]


async def test_a_body_above_the_limit() -> None:
    async with Playbook(listener=web(limits=ListenerLimits(body=10)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        announced = them.post("/", (b"content-length", b"11"))
        assert (await them.answer(announced)).status == 413
        number = them.post("/")
        await take_request(play)
        them.send(number, b"x" * 11)
        assert (await them.answer(number)).status == 413


# The connection's end


async def test_too_many_streams_are_refused_so_that_they_can_be_tried_again() -> None:
    async with Playbook(listener=web(http2=Http2Policy(max_streams=2)), checks_bytes=False) as play:
        play.downstream >> PREFACE + settings() + headers(1) + headers(3) + headers(5)
        await trio.sleep(0.1)
        sent = frames_of(await play.downstream.read())
        assert [(frame.stream_id, frame.error_code) for frame in sent if frame.type == 3] == [(5, 7)]
        assert play.dialled == ["one:1", "one:1"]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (window(0, 0), PROTOCOL_ERROR),
        (raw(DATA, 0, 9, b"x"), PROTOCOL_ERROR),
        (window(0, MOST), FLOW_CONTROL_ERROR),
        (b"".join(headers(number) + reset(number) for number in range(3, 1200, 2)), ENHANCE_YOUR_CALM),
    ],
)
async def test_a_rule_of_the_connection_is_broken(frames: bytes, code: int) -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> PREFACE + settings() + headers(1)
        up = await take_request(play)
        play.downstream >> frames
        await up.expect_end()
        data = b""
        while chunk := await play.downstream.read():
            data += chunk
        assert goaways_of(frames_of(data)) == [code]
        reasons = [line.reason for line in play.lines]  # type: ignore[attr-defined]
        assert reasons.count("http2_flood" if code == ENHANCE_YOUR_CALM else "http2_error") == 1
        assert "downstream_closed" in reasons


async def test_rapid_resets_reach_upstreams_only_as_often_as_is_allowed() -> None:
    async with Playbook(listener=web(http2=Http2Policy(max_resets=20)), checks_bytes=False) as play:
        play.downstream >> PREFACE + settings()
        for number in range(1, 101, 2):
            if play.downstream.stream.hung_up:
                break
            play.downstream >> headers(number) + reset(number)
            await trio.sleep(0.01)
        assert len(play.dialled) <= 21
        assert play.lines[-1].reason in ("http2_flood", "downstream_closed")  # type: ignore[attr-defined]


async def test_a_head_too_large_whose_stream_ended_before_it_was_answered() -> None:
    """Both in one read: nobody waits for the answer, and the others of the connection go on."""
    large = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a"), *[("x", "")] * 101]
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> PREFACE + settings() + headers(1)
        up = await take_request(play)
        play.downstream >> headers(3, large) + reset(3)
        await trio.sleep(0.01)
        up >> OK
        data = b""
        while b"ok" not in data:
            data += await play.downstream.read()
        assert [line.reason for line in play.lines] == ["head_too_large", ""]  # type: ignore[attr-defined]


async def test_an_upload_in_tiny_frames_takes_no_more_memory_than_one_in_large_ones() -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> PREFACE + settings() + headers(1, POST, END_HEADERS)
        up = await take_request(play)
        up.stream.may_write = False
        play.downstream >> raw(DATA, 0, 1, b"xy") * 1000
        await trio.sleep(0.01)
        came = await up.read_until(b"7d0\r\n")
        assert came.count(b"\r\n") < 10


@pytest.mark.parametrize("how", ["closes", "resets", "ends"])
async def test_a_client_that_goes_away_ends_all_its_exchanges(how: str) -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        them.get("/1")
        them.get("/2")
        ups = [await take_request(play) for _ in range(2)]
        getattr(play.downstream, {"closes": "close", "resets": "reset", "ends": "end"}[how])()
        for up in ups:
            await up.expect_end()
        assert [line.reason for line in play.lines] == ["downstream_closed"] * 2  # type: ignore[attr-defined]
        await trio.sleep(5)
        assert not play.listener.fibers


async def test_a_client_that_has_said_all_and_may_still_listen() -> None:
    async with Playbook(listener=web(half_close="allow"), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.get()
        up = await take_request(play)
        await them.pump()
        play.downstream.end()
        await trio.sleep(1)
        up >> OK
        while not them.answers[number].has_ended:
            await them.pump()
        assert them.answers[number].body == b"ok"


async def test_an_idle_connection_is_told_and_closed() -> None:
    async with Playbook(listener=web(timeouts=ListenerTimeouts(keepalive=10.0)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        assert (await answered(play, them)).status == 200
        await trio.sleep(9)
        await them.pump()
        assert them.goaways == []
        await them.until(lambda: them.has_ended)
        assert them.goaways == [(MOST, NO_ERROR), (1, NO_ERROR)]


async def test_each_request_gives_a_connection_the_time_of_keepalive_anew() -> None:
    """However short the time is that its first head had."""
    async with Playbook(listener=web(timeouts=ListenerTimeouts(keepalive=30.0, head=5.0)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        for _ in range(3):
            assert (await answered(play, them)).status == 200
            await trio.sleep(25)
            await them.pump()
            assert them.goaways == []
        began = trio.current_time()
        await them.until(lambda: them.has_ended, 60.0)
        assert 4 < trio.current_time() - began < 10, "30 s after the last, and a second or two to leave"


@pytest.mark.parametrize("sent", [b"", settings(), settings() + raw(6, 0, 0, bytes(8)), settings() + headers(1)[:-1]])
async def test_a_connection_without_a_request_has_the_time_of_a_head(sent: bytes) -> None:
    async with Playbook(listener=web(timeouts=ListenerTimeouts(head=3.0)), checks_bytes=False) as play:
        play.downstream >> PREFACE + sent
        await trio.sleep(2.9)
        assert play.listener.fibers
        await trio.sleep(4)
        assert not play.listener.fibers


async def test_pings_do_not_keep_a_connection() -> None:
    async with Playbook(listener=web(timeouts=ListenerTimeouts(keepalive=10.0)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        assert (await answered(play, them)).status == 200
        for _ in range(20):
            them.connection.ping(b"12345678")
            them.flush()
            await trio.sleep(1)
            await them.pump()
            if them.goaways:
                break
        assert 8 <= them.pongs <= 11


async def test_the_age_of_a_connection_ends_it_without_losing_a_stream() -> None:
    async with Playbook(listener=web(http2=Http2Policy(max_age=20.0)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.get("/long")
        up = await take_request(play)
        await trio.sleep(17.9)
        await them.pump()
        assert them.goaways == []
        await trio.sleep(2.2)
        await them.pump()
        assert them.goaways[0] == (MOST, NO_ERROR)
        up >> OK
        assert (await them.answer(number)).status == 200
        await them.until(lambda: them.has_ended)
        assert them.goaways == [(MOST, NO_ERROR), (1, NO_ERROR)]


async def test_a_drain_takes_what_is_under_way_and_ends_when_all_is_answered() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        first = them.get("/1")
        up = await take_request(play)
        play.listener.is_draining = True
        for fiber in play.listener.fibers:
            play.reactor.wake(fiber)
        await trio.lowlevel.checkpoint()
        second = them.get("/2")  # it has not heard yet
        await them.until(lambda: them.goaways)
        assert them.goaways[0] == (MOST, NO_ERROR)
        other = await take_request(play)
        await them.until(lambda: len(them.goaways) == 2)
        assert them.goaways[1] == (3, NO_ERROR)
        await trio.sleep(5)
        for stream, number in ((up, first), (other, second)):
            stream >> OK
            assert (await them.answer(number)).body == b"ok"
        await them.until(lambda: them.has_ended)
        play.downstream.close()
        await trio.sleep(0.1)
        assert not play.listener.fibers


async def test_a_drain_that_comes_to_its_end_cuts_what_is_left() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        numbers = [them.get(), them.get()]
        up = await take_request(play)
        await take_request(play)
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"
        await them.until(lambda: them.answers[1].body)
        for fiber in list(play.listener.fibers):
            fiber.interrupt(failure("drain_timeout"))
        for number in numbers:
            assert (await them.answer(number)).reset == INTERNAL_ERROR
        await them.until(lambda: them.has_ended)
        assert [line.reason for line in play.lines] == ["drain_timeout"] * 2  # type: ignore[attr-defined]


async def test_a_reload_is_seen_by_the_next_stream() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        assert (await answered(play, them)).status == 200
        routes = (RoutePolicy(name="new", respond=RespondPolicy(status=410)),)
        policy = replace(play.policy, routes=routes)
        table = RoutingTable.build(routes, "web")
        play.listener.apply(policy, table, play.clusters, Forwarding(policy.forwarded, lambda count: b"\1" * count))
        assert (await them.answer(them.get())).status == 410


async def test_as_many_requests_as_a_connection_may_have() -> None:
    async with Playbook(listener=web(limits=ListenerLimits(requests=2)), checks_bytes=False) as play:
        them = Http2End(play.downstream)
        assert (await answered(play, them)).status == 200
        await trio.sleep(2)
        await them.pump()
        assert them.goaways == []
        number = them.get()
        up = await take_request(play, await play.latest_upstream())
        up >> OK
        assert (await them.answer(number)).status == 200
        await them.until(lambda: them.has_ended)
        assert them.goaways[-1] == (3, NO_ERROR)


async def test_http2_can_be_switched_off() -> None:
    async with Playbook(listener=web(http2=Http2Policy(enabled=False)), checks_bytes=False) as play:
        play.downstream >> PREFACE
        await play.downstream.expect(b"HTTP/1.1 505 ", until=END)


@pytest.mark.parametrize("pieces", [[PREFACE], [PREFACE[:1], PREFACE[1:18], PREFACE[18:20], PREFACE[20:]], [PREFACE[:18], PREFACE[18:]]])
async def test_the_preface_may_come_in_pieces(pieces: list[bytes]) -> None:
    async with Playbook(checks_bytes=False) as play:
        for piece in [*pieces, settings() + headers(1)]:
            play.downstream >> piece
            await trio.sleep(0.01)
        up = await take_request(play)
        up >> OK
        await trio.sleep(0.1)
        assert b"ok" in await play.downstream.read()


async def test_numbers() -> None:
    async with Playbook(checks_bytes=False) as play:
        them = Http2End(play.downstream)
        numbers = [them.get() for _ in range(3)]
        for _ in numbers:
            await take_request(play)
        assert cell(play, "lbd_http2_streams", "web") == 3
        for number in numbers:
            them.reset(number)
        await trio.sleep(0.1)
        assert cell(play, "lbd_http2_streams", "web") == 0
        assert cell(play, "lbd_http2_resets_total", "CANCEL") == 3


def cell(play: Playbook, name: str, *labels: str) -> int:
    metric = next(metric for metric in metrics.CATALOGUE.values() if metric.name == name)
    segment = play.board.segment(0)
    return int(segment.cells[segment.series(metric.number, labels, 1)])


@pytest.mark.parametrize(("window", "max_streams"), [(1 << 24, 128), (1 << 24, 65_535)])
async def test_windows_of_many_large_streams_are_no_larger_than_http2_knows(window: int, max_streams: int) -> None:  # RFC 9113 6.9.1
    policy = web(limits=ListenerLimits(window=window), http2=Http2Policy(max_streams=max_streams))
    async with Playbook(listener=policy, checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.get()
        (await take_request(play)) >> OK
        assert (await them.answer(number)).status == 200
        assert them.connection.outbound_flow_control_window == 1 << 30
