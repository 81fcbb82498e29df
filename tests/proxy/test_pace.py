"""How slow a client may be: least rates, of the time in which it is the client that everything waits for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from hypothesis import given, strategies as st

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from lbd.proxy.pace import Patience
from tests.support.script import End, Playbook

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
END = b"\r\n\r\n"
RATE, GRACE, BODY = 1000, 20.0, 60.0
SIZES = {"small": 100_000, "spliced": 200_000, "chunked": 200_000}


def rig(*, idle: float = 1000.0, buffer: int = 4096, rate: int = RATE, body: float = BODY) -> Playbook:
    policy = ListenerPolicy(
        "web",
        ("test",),
        limits=ListenerLimits(min_upload_rate=rate, min_download_rate=rate, rate_grace=GRACE),
        timeouts=ListenerTimeouts(body=body),
    )
    web = ClusterPolicy("web", (EndpointPolicy("one:1"),), timeouts=TimeoutPolicy(idle=idle, response=10_000.0))
    return Playbook(listener=policy, clusters=[web], buffer=buffer, checks_bytes=False)


def reasons(play: Playbook) -> list[str]:
    return [line.reason for line in play.lines]  # type: ignore[attr-defined]


# The reckoning


def spent(steps: Sequence[tuple[float, int]], rate: int = 100, grace: float = 20.0, most: float = 60.0) -> float:
    patience, total = Patience(rate, grace, most, 0), 0
    for seconds, moved in steps:
        total += moved
        patience.note(seconds, total)
    return patience.left


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        ([], 20.0),
        ([(5.0, 0)], 15.0),
        ([(5.0, 500)], 20.0),
        ([(5.0, 1000)], 25.0),
        ([(1.0, 1_000_000)], 60.0),
        ([(1.0, 1_000_000), (59.0, 0)], 1.0),
        ([(20.0, 0)], 0.0),
    ],
)
def test_patience(steps: list[tuple[float, int]], left: float) -> None:
    assert spent(steps) == pytest.approx(left)


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 10_000)), min_size=1, max_size=50))
def test_nobody_with_patience_left_was_slower_than_the_rate(steps: list[tuple[float, int]]) -> None:
    """Over any time: what came is at least the rate, but for the grace."""
    patience, total, seconds = Patience(100, 20.0, 60.0, 0), 0, 0.0
    for wait, moved in steps:
        total += moved
        seconds += wait
        patience.note(wait, total)
        if patience.left <= 0:
            return
        assert total >= 100 * (seconds - 20.0) - 1e-6


# Uploads


async def drip(end: End, size: int, every: float, piece: int) -> None:
    try:
        for _ in range(0, size, piece):
            end.stream.send(b"b" * piece)
            await trio.sleep(every)
    except (BrokenPipeError, ConnectionResetError):
        pass


async def give(end: End, data: bytes) -> None:
    """As fast as it is taken, but for the looks."""
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[end.stream.send(rest) :]
            await trio.sleep(0.1)
    except (BrokenPipeError, ConnectionResetError):
        pass


async def take_all(end: End) -> None:
    """Looks once a second: virtual seconds are cheap, looks are not."""
    while True:
        await trio.sleep(1.0)
        end.stream.may_read = True
        data = end.stream.recv(1 << 20)
        if data == b"":
            return
        end.unseen += data or b""


POST = {
    "small": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n",
    "spliced": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n",
    "chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n",
}


@pytest.mark.parametrize("kind", POST)
async def test_a_body_that_trickles_ends_with_408(kind: str) -> None:
    async with rig() as play, trio.open_nursery() as nursery:
        play.downstream >> POST[kind]
        up = await play.upstream()
        nursery.start_soon(take_all, up)
        nursery.start_soon(drip, play.downstream, 10_000, 2.0, 20)  # 10 bytes a second
        began = trio.current_time()
        await play.downstream.expect(b"HTTP/1.1 408 ", until=b"408 Request Timeout\n", seconds=1000)
        assert GRACE < trio.current_time() - began < 1.2 * GRACE
        assert reasons(play) == ["upload_too_slow"]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", POST)
async def test_a_body_at_twice_the_rate_goes_up_however_long_that_takes(kind: str) -> None:
    async with rig() as play, trio.open_nursery() as nursery:
        play.downstream >> POST[kind]
        up = await play.upstream()
        nursery.start_soon(take_all, up)
        await drip(play.downstream, SIZES[kind], 1.0, 2000)
        if kind == "chunked":
            play.downstream >> b"\r\n0\r\n\r\n"
        await trio.sleep(10.0)
        assert up.unseen.count(b"b") >= SIZES[kind]
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok", seconds=100)
        assert reasons(play) == [""]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", POST)
async def test_who_was_fast_may_rest(kind: str) -> None:
    """As long as any silence may be, and not a grace's time."""
    async with rig() as play, trio.open_nursery() as nursery:
        play.downstream >> POST[kind]
        up = await play.upstream()
        nursery.start_soon(take_all, up)
        for _ in range(3):
            await give(play.downstream, b"b" * 65_000 if kind != "small" else b"b" * 30_000)
            await trio.sleep(0.9 * BODY if kind != "small" else 0.45 * BODY)
        assert not play.lines
        nursery.cancel_scope.cancel()


async def test_silence_is_still_the_bodys_timeout() -> None:
    async with rig(rate=0, body=5.0) as play:
        play.downstream >> POST["small"]
        await (await play.upstream()).read_until(END)
        await play.downstream.expect(b"HTTP/1.1 408 ", until=b"408 Request Timeout\n", seconds=100)
        assert reasons(play) == ["body_timeout"]


@pytest.mark.parametrize("kind", POST)
async def test_a_slow_upstream_costs_its_client_no_time(kind: str) -> None:
    async with rig(buffer=1000) as play, trio.open_nursery() as nursery:
        nursery.start_soon(give, play.downstream, POST[kind] + b"b" * SIZES[kind])
        up = await play.upstream()
        await up.read_until(END)
        for _ in range(4):
            await trio.sleep(50.0)
            up.stream.may_read = True
            assert up.stream.recv(500)
        assert not play.lines
        nursery.cancel_scope.cancel()


async def test_a_body_whose_response_has_begun_may_be_slow() -> None:
    """Two who talk: what one says may wait for what the other one does."""
    async with rig() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"
        up = await play.upstream()
        await up.read_until(b"x\r\n")
        up >> b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\ny\r\n"
        await play.downstream.read_until(b"y\r\n")
        for _ in range(5):
            await trio.sleep(40.0)
            up >> b"1\r\ny\r\n"
            await play.downstream.read_until(b"y\r\n")
            play.downstream >> b"1\r\nx\r\n"
            await up.read_until(b"x\r\n")
        assert not play.lines


# Downloads


HEAD = {
    "small": b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n",
    "spliced": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30d40\r\n",
}


async def sip(end: End, every: float, piece: int) -> int:
    """Takes a piece now and then, to the end; how much that was."""
    got = 0
    while True:
        await trio.sleep(every)
        end.stream.may_read = True
        try:
            data = end.stream.recv(piece)
        except ConnectionResetError:
            return got
        if not data:
            return got
        got += len(data)


async def respond(up: End, head: bytes, size: int) -> None:
    await up.read_until(END)
    await give(up, head + b"b" * size)


@pytest.mark.parametrize("kind", HEAD)
async def test_who_sips_is_cut_off(kind: str) -> None:
    async with rig() as play, trio.open_nursery() as nursery:
        play.downstream >> GET
        nursery.start_soon(respond, await play.upstream(), HEAD[kind], SIZES[kind])
        began = trio.current_time()
        got = await sip(play.downstream, 2.0, 20)
        assert reasons(play) == ["download_too_slow"]
        assert got < 10_000
        assert trio.current_time() - began < 1000
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", HEAD)
async def test_who_reads_at_twice_the_rate_gets_all(kind: str) -> None:
    async with rig(buffer=1024) as play, trio.open_nursery() as nursery:
        play.downstream >> GET
        nursery.start_soon(respond, await play.upstream(), HEAD[kind], SIZES[kind])
        got = 0
        while got < SIZES[kind]:
            await trio.sleep(0.5)
            play.downstream.stream.may_read = True
            data = play.downstream.stream.recv(1000)
            assert data, f"cut off after {got} bytes"
            got += len(data)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("kind", HEAD)
async def test_what_the_kernel_holds_is_no_progress_and_what_the_reader_takes_of_it_is(kind: str) -> None:
    """Its buffer becomes writable only once much of it has gone, which may take longer than any timeout."""
    async with rig(buffer=95_000) as play, trio.open_nursery() as nursery:
        play.downstream >> GET
        up = await play.upstream()
        nursery.start_soon(respond, up, HEAD[kind], SIZES[kind])
        stream, got = play.downstream.stream, 0
        while got < 90_000:  # by and by, without a word to the sender that there is room
            await trio.sleep(1.0)
            got += len(stream.inbox[:1500])
            del stream.inbox[:1500]
        assert not play.lines
        nursery.cancel_scope.cancel()


async def test_a_service_that_says_little_costs_its_client_no_time() -> None:
    """Events: nothing for minutes, then a line."""
    async with rig(idle=1000.0) as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(END)
        up >> b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await play.downstream.read_until(END)
        for _ in range(10):
            await trio.sleep(300.0)
            up >> b"9\r\ndata: 1\n\n\r\n"
            await play.downstream.read_until(b"\n\n\r\n")
        assert not play.lines


async def test_a_tunnel_has_no_rate() -> None:
    async with rig() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        up = await play.upstream()
        await up.read_until(END)
        up >> b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        await play.downstream.read_until(END)
        for _ in range(10):
            await trio.sleep(300.0)
            play.downstream >> b"x"
            await up.read_until(b"x")
        assert not play.lines
