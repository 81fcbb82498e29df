"""An endpoint of HTTP/2 that refuses requests: when that tells against it, and when it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from h2.settings import SettingCodes

from lbd import metrics
from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.cluster.outlier import OutlierPolicy
from tests.support.http2_upstream import Http2Far
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
END = b"\r\n\r\n"
REFUSED = ErrorCodes.REFUSED_STREAM
BAD_GATEWAY = b"502 Bad Gateway\n"


def playbook(*addresses: str, **settings: Any) -> Playbook:  # noqa: ANN401 - any field of ClusterPolicy
    settings = {"retry": RetryPolicy(attempts=0), "outlier": OutlierPolicy(failures=3), "slow_start": 0.0, **settings}
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1",))
    return Playbook(clusters=[ClusterPolicy("web", endpoints, protocol="h2", **settings)], checks_bytes=False)


def failures(play: Playbook) -> int:
    totals = play.board.totals()
    return sum(cells[0] for (number, _), cells in totals.items() if number == metrics.ENDPOINT_FAILURES.number)


async def refused(play: Playbook, end: End) -> None:
    """One request, on a new connection that serves nobody."""
    end >> GET
    origin = await Http2Far.of(play)
    origin.reset((await origin.requests(1))[0], REFUSED)
    await end.expect(b"HTTP/1.1 502 ", until=BAD_GATEWAY)


async def test_who_refuses_everything_is_suspected() -> None:
    async with playbook() as play:
        for count in range(3):
            assert play.noticed == []
            assert failures(play) == count
            await refused(play, play.downstream)
        assert play.noticed == [("one:1", "gateway")]


async def test_who_goes_away_before_it_has_looked_at_anything_is_suspected() -> None:
    async with playbook() as play:
        for _ in range(3):
            play.downstream >> GET
            origin = await Http2Far.of(play)
            await origin.requests(1)
            origin.go_away(0)
            await play.downstream.expect(b"HTTP/1.1 502 ", until=BAD_GATEWAY)
        assert play.noticed == [("one:1", "gateway")]


async def test_who_has_served_and_refuses_everything_from_some_time_on_is_suspected() -> None:
    """Requests at once too: each is sent once more, on a new connection, and that tells."""
    async with playbook() as play:
        play.downstream >> GET
        first = await Http2Far.of(play)
        first.respond((await first.requests(1))[0])
        await play.downstream.read_until(b"ok")
        ends = [play.connect() for _ in range(4)]
        for end in ends:
            end >> GET
        for stream in await first.requests(4):
            first.reset(stream, REFUSED)
        second = await Http2Far.of(play)
        for stream in await second.requests(4):
            second.reset(stream, REFUSED)
        for end in ends:
            await end.expect(b"HTTP/1.1 502 ", until=BAD_GATEWAY)
        assert failures(play) == 4
        assert play.noticed == [("one:1", "gateway")]


async def test_an_answer_in_between_begins_a_new_run() -> None:
    async with playbook() as play:
        for _ in range(3):
            await refused(play, play.downstream)
            await refused(play, play.downstream)
            play.downstream >> GET
            origin = await Http2Far.of(play)
            origin.respond((await origin.requests(1))[0])
            await play.downstream.read_until(b"ok")
            origin.go_away(1)
        assert play.noticed == []


@pytest.mark.parametrize("says", [False, True])
async def test_a_limit_that_is_lower_than_was_said_tells_nothing(says: bool) -> None:
    """Twenty requests at once on a new connection; the endpoint takes two, before it has answered anybody."""
    async with playbook() as play:
        ends = [play.connect() for _ in range(20)]
        for end in ends:
            end >> GET
        origin = await Http2Far.of(play)
        streams = await origin.requests(20)
        if says:
            origin.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
        for stream in streams[2:]:
            origin.reset(stream, REFUSED)
        second = await Http2Far.of(play)
        for stream in await second.requests(18):
            second.respond(stream)
        for end in ends[2:]:
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        for end, stream in zip(ends[:2], streams[:2], strict=True):
            origin.respond(stream)
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert (play.noticed, failures(play)) == ([], 0)


async def test_who_has_enough_on_another_connection_is_not_suspected_until_that_is_over() -> None:
    """A limit over all connections, and one call that takes long: whoever is refused meanwhile goes elsewhere, and it is no failure."""
    async with playbook(retry=RetryPolicy(attempts=0)) as play:
        play.downstream >> GET
        origin = await Http2Far.of(play)
        (first,) = await origin.requests(1)
        origin.respond(first)
        await play.downstream.read_until(b"ok")
        play.downstream >> GET
        (held,) = await origin.requests(1)
        other = play.connect()
        other >> GET
        origin.reset((await origin.requests(1))[0], REFUSED)  # sent once more, on a connection of its own
        second = await Http2Far.of(play)
        second.reset((await second.requests(1))[0], REFUSED)
        await other.expect(b"HTTP/1.1 502 ", until=BAD_GATEWAY)
        for _ in range(5):
            await refused(play, other)
        assert (play.noticed, failures(play)) == ([], 0)
        origin.respond(held)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        origin.go_away(held)
        await trio.sleep(0.1)
        for _ in range(3):
            await refused(play, other)
        assert play.noticed == [("one:1", "gateway")]


async def test_who_leaves_in_order_is_not_suspected() -> None:
    """It finishes what it has taken, and says of the rest that it has not looked at it."""
    async with playbook() as play:
        ends = [play.connect() for _ in range(8)]
        for end in ends:
            end >> GET
        origin = await Http2Far.of(play)
        streams = await origin.requests(8)
        origin.go_away(streams[0])
        second = await Http2Far.of(play)
        for stream in await second.requests(7):
            second.respond(stream)
        for end in ends[1:]:
            await end.expect(b"HTTP/1.1 200 ", until=b"ok")
        origin.respond(streams[0])
        await ends[0].expect(b"HTTP/1.1 200 ", until=b"ok")
        assert (play.noticed, failures(play)) == ([], 0)


async def test_who_wants_http11_for_a_request_is_well() -> None:
    async with playbook() as play:
        for _ in range(4):
            play.downstream >> GET
            origin = await Http2Far.of(play)
            origin.reset((await origin.requests(1))[0], ErrorCodes.HTTP_1_1_REQUIRED)
            await play.downstream.expect(b"HTTP/1.1 502 ", until=BAD_GATEWAY)
            origin.go_away(1)
            await trio.sleep(0.1)
        assert (play.noticed, failures(play)) == ([], 0)


async def test_refusals_open_a_breaker() -> None:
    async with playbook(breaker=BreakerPolicy(volume=3)) as play:
        for _ in range(3):
            await refused(play, play.downstream)
        play.downstream >> GET
        await play.downstream.expect(b"HTTP/1.1 503 ", until=b"Service Unavailable\n")
        assert play.lines[-1].reason == "circuit_open"  # type: ignore[attr-defined]


@pytest.mark.parametrize("loser", [0, 1])
async def test_of_a_hedge_too(loser: int) -> None:
    retry = RetryPolicy(attempts=1, hedge_after="50ms")
    async with playbook("one:1", "two:2", retry=retry, outlier=OutlierPolicy(failures=1)) as play:
        play.downstream >> GET
        origins = [await Http2Far.of(play), await Http2Far.of(play)]
        streams = [(await origin.next(RequestReceived)).stream_id for origin in origins]
        origins[loser].reset(streams[loser], REFUSED)
        await trio.sleep(0.1)
        origins[1 - loser].respond(streams[1 - loser])
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        assert play.noticed == [(("one:1", "two:2")[loser], "gateway")]
