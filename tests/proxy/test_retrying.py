"""Attempts beyond the first, as transcripts on virtual time: where they go, when, and what the client gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.proxy.retry import MOST_WAIT
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
END = b"\r\n\r\n"
STATUSES = ("connect", "reset", "timeout", "503", "429")


def cluster(*addresses: str, timeouts: TimeoutPolicy | None = None, **retry: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of RetryPolicy
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1", "two:2", "three:3"))
    return ClusterPolicy("web", endpoints, timeouts=timeouts or TimeoutPolicy(), retry=RetryPolicy(**retry))


def counted(play: Playbook, metric: metrics.Metric) -> dict[tuple[str, ...], int]:
    """label values -> number, of all series of a metric."""
    return {labels: values[0] for (number, labels), values in play.board.totals().items() if number == metric.number}


async def take(play: Playbook) -> tuple[End, bytes]:
    """The next connection, and the head of the request on it."""
    up = await play.upstream()
    return up, await up.read_until(END)


# Time


async def test_an_endpoint_that_hangs_is_left_after_its_time() -> None:
    async with Playbook(clusters=[cluster(per_try=0.5)]) as play:
        play.downstream >> GET
        hung, _ = await take(play)
        up, head = await take(play)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert b"X-Request-Attempt: 2\r\n" in head
        await hung.expect_end()
        line: Any = play.lines[0]
        assert (line.status, line.reason, line.attempts, line.tried) == (200, "", 2, ["one:1 response_timeout"])
        assert 0.5 <= line.duration < 0.6
        assert counted(play, metrics.RETRIES) == {("response_timeout",): 1}


async def test_without_it_the_response_timeout_is_that_of_an_attempt() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", timeouts=TimeoutPolicy(response=3.0))]) as play:
        play.downstream >> GET
        await take(play)
        await take(play)
        # Both are silent, and neither gets it again, though a third attempt would be allowed.
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n", seconds=10.0)
        line: Any = play.lines[0]
        assert (line.reason, line.attempts) == ("response_timeout", 2)
        assert line.detail.endswith("within 3 s; not tried again: there is no other endpoint")
        assert 6.0 <= line.duration < 6.1
        assert counted(play, metrics.RETRIES_DENIED) == {("web", "endpoint"): 1}


async def test_what_cannot_be_tried_again_has_all_the_time_there_is() -> None:
    async with Playbook(clusters=[cluster(per_try=0.5)]) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nx")
        await up.expect_silence(5.0)
        up >> OK
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]


async def test_timeouts_are_no_reason_where_they_are_not_listed() -> None:
    async with Playbook(clusters=[cluster(on=("connect", "reset"), timeouts=TimeoutPolicy(response=1.0))]) as play:
        play.downstream >> GET
        await take(play)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n")
        assert play.dialled == ["one:1"]
        assert play.lines[0].detail == "no response head within 1 s"  # type: ignore[attr-defined]


async def test_the_total_is_of_all_attempts() -> None:
    async with Playbook(clusters=[cluster(per_try=0.5, timeouts=TimeoutPolicy(total=0.8))]) as play:
        play.downstream >> GET
        await take(play)
        await take(play)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n")
        line: Any = play.lines[0]
        assert (line.reason, line.attempts) == ("total_timeout", 2)
        assert 0.8 <= line.duration < 0.9


async def test_a_retry_that_the_deadline_leaves_no_time_for_is_not_waited_for() -> None:
    retry: dict[str, Any] = {"on": STATUSES, "timeouts": TimeoutPolicy(total=2.0)}
    async with Playbook(clusters=[cluster("one:1", **retry)]) as play:
        play.downstream >> GET
        up, _ = await take(play)
        up >> b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nContent-Length: 4\r\n\r\nbusy"
        answer = await play.downstream.expect(b"HTTP/1.1 503 Service Unavailable\r\n", until=b"busy")
        assert b"Retry-After: 3\r\n" in answer
        line: Any = play.lines[0]
        assert line.duration < 0.1
        assert (line.reason, line.detail) == ("", "it answered 503; not tried again: the time until then is longer than there is")
        assert counted(play, metrics.RETRIES_DENIED) == {("web", "deadline"): 1}


async def test_the_first_retry_is_made_at_once_and_later_ones_wait() -> None:
    addresses = [f"e{i}:1" for i in range(9)]
    async with Playbook(clusters=[cluster(*addresses, attempts=5, backoff=1.0, max_backoff=4.0)]) as play:
        play.refuse = set(addresses)
        play.listener.random = lambda: 0.5
        play.downstream >> GET
        await play.downstream.read_until(b"502 Bad Gateway\n", seconds=60.0)
        assert len(set(play.dialled)) == len(play.dialled) == 6  # a fresh one each time
        assert 0.5 + 1.0 + 2.0 + 2.0 <= play.lines[0].duration < 5.7  # type: ignore[attr-defined]


async def test_a_client_that_leaves_during_a_back_off_leaves() -> None:
    async with Playbook(clusters=[cluster("one:1", backoff=10.0, max_backoff=10.0)]) as play:
        play.refuse = {"one:1"}
        play.listener.random = lambda: 0.9
        play.downstream >> GET
        await trio.sleep(2.0)
        play.downstream.close()
        await trio.sleep(0.1)
        line: Any = play.lines[0]
        assert (line.reason, line.attempts) == ("downstream_closed", 1)
        assert play.dialled == ["one:1"]


# Where


async def test_all_endpoints_get_their_turn_before_one_gets_a_second() -> None:
    async with Playbook(clusters=[cluster(attempts=7)]) as play:
        play.refuse = {"one:1", "two:2", "three:3"}
        play.downstream >> GET
        await play.downstream.read_until(b"502 Bad Gateway\n")
        assert len(play.dialled) == 8
        assert len(set(play.dialled[:3])) == len(set(play.dialled[3:6])) == 3


async def test_a_lonely_endpoint_that_refuses_is_asked_again_after_a_while() -> None:
    async with Playbook(clusters=[cluster("one:1")]) as play:
        play.refuse = {"one:1"}
        play.listener.random = lambda: 1.0
        play.downstream >> GET
        await trio.sleep(0.01)
        play.refuse = set()
        up, head = await take(play)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert b"X-Request-Attempt: 2\r\n" in head
        assert play.lines[0].tried == ["one:1 connect_refused"]  # type: ignore[attr-defined]


async def test_a_lonely_endpoint_that_dies_over_a_request_does_not_get_it_again() -> None:
    async with Playbook(clusters=[cluster("one:1")]) as play:
        play.downstream >> GET
        up, _ = await take(play)
        up.close()
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert play.dialled == ["one:1"]


# Statuses


async def test_a_status_is_passed_on_unless_it_is_listed() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        up, _ = await take(play)
        up >> BUSY
        await play.downstream.expect(b"HTTP/1.1 503 Service Unavailable\r\n", until=b"busy")
        assert play.lines[0].attempts == 1  # type: ignore[attr-defined]


async def test_a_listed_status_is_tried_elsewhere_and_its_connection_kept() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", on=STATUSES)]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        first >> BUSY
        second, head = await take(play)
        second >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert b"X-Request-Attempt: 2\r\n" in head
        line: Any = play.lines[0]
        assert (line.status, line.reason, line.endpoint_address, line.tried) == (200, "", "two:2", ["one:1 503"])
        play.downstream >> GET
        assert b"X-Request-Attempt" not in await first.read_until(END)  # on the same connection
        first >> OK
        await play.downstream.read_until(b"ok")
        assert counted(play, metrics.RETRIES) == {("upstream_status",): 1}
        assert counted(play, metrics.ATTEMPTS) == {
            ("web", "one:1", "upstream_status"): 1, ("web", "two:2", "ok"): 1, ("web", "one:1", "ok"): 1,
        }  # fmt: skip


async def test_the_connection_of_a_long_answer_that_is_dropped_is_closed() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", on=STATUSES)]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        first >> b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100000\r\n\r\nbusy"
        second, _ = await take(play)
        await first.expect_end()
        second >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


async def test_the_last_answer_is_the_clients_as_it_is() -> None:
    async with Playbook(clusters=[cluster(attempts=1, on=STATUSES)]) as play:
        play.downstream >> GET
        for text in (b"busy", b"more busy"):
            up, _ = await take(play)
            up >> b"HTTP/1.1 503 Service Unavailable\r\nX-From: %b\r\nContent-Length: %d\r\n\r\n%b" % (
                play.dialled[-1].encode(),
                len(text),
                text,
            )
        answer = await play.downstream.expect(b"HTTP/1.1 503 Service Unavailable\r\n", until=b"more busy")
        assert b"X-From: two:2\r\n" in answer
        line: Any = play.lines[0]
        assert (line.status, line.reason, line.attempts, line.tried) == (503, "", 2, ["one:1 503"])


async def test_a_post_that_was_answered_is_not_sent_twice() -> None:
    async with Playbook(clusters=[cluster(on=STATUSES)]) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nx")
        up >> BUSY
        await play.downstream.expect(b"HTTP/1.1 503 ", until=b"busy")
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize(("status", "elsewhere"), [(b"429 Too Many Requests", 2.0), (b"503 Service Unavailable", 0.0)])
async def test_retry_after_is_obeyed(status: bytes, elsewhere: float) -> None:
    """A 503 speaks for its endpoint, a 429 for all of them."""
    asked = b"HTTP/1.1 %b\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nbusy" % status
    for addresses, seconds in ((["one:1"], 2.0), (["one:1", "two:2"], elsewhere)):
        async with Playbook(clusters=[cluster(*addresses, on=STATUSES)]) as play:
            play.downstream >> GET
            up, _ = await take(play)
            up >> asked
            began = trio.current_time()
            if len(addresses) == 1:
                await up.read_until(END)  # its connection was kept
            else:
                up, _ = await take(play)
            assert seconds <= trio.current_time() - began < seconds + 0.1
            up >> OK
            await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


@pytest.mark.parametrize(("asked", "is_waited_for"), [(10, True), (11, False)])
async def test_whoever_asks_for_more_than_ten_seconds_tells_it_the_client(asked: int, is_waited_for: bool) -> None:
    assert MOST_WAIT == 10.0
    async with Playbook(clusters=[cluster("one:1", on=STATUSES)]) as play:
        play.downstream >> GET
        up, _ = await take(play)
        up >> b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: %d\r\nContent-Length: 4\r\n\r\nbusy" % asked
        if is_waited_for:
            up = await play.upstream(11.0)
            await up.read_until(END)
            up >> OK
            await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
            return
        answer = await play.downstream.expect(b"HTTP/1.1 429 ", until=b"busy")
        assert b"Retry-After: 11\r\n" in answer
        assert counted(play, metrics.RETRIES_DENIED) == {("web", "deadline"): 1}
        assert play.lines[0].duration < 0.1  # type: ignore[attr-defined]


# The budget


async def test_when_all_fail_the_budget_keeps_attempts_down_and_the_reason_stays_what_it_is() -> None:
    async with Playbook(clusters=[cluster(budget=0.2, budget_min=0)]) as play:
        play.refuse = {"one:1", "two:2", "three:3"}
        for _ in range(100):
            play.downstream >> GET
            await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert 115 <= len(play.dialled) <= 120
        lines: list[Any] = play.lines
        denied = [line for line in lines if "the retry budget of web is used up" in line.detail]
        assert 80 <= len(denied) <= 100
        assert {line.reason for line in lines} == {"connect_refused"}
        assert counted(play, metrics.RETRIES_DENIED) == {("web", "budget"): len(denied)}


async def test_the_budget_denies_no_more_than_retries() -> None:
    """A kept-alive connection that has ended is made good without one."""
    async with Playbook(clusters=[cluster("one:1", budget=0.0, budget_min=1)]) as play:
        for _ in range(30):
            play.downstream >> GET
            up, _ = await take(play)
            up >> OK
            await play.downstream.read_until(b"ok")
            play.downstream >> GET
            await up.read_until(END)
            up.close()
            up, _ = await take(play)
            up >> b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
            await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


# Bodies that are still arriving


PUT = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
PUT_CHUNKED = b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_body_that_was_on_its_way_is_sent_again() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> PUT + b"01234"
        up, _ = await take(play)
        await up.read_until(b"01234")
        up.close()
        up, head = await take(play)
        assert b"Content-Length: 10\r\n" in head
        await up.read_until(b"01234")
        play.downstream >> b"56789"
        await up.read_until(b"56789")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        play.downstream >> GET  # the client's connection goes on
        up, _ = await take(play)
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_a_body_that_has_come_whole_meanwhile_is_sent_again() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> PUT_CHUNKED + b"3\r\nabc\r\n"
        up, _ = await take(play)
        await up.read_until(b"3\r\nabc\r\n")
        play.downstream >> b"2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n"
        await up.read_until(b"X-Sum: 5\r\n\r\n")
        up.close()
        up, _ = await take(play)
        await up.expect(b"5\r\nabcde\r\n0\r\n", until=b"X-Sum: 5\r\n\r\n")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        play.downstream >> GET
        up, _ = await take(play)
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_an_empty_body_that_came_in_pieces_ends_the_second_time_too() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> PUT_CHUNKED
        up, _ = await take(play)
        play.downstream >> b"0\r\n\r\n"
        await up.read_until(b"0\r\n\r\n")
        up.close()
        up, _ = await take(play)
        await up.read_until(b"0\r\n\r\n")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


async def test_a_body_above_the_limit_is_not_kept() -> None:
    async with Playbook(clusters=[cluster(max_body=8)]) as play:
        play.downstream >> PUT + b"01234"
        up, _ = await take(play)
        await up.read_until(b"01234")
        play.downstream >> b"5678"
        await up.read_until(b"5678")
        up.close()
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        line: Any = play.lines[0]
        assert (line.reason, line.attempts) == ("upstream_closed", 1)
        assert line.detail.endswith("; not tried again: its body was not kept (retry.max_body)")
        assert counted(play, metrics.RETRIES_DENIED) == {("web", "body"): 1}


async def test_a_post_on_its_way_is_never_sent_twice() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> PUT.replace(b"PUT", b"POST") + b"01234"
        up, _ = await take(play)
        await up.read_until(b"01234")
        up.close()
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert play.dialled == ["one:1"]
        assert counted(play, metrics.RETRIES_DENIED) == {}
