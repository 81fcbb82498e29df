"""Everything at once, by chance: whatever both ends do and whenever, an answer goes to who asked, and nothing is left over.

A seed is one run: a few downstreams that pipeline, stall, hang up and reset; origins that answer early, late, in pieces, wrongly or
not at all; endpoints that flip, leave and refuse; buffers of any size. Both ends speak through h11, which finds wrong framing by
itself. The id of a request stands in its path and fills its body; origins echo it, so that every byte tells whose it is. On
virtual time, with trio's dice loaded: a seed that fails, fails again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import h11
import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.worker.messages import EndpointState
from tests.support.script import Playbook

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

ADDRESSES = ("one:1", "two:2", "three:3")
POISON = b"HTTP/1.1 200 OK\r\nX-Id: poison\r\nContent-Length: 6\r\n\r\npoison"
METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"DELETE", b"POST", b"POST", b"PUT")
OWN_STATUSES = {408, 502, 503, 504}  # what lbd answers when somebody else fails
FAULTS = (
    "close before", "reset before", "garbage", "silence", "truncate", "reset amid", "poison behind", "close behind", "early",
    "early close", "stop reading",
)  # fmt: skip


@dataclass
class Asked:
    """One request: `wire` is what is sent, in two parts when the body waits for 100 Continue."""

    id: bytes
    method: bytes
    body: bytes
    wire: bytes
    waits: bool  # for the answer to the one before


@dataclass
class Luck:
    """What a run may do; a calm one has no faults, and every request is answered."""

    seed: int
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.is_calm = self.seed % 4 == 0
        self.sizes = self.random.choice(((1, 8, 40), (5, 300, 1400), (1 << 16,)))

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    async def pause(self) -> None:
        delay = self.random.choice((0, 0, 0, 0, 0.001, 0.001, 0.01, 0.1))
        if not self.is_calm and self.chance(0.03):
            delay = self.random.choice((0.5, 3.0))
        await trio.sleep(delay)

    async def send(self, end: End, data: bytes) -> None:
        """In pieces."""
        rest = memoryview(data)
        while rest:
            size = self.random.choice(self.sizes) * self.random.randint(1, 3)
            poll = Poll()
            while not (sent := end.stream.send(rest[:size])):
                await poll.wait()
            rest = rest[sent:]
            if self.chance(0.1):
                await self.pause()

    def body(self, name: bytes) -> bytes:
        size = self.random.choice((0, 1, 20, 500, 20_000 if max(self.sizes) > 1000 else 700, 300_000 if max(self.sizes) > 1400 else 900))
        return (name + b" ") * (size // (len(name) + 1))


class Poll:
    """Waits for an end of a stream, which has no trio task to wake: short at first."""

    def __init__(self) -> None:
        self._delay = 0.0005

    async def wait(self) -> None:
        await trio.sleep(self._delay)
        self._delay = min(2 * self._delay, 0.1)


async def read(end: End) -> bytes:
    poll = Poll()
    while True:
        end.stream.may_read = True
        data = end.stream.recv(1 << 20)
        if data is not None:
            return data
        await poll.wait()


def chunked(luck: Luck, body: bytes) -> bytes:
    pieces = []
    while body:
        size = luck.random.randint(1, max(1, min(len(body), 5000)))
        pieces.append(b"%x%b\r\n%b\r\n" % (size, luck.random.choice((b"", b"", b";x=y")), body[:size]))
        body = body[size:]
    return b"".join(pieces) + b"0\r\n" + luck.random.choice((b"", b"", b"X-Sum: 1\r\n")) + b"\r\n"


# Downstreams


def ask(luck: Luck, name: bytes) -> Asked:
    method = luck.random.choice(METHODS)
    head = b"%b /%b HTTP/1.1\r\nHost: a\r\n" % (method, name)
    body = b""
    if method in (b"POST", b"PUT"):
        body = luck.body(name)
        if luck.chance(0.2):
            head += b"Expect: 100-continue\r\n"
        if luck.chance(0.4):
            return Asked(name, method, body, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(luck, body), luck.chance(0.4))
        head += b"Content-Length: %d\r\n" % len(body)
    return Asked(name, method, body, head + b"\r\n" + body, luck.chance(0.4))


class Downstream:
    """Sends its requests and checks what it gets for them."""

    def __init__(self, run: Run, end: End, asked: list[Asked]) -> None:
        self.run = run
        self.luck = run.luck
        self.end = end
        self.asked = asked
        self.answered = [trio.Event() for _ in asked]
        self.got = b""

    async def live(self) -> None:
        with trio.move_on_after(60 if self.luck.is_calm or self.luck.chance(0.8) else self.luck.random.random()):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.send)
                await self.receive()
                nursery.cancel_scope.cancel()
        self.luck.random.choice((self.end.close, self.end.reset))()

    async def send(self) -> None:
        try:
            for number, asked in enumerate(self.asked):
                if asked.waits and number:
                    await self.answered[number - 1].wait()
                amid = len(asked.wire) // 2 if not self.luck.is_calm and self.luck.chance(0.15) else 0
                await self.luck.send(self.end, asked.wire[:amid])
                await trio.sleep(0.7 if amid else 0)
                await self.luck.send(self.end, asked.wire[amid:])
                await self.luck.pause()
            if self.run.play.policy.half_close == "allow" and self.luck.chance(0.7):
                self.end.end()
        except ConnectionError:
            pass  # receive() sees it too

    async def receive(self) -> None:
        for number, asked in enumerate(self.asked):
            if not await self.receive_answer(asked):
                assert not self.luck.is_calm, f"no whole answer to {asked.id!r}"
                return
            self.answered[number].set()

    async def receive_answer(self, asked: Asked) -> bool:
        """False: there is no whole one, or it is the last one."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=asked.method, target="/", headers=[("Host", "a")]))
        reader.send(h11.EndOfMessage())
        if self.got:
            reader.receive_data(self.got)
        response: h11.Response | None = None
        body = b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                try:
                    data = await read(self.end)
                except ConnectionError:
                    return False
                if not data:
                    return False
                reader.receive_data(data)
            elif isinstance(event, h11.Response):
                response = event
                self.check_head(asked, event)
            elif isinstance(event, h11.Data):
                body += event.data
                if response is not None and response.status_code not in OWN_STATUSES:
                    assert self.run.answers[asked.id].startswith(body)
            elif isinstance(event, h11.EndOfMessage):
                assert response is not None
                if asked.method != b"HEAD" and response.status_code == 200:
                    assert body == self.run.answers[asked.id]
                self.got = reader.trailing_data[0]
                return bool(reader.their_state is not h11.MUST_CLOSE)

    def check_head(self, asked: Asked, response: h11.Response) -> None:
        fields = dict(response.headers)
        if response.status_code in OWN_STATUSES:
            assert not self.luck.is_calm, f"{response.status_code} for {asked.id!r}"
            assert b"x-id" not in fields
        else:
            assert fields[b"x-id"] == asked.id


# Origins


class Origin:
    """One connection that lbd has made."""

    def __init__(self, run: Run, end: End) -> None:
        self.run = run
        self.luck = run.luck
        self.end = end
        self.reader = h11.Connection(h11.SERVER)

    async def live(self) -> None:
        try:
            while await self.serve():
                self.reader.start_next_cycle()
        except OSError:
            pass  # it is gone, perhaps by our own greeting
        self.end.close()

    async def event(self) -> Any:  # noqa: ANN401 - h11 has no common class of events
        """None: lbd has gone away."""
        while (event := self.reader.next_event()) is h11.NEED_DATA:
            data = await read(self.end)
            if not data:
                return None
            self.reader.receive_data(data)
        return event

    async def serve(self) -> bool:
        """One request; False: the connection ends."""
        request = await self.event()
        if not isinstance(request, h11.Request):
            return False
        name = request.target[1:]
        fault = "" if self.luck.is_calm or self.luck.chance(0.6) else self.luck.random.choice(FAULTS)
        self.run.sent.setdefault(name, []).append(request.method)
        if fault == "close before":
            return False
        if fault == "reset before":
            self.end.reset()
            return False
        if fault == "stop reading":
            await trio.sleep(4)
        is_early = fault.startswith("early")
        if not is_early and not await self.read_body(name, request):
            return False
        await self.luck.pause()
        answer, is_last = self.answer(name, request.method, fault)
        assert is_early or not self.reader.trailing_data[0], "a request came before the answer to the one before"
        await self.luck.send(self.end, answer)
        if fault == "reset amid":
            self.end.reset()
        if is_last or (is_early and not await self.read_body(name, request)):
            return False
        self.reader.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
        self.reader.send(h11.EndOfMessage())
        return True

    async def read_body(self, name: bytes, request: h11.Request) -> bool:
        """Checks it; False: it does not come to an end."""
        body = b""
        wanted = self.run.bodies[name]
        if (b"expect", b"100-continue") in list(request.headers) and self.luck.chance(0.7):
            await self.luck.send(self.end, b"HTTP/1.1 100 Continue\r\n\r\n")
            self.reader.send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            event = await self.event()
            if isinstance(event, h11.Data):
                body += event.data
                assert wanted.startswith(body), f"the body of {name!r} has somebody else's bytes"
            elif isinstance(event, h11.EndOfMessage):
                assert body == wanted
                return True
            else:
                return False

    def answer(self, name: bytes, method: bytes, fault: str) -> tuple[bytes, bool]:
        """Its bytes, and whether the connection ends behind it."""
        luck, body = self.luck, self.run.answers[name]
        if fault == "garbage":
            return luck.random.choice((b"220 smtp\r\n\r\n", b"HTTP/1.1 200 OK\r\nX-Id: poison\r\nBad\r\n\r\n", POISON[:30] + b"\0")), True
        if fault == "silence":
            return b"", True
        start = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * luck.random.choice((0, 0, 0, 1, 3))
        status = luck.random.choice((200, 200, 200, 404, 204, 304))
        head = start + b"HTTP/1.1 %d Fine\r\nX-Id: %b\r\n" % (status, name)
        is_last = fault in ("close behind", "early close", "reset amid", "truncate")
        if fault == "early close":
            head += b"Connection: close\r\n"
        if status in (204, 304):
            return head + b"\r\n", is_last
        framing = luck.random.choice(("length", "chunks", "end"))
        if framing == "length":
            answer = head + b"Content-Length: %d\r\n\r\n" % len(body)
            whole = body
        elif framing == "chunks":
            answer = head + b"Transfer-Encoding: chunked\r\n\r\n"
            whole = chunked(luck, body)
        else:
            answer, whole, is_last = head + b"\r\n", body, is_last or method != b"HEAD"
        if method == b"HEAD":
            return answer, is_last
        if fault in ("truncate", "reset amid"):
            whole = whole[: luck.random.randint(0, max(0, len(whole) - 1))] if framing != "end" else whole
        return answer + whole + (POISON if fault == "poison behind" and framing != "end" else b""), is_last


class Run:
    """One seed."""

    def __init__(self, seed: int) -> None:
        self.luck = luck = Luck(seed)
        self.bodies: dict[bytes, bytes] = {}  # of requests, by id
        self.answers: dict[bytes, bytes] = {}  # bodies of answers
        self.sent: dict[bytes, list[bytes]] = {}  # how often each came to an origin
        self.streams: list[Stream] = []  # to upstreams
        timeouts = ListenerTimeouts(head=2.0, keepalive=4.0, body=2.0, linger=0.5)
        limits = ListenerLimits(window=luck.random.choice((512, 8192, 65536)), requests=0 if luck.is_calm else luck.random.choice((0, 3)))
        self.play = Playbook(
            listener=ListenerPolicy("web", ("test",), half_close=luck.random.choice(("abort", "allow")), timeouts=timeouts, limits=limits),
            clusters=[
                ClusterPolicy(
                    "web",
                    tuple(EndpointPolicy(address) for address in ADDRESSES),
                    balance=luck.random.choice(("round-robin", "least-requests", "random")),
                    timeouts=TimeoutPolicy(
                        connect=1.0, response=2.0, idle=2.0, total=luck.random.choice((0.0, 0.0, 5.0)) * (not luck.is_calm)
                    ),
                )
            ],
            buffer=luck.random.choice((100, 5000, 65536)) if max(luck.sizes) < 65536 else luck.random.choice((5000, 65536)),
            checks_bytes=False,
        )

    async def execute(self) -> None:
        async with self.play as play, trio.open_nursery() as origins:
            plain = play.listener.connect

            async def connect(reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> Stream:
                stream = await plain(reactor, family, address, name)
                assert hasattr(stream, "inbox")
                self.streams.append(stream)
                origins.start_soon(Origin(self, play._waiting.popleft()).live)
                return stream

            play.listener.connect = connect
            async with trio.open_nursery() as downstreams:
                if not self.luck.is_calm:
                    origins.start_soon(self.shake)
                for number in range(self.luck.random.randint(1, 4)):
                    end = play.downstream if number == 0 else play.connect(f"192.0.2.{number + 1}")
                    downstreams.start_soon(Downstream(self, end, self.requests(number)).live)
            await self.settle()
            origins.cancel_scope.cancel()

    def requests(self, number: int) -> list[Asked]:
        asked = [ask(self.luck, b"%d.%d" % (number, i)) for i in range(self.luck.random.randint(1, 8))]
        for one in asked:
            self.bodies[one.id] = one.body
            self.answers[one.id] = self.luck.body(b"=" + one.id)
        return asked

    async def shake(self) -> None:
        """Endpoints flip, leave, come back, refuse."""
        cluster, luck = self.play.clusters["web"], self.luck
        while True:
            await trio.sleep(luck.random.random() * 0.1)
            cluster.set_health(luck.random.choice(ADDRESSES), luck.chance(0.7))
            self.play.refuse = {address for address in ADDRESSES if luck.chance(0.2)}
            self.play.greetings = {luck.random.choice(ADDRESSES): luck.random.choice((b"", b"SSH-2.0\r\n\r\n", b"HTTP/1.1 2"))}
            if luck.chance(0.1):
                here = [address for address in ADDRESSES if luck.chance(0.8)]
                states = [EndpointState(address, 1, ADDRESSES.index(address), True, address, False) for address in here]
                for endpoint in cluster.update(states):
                    endpoint.pool.retire()

    async def settle(self) -> None:
        """Nothing is left that should not be."""
        play = self.play
        await trio.sleep(10)
        assert not play.faults
        assert not play.listener.fibers
        assert not play.listener.idle
        assert not play.reactor.fibers
        segment = play.board.segment(0)
        assert [segment.inflight(i) for i in range(len(ADDRESSES))] == [0, 0, 0]
        pooled = sum(len(endpoint.pool) for endpoint in play.clusters["web"].endpoints)
        assert sum(not stream.is_closed for stream in self.streams) == pooled
        for name, methods in self.sent.items():
            assert len(methods) == 1 or methods[0] != b"POST", f"{name!r} was sent {len(methods)} times"


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # as hypothesis does
    trio._core._run._r.seed(seed)
    await Run(seed).execute()
