"""Where two policies meet: retries and drains, hedges and errors, deadlines and ejections, trials and what was there before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.queue import QueuePolicy
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy
from lbd.worker.messages import EndpointState
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
END = b"\r\n\r\n"
TCP = ListenerPolicy("tcp", ("test",), protocol="tcp", cluster="web")


def cluster(*addresses: str, **settings: object) -> ClusterPolicy:
    return ClusterPolicy("web", tuple(EndpointPolicy(address) for address in addresses), **{"slow_start": 0.0, **settings})  # type: ignore[arg-type]


async def take(play: Playbook) -> End:
    """The next connection; the head of the request on it is read."""
    up = await play.upstream()
    await up.read_until(END)
    return up


def drain(play: Playbook, address: str) -> None:
    known = play.clusters["web"].endpoints
    play.clusters["web"].update(
        EndpointState(endpoint.address, 1, endpoint.index, name=endpoint.address, drained=endpoint.address == address) for endpoint in known
    )


# Retries


async def test_who_is_drained_during_a_back_off_does_not_get_the_retry() -> None:
    policy = cluster("one:1", retry=RetryPolicy(on=("503",), attempts=1))
    async with Playbook(clusters=[policy]) as play:
        play.downstream >> GET
        up = await take(play)
        up >> BUSY.replace(b"Content-Length", b"Retry-After: 5\r\nContent-Length")
        await trio.sleep(1.0)
        drain(play, "one:1")
        await play.downstream.expect(b"HTTP/1.1 502", until=b"502 Bad Gateway\n", seconds=10.0)
        assert play.dialled == ["one:1"]
        assert play.lines[0].reason == "upstream_status"  # type: ignore[attr-defined]


async def test_a_connection_that_ends_because_its_endpoint_was_drained_is_made_good_elsewhere() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", retry=RetryPolicy(attempts=0))]) as play:
        play.downstream >> GET
        up = await take(play)
        up >> OK
        await play.downstream.read_until(b"ok")
        play.clusters["web"].set_health("two:2", False)
        play.downstream >> GET  # one:1 again
        await up.read_until(END)
        play.clusters["web"].set_health("two:2", True)
        drain(play, "one:1")
        up.close()
        up = await take(play)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        assert play.dialled == ["one:1", "two:2"]


# Hedges


async def test_an_error_does_not_win_against_who_is_still_at_work() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", retry=RetryPolicy(hedge_after="50ms"))]) as play:
        play.downstream >> GET
        slow = await take(play)
        sick = await take(play)
        sick >> BUSY
        await trio.sleep(1.0)
        slow >> OK
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        await sick.expect_end()
        assert play.lines[0].tried == ["two:2 503"]  # type: ignore[attr-defined]
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0]


async def test_an_error_is_better_than_no_answer() -> None:
    async with Playbook(clusters=[cluster("one:1", "two:2", retry=RetryPolicy(hedge_after="50ms"))]) as play:
        play.downstream >> GET
        slow = await take(play)
        sick = await take(play)
        sick >> BUSY
        await trio.sleep(1.0)
        slow.close()
        await play.downstream.expect(b"HTTP/1.1 503", until=b"busy")
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0]


# Deadlines


async def test_the_total_time_that_a_slow_client_takes_tells_nothing_of_the_endpoint() -> None:
    policy = cluster("one:1", timeouts=TimeoutPolicy(total=1.0), outlier=OutlierPolicy(failures=1))
    async with Playbook(clusters=[policy], buffer=4096, checks_bytes=False) as play:
        play.downstream >> GET
        up = await take(play)
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
        with pytest.raises(ConnectionResetError):
            await up.send(b"x" * 100_000)  # which nobody reads
        assert play.lines[0].reason == "total_timeout"  # type: ignore[attr-defined]
        late = play.connect()
        late >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx"
        await trio.sleep(3.0)
        assert play.lines[1].reason == "total_timeout"  # type: ignore[attr-defined]
        assert play.noticed == []


async def test_the_total_time_that_others_have_used_up_does_not_tell_against_the_last_endpoint() -> None:
    retry, outlier = RetryPolicy(per_try=0.9), OutlierPolicy(failures=1)
    policy = cluster("one:1", "two:2", timeouts=TimeoutPolicy(total=1.0), retry=retry, outlier=outlier)
    async with Playbook(clusters=[policy]) as play:
        play.downstream >> GET
        await take(play)
        await take(play)
        await play.downstream.expect(b"HTTP/1.1 504", until=b"504 Gateway Timeout\n")
        assert play.noticed == [("one:1", "gateway")]


async def test_who_has_had_all_of_the_total_time_is_told_of() -> None:
    policy = cluster("one:1", timeouts=TimeoutPolicy(total=1.0), outlier=OutlierPolicy(failures=1))
    async with Playbook(clusters=[policy]) as play:
        play.downstream >> GET
        await take(play)
        await play.downstream.expect(b"HTTP/1.1 504", until=b"504 Gateway Timeout\n")
        assert play.noticed == [("one:1", "gateway")]


# Queues


async def test_those_who_wait_for_one_subset_do_not_hold_up_another() -> None:
    old = EndpointPolicy("one:1", metadata=(("version", "1"),), max_requests=1)
    new = EndpointPolicy("two:2", metadata=(("version", "2"),), max_requests=1)
    routes = [
        RoutePolicy("old", path="/old", cluster="web", subset=(("version", "1"),)),
        RoutePolicy("new", path="/new", cluster="web", subset=(("version", "2"),)),
    ]
    policy = ClusterPolicy("web", (old, new), queue=QueuePolicy(timeout=30.0))
    async with Playbook(clusters=[policy], routes=routes, checks_bytes=False) as play:
        for _ in range(30):
            play.connect() >> b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n"
        await take(play)
        play.downstream >> b"GET /new HTTP/1.1\r\nHost: a\r\n\r\n"
        up = await take(play)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        assert play.dialled == ["one:1", "two:2"]


# Trials


async def test_sessions_from_before_a_trial_leave_room_for_it() -> None:
    async with Playbook(listener=TCP, clusters=[cluster("one:1", "two:2")], checks_bytes=False) as play:
        web = play.clusters["web"]
        before = [await play.upstream()]
        for _ in range(7):
            play.connect()
            before.append(await play.upstream())
        web.set_health("one:1", False)
        web.set_health("one:1", True, 2)
        play.dialled.clear()
        for _ in range(40):
            play.connect()
            await play.upstream()
        assert play.dialled.count("one:1") == 2  # beside four that were there


async def test_who_has_ended_since_a_trial_began_leaves_no_more_room_than_it_gives() -> None:
    policy = cluster("one:1", "two:2", outlier=OutlierPolicy(enabled=False))
    async with Playbook(clusters=[policy], checks_bytes=False) as play:
        web = play.clusters["web"]
        downs = [play.connect() for _ in range(8)]
        for down in downs:
            down >> GET
        ups = [await take(play) for _ in downs]
        web.set_health("one:1", False)
        web.set_health("one:1", True, 1)
        for up, down in zip(ups, downs, strict=True):
            up >> OK
            await down.read_until(b"ok")
        ones = 0
        for down in downs:  # they stay unanswered
            down >> GET
            await trio.sleep(0.01)
            ones = web.endpoints[0].load()
        assert ones == 1


# Bodies


async def test_what_has_been_answered_keeps_no_body() -> None:
    async with Playbook(clusters=[cluster("one:1")], checks_bytes=False) as play:
        play.downstream >> b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234"
        up = await take(play)
        await up.read_until(b"01234")
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no"
        await play.downstream.read_until(END + b"o")
        play.downstream >> b"56"
        await up.read_until(b"56")
        play.downstream >> b"789"
        await up.read_until(b"789")
        up >> b"k"
        await play.downstream.read_until(b"k")
        await trio.sleep(0.1)
        kept = play.lines[0].kept  # type: ignore[attr-defined]
        assert kept.pieces == []


async def test_a_body_that_can_never_be_sent_again_is_not_kept() -> None:
    async with Playbook(clusters=[cluster("one:1")]) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234"
        up = await take(play)
        await up.read_until(b"01234")
        play.downstream >> b"56789"
        await up.read_until(b"56789")
        up >> OK
        await play.downstream.read_until(b"ok")
        assert play.lines[0].kept is None  # type: ignore[attr-defined]


# Metrics


async def test_a_client_does_not_choose_labels() -> None:
    async with Playbook() as play:
        for code in (0x8, 0xDEADBEEF, 0xDEADBEF0):
            play.listener.stream_reset(code)
        counts = {labels[0]: values[0] for (number, labels), values in play.board.totals().items() if number == metrics.HTTP2_RESETS.number}
        assert counts == {"CANCEL": 1, "other": 2}
