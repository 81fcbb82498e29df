"""Hedging and informational responses, as transcripts on virtual time: a hint is no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from h2.events import RequestReceived

from lbd import metrics
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.proxy.relay import MOST_INTERIM
from tests.support.http2 import Http2End
from tests.support.http2_upstream import Http2Far
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"


def hint(name: bytes) -> bytes:
    return b"HTTP/1.1 103 Early Hints\r\nLink: </%b>\r\n\r\n" % name


def cluster(*addresses: str, response: float = 30.0, protocol: str = "http1", **retry: Any) -> ClusterPolicy:  # noqa: ANN401 - any field of RetryPolicy
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1", "two:2"))
    settings = {"hedge_after": "50ms"} | retry
    policy = RetryPolicy(**settings)
    return ClusterPolicy("web", endpoints, timeouts=TimeoutPolicy(response=response), retry=policy, protocol=protocol)


def counted(play: Playbook, metric: metrics.Metric) -> dict[tuple[str, ...], int]:
    return {labels: values[0] for (number, labels), values in play.board.totals().items() if number == metric.number}


async def take(play: Playbook) -> End:
    """The next connection, with a request on it."""
    up = await play.upstream()
    await up.read_until(END)
    return up


class Client:
    """Of HTTP/1 or HTTP/2: what it was told before the answer, and the answer's status."""

    def __init__(self, play: Playbook, version: str) -> None:
        self._end = play.downstream
        self._them = Http2End(play.downstream) if version == "h2" else None
        self._number = 0

    def get(self) -> None:
        if self._them is not None:
            self._number = self._them.get()
        else:
            self._end >> GET

    async def hints(self, count: int) -> list[bytes]:
        """When so many have come."""
        if self._them is None:
            return [(await self._end.expect(b"HTTP/1.1 103 Early Hints\r\n", until=END))[34:-5] for _ in range(count)]
        told = self._them.answers[self._number].informational
        await self._them.until(lambda: len(told) >= count)
        return [dict(fields)[b"link"][2:-1] for _, fields in told]

    async def answer(self) -> int:
        """Next, and without any more hints."""
        if self._them is None:
            return int((await self._end.expect(b"HTTP/1.1 ", until=b"ok"))[9:12])
        count = len(self._them.answers[self._number].informational)
        answer = await self._them.answer(self._number)
        assert len(answer.informational) == count
        return answer.status


both_versions = pytest.mark.parametrize("version", ["http1", "h2"])


@both_versions
async def test_who_hints_and_answers_in_time_is_left_alone(version: str) -> None:
    async with Playbook(clusters=[cluster()]) as play:
        client = Client(play, version)
        client.get()
        up = await take(play)
        up >> hint(b"a")
        assert await client.hints(1) == [b"a"]
        await trio.sleep(0.03)
        up >> OK
        assert await client.answer() == 200
        await trio.sleep(1.0)
        assert play.dialled == ["one:1"]


@both_versions
async def test_who_hints_and_takes_long_is_hedged_and_may_still_win(version: str) -> None:
    """Two endpoints that are well: neither is blamed for anything."""
    async with Playbook(clusters=[cluster()]) as play:
        client = Client(play, version)
        client.get()
        began = trio.current_time()
        first = await take(play)
        first >> hint(b"a")
        second = await take(play)
        assert 0.04 <= trio.current_time() - began < 0.1  # the hint has not put it off
        second >> hint(b"a")
        await trio.sleep(0.2)
        first >> OK
        assert await client.hints(1) == [b"a"]  # once
        assert await client.answer() == 200
        await second.expect_end()
        assert counted(play, metrics.HEDGES) == {("web", "lost"): 1}
        assert counted(play, metrics.ENDPOINT_FAILURES) == {}
        assert play.noticed == []


@both_versions
async def test_who_hints_and_hangs_is_outrun(version: str) -> None:
    async with Playbook(clusters=[cluster()]) as play:
        client = Client(play, version)
        client.get()
        first = await take(play)
        first >> hint(b"a") >> hint(b"b")
        second = await take(play)
        first >> hint(b"c")  # in the middle of the race
        assert await client.hints(3) == [b"a", b"b", b"c"]
        second >> hint(b"a") >> OK
        assert await client.answer() == 200
        await first.expect_end()
        line: Any = play.lines[0]
        assert (line.status, line.endpoint_address, line.tried) == (200, "two:2", ["one:1 outrun"])
        assert [endpoint.load() for endpoint in play.clusters["web"].endpoints] == [0, 0]


@both_versions
@pytest.mark.parametrize("winner", [0, 1])
async def test_where_the_first_is_silent_the_hints_are_the_rivals(version: str, winner: int) -> None:
    async with Playbook(clusters=[cluster()]) as play:
        client = Client(play, version)
        client.get()
        ends = [await take(play), await take(play)]
        ends[1] >> hint(b"x")
        assert await client.hints(1) == [b"x"]
        ends[0] >> hint(b"x")  # too late: the client has heard it
        ends[1] >> hint(b"y")
        assert (await client.hints(2 if version == "h2" else 1))[-1] == b"y"
        ends[winner] >> OK
        assert await client.answer() == 200
        await ends[1 - winner].expect_end()
        assert play.lines[0].endpoint_address == ("one:1", "two:2")[winner]  # type: ignore[attr-defined]


async def test_both_speak_http2() -> None:
    async with Playbook(clusters=[cluster(protocol="h2")], checks_bytes=False) as play:
        play.downstream >> GET
        first = await Http2Far.of(play)
        await first.next(RequestReceived)
        first.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
        first.flush()
        await play.downstream.expect(b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n", until=END)
        second = await Http2Far.of(play)
        await second.next(RequestReceived)
        second.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
        second.h2.send_headers(1, [(b":status", b"200"), (b"content-length", b"0")], end_stream=True)
        second.flush()
        await play.downstream.expect(b"HTTP/1.1 200 OK\r\n", until=END)
        assert play.lines[0].tried == ["one:1 outrun"]  # type: ignore[attr-defined]


async def test_a_client_of_http10_hears_none() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"
        first = await take(play)
        first >> hint(b"a")
        second = await take(play)
        second >> hint(b"b")
        await trio.sleep(0.05)
        first >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")


@pytest.mark.parametrize("addresses", [("one:1",), ("one:1", "two:2")])
async def test_the_answer_has_its_time_and_no_more(addresses: tuple[str, ...]) -> None:
    async with Playbook(clusters=[cluster(*addresses, response=1.0, attempts=1)], checks_bytes=False) as play:
        play.downstream >> GET
        for _ in addresses:
            (await take(play)) >> hint(b"a")
        await play.downstream.read_until(b"504 Gateway Timeout\n")
        line: Any = play.lines[0]
        assert line.reason == "response_timeout"
        assert 1.0 <= line.duration < 1.2


@pytest.mark.parametrize("addresses", [("one:1",), ("one:1", "two:2")])
async def test_a_client_that_takes_hints_slowly_is_no_fault_of_an_endpoint(addresses: tuple[str, ...]) -> None:
    async with Playbook(clusters=[cluster(*addresses, response=1.0)], buffer=40, checks_bytes=False) as play:
        await play.downstream.send(GET)
        first = await play.upstream()
        await first.read_until(END)
        await first.send(hint(b"a" * 40))  # more than the buffer takes
        await trio.sleep(3.0)
        await play.downstream.read_until(END)
        await trio.sleep(0.5)
        await first.send(OK)
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert play.lines[0].endpoint_address == "one:1"  # type: ignore[attr-defined]
        assert counted(play, metrics.ENDPOINT_FAILURES) == {}


@pytest.mark.parametrize("hinter", [0, 1])
async def test_one_that_never_stops_hinting_has_failed(hinter: int) -> None:
    async with Playbook(clusters=[cluster()], checks_bytes=False) as play:
        play.downstream >> GET
        ends = [await take(play), await take(play)]
        for _ in range(MOST_INTERIM + 1):
            await ends[hinter].send(hint(b"a"))
        for _ in range(MOST_INTERIM):
            await play.downstream.expect(b"HTTP/1.1 103 ", until=END)
        ends[1 - hinter] >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        await ends[hinter].expect_end()
        line: Any = play.lines[0]
        assert line.tried == [("one:1", "two:2")[hinter] + " bad_response"]


@pytest.mark.parametrize("liar", [0, 1])
async def test_one_that_switches_protocols_unasked_has_failed(liar: int) -> None:
    async with Playbook(clusters=[cluster()], checks_bytes=False) as play:
        play.downstream >> GET
        ends = [await take(play), await take(play)]
        ends[liar] >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        await trio.sleep(0.1)
        ends[1 - liar] >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert play.lines[0].tried == [("one:1", "two:2")[liar] + " bad_response"]  # type: ignore[attr-defined]


async def test_what_is_not_hedged_has_its_hints_too() -> None:
    async with Playbook(clusters=[cluster()]) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nx")
        up >> hint(b"a") >> hint(b"b")
        for name in (b"a", b"b"):
            assert await play.downstream.read_until(END) == hint(name)
        await trio.sleep(1.0)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 OK", until=b"ok")
        assert play.dialled == ["one:1"]


async def test_a_percentile_is_of_answers_not_of_hints() -> None:
    async with Playbook(clusters=[cluster("one:1", hedge_after="p95")]) as play:
        up = None
        for _ in range(100):
            play.downstream >> GET
            up = up or await play.upstream()
            await up.read_until(END)
            up >> hint(b"a")
            await trio.sleep(0.05)
            up >> OK
            await play.downstream.read_until(b"ok")
        hedging = play.clusters["web"].hedging
        assert hedging is not None
        assert hedging.seconds >= 0.05
