"""A second attempt beside one that takes long, as transcripts on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


def cluster(*addresses: str, response: float = 30.0, **retry: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of RetryPolicy
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1", "two:2", "three:3"))
    settings = {"hedge_after": "50ms"} | retry
    return ClusterPolicy("web", endpoints, timeouts=TimeoutPolicy(response=response), retry=RetryPolicy(**settings))


def counted(play: Playbook, metric: metrics.Metric) -> dict[tuple[str, ...], int]:
    return {labels: values[0] for (number, labels), values in play.board.totals().items() if number == metric.number}


async def take(play: Playbook) -> tuple[End, bytes]:
    up = await play.upstream()
    return up, await up.read_until(END)


async def test_the_second_one_wins_and_the_first_is_cancelled() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        slow, _ = await take(play)
        began = trio.current_time()
        fast, head = await take(play)
        assert 0.04 <= trio.current_time() - began < 0.1
        assert b"X-Request-Attempt: 2\r\n" in head
        fast >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        await slow.expect_end()
        line: Any = play.lines[0]
        assert (line.status, line.endpoint_address, line.attempts, line.tried) == (200, "two:2", 2, ["one:1 outrun"])
        assert counted(play, metrics.HEDGES) == {("web", "won"): 1}
        assert counted(play, metrics.ATTEMPTS) == {("web", "one:1", "outrun"): 1, ("web", "two:2", "ok"): 1}
        assert counted(play, metrics.RETRIES) == {}
        play.downstream >> GET  # three:3
        other, _ = await take(play)
        other >> OK
        await play.downstream.read_until(b"ok")
        play.downstream >> GET  # one:1, whose connection is gone
        other, _ = await take(play)
        other >> OK
        await play.downstream.read_until(b"ok")
        play.downstream >> GET  # two:2, whose connection was kept
        await fast.read_until(END)
        fast >> OK
        await play.downstream.read_until(b"ok")
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0, 0]


async def test_the_first_one_answers_after_all() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        second, _ = await take(play)
        first >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        await second.expect_end()
        line: Any = play.lines[0]
        assert (line.endpoint_address, line.attempts, line.tried) == ("one:1", 2, ["two:2 outrun"])
        assert counted(play, metrics.HEDGES) == {("web", "lost"): 1}
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0, 0]


async def test_who_answers_in_time_is_left_alone() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        up, _ = await take(play)
        await trio.sleep(0.02)
        up >> OK
        await play.downstream.read_until(b"ok")
        await trio.sleep(1.0)
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE"])
async def test_what_is_not_safe_is_never_doubled(method: bytes) -> None:
    async with Playbook(clusters=[cluster(methods=("GET", "POST", "PUT", "DELETE"))]) as play:
        play.downstream >> method + b" / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nx")
        await up.expect_silence(3.0)
        up >> OK
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]


async def test_a_get_with_a_body_is_not_doubled() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nx")
        await up.expect_silence(3.0)
        up >> OK
        await play.downstream.read_until(b"ok")
        assert play.dialled == ["one:1"]


async def test_the_budget_holds_for_hedges_too() -> None:
    async with Playbook(clusters=[cluster(budget=0.2, budget_min=0)]) as play:
        for _ in range(4):  # a fifth of less than five requests
            play.downstream >> GET
            up, _ = await take(play)
            await trio.sleep(0.2)
            up >> b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
            await play.downstream.read_until(b"ok")
        assert len(play.dialled) == 4
        assert counted(play, metrics.HEDGES) == {("web", "denied"): 4}


async def test_the_first_one_breaks_while_the_second_is_at_work() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        second, _ = await take(play)
        first.close()
        await trio.sleep(0.5)
        second >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        line: Any = play.lines[0]
        assert (line.status, line.endpoint_address, line.tried) == (200, "two:2", ["one:1 upstream_closed"])


async def test_the_second_one_fails_and_the_first_answers() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.refuse = {"two:2"}
        play.downstream >> GET
        first, _ = await take(play)
        await trio.sleep(0.5)
        first >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        line: Any = play.lines[0]
        assert (line.endpoint_address, line.tried) == ("one:1", ["two:2 connect_refused"])
        assert counted(play, metrics.HEDGES) == {("web", "failed"): 1}


async def test_both_fail_and_a_third_attempt_is_made_elsewhere() -> None:
    async with Playbook(clusters=[cluster(attempts=3)]) as play:
        play.refuse = {"two:2"}
        play.downstream >> GET
        first, _ = await take(play)
        await trio.sleep(0.2)
        first.close()
        third, head = await take(play)
        assert b"X-Request-Attempt: 3\r\n" in head
        third >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert play.dialled == ["one:1", "two:2", "three:3"]


async def test_both_are_silent() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", response=1.0)]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        second, _ = await take(play)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"504 Gateway Timeout\n")
        await first.expect_end()
        await second.expect_end()
        line: Any = play.lines[0]
        assert line.reason == "response_timeout"
        assert 1.0 <= line.duration < 1.3
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0]


async def test_a_client_that_leaves_ends_both() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> GET
        first, _ = await take(play)
        second, _ = await take(play)
        play.downstream.close()
        await first.expect_end()
        await second.expect_end()
        assert play.lines[0].reason == "downstream_closed"  # type: ignore[attr-defined]
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0, 0]


async def test_p95_is_learned_from_what_answers_take() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", hedge_after="p95")]) as play:
        ends: dict[str, End] = {}

        async def ask(seconds: float) -> End:
            play.downstream >> GET
            await trio.sleep(0.001)
            for address in play.dialled[len(ends) :]:
                ends[address] = await play.upstream()
            up = next(end for end in ends.values() if end.stream.inbox)
            await up.read_until(END)
            await trio.sleep(seconds)
            return up

        for _ in range(100):
            up = await ask(0.02)
            up >> OK
            await play.downstream.read_until(b"ok")
        assert counted(play, metrics.HEDGES) == {}
        await ask(0.0)
        began = trio.current_time()
        await trio.sleep(0.1)
        other = next(end for end in ends.values() if end.stream.inbox)
        await other.read_until(END)
        other >> OK
        await play.downstream.read_until(b"ok")
        assert trio.current_time() - began < 0.2
        assert counted(play, metrics.HEDGES) == {("web", "won"): 1}
