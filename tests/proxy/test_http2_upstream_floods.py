"""Endpoints that ask too much of a HTTP/2 connection: it ends, and what is safe goes elsewhere. On virtual time."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from h2.events import RequestReceived

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.proxy.reasons import REASONS
from tests.support.http2_upstream import Http2Far
from tests.support.script import End, Playbook
from tests.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    HEADERS,
    PING,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    block,
    headers,
    raw,
    settings,
    window,
)

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
EARLY_HINTS = headers(1, [(":status", "103")], END_HEADERS)
FLOODS = {
    "PING": raw(PING, 0, 0, bytes(8)) * 11_000,
    "SETTINGS": settings((4, 65535)) * 11_000,
    "answers to SETTINGS": raw(SETTINGS, ACK, 0) * 11_000,
    "windows": window(0, 1) * 11_000,
    "unknown frames": raw(0x77, 0, 0) * 11_000,
    "CONTINUATION": raw(HEADERS, 0, 1, block([(":status", "200")])) + raw(CONTINUATION, 0, 1) * 200,
    "a head without end": raw(HEADERS, 0, 1) + raw(CONTINUATION, 0, 1, bytes(16384)) * 20,
}
BREAKS = {
    "PUSH_PROMISE": raw(PUSH_PROMISE, 4, 1, (2).to_bytes(4, "big") + block([(":status", "200")])),
    "a stream of its own": headers(2, [(":status", "200")]),
}


def playbook() -> Playbook:
    endpoints = tuple(EndpointPolicy(address) for address in ("one:1", "two:1"))
    return Playbook(
        clusters=(ClusterPolicy("web", endpoints, protocol="h2", retry=RetryPolicy(attempts=1)),), checks_bytes=False, buffer=1 << 20
    )


async def rest_of(end: End) -> bytes:
    """What comes, up to the end."""
    came = end.unseen
    with contextlib.suppress(ConnectionResetError):
        while data := await end.read():
            came += data
    return came


async def first_asked(play: Playbook, request: bytes) -> tuple[Http2Far, End]:
    play.downstream >> request
    origin = await Http2Far.of(play)
    await origin.next(RequestReceived)
    return origin, origin.end


@pytest.mark.parametrize("name", [*FLOODS, *BREAKS])
async def test_a_get_goes_elsewhere(name: str) -> None:
    async with playbook() as play:
        _, end = await first_asked(play, GET)
        end >> (FLOODS.get(name) or BREAKS[name])
        other = await Http2Far.of(play)
        other.respond((await other.requests(1))[0])
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        await rest_of(end)
        assert play.dialled == ["one:1", "two:1"]


@pytest.mark.parametrize(("frames", "reason"), [(FLOODS["PING"], "upstream_flood"), (BREAKS["PUSH_PROMISE"], "bad_response")])
async def test_a_post_does_not(frames: bytes, reason: str) -> None:
    async with playbook() as play:
        _, end = await first_asked(play, POST)
        end >> frames
        await play.downstream.expect(b"HTTP/1.1 502", until=b"\r\n\r\n")
        line: Any = play.lines[0]
        assert (line.reason, line.attempts, REASONS[reason].status) == (reason, 1, 502)
        assert play.dialled == ["one:1"]


async def test_interim_responses_without_end() -> None:
    """Each is relayed; a gone mad one is not."""
    async with playbook() as play:
        _, end = await first_asked(play, GET)
        for _ in range(40):
            end >> EARLY_HINTS
            await trio.sleep(0.01)
        await play.downstream.read_until(b"HTTP/1.1 502")
        assert [line.reason for line in play.lines] == ["bad_response"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("frame", [raw(DATA, 0, 1), raw(DATA, 8, 1, b"\x01\0")])
async def test_empty_pieces_of_a_body(frame: bytes) -> None:
    """The response has begun: it can only be cut."""
    async with playbook() as play:
        origin, end = await first_asked(play, GET)
        origin.head(1)
        await play.downstream.read_until(b"\r\n\r\n")
        end >> frame * 11_000
        assert b"0\r\n" not in await rest_of(play.downstream)
        assert [line.reason for line in play.lines] == ["upstream_flood"]  # type: ignore[attr-defined]


async def test_trailers_too_large_fail_their_stream_only() -> None:
    async with playbook() as play:
        origin, end = await first_asked(play, GET)
        second = play.connect()
        second >> GET
        number = (await origin.requests(1))[0]
        origin.head(1)
        await play.downstream.read_until(b"\r\n\r\n")
        end >> headers(1, [(f"x-{index}", "1") for index in range(300)])
        assert b"0\r\n" not in await rest_of(play.downstream)
        origin.respond(number)
        await second.expect(b"HTTP/1.1 200", until=b"ok")
        assert [line.reason for line in play.lines] == ["bad_response", ""]  # type: ignore[attr-defined]


async def test_a_body_in_tiny_pieces_is_relayed_in_larger_ones() -> None:
    async with playbook() as play:
        origin, end = await first_asked(play, GET)
        origin.head(1)
        await play.downstream.read_until(b"\r\n\r\n")
        end >> raw(DATA, 0, 1, b"xy") * 4000 + raw(DATA, 1, 1)
        came = await play.downstream.read_until(b"0\r\n\r\n")
        assert came.count(b"xy") == 4000
        assert came.count(b"\r\n") < 50


async def test_every_request_reset() -> None:
    """MadeYouReset the other way round: each costs a request of ours, no more."""
    async with playbook() as play:
        play.downstream >> GET
        for _ in range(2):
            origin = await Http2Far.of(play)
            (number,) = await origin.requests(1)
            origin.end >> raw(RST_STREAM, 0, number, (11).to_bytes(4, "big"))
        await play.downstream.expect(b"HTTP/1.1 502", until=b"\r\n\r\n")
        assert [line.reason for line in play.lines] == ["upstream_reset"]  # type: ignore[attr-defined]
