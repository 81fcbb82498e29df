"""PROXY headers that come before everything else, and those that go upstream: on virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio

from lbd.proxy.listener import ListenerPolicy, ProxyProtocolPolicy
from lbd.wire.proxy_protocol import LOCAL, ProxyHeader, encode_proxy_header
from tests.proxy.test_tcp import CLUSTERS, ROUTES, TCP, TIMEOUTS, cluster, line, settle
from tests.support.script import Playbook
from tests.wire.hellos import hello_of

pytestmark = pytest.mark.usefixtures("autojump_clock")

TRUSTED = replace(TCP, proxy_protocol=ProxyProtocolPolicy(("192.0.2.0/24", "unix:")))
V1 = b"PROXY TCP4 203.0.113.7 198.51.100.2 4711 443\r\n"
V2 = encode_proxy_header(2, ProxyHeader("2001:db8::7", 4711, "2001:db8::2", 443, tlvs=b"\xea\0\2hi"))
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(("header", "client", "port"), [(V1, "203.0.113.7", 443), (V2, "2001:db8::7", 443)])
@pytest.mark.parametrize("size", [1, 9, 1000])
async def test_a_header_tells_the_client(header: bytes, client: str, port: int, size: int) -> None:
    async with Playbook(listener=TRUSTED) as play:
        data = header + b"hello"
        for at in range(0, len(data), size):
            play.downstream >> data[at : at + size]
            await trio.sleep(0.01)
        up = await play.upstream()
        await up.expect(b"hello", until=b"hello")
        play.downstream.end()
        up.end()
        await settle()
        assert (line(play).client, line(play).bytes_in) == (client, 5)


@pytest.mark.parametrize(
    ("peer", "is_trusted"), [("unix:", True), ("::ffff:192.0.2.9", True), ("192.0.3.1", False), ("2001:db8::1", False)]
)
async def test_who_is_trusted(peer: str, is_trusted: bool) -> None:
    async with Playbook(listener=TRUSTED) as play:
        play.downstream.close()
        other = play.connect(peer)
        other >> V1 + b"hello"
        up = await play.upstream()
        if is_trusted:
            await up.expect(b"hello", until=b"hello")
        else:
            await up.expect_end()
            assert line(play).reason == "proxy_header_untrusted"


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", encode_proxy_header(2, LOCAL)])
async def test_a_header_without_an_address(header: bytes) -> None:
    async with Playbook(listener=TRUSTED) as play:
        play.downstream >> header + b"hello"
        up = await play.upstream()
        await up.expect(b"hello", until=b"hello")
        play.downstream.end()
        up.end()
        await settle()
        assert line(play).client == "192.0.2.1"


async def test_in_http_too() -> None:
    policy = ListenerPolicy("web", ("test",), proxy_protocol=TRUSTED.proxy_protocol)
    async with Playbook(listener=policy, checks_bytes=False) as play:
        play.downstream >> V1 + GET
        up = await play.upstream()
        request = await up.read_until(b"\r\n\r\n")
        assert b"X-Forwarded-For: 203.0.113.7\r\n" in request
        assert b"X-Forwarded-Port: 443\r\n" in request
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await play.downstream.read_until(b"ok")
        play.downstream >> GET  # one header for the connection, not one for each request
        await up.expect(b"GET", until=b"\r\n\r\n")
        assert line(play).client == "203.0.113.7"
        assert line(play).bytes_in == len(GET)


@pytest.mark.parametrize("header", [b"PROXY TCP6 ::ffff:203.0.113.7 ::1 1 2\r\n", b"PROXY TCP6 ::ffff:cb00:7107 ::1 1 2\r\n"])
async def test_an_ipv4_client_of_a_dual_stack_proxy_is_one_of_ipv4(header: bytes) -> None:
    policy = ListenerPolicy("web", ("test",), proxy_protocol=TRUSTED.proxy_protocol)
    async with Playbook(listener=policy, checks_bytes=False) as play:
        play.downstream >> header + GET
        up = await play.upstream()
        assert b"X-Forwarded-For: 203.0.113.7\r\n" in await up.read_until(b"\r\n\r\n")
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await play.downstream.read_until(b"ok")
        await settle()
        assert line(play).client == "203.0.113.7"


HTTP = ListenerPolicy("web", ("test",), proxy_protocol=TRUSTED.proxy_protocol, timeouts=TIMEOUTS)


@pytest.mark.parametrize("policy", [HTTP, TRUSTED], ids=["http", "tcp"])
@pytest.mark.parametrize(
    ("data", "seconds", "reason"),
    [
        (GET, 0.1, "proxy_header_invalid"),
        (V1.replace(b"4711", b"99999") + GET, 0.1, "proxy_header_invalid"),
        (V1[:20], 3.1, "proxy_header_timeout"),
        (b"", 3.1, "proxy_header_timeout"),
    ],
)
async def test_a_header_that_is_missing_or_wrong(policy: ListenerPolicy, data: bytes, seconds: float, reason: str) -> None:
    async with Playbook(listener=policy) as play:
        play.downstream >> data
        await trio.sleep(seconds)
        await play.downstream.expect_end()
        assert (line(play).reason, play.dialled) == (reason, [])


@pytest.mark.parametrize("policy", [HTTP, TRUSTED], ids=["http", "tcp"])
@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("size", [3, 1000])
async def test_a_header_of_a_stranger(policy: ListenerPolicy, header: bytes, size: int) -> None:
    async with Playbook(listener=policy) as play:
        play.downstream.close()
        stranger = play.connect("203.0.113.66")
        for at in range(0, len(header), size):
            if not stranger.stream.hung_up:
                stranger >> header[at : at + size]
            await trio.sleep(0.01)
        await stranger.expect_end()
        await settle()
        assert (line(play).reason, line(play).client) == ("proxy_header_untrusted", "203.0.113.66")
        if policy is TRUSTED:  # the endpoint might have spoken first, but has seen nothing
            await (await play.upstream()).expect_end()


async def test_a_stranger_without_a_header_is_served() -> None:
    async with Playbook(listener=HTTP) as play:
        play.downstream.close()
        stranger = play.connect("203.0.113.66")
        stranger >> GET[:1]
        await trio.sleep(0.1)
        stranger >> GET[1:]
        request = await (await play.upstream()).read_until(b"\r\n\r\n")
        assert b"X-Forwarded-For: 203.0.113.66\r\n" in request


async def test_a_stranger_in_tcp_is_served_even_when_the_endpoint_speaks_first() -> None:
    async with Playbook(listener=TRUSTED) as play:
        play.downstream.close()
        stranger = play.connect("203.0.113.66")
        up = await play.upstream()
        up >> b"220"
        await stranger.read_until(b"220")
        stranger >> b"PRO"
        await trio.sleep(0.1)
        stranger >> b"CEED\r\n"
        await up.expect(b"PROCEED\r\n", until=b"\r\n")


async def test_optional() -> None:
    policy = replace(TCP, proxy_protocol=ProxyProtocolPolicy(("192.0.2.0/24",), optional=True))
    async with Playbook(listener=policy) as play:
        play.downstream >> b"PROCEED"
        await (await play.upstream()).expect(b"PROCEED", until=b"D")
        other = play.connect()
        other >> V1 + b"x"
        await (await play.upstream()).expect(b"x", until=b"x")
        wrong = play.connect()
        wrong >> b"PROXY TCP4 nonsense\r\n"
        await wrong.expect_end()


OPTIONAL = replace(TRUSTED, proxy_protocol=ProxyProtocolPolicy(("192.0.2.0/24",), optional=True))


async def test_optional_and_silent_until_the_endpoint_has_spoken() -> None:
    """As in SMTP: a client of the other kind, which sends no header, waits for a greeting."""
    async with Playbook(listener=OPTIONAL) as play:
        await trio.sleep(2.9)
        assert play.dialled == [], "a header may still come"
        up = await play.upstream()
        up >> b"220 ready\r\n"
        await play.downstream.expect(b"220 ready", until=b"\r\n")
        play.downstream >> b"PROXY?\r\n"  # too late to be a header
        await up.expect(b"PROXY?", until=b"\r\n")
        play.downstream.end()
        up.end()
        await settle()
        assert (line(play).reason, line(play).client) == ("", "192.0.2.1")


async def test_optional_and_silent_with_routes_by_name() -> None:
    async with Playbook(listener=OPTIONAL, clusters=CLUSTERS, routes=ROUTES) as play:
        up = await play.upstream(7.0)
        assert play.dialled == ["rest:1"]
        up >> b"220 ready\r\n"
        await play.downstream.expect(b"220 ready", until=b"\r\n")


@pytest.mark.parametrize(
    ("policy", "data"),
    [(OPTIONAL, V1[:20]), (replace(OPTIONAL, protocol="http"), b""), (TRUSTED, b"")],
    ids=["half a header", "in http it is for the client to begin", "not optional"],
)
async def test_when_silence_is_no_answer(policy: ListenerPolicy, data: bytes) -> None:
    async with Playbook(listener=policy) as play:
        play.downstream >> data
        await trio.sleep(3.1)
        await play.downstream.expect_end()
        assert (line(play).reason, play.dialled) == ("proxy_header_timeout", [])


async def test_optional_and_gone_without_a_word() -> None:
    async with Playbook(listener=OPTIONAL) as play:
        play.downstream.close()
        await settle()
        assert (play.lines, play.dialled) == ([], [])


async def test_who_comes_and_goes_without_a_word_is_not_written_down() -> None:
    async with Playbook(listener=TRUSTED) as play:
        await trio.sleep(0.1)
        assert play.listener.idle, "a drain may end it"
        play.downstream.close()
        await settle()
        assert play.lines == []
        assert not play.listener.fibers


async def test_behind_a_header_comes_a_hello() -> None:
    async with Playbook(listener=TRUSTED, clusters=CLUSTERS, routes=ROUTES) as play:
        hello = hello_of("a.example")
        play.downstream >> V2 + hello[:30]
        await trio.sleep(0.1)
        play.downstream >> hello[30:]
        up = await play.upstream()
        assert play.dialled == ["a:1"]
        await up.expect(hello, until=hello)


@pytest.mark.parametrize(
    ("version", "header"), [("v1", V1), ("v2", encode_proxy_header(2, ProxyHeader("203.0.113.7", 4711, "198.51.100.2", 443)))]
)
async def test_the_header_goes_on(version: str, header: bytes) -> None:
    async with Playbook(listener=TRUSTED, clusters=[cluster(send_proxy=version)]) as play:
        play.downstream >> V1 + b"hello"
        up = await play.upstream()
        await up.expect(header + b"hello", until=b"hello")
        play.downstream.end()
        up.end()
        await settle()
        assert (line(play).bytes_in, line(play).client) == (5, "203.0.113.7")


async def test_tlvs_go_on() -> None:
    async with Playbook(listener=TRUSTED, clusters=[cluster(send_proxy="v2")]) as play:
        play.downstream >> V2 + b"hello"
        await (await play.upstream()).expect(V2 + b"hello", until=b"hello")


async def test_a_header_goes_out_before_anybody_speaks() -> None:
    async with Playbook(listener=TCP, clusters=[cluster(send_proxy="v1")]) as play:
        up = await play.upstream()
        await up.expect(b"PROXY UNKNOWN\r\n", until=b"\r\n")  # a stream in memory has no address


# HTTP over connections that say whose they are


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_each_request_has_a_connection_that_names_its_client(version: str) -> None:
    policy = ListenerPolicy("web", ("test",), proxy_protocol=TRUSTED.proxy_protocol)
    header = encode_proxy_header(1 if version == "v1" else 2, ProxyHeader("203.0.113.7", 4711, "198.51.100.2", 443))
    async with Playbook(listener=policy, clusters=[cluster(send_proxy=version)]) as play:
        play.downstream >> V1
        for _ in range(2):
            play.downstream >> GET
            up = await play.upstream()
            assert await up.read_until(header) == header
            await up.expect(b"GET / HTTP/1.1\r\n", until=b"\r\n\r\n")
            up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            await play.downstream.read_until(b"ok")
            await up.expect_end()
        assert play.dialled == ["one:1", "one:1"]
        assert play.lines[0].is_reused is False  # type: ignore[attr-defined]


async def test_a_connection_kept_from_before_a_reload_is_not_used() -> None:
    async with Playbook(checks_bytes=False) as play:
        play.downstream >> GET
        up = await play.upstream()
        up >> b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        await play.downstream.read_until(b"ok")
        assert len(play.clusters["web"].endpoints[0].pool) == 1
        play.clusters["web"].apply_policy(replace(play.clusters["web"].policy, send_proxy="v1"))
        for route in play.listener.table.routes:
            route.cells.clear()
        play.downstream >> GET
        await (await play.upstream()).expect(b"PROXY UNKNOWN\r\nGET", until=b"\r\n\r\n")
