"""HTTP/2 by chance: many streams of one connection, each with its own pace and its own end, before origins of every kind.

A seed is one run. Bodies say whose they are, so that no byte of one stream can pass for another's; what ends as it should is whole.
Afterwards nothing is left over: no stream at work, the windows open as they were, and the connection as good as new.
"""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import h2.exceptions
import h11
import pytest
import trio

from lbd import metrics
from lbd.proxy.listener import Http2Policy, ListenerLimits, ListenerPolicy, ListenerTimeouts
from tests.support.http2 import Http2End
from tests.support.script import Playbook
from tests.wire.http2_frames import CANCEL

if TYPE_CHECKING:
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

WINDOW = 256 * 1024  # of the connection, for uploads
STREAMS = 20
SEEDS = 12


class Run:
    """One connection and its origins. A calm run has no faults, and every request is answered."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.is_calm = seed % 3 == 0
        self.window = self.dice.choice((4096, 20_000, 65_536))

    def chance(self, probability: float) -> bool:
        return self.dice.random() < probability

    async def pause(self) -> None:
        await trio.sleep(self.dice.choice((0, 0, 0, 0.001, 0.002, 0.01, 0.1)))

    def size(self) -> int:
        return self.dice.choice((0, 1, 100, 5000, 16_384, 70_000, 200_000))

    # Origins

    async def serve(self, up: End) -> None:
        """Requests of one connection, until it ends."""
        spoken = h11.Connection(h11.SERVER)
        try:
            while await self.answer(up, spoken):
                spoken.start_next_cycle()
        except (OSError, h11.ProtocolError):
            pass
        up.close()

    async def answer(self, up: End, spoken: h11.Connection) -> bool:
        request, body = None, b""
        while True:
            event = spoken.next_event()
            if event is h11.NEED_DATA:
                spoken.receive_data(await self.read(up))
            elif isinstance(event, h11.Request):
                request = event
                if not self.is_calm and self.chance(0.05):
                    return False
            elif isinstance(event, h11.Data):
                body += event.data
                if self.chance(0.1):
                    await self.pause()
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        name, size = request.target.decode().strip("/").split("-")
        content = body or named(name, int(size))
        is_chunked = self.chance(0.5)
        fields: list[tuple[str, str]] = [] if is_chunked else [("Content-Length", str(len(content)))]
        await self.send(up, spoken.send(h11.Response(status_code=200, headers=[("X-Name", name), *fields])) or b"")
        if not self.is_calm and self.chance(0.1):
            await self.send(up, spoken.send(h11.Data(data=content[: len(content) // 2])) or b"")
            return False
        while content:
            piece = content[: self.dice.randint(1, 30_000)]
            content = content[len(piece) :]
            await self.send(up, spoken.send(h11.Data(data=piece)) or b"")
        await self.send(up, spoken.send(h11.EndOfMessage(headers=[("X-Last", name)] if is_chunked else [])) or b"")
        return True

    async def read(self, up: End) -> bytes:
        while True:
            up.stream.may_read = True
            data = up.stream.recv(self.dice.choice((1000, 1 << 16)))
            if data is not None:
                return data
            await trio.sleep(0.005)

    async def send(self, up: End, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            sent = up.stream.send(rest[: self.dice.randint(1, 20_000)])
            rest = rest[sent:]
            if not sent or self.chance(0.1):
                await trio.sleep(0.005)

    # The client

    async def ask(self, them: Http2End, index: int) -> None:
        await trio.sleep(self.dice.random() * 0.3)
        name, size = f"s{index}", self.size()
        is_upload = self.chance(0.5)
        wanted = named(name, size)
        number = them.post(f"/{name}-{size}") if is_upload else them.get(f"/{name}-{size}")
        leaves_at = -1.0 if self.is_calm or not self.chance(0.25) else self.dice.random()
        with trio.fail_after(30), contextlib.suppress(h2.exceptions.StreamClosedError):  # lbd has reset it meanwhile
            if is_upload:
                await self.upload(them, number, wanted, leaves_at)
            await self.read_body(them, number, len(wanted), leaves_at)
        answer = them.answers[number]
        if answer.has_ended and answer.status == 200:
            assert answer.body == wanted
            assert dict(answer.fields)[b"x-name"] == name.encode()
            assert answer.trailers in ([], [(b"x-last", name.encode())])
        if self.is_calm:
            assert (answer.status, answer.has_ended, answer.reset) == (200, True, -1)

    async def upload(self, them: Http2End, number: int, body: bytes, leaves_at: float) -> None:
        rest = body
        while rest and not them.is_answered(number):  # which lbd may do early
            if 0 <= leaves_at < 0.5 and len(rest) <= len(body) * leaves_at:
                them.reset(number)
                them.answers[number].reset = CANCEL
                return
            room = min(them.connection.local_flow_control_window(number), self.dice.randint(1, 16_384), len(rest))
            if room > 0:
                them.connection.send_data(number, rest[:room])
                rest = rest[room:]
            await trio.sleep(0.001)
            if self.chance(0.05):
                await self.pause()
        if not rest:
            them.connection.end_stream(number)

    async def read_body(self, them: Http2End, number: int, size: int, leaves_at: float) -> None:
        """Opens the windows piece by piece."""
        answer, taken = them.answers[number], 0
        while not them.is_answered(number):
            come = len(answer.body)
            if leaves_at >= 0.5 and come >= size * (leaves_at - 0.5):
                them.reset(number)
                them.connection.acknowledge_received_data(come - taken, number)
                answer.reset = CANCEL
                return
            if come > taken:
                if self.chance(0.3):
                    await self.pause()
                them.connection.acknowledge_received_data(come - taken, number)
                taken = come
            await trio.sleep(0.005)
        if len(answer.body) > taken:
            them.connection.acknowledge_received_data(len(answer.body) - taken, number)


class Patient(Http2End):
    """Sends as lbd takes it, and only when it is pumped."""

    def flush(self) -> None:
        pass

    unsent = b""

    async def pump(self, nap: float = 0.001) -> bool:
        self.unsent += self.connection.data_to_send()
        has_sent = bool(self.unsent)
        if has_sent:
            self.unsent = self.unsent[self.end.stream.send(self.unsent) :]
        return await super().pump(nap) or has_sent


def named(name: str, size: int) -> bytes:
    return (f"{name}=".encode() * (size // (len(name) + 1) + 1))[:size]


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_stream_gets_its_own_and_nothing_is_left(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # as hypothesis does
    trio._core._run._r.seed(seed)
    run = Run(seed)
    policy = ListenerPolicy(
        "web",
        ("test",),
        http2=Http2Policy(connection_window=WINDOW),
        limits=ListenerLimits(window=run.window),
        timeouts=ListenerTimeouts(keepalive=300.0),
    )
    buffer = run.dice.choice((3000, 16_384, 65_536))
    async with Playbook(listener=policy, buffer=buffer, checks_bytes=False) as play, trio.open_nursery() as nursery:
        them = Patient(play.downstream, reads_bodies=False)
        nursery.start_soon(accept, play, run, nursery)
        nursery.start_soon(pump, them)
        async with trio.open_nursery() as asking:
            for index in range(STREAMS):
                asking.start_soon(run.ask, them, index)
        await trio.sleep(10)
        assert cell(play, "lbd_http2_streams", "web") == 0
        assert them.goaways == []
        assert them.connection.outbound_flow_control_window > WINDOW // 2  # what is not told yet is less than half
        run.is_calm = True
        await run.ask(them, STREAMS)
        nursery.cancel_scope.cancel()


async def accept(play: Playbook, run: Run, nursery: trio.Nursery) -> None:
    while True:
        nursery.start_soon(run.serve, await play.upstream(1e6))


async def pump(them: Http2End) -> None:
    nap = 0.001
    while not them.has_ended:
        nap = 0.001 if await them.pump(nap) else min(2 * nap, 0.02)


def cell(play: Playbook, name: str, *labels: str) -> Any:  # noqa: ANN401 - a number
    metric = next(metric for metric in metrics.CATALOGUE.values() if metric.name == name)
    segment = play.board.segment(0)
    return segment.cells[segment.series(metric.number, labels, 1)]
