"""Large bodies, and sessions that carry much, go past Python by os.splice between plain sockets: bytes are counted on their way."""

from __future__ import annotations

import hashlib
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.proxy.listener import ListenerLimits
from tests.worker.rig import Rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.worker.rig import Bound

BODY = random.Random(7).randbytes(8 << 20)
SMALL = ListenerLimits(window=16 * 1024)  # a packet of the loopback interface is several, so that what comes fills them
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def spliced(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Bytes by the descriptor that they were moved to; pipes' are left out."""
    counts: dict[int, int] = {}
    real = os.splice

    def counting(source: int, sink: int, count: int, **options: Any) -> int:  # noqa: ANN401 - as os.splice has them
        moved = real(source, sink, count, **options)
        if os.readlink(f"/proc/self/fd/{sink}").startswith("socket:"):
            counts[sink] = counts.get(sink, 0) + moved
        return moved

    monkeypatch.setattr(os, "splice", counting)
    return counts


async def serve_http(rig: Rig) -> str:
    """Answers GET with BODY, and POST with the digest of what came."""

    async def talk(stream: trio.SocketStream) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some()
        head, _, rest = data.partition(b"\r\n\r\n")
        answer = BODY
        if head.startswith(b"POST"):
            answer = (await digest_of(stream, len(BODY), rest)).encode()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
        await stream.send_all(answer)
        await stream.receive_some()  # its end

    return await serve(rig, talk)


async def serve(rig: Rig, talk: Any) -> str:  # noqa: ANN401 - a trio handler
    async def served(stream: trio.SocketStream) -> None:
        async with stream:
            await talk(stream)

    listeners = await rig.nursery.start(trio.serve_tcp, served, 0)
    return f"127.0.0.1:{listeners[0].socket.getsockname()[1]}"


async def digest_of(stream: trio.SocketStream, size: int, first: bytes = b"") -> str:
    """Of so many bytes."""
    digest, size = hashlib.sha256(first), size - len(first)
    while size:
        data = await stream.receive_some(min(size, 1 << 18))
        assert data, f"ended {size} bytes early"
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


async def connected(web: Bound) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", web.port)


async def head_of(stream: trio.SocketStream) -> bytes:
    """Of a response, and nothing behind it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return head


@pytest.mark.parametrize("goes_up", [False, True], ids=["response", "request"])
async def test_a_large_body_is_spliced(tmp_path: Path, spliced: dict[int, int], goes_up: bool) -> None:
    async with Rig(tmp_path) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", cluster="all")], {"all": [await serve_http(rig)]})
        async with await connected(web) as stream:
            if goes_up:
                await stream.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(BODY))
                await stream.send_all(BODY)
                assert (await head_of(stream)).startswith(b"HTTP/1.1 200 OK")
                assert await stream.receive_some(100) == DIGEST.encode()
            else:
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await head_of(stream)).startswith(b"HTTP/1.1 200 OK")
                assert await digest_of(stream, len(BODY)) == DIGEST
        assert len(spliced) == 1, "one socket got it"
        assert sum(spliced.values()) > len(BODY) - 256 * 1024, "all but what came with the head"
        assert len(rig.worker._reactor.pipes) == 1, "the pipe is kept for the next one"


@pytest.mark.parametrize("direction", ["down", "up", "both"])
async def test_a_session_of_tcp_that_carries_much_is_spliced(tmp_path: Path, spliced: dict[int, int], direction: str) -> None:
    digests: list[str] = []

    async def talk(stream: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            if direction != "up":
                nursery.start_soon(stream.send_all, BODY)
            if direction != "down":
                digests.append(await digest_of(stream, len(BODY)))

    async with Rig(tmp_path) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", cluster="all", protocol="tcp", limits=SMALL)], {"all": [await serve(rig, talk)]})
        async with await connected(web) as stream, trio.open_nursery() as nursery:
            if direction != "down":
                nursery.start_soon(stream.send_all, BODY)
            if direction != "up":
                digests.append(await digest_of(stream, len(BODY)))
        await rig.until(lambda: len(digests) == (2 if direction == "both" else 1))
        assert set(digests) == {DIGEST}
        assert sum(spliced.values()) > 1 << 20, "not all of it: who sends slowly is served in pieces"


async def test_a_session_that_says_little_costs_no_pipe(tmp_path: Path, spliced: dict[int, int]) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        while data := await stream.receive_some():
            await stream.send_all(data)

    async with Rig(tmp_path) as rig:
        web = rig.listen()
        rig.apply([web.listener("web", cluster="all", protocol="tcp")], {"all": [await serve(rig, talk)]})
        async with await connected(web) as stream:
            for _ in range(50):
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
        assert spliced == {}
        assert len(rig.worker._reactor.pipes) == 0
