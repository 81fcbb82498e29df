"""WebSockets over HTTP/2 (RFC 8441) in every mix, as transcripts between scripted ends; the h2 package is the other side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import trio
from h2.events import DataReceived, RequestReceived, StreamEnded

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.proxy.listener import ListenerPolicy, ListenerTimeouts
from lbd.proxy.reasons import failure
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.wire.websocket import accept_of
from tests.support.http2 import Http2End
from tests.support.http2_upstream import Http2Far
from tests.support.script import End, Playbook

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("autojump_clock")

END = b"\r\n\r\n"
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 1.3
ASK = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: %b\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
H2 = ClusterPolicy("web", (EndpointPolicy("one:1"),), protocol="h2", retry=RetryPolicy(attempts=0))
H1 = ClusterPolicy("web", (EndpointPolicy("one:1"),), retry=RetryPolicy(attempts=0))


def connect(protocol: bytes = b"websocket", *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    pseudo = [(b":method", b"CONNECT"), (b":protocol", protocol), (b":scheme", b"http"), (b":path", b"/chat"), (b":authority", b"a")]
    return [*pseudo, (b"sec-websocket-version", b"13"), *more]


def yes(key: bytes) -> bytes:
    start = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    return start + b"Sec-WebSocket-Accept: %b\r\nSec-WebSocket-Protocol: chat\r\n\r\n" % accept_of(key)


def field(head: bytes, name: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return lines[0].partition(b":")[2].strip() if lines else b""


async def open_down(play: Playbook, fields: Sequence[tuple[bytes, bytes]] = ()) -> tuple[Http2End, int]:
    """A CONNECT, once lbd has said that it takes them."""
    them = Http2End(play.downstream)
    await them.until(lambda: them.connection.remote_settings.enable_connect_protocol == 1)
    return them, them.request(fields or connect(), ends=False)


def last_line(play: Playbook) -> tuple[int, str]:
    line: Any = play.lines[-1]
    return line.status, line.reason


# What the two sides of a tunnel have in common, whatever they speak


class Side(Protocol):
    """One end of an open tunnel."""

    async def say(self, data: bytes) -> None: ...

    async def hear(self, size: int) -> bytes: ...

    async def end(self) -> None: ...

    async def hear_end(self) -> None: ...


@dataclass
class Raw(Side):
    far: End

    async def say(self, data: bytes) -> None:
        await self.far.send(data)

    async def hear(self, size: int) -> bytes:
        while len(self.far.unseen) < size:
            self.far.unseen += await self.far.read()
        got, self.far.unseen = self.far.unseen[:size], self.far.unseen[size:]
        return got

    async def end(self) -> None:
        self.far.end()

    async def hear_end(self) -> None:
        await self.far.expect_end()


@dataclass
class Down(Side):
    """A stream of a client's."""

    them: Http2End
    number: int

    async def say(self, data: bytes) -> None:
        while data:
            room = min(self.them.connection.local_flow_control_window(self.number), 16384, len(data))
            if room:
                self.them.connection.send_data(self.number, data[:room])
                await self.them.end.send(self.them.connection.data_to_send())
                data = data[room:]
            else:
                await self.them.pump()

    async def hear(self, size: int) -> bytes:
        answer = self.them.answers[self.number]
        await self.them.until(lambda: len(answer.body) >= size)
        got, answer.body = answer.body[:size], answer.body[size:]
        return got

    async def end(self) -> None:
        self.them.connection.end_stream(self.number)
        self.them.flush()

    async def hear_end(self) -> None:
        answer = await self.them.answer(self.number)
        assert (answer.has_ended, answer.reset, answer.body) == (True, -1, b"")


@dataclass
class Up(Side):
    """A stream of an endpoint's."""

    origin: Http2Far
    number: int
    heard: bytes = b""

    async def say(self, data: bytes) -> None:
        await self.origin.send_body(self.number, data, ended=False)

    async def hear(self, size: int) -> bytes:
        while len(self.heard) < size:
            event = await self.origin.next(DataReceived, self.number)
            self.origin.h2.acknowledge_received_data(event.flow_controlled_length, self.number)
            self.origin.flush()
            self.heard += event.data
        got, self.heard = self.heard[:size], self.heard[size:]
        return got

    async def end(self) -> None:
        self.origin.h2.end_stream(self.number)
        self.origin.flush()

    async def hear_end(self) -> None:
        await self.origin.next(StreamEnded, self.number)
        assert not self.heard


async def open_mix(play: Playbook, mix: str) -> tuple[Side, Side]:
    """A tunnel between the two versions that `mix` names: its downstream end, its upstream end."""
    down_speaks, up_speaks = mix.split("-")
    if down_speaks == "h1":
        play.downstream >> ASK % KEY
        down: Side = Raw(play.downstream)
    else:
        them, number = await open_down(play)
        down = Down(them, number)
    if up_speaks == "h1":
        far = await play.upstream()
        head = await far.expect(b"GET /chat HTTP/1.1\r\n", until=END)
        far >> yes(field(head, b"sec-websocket-key"))
        up: Side = Raw(far)
    else:
        origin = await Http2Far.of(play, enable_connect_protocol=1)
        request = await origin.next(RequestReceived)
        assert request.stream_id is not None
        origin.head(request.stream_id, [(b"sec-websocket-protocol", b"chat")])
        up = Up(origin, request.stream_id)
    if isinstance(down, Raw):
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END)
    else:
        await them.until(lambda: them.answers[number].status)
        assert them.answers[number].status == 200
    return down, up


def playing(mix: str, **settings: Any) -> Playbook:  # noqa: ANN401 - any of the playbook
    return Playbook(clusters=[H2 if mix.endswith("h2") else H1], checks_bytes=False, **settings)


MIXES = pytest.mark.parametrize("mix", ["h1-h1", "h1-h2", "h2-h1", "h2-h2"])


@MIXES
async def test_bytes_pass_both_ways(mix: str) -> None:
    async with playing(mix) as play:
        down, up = await open_mix(play, mix)
        for size in (1, 100, 16385, 200_000):
            for speaks, hears in ((down, up), (up, down)):
                data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(speaks.say, data)
                    assert await hears.hear(size) == data
        assert play.lines == []


@MIXES
@pytest.mark.parametrize("is_down_first", [True, False])
async def test_each_direction_ends_by_itself(mix: str, is_down_first: bool) -> None:
    async with playing(mix) as play:
        down, up = await open_mix(play, mix)
        first, second = (down, up) if is_down_first else (up, down)
        await first.say(b"that is all")
        await first.end()
        assert await second.hear(11) == b"that is all"
        await second.hear_end()
        await trio.sleep(100)
        await second.say(b"not here")
        assert await first.hear(8) == b"not here"
        await second.end()
        await first.hear_end()
        await trio.sleep(0.1)
        assert last_line(play) == (101 if mix.startswith("h1") else 200, "")
        assert play.clusters["web"].endpoints[0].load() == 0


@MIXES
async def test_limits_of_a_tunnel_hold_for_a_stream_too(mix: str) -> None:
    policy = ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(tunnel_idle=10.0))
    async with playing(mix, listener=policy) as play:
        down, _ = await open_mix(play, mix)
        await trio.sleep(9)
        await down.say(b"x")
        await trio.sleep(9)
        assert play.lines == []
        await trio.sleep(2)
        assert last_line(play) == (101 if mix.startswith("h1") else 200, "tunnel_idle")


@MIXES
async def test_a_slow_reader_of_a_tunnel_stops_its_writer(mix: str) -> None:
    async with playing(mix) as play:
        down, up = await open_mix(play, mix)
        data = b"0123456789abcdef" * (1 << 16)  # 1 MiB
        async with trio.open_nursery() as nursery:
            is_done = []

            async def say() -> None:
                await up.say(data)
                is_done.append(True)

            nursery.start_soon(say)
            await trio.sleep(0.5)
            if not isinstance(down, Down):  # the h2 package's client reads whatever comes
                assert not is_done
            assert await down.hear(len(data)) == data


@MIXES
async def test_a_drain_that_has_waited_cuts_a_tunnel(mix: str) -> None:
    async with playing(mix) as play:
        down, _ = await open_mix(play, mix)
        for fiber in list(play.listener.fibers):
            fiber.interrupt(failure("drain_timeout"))
        await trio.sleep(0.1)
        assert last_line(play) == (101 if mix.startswith("h1") else 200, "drain_timeout")
        if isinstance(down, Down):
            assert (await down.them.answer(down.number)).reset >= 0


# HTTP/2 downstream, HTTP/1 upstream


async def test_a_connect_becomes_an_upgrade() -> None:
    async with Playbook(clusters=[H1], checks_bytes=False) as play:
        them, number = await open_down(play, connect(b"websocket", (b"sec-websocket-protocol", b"chat"), (b"origin", b"http://a")))
        up = await play.upstream()
        head = await up.expect(b"GET /chat HTTP/1.1\r\nHost: a\r\n", until=END)
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"origin: http://a\r\n" in head
        assert b"ransfer-" not in head
        assert b"ontent-" not in head
        key = field(head, b"sec-websocket-key")
        assert len(key) == 24
        up >> yes(key) + b"said"
        await them.until(lambda: them.answers[number].body == b"said")
        answer = them.answers[number]
        assert (answer.status, answer.field(b"sec-websocket-protocol"), answer.field(b"sec-websocket-accept")) == (200, b"chat", None)
        assert not {b"connection", b"upgrade", b"content-length"} & dict(answer.fields).keys()


async def test_keys_are_not_used_twice() -> None:
    async with Playbook(clusters=[H1], checks_bytes=False) as play:
        them, _ = await open_down(play)
        them.request(connect(), ends=False)
        keys = {field(await (await play.upstream()).read_until(END), b"sec-websocket-key") for _ in range(2)}
        assert len(keys) == 2


async def test_early_bytes_of_a_stream_wait_for_the_101() -> None:
    async with Playbook(clusters=[H1], checks_bytes=False) as play:
        them, number = await open_down(play)
        them.send(number, b"early")
        up = await play.upstream()
        head = await up.read_until(END)
        await up.expect_silence(1)
        up >> yes(field(head, b"sec-websocket-key"))
        assert await up.read() == b"early"


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, ""),
        (b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", 302, ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 502, "bad_response"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 502, "bad_response"),
        (yes(b"another key"), 502, "bad_response"),
        (yes(b"k").replace(b"Accept", b"Other"), 502, "bad_response"),
    ],
)
async def test_only_a_right_101_opens_a_stream(said: bytes, status: int, reason: str) -> None:
    async with Playbook(clusters=[H1], checks_bytes=False) as play:
        them, number = await open_down(play)
        up = await play.upstream()
        await up.read_until(END)
        up >> said
        answer = await them.answer(number)
        assert answer.status == status
        assert last_line(play) == (status, reason)
        them.get("/")  # the connection is none the worse
        await (await play.upstream() if reason else up).expect(b"GET / ", until=END)


@pytest.mark.parametrize("protocol", [b"tcp", b"connect-udp", b"h2c"])
async def test_other_protocols_are_refused(protocol: bytes) -> None:
    async with Playbook(clusters=[H1]) as play:
        them, number = await open_down(play, connect(protocol))
        assert (await them.answer(number)).status == 501
        assert last_line(play) == (501, "unsupported")
        assert play.dialled == []


async def test_where_no_upgrades_are_allowed_none_are_offered() -> None:
    async with Playbook(listener=ListenerPolicy("web", ("test",), upgrades=())) as play:
        them = Http2End(play.downstream)
        await trio.sleep(0.1)
        await them.pump()
        assert them.connection.remote_settings.enable_connect_protocol == 0
        number = them.request(connect(), ends=False)
        assert (await them.answer(number)).reset == 1


async def test_a_fixed_answer_opens_no_stream() -> None:
    async with Playbook(routes=[RoutePolicy(name="fixed", respond=RespondPolicy(200, "x"))]) as play:
        them, number = await open_down(play)
        assert (await them.answer(number)).status == 501
        assert last_line(play)[0] == 501


async def test_a_client_that_resets_its_stream_ends_the_connection_upstream_only() -> None:
    async with playing("h2-h1") as play:
        down, up = await open_mix(play, "h2-h1")
        assert isinstance(down, Down)
        down.them.reset(down.number)
        await up.hear_end()
        await trio.sleep(0.1)
        assert last_line(play) == (200, "downstream_closed")
        other = down.them.get("/")
        far = await play.upstream()
        await far.expect(b"GET / ", until=END)
        far >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        assert (await down.them.answer(other)).body == b"ok"


async def test_an_upstream_that_breaks_resets_the_stream_only() -> None:
    async with playing("h2-h1") as play:
        down, up = await open_mix(play, "h2-h1")
        assert isinstance(down, Down)
        assert isinstance(up, Raw)
        up.far.reset()
        assert (await down.them.answer(down.number)).reset >= 0
        assert last_line(play) == (200, "upstream_reset")
        assert down.them.goaways == []


async def test_a_client_that_goes_takes_its_tunnels_along() -> None:
    async with playing("h2-h1") as play:
        _, up = await open_mix(play, "h2-h1")
        play.downstream.close()
        await up.hear_end()
        await trio.sleep(0.1)
        assert last_line(play) == (200, "downstream_closed")


# HTTP/1 downstream, HTTP/2 upstream


async def test_an_upgrade_becomes_a_connect() -> None:
    async with Playbook(clusters=[H2], checks_bytes=False) as play:
        play.downstream >> ASK % KEY
        origin = await Http2Far.of(play, enable_connect_protocol=1)
        request = await origin.next(RequestReceived)
        assert request.stream_id is not None
        fields = dict(request.headers)
        names = (b":method", b":protocol", b":scheme", b":path", b":authority", b"sec-websocket-version")
        assert [fields[name] for name in names] == [b"CONNECT", b"websocket", b"http", b"/chat", b"a", b"13"]
        assert not {b"sec-websocket-key", b"upgrade", b"connection", b"content-length"} & fields.keys()
        assert not [event for event in origin.events if isinstance(event, StreamEnded)]
        origin.head(request.stream_id, [(b"sec-websocket-protocol", b"chat")])
        answer = await play.downstream.expect(b"HTTP/1.1 101 Switching Protocols\r\n", until=END)
        assert b"Connection: upgrade\r\nUpgrade: websocket\r\n" in answer
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer  # RFC 6455 1.3
        assert b"sec-websocket-protocol: chat\r\n" in answer


@pytest.mark.parametrize("status", [403, 404, 302])
async def test_an_endpoint_that_refuses_a_connect(status: int) -> None:
    async with Playbook(clusters=[H2], checks_bytes=False) as play:
        play.downstream >> ASK % KEY + b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
        origin = await Http2Far.of(play, enable_connect_protocol=1)
        (number,) = await origin.requests(1)
        origin.respond(number, b"no", status=status)
        await play.downstream.expect(b"HTTP/1.1 %d " % status, until=b"no")
        request = await origin.next(RequestReceived)
        assert dict(request.headers)[b":path"] == b"/next"


async def test_an_endpoint_that_knows_no_connect() -> None:
    async with Playbook(clusters=[H2], checks_bytes=False) as play:
        play.downstream >> ASK % KEY
        await Http2Far.of(play)
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert last_line(play) == (502, "no_upgrade")


async def test_another_endpoint_may_know_it() -> None:
    cluster = ClusterPolicy("web", (EndpointPolicy("one:1"), EndpointPolicy("two:2")), protocol="h2")
    async with Playbook(clusters=[cluster], checks_bytes=False) as play:
        play.downstream >> ASK % KEY
        await Http2Far.of(play)
        origin = await Http2Far.of(play, enable_connect_protocol=1)
        (number,) = await origin.requests(1)
        origin.head(number)
        await play.downstream.expect(b"HTTP/1.1 101 ", until=END)


async def test_an_offer_with_a_body_cannot_go_over_http2() -> None:
    async with Playbook(clusters=[H2], checks_bytes=False) as play:
        play.downstream >> (ASK % KEY).replace(END, b"\r\nContent-Length: 3\r\n\r\nabc")
        await Http2Far.of(play, enable_connect_protocol=1)
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        assert last_line(play) == (502, "no_upgrade")


@MIXES
async def test_an_endpoint_that_resets(mix: str) -> None:
    async with playing(mix) as play:
        _, up = await open_mix(play, mix)
        if isinstance(up, Up):
            up.origin.reset(up.number, 8)
        else:
            assert isinstance(up, Raw)
            up.far.reset()
        await trio.sleep(0.1)
        assert last_line(play) == (101 if mix.startswith("h1") else 200, "upstream_reset")


async def test_a_stream_that_is_reset_whole_is_no_error() -> None:
    """RFC 9113 8.1: an endpoint that has ended may say NO_ERROR to what it does not want to hear."""
    async with playing("h1-h2") as play:
        down, up = await open_mix(play, "h1-h2")
        assert isinstance(up, Up)
        await up.say(b"bye")
        await up.end()
        up.origin.reset(up.number, 0)
        assert await down.hear(3) == b"bye"
        await down.hear_end()
        await down.end()
        await trio.sleep(0.1)
        assert last_line(play) == (101, "")


@MIXES
async def test_an_endpoint_that_ends_and_then_resets_is_not_waited_for(mix: str) -> None:
    """Though the client is silent, and has not ended."""
    async with playing(mix) as play:
        down, up = await open_mix(play, mix)
        await up.say(b"bye")
        await up.end()
        assert await down.hear(3) == b"bye"
        await down.hear_end()
        if isinstance(up, Up):
            up.origin.reset(up.number, 8)
        else:
            assert isinstance(up, Raw)
            up.far.reset()
        await trio.sleep(0.1)
        assert last_line(play) == (101 if mix.startswith("h1") else 200, "upstream_reset")


async def test_requests_and_tunnels_share_a_connection() -> None:
    async with playing("h1-h2") as play:
        down, up = await open_mix(play, "h1-h2")
        assert isinstance(up, Up)
        other = play.connect()
        other >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        (number,) = await up.origin.requests(1)
        up.origin.respond(number, b"ok")
        await other.read_until(b"ok")
        await down.say(b"x")
        assert await up.hear(1) == b"x"
        assert play.dialled == ["one:1"]
