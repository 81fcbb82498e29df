"""A drain, and what comes before a connection's first request: on virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.proxy.listener import ListenerPolicy, ListenerTimeouts, ProxyProtocolPolicy
from lbd.proxy.tls import Termination
from lbd.proxy.tls_material import KeyPair, TlsMaterial
from lbd.proxy.tls_policy import ListenerTlsPolicy
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.worker.leaving import cut_short, hurry, wait_empty
from tests.proxy.test_tcp import CLUSTERS, ROUTES, TCP
from tests.support.certificates import Authority
from tests.support.script import Playbook
from tests.support.tls_end import TlsEnd
from tests.wire.hellos import hello_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
FIXED = RoutePolicy(name="fixed", respond=RespondPolicy(body="here"))
PATIENT = ListenerTimeouts(handshake=100.0, head=100.0)
WEB = ListenerPolicy("web", ("test",), tls=ListenerTlsPolicy("a", "b"), timeouts=PATIENT)
HEADED = ListenerPolicy("web", ("test",), timeouts=PATIENT, proxy_protocol=ProxyProtocolPolicy(("192.0.2.1",)))
SNI = replace(TCP, timeouts=PATIENT)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def terminating(play: Playbook, authority: Authority) -> None:
    """From here on; the connection that the playbook begins with has not met TLS."""
    cert, key = authority.issue("a", "a.example")
    play.listener.terminate(Termination(WEB, TlsMaterial((KeyPair(cert.read_bytes(), key.read_bytes(), ("a.example",)),))))
    play.downstream.close()
    await wait_empty([play.listener], 10.0)
    play.lines.clear()


def drain(play: Playbook) -> None:
    play.listener.is_draining = True
    play.reactor.spawn(hurry(play.listener, play.reactor), "drain")


def only_line(play: Playbook) -> Any:  # noqa: ANN401 - an exchange, or a refusal
    assert len(play.lines) == 1
    return play.lines[0]


async def until_gone(play: Playbook) -> float:
    began = trio.current_time()
    await wait_empty([play.listener], 1000.0)
    assert not play.listener.opening
    assert not play.listener.idle
    return trio.current_time() - began


async def test_half_a_handshake_does_not_hold_a_drain_up(authority: Authority) -> None:
    async with Playbook(listener=WEB, routes=[FIXED]) as play:
        await terminating(play, authority)
        end = play.connect()
        end >> TlsEnd(end, authority).hello()[:100]
        await trio.sleep(1.0)
        drain(play)
        assert 0.5 < await until_gone(play) < 2.0
        await end.expect_end()
        assert (only_line(play).reason, only_line(play).detail) == (
            "tls_handshake_timeout",
            "no whole handshake within 1 s, all that is left once the listener has stopped",
        )


async def test_a_handshake_that_is_done_soon_is_served_during_a_drain(authority: Authority) -> None:
    async with Playbook(listener=WEB, routes=[FIXED], checks_bytes=False) as play:
        await terminating(play, authority)
        client = TlsEnd(play.connect(), authority)
        hello = client.hello()
        client.end >> hello[:100]
        await trio.sleep(1.0)
        drain(play)
        await trio.sleep(0.6)
        client.end >> hello[100:]
        await client.shake()
        await trio.sleep(0.6)
        answer = await client.ask(GET)
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer


async def test_who_comes_when_the_drain_has_begun_has_no_longer_either(authority: Authority) -> None:
    """From the queue of the socket, when it is closed."""
    async with Playbook(listener=WEB, routes=[FIXED]) as play:
        await terminating(play, authority)
        drain(play)
        end = play.connect()
        end >> TlsEnd(end, authority).hello()[:100]
        assert 0.5 < await until_gone(play) < 2.0
        await end.expect_end()


@pytest.mark.parametrize(
    ("policy", "data", "reason"),
    [(HEADED, b"PROXY TCP4 192.0.2.1", "proxy_header_timeout"), (SNI, hello_of()[:50], "client_hello_timeout")],
    ids=["proxy", "hello"],
)
async def test_neither_does_half_of_anything_else(policy: ListenerPolicy, data: bytes, reason: str) -> None:
    async with Playbook(listener=policy, clusters=CLUSTERS, routes=ROUTES if policy is SNI else [FIXED]) as play:
        play.downstream >> data
        await trio.sleep(1.0)
        drain(play)
        assert 0.5 < await until_gone(play) < 2.0
        await play.downstream.expect_end()
        assert only_line(play).reason == reason
        assert play.dialled == []


@pytest.mark.parametrize("policy", [WEB, HEADED, SNI], ids=["tls", "proxy", "hello"])
async def test_who_has_not_said_a_word_is_idle(policy: ListenerPolicy, authority: Authority) -> None:
    async with Playbook(listener=policy, clusters=CLUSTERS, routes=ROUTES if policy is SNI else [FIXED]) as play:
        if policy is WEB:
            await terminating(play, authority)
            play.downstream = play.connect()
        await trio.sleep(1.0)
        drain(play)
        assert 0.5 < await until_gone(play) < 2.0
        await play.downstream.expect_end()
        assert (play.lines, play.dialled) == ([], [])


async def test_what_is_cut_before_its_first_request_is_no_request(authority: Authority) -> None:
    async with Playbook(listener=WEB, routes=[FIXED]) as play:
        await terminating(play, authority)
        ends = [play.connect() for _ in range(3)]
        for end in ends[1:]:
            end >> TlsEnd(end, authority).hello()[:100]
        await trio.sleep(0.1)
        assert await cut_short([play.listener], play.reactor) == 0
        assert not play.listener.fibers
        for end in ends:
            await end.expect_end()
        assert [line.reason for line in play.lines] == ["drain_timeout"] * 2  # type: ignore[attr-defined]
