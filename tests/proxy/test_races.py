"""Two things at once: what an exchange's fiber, its upload and both ends can do to each other."""

from __future__ import annotations

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.proxy.http1_upstream import HEAD_READ
from lbd.proxy.reasons import failure
from lbd.routing.route import RespondPolicy, RoutePolicy
from tests.support.script import Playbook

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ONE_TRY = ClusterPolicy("web", (EndpointPolicy("one:1"),), retry=RetryPolicy(attempts=0))


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
async def test_an_upload_that_never_began_leaves_the_next_request_alone(greeting: bytes) -> None:
    """The attempt is over before the upload's first step, and the next request's body is on its way by then."""
    async with Playbook(clusters=[ONE_TRY], checks_bytes=False) as play:
        play.greetings["one:1"] = greeting + b"\0" if greeting else b""
        first = b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi"
        play.downstream >> first + b"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234"
        await play.upstream()
        await play.downstream.expect(b"HTTP/1.1 502 ", until=b"502 Bad Gateway\n")
        up = await play.upstream()
        await trio.sleep(0.1)
        play.downstream >> b"56789"
        await up.expect(b"POST /2 ", until=b"\r\n\r\n0123456789")
        up >> OK
        await play.downstream.expect(b"HTTP/1.1 200 ", until=b"ok")


async def test_a_drain_that_ends_while_a_refused_connection_lingers() -> None:
    async with Playbook() as play:
        play.downstream >> b"NONSENSE\r\n\r\n"
        await play.downstream.read_until(b"400 Bad Request\n")
        for fiber in play.listener.fibers:
            fiber.interrupt(failure("drain_timeout"))
        await play.downstream.expect_end()
        assert [line.status for line in play.lines] == [400]  # type: ignore[attr-defined]


async def test_a_drain_that_ends_while_an_answered_connection_lingers() -> None:
    async with Playbook(routes=[RoutePolicy(name="fixed", respond=RespondPolicy(200, "x"))], checks_bytes=False) as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n01234"
        await play.downstream.read_until(b"\r\n\r\nx")
        for fiber in play.listener.fibers:
            fiber.interrupt(failure("drain_timeout"))
        await play.downstream.expect_end()
        assert [(line.status, line.reason) for line in play.lines] == [(200, "")]  # type: ignore[attr-defined]


async def test_a_connection_is_used_again_after_a_read_that_took_all_it_asked_for() -> None:
    """The last read did not say that nothing more is there; it is the kernel that is asked."""
    async with Playbook() as play:
        play.downstream >> GET
        up = await play.upstream()
        await up.read_until(b"\r\n\r\n")
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (HEAD_READ - 42)
        up >> answer.ljust(HEAD_READ, b"x")
        await play.downstream.read_until(answer[-4:] + b"x" * (HEAD_READ - 42))
        play.downstream >> GET
        await up.read_until(b"\r\n\r\n")
        up >> OK
        await play.downstream.read_until(b"ok")


async def test_an_upstream_that_still_waits_for_a_body_is_not_used_again() -> None:
    async with Playbook() as play:
        play.downstream >> b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab"
        up = await play.upstream()
        await up.read_until(b"\r\n\r\nab")
        up >> OK
        await play.downstream.read_until(b"ok")
        await up.expect_end()
        await play.downstream.expect_end()


@pytest.mark.parametrize("stalls", [False, True])
async def test_an_error_that_is_not_taken_is_one_line_in_the_log(stalls: bool) -> None:
    async with Playbook(clusters=[ONE_TRY], buffer=40, checks_bytes=False) as play:
        play.refuse = {"one:1"}
        await play.downstream.send(GET)
        await trio.sleep(100 if stalls else 1)  # its answer is longer than 40 bytes
        for fiber in play.listener.fibers:
            fiber.interrupt(failure("drain_timeout"))
        await trio.sleep(1)
        assert [(line.status, line.reason) for line in play.lines] == [(502, "connect_refused")]  # type: ignore[attr-defined]
        assert not play.listener.fibers
