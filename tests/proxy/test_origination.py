"""TLS towards endpoints, as transcripts on virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, RetryPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.core.tls import TlsStream
from lbd.core.tls_error import TlsError
from lbd.proxy.origination import Origination, host_of
from lbd.proxy.tls_material import TlsMaterial
from tests.support.certificates import authority, upstream_context
from tests.support.script import End, Playbook

if TYPE_CHECKING:
    from typing import Self

pytestmark = pytest.mark.usefixtures("autojump_clock")


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POLICY = ClusterTlsPolicy(ca="ca.pem")
END = b"\r\n\r\n"


def origination() -> Origination:
    return Origination(POLICY, "http1", TlsMaterial((), authority().cert_pem.bytes().decode()))


async def shake(stream: TlsStream) -> None:
    try:
        await stream.handshake()
    except TlsError:
        pass  # lbd refuses us


class TlsPlaybook(Playbook):
    """One whose cluster speaks TLS."""

    async def __aenter__(self) -> Self:
        await Playbook.__aenter__(self)
        self.clusters["web"].originate(origination())
        return self

    async def secured(self, name: str = "one") -> End:
        """The next connection, after its handshake."""
        raw = await self.upstream()
        stream = TlsStream(raw.stream, upstream_context(name), "", None, b"")
        shaking = self.reactor.spawn(shake(stream), "shake")
        with trio.fail_after(5):
            while shaking.coroutine is not None:  # noqa: ASYNC110 - virtual time
                await trio.sleep(0.001)
        return End(stream)  # type: ignore[arg-type]  # a Stream does


def playbook(*addresses: str, attempts: int = 2) -> TlsPlaybook:
    endpoints = tuple(EndpointPolicy(address) for address in addresses or ("one:1",))
    cluster = ClusterPolicy("web", endpoints, tls=POLICY, pool=PoolPolicy(idle_timeout=1000.0), retry=RetryPolicy(attempts))
    return TlsPlaybook(clusters=(cluster,), checks_bytes=False)


async def test_a_connection_is_kept_for_the_next_request() -> None:
    async with playbook() as play:
        origin = None
        for _ in range(3):
            play.downstream >> GET
            origin = origin or await play.secured()
            await origin.expect(b"GET / HTTP/1.1\r\n", until=END)
            origin >> OK
            await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        assert play.dialled == ["one:1"]


@pytest.mark.parametrize("event", ["close", "close_notify", "bytes"])
async def test_one_that_is_stale_is_not_used_again(event: str) -> None:
    async with playbook() as play:
        play.downstream >> GET
        origin = await play.secured()
        await origin.read_until(END)
        origin >> OK
        await play.downstream.read_until(b"ok")
        if event == "close":
            origin.close()
        elif event == "close_notify":
            origin.end()
        else:
            origin >> b"HTTP/1.1 408 Request Timeout\r\n\r\n"
        await trio.sleep(0.1)
        play.downstream >> GET
        again = await play.secured()
        await again.read_until(END)
        again >> OK
        await play.downstream.read_until(b"ok")


@pytest.mark.parametrize("request_", [GET, POST], ids=["GET", "POST"])
async def test_who_is_not_believed_has_seen_nothing(request_: bytes) -> None:
    """So that the next endpoint is tried whatever the method."""
    async with playbook("one:1", "two:2") as play:
        play.downstream >> request_
        await play.secured("somebody.else")
        second = await play.secured("two")
        assert (await second.read_until(b"hi" if request_ is POST else END)).startswith(request_[:6])
        second >> OK
        await play.downstream.expect(b"HTTP/1.1 200", until=b"ok")
        (line,) = play.lines
        assert line.attempts == 2  # type: ignore[attr-defined]


async def test_a_handshake_has_the_time_of_connecting() -> None:
    async with playbook("one:1", attempts=0) as play:
        began = trio.current_time()
        play.downstream >> GET
        await play.upstream()  # who connects, and says nothing
        answer = await play.downstream.read_until(END)
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)
        assert play.lines[0].reason == "connect_timeout"  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_connection_that_ends_in_the_handshake(how: str) -> None:
    async with playbook("one:1", attempts=0) as play:
        play.downstream >> GET
        origin = await play.upstream()
        await origin.read()
        getattr(origin, how)()
        answer = await play.downstream.read_until(END)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert play.lines[0].reason == "upstream_tls_failed"  # type: ignore[attr-defined]


# Who can write on the way to an endpoint, and cannot break TLS, must not be able to answer for it (CVE-2026-1642).
EVIL = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"


async def test_plain_bytes_before_a_handshake_are_no_answer() -> None:
    async with playbook("one:1", attempts=0) as play:
        play.downstream >> GET
        origin = await play.upstream()
        origin >> EVIL
        answer = await play.downstream.read_until(END)
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert play.lines[0].reason == "upstream_tls_failed"  # type: ignore[attr-defined]


@pytest.mark.parametrize("is_answered", [False, True], ids=["before the answer", "in it"])
async def test_plain_bytes_behind_a_handshake_are_no_answer(is_answered: bool) -> None:
    async with playbook("one:1", attempts=0) as play:
        play.downstream >> GET
        origin = await play.secured()
        await origin.read_until(END)
        if is_answered:
            origin >> OK[:-2]
        (await play.latest_upstream()) >> EVIL
        if is_answered:
            await play.downstream.expect(b"HTTP/1.1 200", until=END)
            await play.downstream.expect_end()
        else:
            assert (await play.downstream.read_until(END)).startswith(b"HTTP/1.1 502 ")
        await trio.sleep(1.0)
        assert play.lines[0].reason.startswith("upstream_")  # type: ignore[attr-defined]
        assert b"evil" not in play.downstream.unseen + bytes(play.downstream.stream.inbox)


async def test_a_client_that_gives_up_takes_the_handshake_along() -> None:
    async with playbook("one:1", attempts=0) as play:
        play.downstream >> GET
        origin = await play.upstream()
        await origin.read()
        play.downstream.close()
        await origin.expect_end()


@pytest.mark.parametrize(
    ("name", "host"),
    [("app.internal:443", "app.internal"), ("10.0.0.1:443", "10.0.0.1"), ("[::1]:443", "::1"), ("unix:/run/app.sock", "localhost")],
)
def test_the_name_that_a_certificate_must_have(name: str, host: str) -> None:
    assert host_of(name) == host


def test_what_makes_another_origination() -> None:
    made = origination()
    assert made.is_for(POLICY, "http1", made.material)
    assert not made.is_for(POLICY, "auto", made.material)
    assert not made.is_for(ClusterTlsPolicy(), "http1", made.material)
    assert not made.is_for(POLICY, "http1", TlsMaterial((), "other"))
