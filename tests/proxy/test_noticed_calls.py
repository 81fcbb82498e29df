"""What calls of gRPC tell against an endpoint by their own status, which stands in an answer with HTTP status 200."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from h2.events import RequestReceived

from lbd import metrics
from lbd.cluster.breaker import BreakerPolicy
from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.worker.messages import EndpointState
from tests.support.http2 import Http2End
from tests.support.http2_upstream import Http2Far
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")

GRPC = (b"content-type", b"application/grpc")
OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS = 0, 1, 2, 4, 12, 13, 14, 15


class Calls:
    """To a cluster of one endpoint, one after the other on one connection."""

    def __init__(self, play: Playbook) -> None:
        self._play = play
        self.them = Http2End(play.downstream)
        self._origin: Http2Far | None = None

    async def begin(self, *fields: tuple[bytes, bytes]) -> tuple[int, Http2Far, int]:
        """A call: its number, and who is to answer it, under which."""
        number = self.them.post("/a.B/C", *(fields or [GRPC]))
        self.them.send(number, b"\0\0\0\0\0", ends=True)
        self._origin = self._origin or await Http2Far.of(self._play)
        return number, self._origin, (await self._origin.next(RequestReceived)).stream_id

    async def call(self, status: int | None, *, at_once: bool, fields: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        """One that ends with this status, None is not told; `at_once`: by what gRPC calls Trailers-Only."""
        number, origin, stream = await self.begin(*fields)
        told = [(b"grpc-status", b"%d" % status)] if status is not None else []
        if at_once:
            origin.head(stream, [GRPC, *told], ended=True)
        else:
            origin.head(stream, [GRPC])
            origin.h2.send_data(stream, b"\0\0\0\0\0")
            origin.h2.send_headers(stream, told or [(b"x", b"y")], end_stream=True)
            origin.flush()
        await self.them.answer(number)


def playbook(**settings: Any) -> Playbook:  # noqa: ANN401 - any field of ClusterPolicy
    settings = {"retry": RetryPolicy(attempts=0), "outlier": OutlierPolicy(failures=3, errors=4), "slow_start": 0.0, **settings}
    return Playbook(clusters=[ClusterPolicy("web", (EndpointPolicy("one:1"),), protocol="h2", **settings)], checks_bytes=False)


def failures(play: Playbook) -> dict[str, int]:
    totals = play.board.totals()
    return {labels[2]: cells[0] for (number, labels), cells in totals.items() if number == metrics.ENDPOINT_FAILURES.number}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize(
    ("statuses", "noticed", "counts"),
    [
        ((UNAVAILABLE,) * 3, ["gateway"], {"gateway": 3}),
        ((UNAVAILABLE, UNAVAILABLE, OK, UNAVAILABLE, UNAVAILABLE), [], {"gateway": 4}),
        ((UNAVAILABLE, UNAVAILABLE, CANCELLED, UNAVAILABLE), [], {"gateway": 3}),  # an answer like any other
        ((UNKNOWN, INTERNAL, DATA_LOSS, INTERNAL), ["error"], {"error": 4}),
        ((UNAVAILABLE, INTERNAL, UNAVAILABLE), [], {"gateway": 2, "error": 1}),
        ((DEADLINE_EXCEEDED, UNIMPLEMENTED) * 3, [], {}),  # the client's deadline; a method that is not there
    ],
)
async def test_the_status_of_a_call_counts(at_once: bool, statuses: tuple[int, ...], noticed: list[str], counts: dict[str, int]) -> None:
    async with playbook() as play:
        calls = Calls(play)
        for status in statuses:
            await calls.call(status, at_once=at_once)
        assert [kind for _, kind in play.noticed] == noticed
        assert failures(play) == counts


async def test_where_it_stands_does_not_matter() -> None:
    """A run of both kinds: the head of a call that goes on does not end it."""
    async with playbook() as play:
        calls = Calls(play)
        for at_once in (True, False, True):
            assert play.noticed == []
            await calls.call(UNAVAILABLE, at_once=at_once)
        assert play.noticed == [("one:1", "gateway")]


async def test_a_call_that_tells_no_status_ends_no_run_and_is_no_failure() -> None:
    async with playbook() as play:
        calls = Calls(play)
        await calls.call(UNAVAILABLE, at_once=True)
        for at_once in (True, False):
            await calls.call(None, at_once=at_once)
        assert (play.noticed, failures(play)) == ([], {"gateway": 1})


async def test_an_http_status_is_one_for_calls_too() -> None:
    async with playbook() as play:
        calls = Calls(play)
        for _ in range(3):
            number, origin, stream = await calls.begin()
            origin.head(stream, status=503, ended=True)
            await calls.them.answer(number)
        assert play.noticed == [("one:1", "gateway")]


async def test_what_is_no_call_may_have_such_fields() -> None:
    async with playbook() as play:
        calls = Calls(play)
        for at_once in (True, False):
            for _ in range(3):
                await calls.call(UNAVAILABLE, at_once=at_once, fields=((b"content-type", b"text/plain"),))
        assert (play.noticed, failures(play)) == ([], {})


async def test_the_head_of_a_call_that_goes_on_passes_a_trial() -> None:
    """Else one with calls that last for days would never be over."""
    async with playbook() as play:
        play.clusters["web"].update([EndpointState("one:1", 1, 0, trial=3)])
        calls = Calls(play)
        _, origin, stream = await calls.begin()
        origin.head(stream, [GRPC])
        await trio.sleep(0.1)
        assert play.noticed == [("one:1", "proved")]
        await calls.call(UNAVAILABLE, at_once=True)
        assert play.noticed[1:] == [("one:1", "probe")]


@pytest.mark.parametrize("at_once", [True, False])
async def test_calls_open_a_breaker(at_once: bool) -> None:
    async with playbook(breaker=BreakerPolicy(volume=4, share=1.0)) as play:
        calls = Calls(play)
        for _ in range(4):
            await calls.call(UNAVAILABLE, at_once=at_once)
        number = calls.them.post("/a.B/C", GRPC)
        calls.them.send(number, b"\0\0\0\0\0", ends=True)
        await calls.them.answer(number)
        assert play.lines[-1].reason == "circuit_open"  # type: ignore[attr-defined]


async def test_an_answer_that_is_tried_again_counts_as_well() -> None:
    policy = ClusterPolicy(
        "web",
        (EndpointPolicy("one:1"), EndpointPolicy("two:2")),
        protocol="h2",
        retry=RetryPolicy(on=("grpc:unavailable",)),
        outlier=OutlierPolicy(failures=1),
    )
    async with Playbook(clusters=[policy], checks_bytes=False) as play:
        them = Http2End(play.downstream)
        number = them.post("/a.B/C", GRPC)
        them.send(number, b"\0\0\0\0\0", ends=True)
        for status in (UNAVAILABLE, OK):
            origin = await Http2Far.of(play)
            stream = (await origin.next(RequestReceived)).stream_id
            origin.head(stream, [GRPC, (b"grpc-status", b"%d" % status)], ended=True)
        await them.answer(number)
        assert play.noticed == [("one:1", "gateway")]


async def test_the_head_of_a_call_that_goes_on_closes_a_breaker() -> None:
    async with playbook(breaker=BreakerPolicy(volume=2, share=1.0, open=1.0, probes=1)) as play:
        calls = Calls(play)
        for _ in range(2):
            await calls.call(UNAVAILABLE, at_once=True)
        await trio.sleep(1.5)
        _, origin, stream = await calls.begin()
        origin.head(stream, [GRPC])
        await trio.sleep(0.1)
        assert play.clusters["web"].circuit.is_closed


@pytest.mark.parametrize("fields", [(GRPC,), ((b"content-type", b"text/plain"),)])
@pytest.mark.parametrize("at_once", [True, False])
async def test_for_a_breaker_each_is_one(fields: tuple[tuple[bytes, bytes], ...], at_once: bool) -> None:
    """What is a call and what is none: half of four have failed, not before the fourth."""
    async with playbook(breaker=BreakerPolicy(volume=4, share=0.5)) as play:
        calls = Calls(play)
        for _ in range(2):
            await calls.call(OK, at_once=at_once, fields=fields)
        for _ in range(2):
            assert play.clusters["web"].circuit.is_closed
            number, origin, stream = await calls.begin()
            origin.head(stream, status=503, ended=True)
            await calls.them.answer(number)
        assert not play.clusters["web"].circuit.is_closed
        breaker = play.clusters["web"].circuit.breaker
        assert breaker is not None
        assert (breaker.failed, breaker.total) == (2, 4)
