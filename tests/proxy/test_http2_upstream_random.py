"""Requests over shared connections, by chance: whatever an endpoint does to a stream or to its connection, every downstream gets its
own answer, whole, or is told; what can be sent again safely is; and no stream, place or connection is left over.

A seed is one run, on virtual time, with buffers so small that every write is a partial one now and then.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import h11
import pytest
import trio
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.shared import Http2UpstreamPolicy, SharedPool
from tests.support.http2_upstream import Http2Far
from tests.support.script import Playbook

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

DOWNSTREAMS, REQUESTS = 8, 6
FAULTS = ("refuse", "reset", "cut", "go away", "break", "silence")


class Endpoint:
    """One connection of an endpoint: answers each request with its own path, many times over."""

    def __init__(self, end: End, dice: random.Random, is_calm: bool) -> None:
        self.dice = dice
        self.is_calm = is_calm
        self.far = Http2Far(end)
        self.is_over = False

    async def serve(self, nursery: trio.Nursery) -> None:
        try:
            while not self.is_over:
                event = await self.far.next(RequestReceived, seconds=1e6)
                nursery.start_soon(self.answer, event.stream_id, dict(event.headers)[b":path"])
        except (AssertionError, ProtocolError, OSError):
            self.is_over = True  # lbd has closed it, or we have broken it

    async def pause(self) -> None:
        await trio.sleep(self.dice.choice((0, 0, 0, 0.001, 0.01, 0.1)))

    async def answer(self, stream: int, path: bytes) -> None:
        fault = "" if self.is_calm or self.dice.random() < 0.7 else self.dice.choice(FAULTS)
        try:
            await self.pause()
            if fault:
                await self.fail(fault, stream)
                return
            sent = await self.body(stream)
            await self.pause()
            body = path * self.dice.choice((0, 1, 100, 3000))
            has_length = self.dice.random() < 0.5
            fields = [(b"content-length", b"%d" % len(body))] if has_length else []
            self.far.h2.send_headers(stream, [(b":status", b"200"), (b"x-path", path), (b"x-sent", b"%d" % sent), *fields])
            rest = body
            while rest:
                size = self.dice.randint(1, 20_000)
                await self.far.send_body(stream, rest[:size], ended=False)
                rest = rest[size:]
                await self.pause()
            if self.dice.random() < 0.5:
                self.far.h2.send_headers(stream, [(b"x-sum", b"%d" % len(body))], end_stream=True)
            else:
                self.far.h2.end_stream(stream)
            await self.far.flushed()
        except (AssertionError, ProtocolError, OSError):
            pass  # the stream was reset by lbd, or the connection is gone

    async def body(self, stream: int) -> int:
        size = 0
        while True:
            for event in list(self.far.events):
                if isinstance(event, DataReceived) and event.stream_id == stream:
                    self.far.events.remove(event)
                    size += len(event.data)
                    self.far.h2.acknowledge_received_data(event.flow_controlled_length, stream)
                elif isinstance(event, StreamEnded) and event.stream_id == stream:
                    self.far.events.remove(event)
                    await self.far.flushed()
                    return size
            await self.far.flushed()
            await self.far.receive(1e6)

    async def fail(self, fault: str, stream: int) -> None:
        far = self.far
        if fault == "refuse":
            far.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)
        elif fault == "reset":
            far.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)
        elif fault == "cut":
            far.h2.send_headers(stream, [(b":status", b"200"), (b"content-length", b"1000")])
            far.h2.send_data(stream, b"x" * 500)
            far.h2.reset_stream(stream, ErrorCodes.CANCEL)
        elif fault == "go away":
            far.flush()
            far.unsent += b"\0\0\x08\x07\0\0\0\0\0" + max(0, stream - 2).to_bytes(4, "big") + b"\0\0\0\0"
        elif fault == "break":
            self.is_over = True
            far.end.reset() if self.dice.random() < 0.5 else far.end.close()
            return
        await far.flushed()


async def ask(play: Playbook, number: int, dice: random.Random, statuses: list[int]) -> None:
    """Requests one after the other, on as few connections as lbd allows."""
    end = None
    for turn in range(REQUESTS):
        path = b"/%d/%d" % (number, turn)
        if end is None:
            end, wire = play.connect(), h11.Connection(h11.CLIENT)
        has_body = dice.random() < 0.4
        body = bytes(dice.choice((1, 1000, 100_000))) if has_body else b""
        fields = [("Host", "a"), *([("Content-Length", str(len(body)))] if has_body and dice.random() < 0.5 else [])]
        if has_body and len(fields) == 1:
            fields.append(("Transfer-Encoding", "chunked"))
        head = h11.Request(method=b"PUT" if has_body else b"GET", target=path, headers=fields)
        try:
            await end.send(wire.send(head))
            if body:
                await end.send(wire.send(h11.Data(body)))
            await end.send(wire.send(h11.EndOfMessage()))
        except OSError:  # it has been answered, and the connection closed, before the body was whole
            end = None
            statuses.append(0)
            continue
        if dice.random() < 0.05:
            end.close()
            end = None
            continue
        status = await response(end, wire, path, len(body), dice)
        statuses.append(status)
        if wire.our_state is h11.DONE and wire.their_state is h11.DONE:
            wire.start_next_cycle()
        else:
            end.close()
            end = None


async def read(end: End) -> bytes:
    nap = 0.001
    while True:
        end.stream.may_read = True
        data = end.stream.recv(1 << 20)
        if data is not None:
            return data
        await trio.sleep(nap)
        nap = min(2 * nap, 0.1)


async def response(end: End, wire: h11.Connection, path: bytes, sent: int, dice: random.Random) -> int:
    """Its status; 0 when it was cut, and could be seen to be."""
    status, body = 0, b""
    is_theirs = False
    while True:
        event = wire.next_event()
        if event is h11.NEED_DATA:
            try:
                data = await read(end)
            except ConnectionResetError:
                return 0
            if dice.random() < 0.2:
                await trio.sleep(dice.choice((0.001, 0.05)))
            try:
                wire.receive_data(data)
                event = wire.next_event()
            except h11.RemoteProtocolError:
                return 0
        if isinstance(event, h11.Response):
            status = event.status_code
            fields = dict(event.headers)
            is_theirs = b"x-path" in fields
            if is_theirs:
                assert (fields[b"x-path"], int(fields[b"x-sent"])) == (path, sent)
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            if is_theirs:
                assert body == path * (len(body) // len(path))
                if sums := dict(event.headers).get(b"x-sum"):
                    assert int(sums) == len(body)
            return status
        elif event is h11.NEED_DATA:
            continue
        elif isinstance(event, h11.ConnectionClosed):
            return 0


async def accept(play: Playbook, dice: random.Random, is_calm: bool, nursery: trio.Nursery) -> None:
    while True:
        nursery.start_soon(Endpoint(await play.upstream(1e6), dice, is_calm).serve, nursery)


@pytest.mark.parametrize("seed", range(24))
async def test_by_chance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # as hypothesis does
    trio._core._run._r.seed(seed)
    dice = random.Random(seed)
    is_calm = seed % 3 == 0
    policy = ClusterPolicy(
        "web",
        (EndpointPolicy("one:1"), EndpointPolicy("two:2")),
        protocol="h2",
        retry=RetryPolicy(3),
        timeouts=TimeoutPolicy(connect=60.0, response=3.0, idle=5.0),
        pool=PoolPolicy(idle_timeout=dice.choice((0.0, 0.05, 10.0)), max_requests=dice.choice((0, 0, 5))),
        http2=Http2UpstreamPolicy(dice.choice((1, 3, 100)), dice.choice((0, 2)), 65535, dice.choice((0.0, 1.0)), 1.0),
    )
    statuses: list[int] = []
    async with Playbook(clusters=(policy,), buffer=dice.choice((500, 5000, 64 * 1024)), checks_bytes=False) as play:  # noqa: SIM117
        async with trio.open_nursery() as origins:
            origins.start_soon(accept, play, dice, is_calm, origins)
            async with trio.open_nursery() as downstreams:
                for number in range(DOWNSTREAMS):
                    downstreams.start_soon(ask, play, number, dice, statuses)
            await trio.sleep(1.0)
            for endpoint in play.clusters["web"].endpoints:
                pool = endpoint.pool
                assert isinstance(pool, SharedPool)
                assert (endpoint.load(), pool.waiting, pool.active(0)) == (0, 0, 0)
                pool.retire()
            await trio.sleep(3.0)  # a connection that is asked whether it lives has one
            assert not [fiber for fiber in play.reactor.fibers if fiber.name.startswith(("upstream", "dial", "upload"))]
            origins.cancel_scope.cancel()
    assert statuses
    if is_calm:
        assert set(statuses) == {200}
    else:
        assert statuses.count(200) > len(statuses) / 3
        assert set(statuses) <= {0, 200, 502, 503, 504}
