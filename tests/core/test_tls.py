"""TLS as a stream: what the suite of all streams (test_streams.py) does not ask, because only TLS has it."""

from __future__ import annotations

import random
import ssl
from typing import TYPE_CHECKING

import pytest

from lbd.core.fiber import Expired
from lbd.core.memory import MemoryStream, memory_stream_pair
from lbd.core.tls import SessionKeeper, TlsStream
from lbd.core.tls_error import TlsError
from tests.core.reactors import pair_of, recv_all, recv_some, result_of, running, tls_over
from tests.support.certificates import authority, downstream_context, issue, upstream_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream

RAW = ("tcp", "memory")
DATA = bytes(range(251)) * 4000  # a megabyte in which no record looks like another


class Ends:
    """A client and a server, before their handshake."""

    def __init__(
        self,
        kind: str,
        reactor: Reactor,
        *,
        asking: ssl.SSLContext | None = None,
        asked: ssl.SSLContext | None = None,
        name: str = "localhost",
        keeper: SessionKeeper | None = None,
    ) -> None:
        self.reactor = reactor
        self.raw_client, self.raw_server = pair_of(kind, reactor)
        self.client = TlsStream(self.raw_client, asking or downstream_context(), name, keeper, b"")
        self.server = TlsStream(self.raw_server, asked or upstream_context(), "", None, b"")

    async def shake(self) -> tuple[BaseException | None, BaseException | None]:
        """Both at once; what each came to."""
        fibers = [self.reactor.spawn(end.handshake(), "shake") for end in (self.client, self.server)]
        for fiber in fibers:
            await fiber.done.wait()
        return fibers[0].error, fibers[1].error

    def close(self) -> None:
        self.client.close()
        self.server.close()


@pytest.mark.parametrize("kind", RAW)
async def test_a_handshake_and_what_is_known_after_it(kind: str) -> None:
    asked, asking = upstream_context(), downstream_context()
    asked.set_alpn_protocols(["h2", "http/1.1"])
    asking.set_alpn_protocols(["http/1.1"])
    async with running() as reactor:
        ends = Ends(kind, reactor, asking=asking, asked=asked)

        async def body() -> None:
            assert await ends.shake() == (None, None)
            for end in (ends.client, ends.server):
                assert (end.ssl.version(), end.ssl.selected_alpn_protocol()) == ("TLSv1.3", "http/1.1")
            await ends.client.send_all(b"question")
            assert await recv_some(ends.server) == b"question"
            await ends.server.send_all(b"answer")
            assert await recv_some(ends.client) == b"answer"

        await result_of(reactor, body())
        ends.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", RAW)
async def test_a_long_body_both_ways_at_once(kind: str, version: ssl.TLSVersion) -> None:
    asking = downstream_context()
    asking.maximum_version = version
    async with running() as reactor:
        ends = Ends(kind, reactor, asking=asking)
        got: dict[str, bytes] = {}

        async def take(name: str, stream: Stream) -> None:
            got[name] = await recv_all(stream)

        async def give(stream: Stream) -> None:
            await stream.send_all(DATA)
            stream.send_eof()

        async def body() -> None:
            assert await ends.shake() == (None, None)
            fibers = [reactor.spawn(give(end), "give") for end in (ends.client, ends.server)]
            fibers += [reactor.spawn(take(name, end), "take") for name, end in (("client", ends.client), ("server", ends.server))]
            for fiber in fibers:
                await fiber.done.wait()
            assert got == {"client": DATA, "server": DATA}
            assert ends.client.ended_whole()
            assert ends.server.ended_whole()

        await result_of(reactor, body())
        ends.close()


async def carry(source: Stream, sink: Stream, dice: random.Random) -> None:
    """In morsels, up to the end."""
    while data := await recv_some(source, dice.choice((1, 2, 5, 100, 3000))):
        await sink.send_all(data)
        await source.reactor.yield_turn()
    sink.send_eof()


@pytest.mark.parametrize("seed", range(4))
async def test_records_may_come_in_any_pieces(seed: int) -> None:
    async with running() as reactor:
        (left, near), (far, right) = pair_of("memory", reactor), pair_of("memory", reactor)
        client = TlsStream(left, downstream_context(), "localhost", None, b"")
        server = TlsStream(right, upstream_context(), "", None, b"")

        async def give() -> None:
            await client.handshake()
            await client.send_all(DATA[:100_000])
            client.send_eof()

        async def body() -> None:
            reactor.spawn(carry(near, far, random.Random(seed)), "carry")
            reactor.spawn(carry(far, near, random.Random(seed)), "carry")
            reactor.spawn(give(), "give")
            await server.handshake()
            assert await recv_all(server) == DATA[:100_000]
            assert server.ended_whole()
            server.close()
            assert await recv_all(client) == b""

        await result_of(reactor, body())
        for stream in (client, near, far):
            stream.close()


@pytest.mark.parametrize("limit", [1, 1000, 16384, 16385, 65536])
async def test_no_more_than_the_limit(limit: int) -> None:
    async with running() as reactor:
        client, server = pair_of("tls", reactor)

        async def body() -> None:
            await client.send_all(DATA[:50_000])
            client.send_eof()
            parts = []
            while part := await recv_some(server, limit):
                assert len(part) <= limit
                parts.append(part)
            assert b"".join(parts) == DATA[:50_000]

        await result_of(reactor, body())
        client.close()
        server.close()


async def test_what_was_read_before_is_not_lost() -> None:
    async with running() as reactor:
        raw_client, raw_server = pair_of("memory", reactor)
        client = TlsStream(raw_client, downstream_context(), "localhost", None, b"")

        async def body() -> bytes:
            reactor.spawn(client.handshake(), "client")
            early = await recv_some(raw_server, 5)
            server = TlsStream(raw_server, upstream_context(), "", None, early)
            await server.handshake()
            await server.send_all(b"hello")
            return await recv_some(client)

        assert await result_of(reactor, body()) == b"hello"
        client.close()


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x17\x03\x03\xff\xff" + b"x" * 20, b"SSH-2.0-x\r\n"])
async def test_what_is_no_record_is_refused_at_once(garbage: bytes) -> None:
    """However long the record would be that it announces."""
    async with running() as reactor:
        left, right = pair_of("memory", reactor)
        client, server = tls_over(left, right)

        async def body() -> None:
            left.send(garbage)
            with pytest.raises(TlsError):
                await recv_some(server)

        await result_of(reactor, body())
        client.close()
        server.close()


async def test_a_header_may_come_in_two(autojump_clock: MockClock) -> None:
    async with running(has_sockets=False) as reactor:
        (left, near), (far, right) = memory_stream_pair(reactor), memory_stream_pair(reactor)
        client, server = TlsStream(left, downstream_context(), "localhost", None, b""), TlsStream(right, upstream_context(), "", None, b"")

        async def body() -> bytes:
            carrying = reactor.spawn(carry(far, near, random.Random(1)), "carry")
            reactor.spawn(server.handshake(), "server")
            shaking = reactor.spawn(client.handshake(), "client")
            while not (client.may_write and shaking.coroutine is None):
                await far.send_all(await recv_some(near)) if near.inbox else await reactor.sleep(0.01)
            while near.inbox:
                await far.send_all(await recv_some(near))
            client.send(b"in two")
            record = await recv_some(near)
            await far.send_all(record[:3])
            await reactor.sleep(0.01)
            assert server.recv(100) is None
            await far.send_all(record[3:])
            carrying.cancel()
            return await recv_some(server)

        assert await result_of(reactor, body()) == b"in two"
        for stream in (client, server, near, far):
            stream.close()


# The promise of send()


async def test_what_is_counted_has_been_handed_on() -> None:
    """A record of which a part is stuck does not count; the same bytes again do, once it has gone."""
    async with running() as reactor:
        client, server = pair_of("tls-memory", reactor)

        async def body() -> None:
            assert client.send(DATA) == 0  # what 64 KiB are in cipher text is more than the other side has room for
            assert client.send(DATA) == 0
            got = await recv_some(server)
            while not client.may_write:
                await client.writable
            assert client.send(DATA[:100]) == 100  # of what was stuck no more counts than is offered
            assert client.send(DATA[100:300]) == 200
            giver = reactor.spawn(client.send_all(DATA[300:200_000]), "give")
            while len(got) < 200_000:
                got += await recv_some(server)
            assert got == DATA[:200_000]
            assert giver.coroutine is None

        await result_of(reactor, body())
        client.close()
        server.close()


async def test_the_end_waits_for_room() -> None:
    """close_notify does not fit: it, and the end of the stream, go when there is room, whoever waits for that."""
    async with running() as reactor:
        left, right = pair_of("memory", reactor)
        client, server = tls_over(left, right)

        async def body() -> None:
            assert isinstance(right, MemoryStream)
            sent = client.send(DATA[:65_000])
            assert sent == 65_000
            while client.send(b"x"):
                sent += 1
            client.send_eof()
            assert not right.hung_up
            got = await recv_all(server)
            assert (got[:65_000], len(got)) == (DATA[:65_000], sent + 1)  # the stuck one is encrypted, and goes first
            assert server.ended_whole()

        await result_of(reactor, body())
        client.close()
        server.close()


# The end


@pytest.mark.parametrize("how", ["close_notify", "end of TCP"])
@pytest.mark.parametrize("kind", RAW)
async def test_an_end_that_anybody_may_have_made_is_not_whole(kind: str, how: str) -> None:
    async with running() as reactor:
        left, right = pair_of(kind, reactor)
        client, server = tls_over(left, right)

        async def body() -> None:
            server.send(b"the first part")
            if how == "close_notify":
                server.close()
            else:
                right.send_eof()
            assert await recv_all(client) == b"the first part"
            assert client.ended_whole() is (how == "close_notify")
            assert client.recv(10) == b""  # and again

        await result_of(reactor, body())
        client.close()
        server.close()


async def test_bytes_that_somebody_changed_are_an_error() -> None:
    async with running() as reactor:
        left, right = pair_of("memory", reactor)
        client, server = tls_over(left, right)

        async def body() -> None:
            assert isinstance(right, MemoryStream)
            client.send(b"pay 10 to ann")
            right.inbox[-1] ^= 1
            with pytest.raises(TlsError, match="bad record mac"):
                await recv_some(server)
            with pytest.raises(TlsError, match="alert bad record mac"):
                await recv_some(client)

        await result_of(reactor, body())
        client.close()
        server.close()


# Handshakes that come to nothing


@pytest.mark.parametrize(
    ("asking", "name", "says"),
    [
        (lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "localhost", "unable to get local issuer certificate"),
        (downstream_context, "other.example", "Hostname mismatch, certificate is not valid for 'other.example'"),
        (downstream_context, "127.0.0.1", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
    ],
)
async def test_who_cannot_be_verified_is_refused(asking: Callable[[], ssl.SSLContext], name: str, says: str) -> None:
    async with running(faults=[]) as reactor:
        ends = Ends("tcp", reactor, asking=asking(), name=name)

        async def body() -> None:
            at_client, at_server = await ends.shake()
            assert isinstance(at_client, TlsError)
            assert (at_client.strerror, at_client.is_unverified) == (says, True)
            assert isinstance(at_server, TlsError | None)  # it hears of it by an alert, which may come behind its own last word

        await result_of(reactor, body())
        ends.close()


async def test_no_version_in_common() -> None:
    asking = downstream_context()
    asking.maximum_version = ssl.TLSVersion.TLSv1_2
    asked = upstream_context()
    asked.minimum_version = ssl.TLSVersion.TLSv1_3
    async with running(faults=[]) as reactor:
        ends = Ends("memory", reactor, asking=asking, asked=asked)

        async def body() -> None:
            at_client, at_server = await ends.shake()
            assert isinstance(at_server, TlsError)
            assert isinstance(at_client, TlsError)
            assert at_server.word == "UNSUPPORTED_PROTOCOL"
            assert at_client.strerror == "tlsv1 alert protocol version"
            assert not at_client.is_unverified

        await result_of(reactor, body())
        ends.close()


async def test_a_name_that_is_refused_is_called_so() -> None:
    """What chooses certificates by name may refuse; OpenSSL would say that a callback failed."""
    asked = upstream_context()
    asked.sni_callback = lambda _tls, _name, _context: ssl.AlertDescription.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
    async with running(faults=[]) as reactor:
        ends = Ends("memory", reactor, asked=asked)

        async def body() -> None:
            at_client, at_server = await ends.shake()
            assert isinstance(at_server, TlsError)
            assert isinstance(at_client, TlsError)
            assert at_server.strerror == "it asks for a name that has no certificate (SNI)"
            assert at_client.strerror == "tlsv1 unrecognized name"

        await result_of(reactor, body())
        ends.close()


@pytest.mark.parametrize(
    ("said", "word"), [(b"GET / HTTP/1.1\r\n\r\n", "HTTP_REQUEST"), (b"\x16\x03\x01\x00\x05hello", "UNEXPECTED_MESSAGE"), (b"", "EOF")]
)
async def test_what_is_no_handshake(said: bytes, word: str) -> None:
    async with running() as reactor:
        left, right = pair_of("memory", reactor)
        server = TlsStream(right, upstream_context(), "", None, b"")

        async def body() -> None:
            if said:
                left.send(said)
            left.send_eof()
            with pytest.raises(TlsError) as caught:
                await server.handshake()
            assert caught.value.word in (word, "EOF")

        await result_of(reactor, body())
        left.close()
        server.close()


async def test_a_reset_in_the_handshake_is_one() -> None:
    async with running() as reactor:
        left, right = pair_of("memory", reactor)
        server = TlsStream(right, upstream_context(), "", None, b"")

        async def body() -> None:
            left.send(b"\x16\x03\x01")
            left.reset()
            with pytest.raises(ConnectionResetError):
                await server.handshake()

        await result_of(reactor, body())
        server.close()


async def test_a_handshake_that_does_not_end_meets_the_deadline(autojump_clock: MockClock) -> None:
    async with running(has_sockets=False) as reactor:
        left, right = pair_of("memory", reactor)
        server = TlsStream(right, upstream_context(), "", None, b"")

        async def body() -> float:
            left.send(b"\x16\x03\x01")
            reactor.running().arm(10.0, 7)
            began = reactor.clock()
            with pytest.raises(Expired):
                await server.handshake()
            return reactor.clock() - began

        assert await result_of(reactor, body(), 20.0) == pytest.approx(10.0, abs=0.1)
        left.close()
        server.close()


# Sessions


async def talk(reactor: Reactor, asking: ssl.SSLContext, asked: ssl.SSLContext, keeper: SessionKeeper) -> bool:
    """One connection; whether it went on with an old session."""
    ends = Ends("memory", reactor, asking=asking, asked=asked, keeper=keeper)
    try:
        assert await ends.shake() == (None, None)
        await ends.server.send_all(b"hello")
        assert await recv_some(ends.client) == b"hello"
        return ends.client.ssl.session_reused is True and ends.server.ssl.session_reused is True
    finally:
        ends.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_session_is_kept_for_the_next_connection(version: ssl.TLSVersion) -> None:
    asking, asked, keeper = downstream_context(), upstream_context(), SessionKeeper()
    asking.maximum_version = version
    async with running() as reactor:

        async def body() -> list[bool]:
            return [await talk(reactor, asking, asked, keeper) for _ in range(3)]

        assert await result_of(reactor, body()) == [False, True, True]


async def test_a_session_that_the_other_side_has_forgotten_is_no_harm() -> None:
    asking, keeper = downstream_context(), SessionKeeper()
    async with running() as reactor:

        async def body() -> list[bool]:
            return [await talk(reactor, asking, upstream_context(), keeper) for _ in range(2)]

        assert await result_of(reactor, body()) == [False, False]


@pytest.mark.parametrize("ask", ["is_fresh", "is_fresh_now"])
@pytest.mark.parametrize("kind", RAW)
async def test_tickets_leave_a_connection_fresh_and_bytes_do_not(kind: str, ask: str) -> None:
    async with running() as reactor:
        ends = Ends(kind, reactor)

        async def body() -> None:
            assert await ends.shake() == (None, None)
            for _ in range(3):
                await reactor.yield_turn()
            assert getattr(ends.client, ask)()  # two tickets are there
            assert getattr(ends.client, ask)()
            ends.server.send(b"unasked for")
            for _ in range(3):
                await reactor.yield_turn()
            assert not getattr(ends.client, ask)()
            assert not getattr(ends.client, ask)()
            assert ends.client.recv(7) == b"unasked"
            assert ends.client.recv(7) == b" for"

        await result_of(reactor, body())
        ends.close()


def asks_for_certificates() -> ssl.SSLContext:
    context = upstream_context()
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def send_for_ever(stream: Stream) -> None:
    """TCP may take the first bytes."""
    while True:
        await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await stream.reactor.yield_turn()


@pytest.mark.parametrize("kind", RAW)
async def test_who_cannot_send_any_more_hears_why(kind: str) -> None:
    """The alert is there to be read, and the connection is closed."""
    async with running(faults=[]) as reactor:
        ends = Ends(kind, reactor, asked=asks_for_certificates())

        async def body() -> None:
            await ends.shake()
            ends.server.close()
            for _ in range(3):
                await reactor.yield_turn()
            with pytest.raises(TlsError, match="certificate required"):
                await send_for_ever(ends.client)

        await result_of(reactor, body())
        ends.close()


async def test_what_came_before_a_failed_send_is_not_lost() -> None:
    async with running() as reactor:
        client, server = pair_of("tls-memory", reactor)

        async def body() -> None:
            server.send(b"an early answer")
            server.close()
            with pytest.raises(BrokenPipeError):
                client.send(b"more of the body")
            assert await recv_some(client) == b"an early answer"
            assert await recv_some(client) == b""
            assert client.ended_whole()

        await result_of(reactor, body())
        client.close()


async def test_a_certificate_may_be_asked_of_the_client() -> None:
    asked = asks_for_certificates()
    asking = downstream_context()
    issue("client.example").configure_cert(asking)
    async with running(faults=[]) as reactor:

        async def body() -> tuple[object, BaseException | None]:
            known, unknown = Ends("memory", reactor, asking=asking, asked=asked), Ends("memory", reactor, asked=asked)
            assert await known.shake() == (None, None)
            told = (known.server.ssl.getpeercert() or {})["subjectAltName"]
            _, refused = await unknown.shake()
            with pytest.raises(TlsError, match="certificate required"):
                await recv_some(unknown.client)
            known.close()
            unknown.close()
            return told, refused

        told, refused = await result_of(reactor, body())
        assert told == (("DNS", "client.example"),)
        assert isinstance(refused, TlsError)
        assert refused.strerror == "peer did not return a certificate"
