"""The playbook complains about what lbd would keep for ever, and of what nobody looked at."""

from __future__ import annotations

import os

import pytest
import trio

from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")


async def test_a_fiber_that_goes_on_when_all_have_left_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"left: \['sleeper'\]"):
        async with Playbook() as play:
            play.reactor.spawn(play.reactor.sleep(1000.0), "sleeper")


async def test_so_does_a_stream_that_nobody_closes() -> None:
    with pytest.raises(AssertionError, match=r"left: \['stream to 192\.0\.2\.9'\]"):
        async with Playbook() as play:
            play.pair("192.0.2.9")


async def test_so_does_a_descriptor() -> None:
    reading = -1
    try:
        with pytest.raises(AssertionError, match=r"left: \['/dev/null'\]"):
            async with Playbook():
                reading = os.open("/dev/null", os.O_RDONLY)
    finally:
        os.close(reading)


async def test_what_is_left_on_purpose_must_be_left() -> None:
    async with Playbook(leaves="to see whether it may") as play:
        play.pair("192.0.2.9")
    with pytest.raises(AssertionError, match="nothing was left"):
        async with Playbook(leaves="to see whether it may"):
            pass


async def answered_unseen() -> None:
    async with Playbook() as play:
        play.downstream >> b"nonsense\r\n\r\n"
        await trio.sleep(1.0)


async def test_bytes_that_nobody_looked_at_fail_the_test() -> None:
    with pytest.raises(AssertionError, match="bytes that nobody looked at"):
        await answered_unseen()


async def test_connections_that_are_open_still_are_nothing_left() -> None:
    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        up = await play.upstream()
        await up.expect(b"GET / HTTP/1.1\r\n", until=b"\r\n\r\n")
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await play.downstream.expect(b"HTTP/1.1 200 OK\r\n", until=b"ok")
