"""Requests that wait for room, on virtual time: their order, their end, and what they are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cluster.admission import LimitPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.gradient import AdaptivePolicy
from lbd.cluster.queue import QueuePolicy
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


def get(path: str = "/") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % path.encode()


def cluster(*endpoints: EndpointPolicy, size: int = 10, timeout: float = 1.0, limit: int = 0, **rest: Any) -> ClusterPolicy:  # noqa: ANN401
    return ClusterPolicy(
        "web", endpoints or (EndpointPolicy("one:1", max_requests=1),), limits=LimitPolicy(limit), queue=QueuePolicy(size, timeout), **rest
    )


def routes() -> list[RoutePolicy]:
    return [RoutePolicy(name=name, path=f"/{name}", cluster="web", priority=name) for name in ("low", "high")] + [
        RoutePolicy(name="all", cluster="web")
    ]


async def busy(play: Playbook) -> tuple[End, End]:
    """The downstream and the upstream of a request that is at work."""
    play.downstream >> get()
    up = await play.upstream()
    await up.read_until(END)
    return play.downstream, up


async def done(down: End, up: End) -> None:
    up >> OK
    await down.expect(b"HTTP/1.1 200 ", until=b"ok")


async def test_a_request_waits_for_room_and_the_log_says_how_long() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        down, up = await busy(play)
        second = play.connect()
        second >> get("/second")
        await trio.sleep(0.5)
        assert play.dialled == ["one:1"]
        await done(down, up)
        await up.expect(b"GET /second ", until=END)
        await done(second, up)
        first, waited = play.lines
        assert first.queue_seconds == 0.0  # type: ignore[attr-defined]
        assert waited.queue_seconds == pytest.approx(0.5, abs=0.01)  # type: ignore[attr-defined]


async def test_without_room_in_time_it_is_told_when_to_come_again() -> None:
    async with Playbook(clusters=[cluster(timeout=2.0)]) as play:
        down, up = await busy(play)
        second = play.connect()
        second >> get()
        await second.expect_silence(1.9)
        head = await second.read_until(END)
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 2\r\n" in head
        assert b"Connection: close" not in head
        await second.read_until(b"Unavailable\n")
        await done(down, up)
        assert [(line.reason, line.attempts) for line in play.lines] == [("queue_timeout", 0), ("", 1)]  # type: ignore[attr-defined]
        assert play.lines[0].queue_seconds == pytest.approx(2.0, abs=0.02)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("size", "reason"), [(1, "queue_full"), (0, "concurrency_limited")])
async def test_beyond_the_queue_it_is_told_at_once(size: int, reason: str) -> None:
    async with Playbook(clusters=[cluster(size=size)], listener=ListenerPolicy("web", ("test",), reason_header=True)) as play:
        down, up = await busy(play)
        waiting = [play.connect() for _ in range(size + 1)]
        for end in waiting:
            end >> get()
        head = await waiting[-1].read_until(END)
        assert b"HTTP/1.1 503 " in head
        assert b"x-lbd-reason: %b\r\n" % reason.encode() in head
        assert b"Retry-After: 1\r\n" in head
        await waiting[-1].read_until(b"%b\n" % reason.encode())
        await done(down, up)
        for end in waiting[:-1]:
            await up.read_until(END)
            await done(end, up)


async def test_higher_priorities_go_first() -> None:
    async with Playbook(clusters=[cluster()], routes=routes()) as play:
        down, up = await busy(play)
        ends = {path: play.connect() for path in ("/low", "/", "/high", "/high/2")}
        for path, end in ends.items():
            end >> get(path)
            await trio.sleep(0.01)
        await done(down, up)
        for path in ("/high", "/high/2", "/", "/low"):
            await up.expect(b"GET %b " % path.encode(), until=END)
            await done(ends[path], up)


async def test_a_client_that_leaves_has_left_the_queue() -> None:
    async with Playbook(clusters=[cluster(size=1)]) as play:
        down, up = await busy(play)
        gone = play.connect()
        gone >> get("/gone")
        await trio.sleep(0.1)
        gone.close()
        await trio.sleep(0.1)
        after = play.connect()
        after >> get("/after")  # there is one place, and it is free again
        await trio.sleep(0.1)
        await done(down, up)
        await up.expect(b"GET /after ", until=END)
        await done(after, up)
        assert [line.reason for line in play.lines] == ["downstream_closed", "", ""]  # type: ignore[attr-defined]


async def test_however_many_come_and_go_one_looks_for_room() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        down, up = await busy(play)
        for _ in range(5):
            gone = play.connect()
            gone >> get("/gone")
            await trio.sleep(0.002)
            assert [fiber.name for fiber in play.reactor.fibers].count("queue of web") == 1
            gone.close()
            await trio.sleep(0.002)
        await trio.sleep(0.1)
        assert "queue of web" not in [fiber.name for fiber in play.reactor.fibers]
        after = play.connect()
        after >> get("/after")
        await trio.sleep(0.1)
        await done(down, up)
        await up.expect(b"GET /after ", until=END)
        await done(after, up)


async def test_a_clusters_own_limit() -> None:
    policy = cluster(EndpointPolicy("one:1"), EndpointPolicy("two:1"), limit=1)
    async with Playbook(clusters=[policy]) as play:
        down, up = await busy(play)
        second = play.connect()
        second >> get()
        await trio.sleep(0.3)
        assert play.dialled == ["one:1"]
        await done(down, up)
        up = await play.upstream()
        await up.read_until(END)
        await done(second, up)


async def test_a_retry_waits_too_and_gives_the_failure_when_there_is_no_room() -> None:
    policy = cluster(EndpointPolicy("one:1"), EndpointPolicy("two:1", max_requests=1), retry=RetryPolicy(attempts=1))
    async with Playbook(clusters=[policy]) as play:
        play.refuse = {"one:1"}
        down, up = await busy(play)  # at two, after one has refused it
        second = play.connect()
        second >> get()
        await second.expect(b"HTTP/1.1 502 ", until=b"Bad Gateway\n")
        await done(down, up)
        assert [line.reason for line in play.lines] == ["connect_refused", ""]  # type: ignore[attr-defined]
        assert play.lines[0].queue_seconds == pytest.approx(1.0, abs=0.02)  # type: ignore[attr-defined]


async def test_the_total_time_goes_on_while_it_waits() -> None:
    async with Playbook(clusters=[cluster(timeout=5.0, timeouts=TimeoutPolicy(total=0.5))]) as play:
        await busy(play)
        second = play.connect()
        second >> get()
        await second.expect(b"HTTP/1.1 504 ", until=b"Timeout\n")
        assert "total_timeout" in [line.reason for line in play.lines]  # type: ignore[attr-defined]
        play.checks_bytes = False


async def test_where_no_endpoint_may_be_used_nobody_waits() -> None:
    async with Playbook(clusters=[cluster(panic=0.0)]) as play:
        play.clusters["web"].set_health("one:1", False)
        play.downstream >> get()
        await play.downstream.expect(b"HTTP/1.1 503 ", until=b"Unavailable\n", seconds=0.1)
        assert [line.reason for line in play.lines] == ["no_healthy_endpoint"]  # type: ignore[attr-defined]


async def test_an_endpoint_that_goes_down_is_not_waited_for() -> None:
    async with Playbook(clusters=[cluster(timeout=5.0, panic=0.0)]) as play:
        down, up = await busy(play)
        second = play.connect()
        second >> get()
        await trio.sleep(0.1)
        play.clusters["web"].set_health("one:1", False)
        await second.expect(b"HTTP/1.1 503 ", until=b"Unavailable\n", seconds=0.1)
        await done(down, up)
        assert [line.reason for line in play.lines] == ["no_healthy_endpoint", ""]  # type: ignore[attr-defined]


async def test_a_session_of_tcp_waits_also_when_its_client_has_said_everything() -> None:
    listener = ListenerPolicy("web", ("test",), protocol="tcp")
    async with Playbook(clusters=[cluster()], listener=listener) as play:
        up = await play.upstream()
        second, third = play.connect(), play.connect()
        second >> b"hello"
        await trio.sleep(0.1)
        second.end()
        third.reset()
        await trio.sleep(0.1)
        assert play.dialled == ["one:1"]
        up.reset()
        up = await play.upstream()
        await up.expect(b"hello", until=b"hello")
        up >> b"bye"
        up.end()
        await second.expect(b"bye", until=b"bye")
        await trio.sleep(0.1)
        assert sorted(line.reason for line in play.lines) == ["", "downstream_closed", "upstream_reset"]  # type: ignore[attr-defined]


async def test_a_session_that_finds_no_room_in_time() -> None:
    listener = ListenerPolicy("web", ("test",), protocol="tcp")
    async with Playbook(clusters=[cluster()], listener=listener) as play:
        await play.upstream()
        second = play.connect()
        await trio.sleep(0.9)
        second.end()  # which gives it no more time
        await trio.sleep(0.2)
        assert [line.reason for line in play.lines] == ["queue_timeout"]  # type: ignore[attr-defined]


# Connections


async def test_a_request_waits_for_a_connection_that_others_have() -> None:
    async with Playbook(clusters=[cluster(EndpointPolicy("one:1", max_connections=1))]) as play:
        down, up = await busy(play)
        second = play.connect()
        second >> get("/second")
        await trio.sleep(0.2)
        assert play.dialled == ["one:1"]
        await done(down, up)
        await up.expect(b"GET /second ", until=END)  # on the same one
        await done(second, up)
        assert play.clusters["web"].endpoints[0].connections() == 1
        up.close()
        await trio.sleep(0.1)
        down >> get("/third")
        up = await play.upstream()
        await up.read_until(END)
        await done(down, up)
        assert play.clusters["web"].endpoints[0].connections() == 1


async def test_a_connection_that_cannot_be_made_does_not_count() -> None:
    async with Playbook(clusters=[cluster(EndpointPolicy("one:1", max_connections=1), retry=RetryPolicy(attempts=0))]) as play:
        play.refuse = {"one:1"}
        for _ in range(3):
            play.downstream >> get()
            await play.downstream.expect(b"HTTP/1.1 502 ", until=b"Bad Gateway\n")
        assert play.clusters["web"].endpoints[0].connections() == 0
        play.refuse = set()
        down, up = await busy(play)
        down.close()  # and the connection upstream goes with it
        await trio.sleep(0.1)
        assert play.clusters["web"].endpoints[0].connections() == 0
        await up.expect_end()


async def test_a_session_is_a_connection() -> None:
    policy = cluster(EndpointPolicy("one:1", max_connections=1), size=0)
    async with Playbook(clusters=[policy], listener=ListenerPolicy("web", ("test",), protocol="tcp")) as play:
        up = await play.upstream()
        second = play.connect()
        await second.expect_end()
        assert [line.reason for line in play.lines] == ["concurrency_limited"]  # type: ignore[attr-defined]
        up.end()
        play.downstream.end()
        await trio.sleep(0.1)
        assert play.clusters["web"].endpoints[0].connections() == 0


async def test_the_adaptive_limit_shrinks_when_requests_run_into_timeouts() -> None:
    policy = cluster(
        EndpointPolicy("one:1"), adaptive=AdaptivePolicy(enabled=True, initial=10), timeouts=TimeoutPolicy(response=0.2),
        retry=RetryPolicy(attempts=0),
    )  # fmt: skip
    async with Playbook(clusters=[policy]) as play:
        play.downstream >> get()
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"Timeout\n")
        up = await play.latest_upstream()
        await up.read_until(END)
        admission = play.clusters["web"].admission
        assert admission is not None
        ends = [play.connect() for _ in range(10)]
        for end in ends:
            end >> get()
        await trio.sleep(0.05)
        assert (admission.inflight, admission.waiting) == (9, 1)
        play.checks_bytes = False
