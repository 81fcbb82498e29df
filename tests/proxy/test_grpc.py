"""gRPC: what calls are told of errors, and how long they may take; the tables, and transcripts on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.answers import Answer, error_answer
from lbd.proxy.grpc import UNTOLD, escaped, grpc_fields, is_grpc, maybe_timeout, status_among, status_of
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.proxy.reasons import REASONS, failure
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.wire.message import Headers, RequestHead
from tests.support.http2 import Http2End
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.http2 import Answered

GRPC = (b"content-type", b"application/grpc")
TE = (b"te", b"trailers")
END = b"\r\n\r\n"
QUESTION = b"\0\0\0\0\5hello"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n"
PATIENT = TimeoutPolicy(response=100.0, idle=100.0)


def request(*fields: tuple[bytes, bytes], method: bytes = b"POST") -> RequestHead:
    return RequestHead.make(method=method, headers=Headers.of(fields))


# Tables


@pytest.mark.parametrize(
    ("method", "kind", "it_is"),
    [
        (b"POST", b"application/grpc", True),
        (b"POST", b"application/grpc+proto", True),
        (b"POST", b"Application/gRPC+json", True),
        (b"POST", b"application/grpc;charset=x", True),
        (b"POST", b"application/grpc-web", False),
        (b"POST", b"application/grpc-web+proto", False),
        (b"POST", b"application/grpcx", False),
        (b"POST", b"text/plain; application/grpc", False),
        (b"POST", None, False),
        (b"GET", b"application/grpc", False),
    ],
)
def test_what_is_a_call(method: bytes, kind: bytes | None, it_is: bool) -> None:
    fields = [(b"content-type", kind)] if kind is not None else []
    assert is_grpc(request(*fields, method=method)) is it_is


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"30S", 30.0),
        (b"1500m", 1.5),
        (b"250000u", 0.25),
        (b"99999999n", 0.099999999),
        (b"0S", 0.0),
        (b"99999999H", 99999999 * 3600.0),
        (b"123456789S", None),  # eight digits at most
        (b"", None),
        (b"5", None),
        (b"S", None),
        (b"5s", None),
        (b"-5S", None),
        (b"1.5S", None),
        (b"5 S", None),
        (b"5S,5S", None),
        ("٣S".encode(), None),
    ],
)
def test_how_long_a_call_may_take(text: bytes, seconds: float | None) -> None:
    assert maybe_timeout(request((b"grpc-timeout", text))) == (seconds if seconds is None else pytest.approx(seconds))


def test_no_timeout_is_none() -> None:
    assert maybe_timeout(request()) is None


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        ("no_healthy_endpoint", 14),
        ("connect_refused", 14),
        ("connect_timeout", 14),
        ("response_timeout", 14),
        ("upstream_reset", 14),
        ("deadline_exceeded", 4),
        ("total_timeout", 4),
        ("request_too_large", 8),
        ("no_route", 12),
        ("bad_path", 13),
        ("fault", 13),
        ("proxy_loop", 2),
        ("body_timeout", 1),
        ("drain_timeout", 14),
        ("downstream_closed", 1),
    ],
)
def test_what_our_reasons_mean_to_a_call(reason: str, status: int) -> None:
    assert status_of(failure(reason)) == status


@pytest.mark.parametrize(
    ("http", "status"), [(401, 16), (403, 7), (404, 12), (400, 13), (413, 8), (414, 8), (429, 14), (431, 8), (418, 2), (500, 13), (501, 12)]
)
def test_what_http_statuses_mean_to_a_call(http: int, status: int) -> None:
    """gRPC's own table, doc/http-grpc-status-mapping.md; those that it does not have (413, 414, 431, 500, 501) are our own."""
    assert status_of(ProxyError(Side.LBD, "word", http, "")) == status
    told = grpc_fields(Answer(http, b"", b"", 0.0), shows_reason=False)
    assert told is not None
    assert told[0] == status


def test_who_is_to_come_later_is_told_so_in_grpcs_words_too() -> None:
    for seconds, told in ((1.5, b"1500"), (0.0, None)):
        answer = grpc_fields(error_answer(failure("queue_full", retry_after=seconds), False, 0.0), shows_reason=False)
        assert answer is not None
        status, fields = answer
        assert (status, fields.get(b"grpc-retry-pushback-ms")) == (14, told)


@pytest.mark.parametrize("reason", REASONS)
def test_no_message_has_an_address(reason: str) -> None:
    error = failure(reason, "connecting to 10.1.2.3:80 failed", Retry.UNSENT)
    for shows in (False, True):
        told = grpc_fields(error_answer(error, shows, 0.0), shows)
        assert told is not None
        assert b"10.1" not in told[1].encode()
        assert (reason.encode() in told[1].encode()) is shows


@pytest.mark.parametrize(
    ("message", "written"),
    [
        (b"plain: words, ~ and all", b"plain: words, ~ and all"),
        (b"50% off", b"50%25 off"),
        ("café\n".encode(), b"caf%C3%A9%0A"),
        (b"\0\x7f", b"%00%7F"),
        (b"", b""),
    ],
)
def test_messages_are_percent_encoded(message: bytes, written: bytes) -> None:
    assert escaped(message) == written


@pytest.mark.parametrize(
    ("value", "status"), [(b"0", 0), (b"16", 16), (b"", UNTOLD), (b"x", UNTOLD), (b"-1", UNTOLD), (b"123456789", UNTOLD), (b"\xb2", UNTOLD)]
)
def test_what_trailers_say(value: bytes, status: int) -> None:
    assert status_among(Headers(b"grpc-status: %b\r\n" % value)) == status
    assert status_among(Headers()) == UNTOLD


# Transcripts


def cluster(**settings: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of the policy
    return ClusterPolicy("web", (EndpointPolicy("one:1"),), **settings)


def call(them: Http2End, *fields: tuple[bytes, bytes], path: str = "/a.B/C", body: bytes = QUESTION) -> int:
    number = them.post(path, GRPC, TE, *fields)
    if body:
        them.send(number, body, ends=True)
    return number


def told(answer: Answered) -> tuple[bytes, bytes]:
    """Status and message of a Trailers-Only response."""
    fields = dict(answer.fields)
    assert (answer.status, answer.reset, answer.body, answer.trailers) == (200, -1, b"", [])
    assert fields[b"content-type"] == b"application/grpc"
    assert b"content-length" not in fields
    return fields[b"grpc-status"], fields[b"grpc-message"]


@pytest.mark.usefixtures("autojump_clock")
class TestTranscripts:
    async def test_a_call_ends_as_its_server_says(self) -> None:
        async with Playbook() as play:
            them = Http2End(play.downstream)
            number = call(them)
            up = await play.upstream()
            head = await up.read_until(END)
            assert b"content-type: application/grpc\r\n" in head
            await up.read_until(b"hello")
            up >> HEAD + b"7\r\n\0\0\0\0\2ok\r\n0\r\ngrpc-status: 5\r\ngrpc-message: none\r\n\r\n"
            answer = await them.answer(number)
            assert (answer.status, answer.body, dict(answer.trailers)[b"grpc-status"]) == (200, b"\0\0\0\0\2ok", b"5")
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status, line.reason) == (200, 5, "")

    async def test_an_error_is_trailers_only(self) -> None:
        async with Playbook(listener=ListenerPolicy("web", ("test",), reason_header=True)) as play:
            play.refuse.add("one:1")
            them = Http2End(play.downstream)
            answer = await them.answer(call(them))
            assert told(answer) == (b"14", b"connect_refused: the endpoint refuses connections")
            assert answer.field(b"x-lbd-reason") == b"connect_refused"
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status, line.reason) == (502, 14, "connect_refused")

    @pytest.mark.parametrize(
        ("fields", "path", "grpc", "http", "reason"),
        [
            ([(b"x-long", b"x" * 3000)], "/a.B/C", 8, 431, "head_too_large"),
            ([(b"x-%d" % number, b"") for number in range(30)], "/a.B/C", 8, 431, "head_too_large"),
            ([], "/" + "a" * 200, 8, 414, "target_too_long"),
            ([(b"host", b"another")], "/a.B/C", 13, 400, "bad_host"),
        ],
    )
    async def test_a_call_whose_head_is_refused_is_told_so(self, fields: Any, path: str, grpc: int, http: int, reason: str) -> None:  # noqa: ANN401
        policy = ListenerPolicy("web", ("test",), reason_header=True, limits=ListenerLimits(head=2000, target=100, fields=20))
        async with Playbook(listener=policy) as play:
            them = Http2End(play.downstream)
            number = call(them, *fields, path=path)
            status, message = told(await them.answer(number))
            assert (int(status), message.split(b":")[0].decode()) == (grpc, reason)
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status, line.reason) == (http, grpc, reason)
            labels = ("web", "", "", str(grpc))
            segment = play.board.segment(0)
            assert segment.cells[segment.series(metrics.GRPC_CALLS.number, labels, 1)] == 1

    async def test_what_is_no_call_gets_a_page_when_its_head_is_refused(self) -> None:
        policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(target=100))
        async with Playbook(listener=policy) as play:
            them = Http2End(play.downstream)
            page = await them.answer(them.get("/" + "a" * 200))
            bare = await them.answer(them.get("/" + "a" * 200, method=b"HEAD"))
            assert (page.status, page.body[:4]) == (414, b"414 ")
            assert (bare.status, bare.body) == (414, b"")
            assert [line.grpc_status for line in play.lines] == [-2, -2]  # type: ignore[attr-defined]

    async def test_the_reason_is_hidden_where_the_listener_hides_it(self) -> None:
        async with Playbook() as play:
            play.refuse.add("one:1")
            them = Http2End(play.downstream)
            assert told(await them.answer(call(them))) == (b"14", b"Bad Gateway")

    async def test_others_get_a_page_as_ever(self) -> None:
        async with Playbook() as play:
            play.refuse.add("one:1")
            them = Http2End(play.downstream)
            number = them.post("/", (b"content-type", b"application/grpc-web"))
            them.send(number, b"x", ends=True)
            answer = await them.answer(number)
            assert (answer.status, answer.body) == (502, b"502 Bad Gateway\n")
            assert play.lines[0].grpc_status == -2  # type: ignore[attr-defined]

    async def test_a_fixed_answer_that_is_an_error(self) -> None:
        respond = RespondPolicy(status=503, body="back at noon: 50%", headers=(("retry-after", "60"),))
        async with Playbook(routes=[RoutePolicy(name="closed", respond=respond)]) as play:
            them = Http2End(play.downstream)
            answer = await them.answer(call(them))
            assert told(answer) == (b"14", b"back at noon: 50%25")
            assert answer.field(b"retry-after") == b"60"

    async def test_a_response_that_breaks_off_gets_the_trailers_it_lacks(self) -> None:
        async with Playbook() as play:
            them = Http2End(play.downstream)
            number = call(them)
            up = await play.upstream()
            await up.read_until(b"hello")
            up >> HEAD + b"7\r\n\0\0\0\0\2ok\r\n"
            await them.until(lambda: them.answers[number].body)
            up.close()
            answer = await them.answer(number)
            assert (answer.status, answer.body, answer.reset) == (200, b"\0\0\0\0\2ok", -1)
            assert dict(answer.trailers) == {b"grpc-status": b"14", b"grpc-message": b"Bad Gateway"}
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status) == (200, 14)
            again = call(them)
            up = await play.upstream()
            await up.read_until(b"hello")
            up >> HEAD + b"0\r\ngrpc-status: 0\r\n\r\n"
            assert dict((await them.answer(again)).trailers) == {b"grpc-status": b"0"}

    async def test_a_response_that_breaks_off_under_a_request_that_goes_on(self) -> None:
        async with Playbook() as play:
            them = Http2End(play.downstream)
            number = call(them, body=b"")
            them.send(number, QUESTION)
            up = await play.upstream()
            await up.read_until(b"hello\r\n")
            up >> HEAD
            await them.until(lambda: them.answers[number].status)
            up.reset()
            answer = await them.answer(number)
            assert dict(answer.trailers)[b"grpc-status"] == b"14"
            await them.until(lambda: answer.reset == 0)  # NO_ERROR: it need not go on

    async def test_the_deadline_of_the_client_ends_the_call_and_the_attempt(self) -> None:
        async with Playbook(clusters=[cluster(timeouts=PATIENT)]) as play:
            them = Http2End(play.downstream)
            number = call(them, (b"grpc-timeout", b"2S"))
            up = await play.upstream()
            await up.read_until(b"hello")
            began = play.reactor.now
            answer = await them.answer(number)
            assert play.reactor.now - began == pytest.approx(2.0, abs=0.1)
            assert told(answer) == (b"4", b"Gateway Timeout")
            await up.expect_end()
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status, line.reason) == (504, 4, "deadline_exceeded")
            assert "2 s" in line.detail

    async def test_a_deadline_within_a_response(self) -> None:
        async with Playbook(clusters=[cluster(timeouts=PATIENT)]) as play:
            them = Http2End(play.downstream)
            number = call(them, (b"grpc-timeout", b"500m"))
            up = await play.upstream()
            await up.read_until(b"hello")
            up >> HEAD + b"7\r\n\0\0\0\0\2ok\r\n"
            answer = await them.answer(number)
            assert (answer.status, dict(answer.trailers)[b"grpc-status"]) == (200, b"4")
            await up.expect_end()

    @pytest.mark.parametrize(
        ("total", "timeout", "seconds", "reason"),
        [(1.0, b"5S", 1.0, "total_timeout"), (5.0, b"1S", 1.0, "deadline_exceeded"), (2.0, b"never", 2.0, "total_timeout")],
    )
    async def test_the_shorter_of_two_deadlines(self, total: float, timeout: bytes, seconds: float, reason: str) -> None:
        async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(response=100.0, total=total))]) as play:
            them = Http2End(play.downstream)
            number = call(them, (b"grpc-timeout", timeout))
            up = await play.upstream()
            head = await up.read_until(b"hello")
            assert b"grpc-timeout: " + timeout in head
            began = play.reactor.now
            assert told(await them.answer(number, 10.0))[0] == b"4"
            assert play.reactor.now - began == pytest.approx(seconds, abs=0.1)
            assert play.lines[0].reason == reason  # type: ignore[attr-defined]

    async def test_a_deadline_while_connecting(self) -> None:
        timeouts = TimeoutPolicy(connect=100.0)
        async with Playbook(clusters=[cluster(timeouts=timeouts)]) as play:
            play.silent.add("one:1")
            them = Http2End(play.downstream)
            assert told(await them.answer(call(them, (b"grpc-timeout", b"1S"))))[0] == b"4"

    async def test_no_time_at_all(self) -> None:
        async with Playbook(checks_bytes=False) as play:
            them = Http2End(play.downstream)
            assert told(await them.answer(call(them, (b"grpc-timeout", b"0n"))))[0] == b"4"

    async def test_a_deadline_of_others_is_none(self) -> None:
        async with Playbook(clusters=[cluster(timeouts=PATIENT)]) as play:
            them = Http2End(play.downstream)
            number = them.get("/", (b"grpc-timeout", b"1S"))
            up = await play.upstream()
            await up.read_until(END)
            await up.expect_silence(5.0)
            up >> b"HTTP/1.1 204 No Content\r\n\r\n"
            assert (await them.answer(number)).status == 204

    async def test_a_call_that_is_cancelled(self) -> None:
        async with Playbook() as play:
            them = Http2End(play.downstream)
            number = call(them)
            up = await play.upstream()
            await up.read_until(b"hello")
            them.reset(number)
            await up.expect_end()
            await them.pump()
            line: Any = play.lines[0]
            assert (line.status, line.grpc_status, line.reason) == (0, 1, "downstream_closed")

    async def test_one_side_may_be_silent_while_the_other_one_speaks(self) -> None:
        listener = ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(body=1.0))
        async with Playbook(listener=listener, clusters=[cluster(timeouts=TimeoutPolicy(idle=2.0))]) as play:
            them = Http2End(play.downstream)
            number = call(them, body=b"")
            them.send(number, QUESTION)
            up = await play.upstream()
            await up.read_until(b"hello\r\n")
            up >> HEAD
            for _ in range(8):  # the server's turn
                up >> b"7\r\n\0\0\0\0\2ok\r\n"
                await trio.sleep(1.0)
                await them.pump()
            assert len(them.answers[number].body) == 8 * 7
            for _ in range(8):  # and the client's
                them.send(number, QUESTION)
                await up.read_until(b"hello\r\n")
                await trio.sleep(1.0)
            them.send(number, b"", ends=True)
            await up.read_until(b"0\r\n\r\n")
            up >> b"0\r\ngrpc-status: 0\r\n\r\n"
            assert dict((await them.answer(number)).trailers) == {b"grpc-status": b"0"}

    @pytest.mark.parametrize(("begins", "reason", "status"), [(True, "upstream_stalled", b"14"), (False, "body_timeout", b"1")])
    async def test_a_call_in_which_nobody_speaks(self, begins: bool, reason: str, status: bytes) -> None:
        async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(idle=2.0))]) as play:
            them = Http2End(play.downstream)
            number = call(them, body=b"")
            them.send(number, QUESTION)
            up = await play.upstream()
            await up.read_until(b"hello\r\n")
            if begins:
                up >> HEAD
            began = play.reactor.now
            answer = await them.answer(number)
            assert dict(answer.fields + answer.trailers)[b"grpc-status"] == status
            assert play.reactor.now - began == pytest.approx(2.0, abs=0.1)
            await up.expect_end()
            assert play.lines[0].reason == reason  # type: ignore[attr-defined]

    async def test_a_call_may_be_silent_for_ever_where_its_route_says_so(self) -> None:
        async with Playbook(clusters=[cluster(timeouts=TimeoutPolicy(idle=0.0))]) as play:
            them = Http2End(play.downstream)
            number = call(them, body=b"")
            them.send(number, QUESTION)
            up = await play.upstream()
            await up.read_until(b"hello\r\n")
            up >> HEAD
            await trio.sleep(86_400.0)
            up >> b"7\r\n\0\0\0\0\2ok\r\n0\r\ngrpc-status: 0\r\n\r\n"
            assert dict((await them.answer(number)).trailers) == {b"grpc-status": b"0"}

    async def test_a_drain_that_has_come_to_its_end(self) -> None:
        async with Playbook() as play:
            them = Http2End(play.downstream)
            early, late = call(them), call(them)
            first = await play.upstream()
            await first.read_until(b"hello")
            second = await play.upstream()
            await second.read_until(b"hello")
            first >> HEAD
            await them.until(lambda: them.answers[early].status)
            for fiber in list(play.listener.fibers):
                fiber.interrupt(failure("drain_timeout"))
            assert dict((await them.answer(early)).trailers)[b"grpc-status"] == b"14"
            assert told(await them.answer(late)) == (b"14", b"the call was ended")
