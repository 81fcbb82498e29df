"""Deadlines: each is of what is waited for now, and what moves is not late."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.routing.route import RespondPolicy, RoutePolicy
from tests.support.script import Playbook

if TYPE_CHECKING:
    from trio.testing import MockClock

    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from tests.support.script import End

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"
CHUNKED_OK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_POST = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
FIXED = RoutePolicy(name="fixed", respond=RespondPolicy(200, "x"))


def listener(**timeouts: float) -> ListenerPolicy:
    return ListenerPolicy("web", ("test",), timeouts=ListenerTimeouts(**timeouts))


def cluster(**timeouts: float) -> ClusterPolicy:
    return ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(**timeouts))


async def test_each_request_head_has_its_own_time() -> None:
    async with Playbook(listener=listener(head=2.0), routes=[FIXED]) as play:
        play.downstream >> GET[:10]
        await trio.sleep(1.5)
        play.downstream >> GET[10:] + GET[:10]
        await play.downstream.read_until(END + b"x")
        await trio.sleep(1.5)
        play.downstream >> GET[10:]
        await play.downstream.expect(b"HTTP/1.1 200 ", until=END + b"x")


@pytest.mark.parametrize("is_upload", [False, True])
async def test_a_body_that_is_always_there_is_never_waited_for_and_not_late(autojump_clock: MockClock, is_upload: bool) -> None:
    """A worker with much to do finds something to read whenever it looks."""
    policy = ListenerPolicy("web", ("test",), limits=ListenerLimits(window=4096))
    async with Playbook(listener=policy, buffer=1 << 20, checks_bytes=False) as play:
        play.downstream >> (CHUNKED_POST if is_upload else GET)
        up = await play.upstream()
        await up.read_until(END)
        source, sink = (play.downstream, up) if is_upload else (up, play.downstream)
        if not is_upload:
            up >> CHUNKED_OK
        source >> b"fffffff\r\n"  # one chunk of 256 MiB
        await trio.sleep(0.1)

        async def flood() -> None:
            for _ in range(100):
                source.stream.send(b"x" * (1 << 20))
                sink.stream.may_read = True
                sink.stream.recv(1 << 20)
                await play.reactor.yield_turn()
                autojump_clock.jump(1.0)

        fiber = play.reactor.spawn(flood(), "flood")
        while fiber.coroutine is not None:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)
        assert not play.lines


async def sip(end: End, most: int) -> bytes:
    """A few bytes a second, up to the last chunk."""
    got = b""
    while not got.endswith(b"0\r\n\r\n"):
        await trio.sleep(1)
        end.stream.may_read = True
        data = end.stream.recv(most)
        assert data, f"after {len(got)} bytes"
        got += data
    return got


async def test_a_downstream_may_be_slow_as_long_as_it_takes_something() -> None:
    async with Playbook(listener=listener(body=2.0), buffer=4096, checks_bytes=False) as play, trio.open_nursery() as nursery:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        nursery.start_soon(up.send, CHUNKED_OK + b"4000\r\n" + b"x" * 0x4000 + b"\r\n0\r\n\r\n")
        assert len(await sip(play.downstream, 1000)) > 0x4000


async def test_an_upstream_may_be_slow_as_long_as_it_takes_something() -> None:
    policy = ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(idle=2.0))
    async with Playbook(clusters=[policy], buffer=4096, checks_bytes=False) as play, trio.open_nursery() as nursery:
        nursery.start_soon(play.downstream.send, CHUNKED_POST + b"4000\r\n" + b"x" * 0x4000 + b"\r\n0\r\n\r\n")
        assert len(await sip(await play.upstream(), 1000)) > 0x4000


async def test_an_interim_response_does_not_change_what_is_waited_for() -> None:
    policy = ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(response=10.0))
    async with Playbook(listener=listener(body=2.0), clusters=[policy], buffer=40) as play:
        await play.downstream.send(GET)
        up = await play.upstream()
        await up.read_until(END)
        await up.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload; as=style\r\n\r\n")  # more than the buffer takes
        await play.downstream.read_until(END)
        await trio.sleep(5)
        await up.send(OK)
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        await play.downstream.send(GET)
        await up.read_until(END)
        await up.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload; as=style\r\n\r\n")
        await play.downstream.read_until(b"504 Gateway Timeout\n", seconds=20)
        assert play.lines[1].reason == "response_timeout"  # type: ignore[attr-defined]


@pytest.mark.parametrize("stalls", ["upstream_stalled", "body_timeout"])
async def test_who_is_to_blame_for_a_large_body_that_stalls(stalls: str) -> None:
    async with (
        Playbook(listener=listener(body=2.0), clusters=[cluster(idle=2.0)], checks_bytes=False) as play,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(play.downstream.send, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n".ljust(400_000, b"x"))
        up = await play.upstream()
        if stalls == "body_timeout":
            while len(up.unseen) < 400_000:
                up.unseen += await up.read()
        await play.downstream.read(30)
        assert play.lines[0].reason == stalls  # type: ignore[attr-defined]
        nursery.cancel_scope.cancel()


LARGE_POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
LARGE_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


async def send_what_is_taken(source: End, data: bytes) -> None:
    with contextlib.suppress(ConnectionResetError):
        await source.send(data)


@pytest.mark.parametrize("rests", [5.0, 30.0])
@pytest.mark.parametrize("is_upload", [False, True])
async def test_a_large_body_waits_for_each_side_as_long_as_a_small_one(is_upload: bool, rests: float) -> None:
    """It is spliced, which must not change whose time is spent: who takes nothing has `patient` seconds, the other one 2."""
    patient = 10.0
    policy, web = (listener(body=2.0), cluster(idle=patient)) if is_upload else (listener(body=patient), cluster(idle=2.0))
    async with Playbook(listener=policy, clusters=[web], checks_bytes=False) as play, trio.open_nursery() as nursery:
        play.downstream >> (LARGE_POST if is_upload else GET)
        up = await play.upstream()
        await up.read_until(END)
        source, sink = (play.downstream, up) if is_upload else (up, play.downstream)
        nursery.start_soon(send_what_is_taken, source, (b"" if is_upload else LARGE_OK) + b"x" * 1_000_000)
        await trio.sleep(rests)  # and reads nothing
        if rests > patient:
            assert play.lines[0].reason == ("upstream_stalled" if is_upload else "downstream_stalled")  # type: ignore[attr-defined]
        else:
            assert not play.lines
            if not is_upload:
                await sink.read_until(END)
            got = len(sink.unseen)
            while got < 1_000_000:
                got += len(await sink.read())
        nursery.cancel_scope.cancel()


async def test_who_expects_a_100_waits_in_the_upstreams_time() -> None:
    asking = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
    async with Playbook(listener=listener(body=2.0), clusters=[cluster(response=10.0)]) as play:
        play.downstream >> asking
        up = await play.upstream()
        await up.read_until(END)
        await trio.sleep(9)
        up >> b"HTTP/1.1 100 Continue\r\n\r\n"
        await play.downstream.read_until(END)
        await trio.sleep(1.9)
        play.downstream >> b"hi"
        await up.read_until(b"hi")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        play.downstream >> asking
        await up.read_until(END)
        up >> b"HTTP/1.1 100 Continue\r\n\r\n"
        await play.downstream.read_until(END)
        await play.downstream.expect(b"HTTP/1.1 408 ", until=b"Timeout\n", seconds=15)
        await play.downstream.expect_end()
        assert play.lines[1].reason == "body_timeout"  # type: ignore[attr-defined]


async def test_an_upstream_that_neither_invites_nor_answers_is_late() -> None:
    async with Playbook(listener=listener(body=2.0), clusters=[cluster(response=10.0)]) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        await (await play.upstream()).read_until(END)
        await play.downstream.expect(b"HTTP/1.1 504 ", until=b"Timeout\n", seconds=15)
        assert play.lines[0].reason == "response_timeout"  # type: ignore[attr-defined]


async def test_an_upstream_that_takes_no_more_has_the_time_of_a_response_to_say_why() -> None:
    policy = ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(response=3.0))
    async with Playbook(clusters=[policy]) as play:
        streams = []
        plain = play.listener.connect

        async def connect(reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> Stream:
            streams.append(await plain(reactor, family, address, name))
            return streams[0]

        play.listener.connect = connect
        play.downstream >> CHUNKED_POST + b"1\r\na\r\n"
        up = await play.upstream()
        await up.read_until(b"1\r\na\r\n")
        streams[0].send_eof()  # as where a unix socket's other end has shut down its receiving side: no event tells of it
        play.downstream >> b"1\r\nb\r\n"
        await play.downstream.read_until(b"504 Gateway Timeout\n")
        assert play.lines[0].reason == "response_timeout"  # type: ignore[attr-defined]


@pytest.mark.parametrize("linger", [0.0, 2.0])
async def test_an_early_answer_does_not_wait_for_a_slow_upload(linger: float) -> None:
    async with Playbook(listener=listener(linger=linger), checks_bytes=False) as play, trio.open_nursery() as nursery:
        play.downstream >> CHUNKED_POST

        async def upload() -> None:
            for _ in range(30):
                await send_what_is_taken(play.downstream, b"1\r\na\r\n")
                await trio.sleep(1)

        nursery.start_soon(upload)
        up = await play.upstream()
        await up.read_until(END)
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")
        await play.downstream.expect_end(2 * linger + 1)
        nursery.cancel_scope.cancel()


async def test_without_keepalive_every_answer_is_the_last() -> None:
    async with Playbook(listener=listener(keepalive=0.0), routes=[FIXED]) as play:
        play.downstream >> GET
        assert b"Connection: close\r\n" in await play.downstream.read_until(END + b"x")
        await play.downstream.expect_end()
