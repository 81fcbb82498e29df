"""Under TLS it is ALPN that says which protocol is spoken (RFC 9113 3.2, RFC 7301 3.2): on virtual time, with real handshakes."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd import metrics
from lbd.proxy.listener import Http2Policy, ListenerPolicy
from lbd.proxy.tls import NOT_OFFERED, Termination
from lbd.proxy.tls_material import KeyPair, TlsMaterial
from lbd.proxy.tls_policy import ListenerTlsPolicy
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.worker.leaving import wait_empty
from tests.support.certificates import Authority
from tests.support.script import Playbook
from tests.support.tls_end import TlsEnd
from tests.wire.http2_frames import PREFACE, settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
FIXED = RoutePolicy(name="fixed", respond=RespondPolicy(body="here"))
BOTH, ONLY_H2, ONLY_H1 = ("h2", "http/1.1"), ("h2",), ("http/1.1",)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listener(alpn: tuple[str, ...], **settings: Any) -> ListenerPolicy:  # noqa: ANN401 - any field of the policy
    return ListenerPolicy("web", ("test",), tls=ListenerTlsPolicy("a", "b", alpn=alpn), **settings)


async def connected(play: Playbook, authority: Authority, offered: tuple[str, ...]) -> TlsEnd:
    cert, key = authority.issue("a", "a.example")
    pair = KeyPair(cert.read_bytes(), key.read_bytes(), ("a.example",))
    play.listener.terminate(Termination(play.listener.policy, TlsMaterial((pair,))))
    play.downstream.close()
    await wait_empty([play.listener], 10.0)
    play.lines.clear()
    return TlsEnd(play.connect(), authority, *offered)


@pytest.mark.parametrize(
    ("alpn", "offered", "is_http2"),
    [
        (BOTH, BOTH, True),
        (BOTH, ONLY_H1, False),
        (BOTH, (), False),
        (BOTH, ("acme-tls/1",), False),
        (ONLY_H2, BOTH, True),
        (ONLY_H2, ONLY_H2, True),
        (ONLY_H1, BOTH, False),
        (ONLY_H1, (), False),
        ((), BOTH, False),
    ],
)
async def test_what_is_spoken_is_what_was_agreed_on(
    authority: Authority, alpn: tuple[str, ...], offered: tuple[str, ...], is_http2: bool
) -> None:
    async with Playbook(listener=listener(alpn), routes=[FIXED], checks_bytes=False) as play:
        client = await connected(play, authority, offered)
        client.end >> client.hello()
        await client.shake()
        answer = await client.ask(PREFACE + settings() if is_http2 else GET)
        assert answer.startswith(b"\0\0" if is_http2 else b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(("alpn", "offered"), [(BOTH, ONLY_H1), (ONLY_H1, BOTH), (BOTH, ()), ((), ())])
async def test_the_preface_of_another_protocol_is_a_bad_request(
    authority: Authority, alpn: tuple[str, ...], offered: tuple[str, ...]
) -> None:
    async with Playbook(listener=listener(alpn), routes=[FIXED], checks_bytes=False) as play:
        client = await connected(play, authority, offered)
        client.end >> client.hello()
        await client.shake()
        assert (await client.ask(PREFACE + settings())).startswith(b"HTTP/1.1 505 ")
        line: Any = play.lines[0]
        assert (line.status, line.reason) == (505, "bad_version")


@pytest.mark.parametrize("offered", [ONLY_H1, (), ("acme-tls/1", "spdy/3")])
@pytest.mark.parametrize("size", [50, 10_000])
async def test_who_does_not_offer_the_only_protocol_hears_it_from_tls(authority: Authority, offered: tuple[str, ...], size: int) -> None:
    async with Playbook(listener=listener(ONLY_H2), routes=[FIXED]) as play:
        client = await connected(play, authority, offered)
        hello = client.hello()
        for at in range(0, len(hello), size):
            client.end >> hello[at : at + size]
            await trio.sleep(0.01)
        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            await client.shake()
        await client.end.expect_end()
        line: Any = play.lines[0]
        assert (line.reason, line.detail) == ("tls_handshake_failed", NOT_OFFERED)
        segment = play.board.segment(0)
        assert segment.cells[segment.series(metrics.TLS_HANDSHAKES.number, ("web", "failed"), 1)] == 1


async def test_neither_is_who_says_hello_late_served_without_it(authority: Authority) -> None:
    async with Playbook(listener=listener(ONLY_H2), routes=[FIXED], checks_bytes=False) as play:
        client = await connected(play, authority, ONLY_H1)
        await trio.sleep(play.listener.handshake_timeout + 1)
        client.end >> client.hello()
        await client.shake()
        await wait_empty([play.listener], 10.0)
        assert [(line.reason, line.detail) for line in play.lines] == [("tls_handshake_failed", NOT_OFFERED)]  # type: ignore[attr-defined]
        segment = play.board.segment(0)
        assert segment.cells[segment.series(metrics.TLS_HANDSHAKES.number, ("web", "ok"), 1)] == 0


async def test_nothing_is_refused_where_http2_is_off(authority: Authority) -> None:
    policy = listener(BOTH, http2=Http2Policy(enabled=False))
    async with Playbook(listener=policy, routes=[FIXED], checks_bytes=False) as play:
        client = await connected(play, authority, ONLY_H2)
        client.end >> client.hello()
        await client.shake()
        assert (await client.ask(GET)).startswith(b"HTTP/1.1 200 OK")
