"""Heads that are good: what is read out of them, however they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

from lbd.wire.grammar import HOP_BY_HOP, NOT_TRAILERS
from lbd.wire.http1 import HeadLimits, WireError, find_head_end, parse_request, parse_response
from lbd.wire.message import Headers, RequestHead, ResponseHead
from lbd.wire.strict import parse_trailers
from tests.wire.reading import LIMITS, bytewise, read_request, read_response

if TYPE_CHECKING:
    from collections.abc import Callable

END = b"\r\n\r\n"


def lines(*fields: bytes) -> Headers:
    return Headers(b"".join(field + b"\r\n" for field in fields))


# (name, bytes, what differs from RequestHead.make(authority=b"a"))
REQUESTS: list[tuple[str, bytes, dict[str, Any]]] = [
    ("the least", b"GET / HTTP/1.1\r\nHost: a" + END, {}),
    ("HTTP/1.0", b"GET / HTTP/1.0" + END, {"authority": b"", "minor": 0, "keep_alive": False}),
    ("HTTP/1.0 with Host", b"GET / HTTP/1.0\r\nHost: a" + END, {"minor": 0, "keep_alive": False}),
    ("HTTP/1.0 that stays", b"GET / HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive" + END, {"minor": 0}),
    ("HTTP/1.0 undecided", b"GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive, close" + END, {"minor": 0, "keep_alive": False}),
    ("a query", b"GET /p?q=1?2 HTTP/1.1\r\nHost: a" + END, {"target": b"/p?q=1?2"}),
    ("an empty query", b"GET /p? HTTP/1.1\r\nHost: a" + END, {"target": b"/p?"}),
    ("odd bytes of a target", b"GET //a/../%2e\\|{}^`\"<>;@:? HTTP/1.1\r\nHost: a" + END, {"target": b'//a/../%2e\\|{}^`"<>;@:?'}),
    ("a method of our own", b"m-search / HTTP/1.1\r\nHost: a" + END, {"method": b"m-search"}),
    ("the longest method", b"G" * 32 + b" / HTTP/1.1\r\nHost: a" + END, {"method": b"G" * 32}),
    ("all characters of a token", b"!#$%&'*+.^_`|~-09azAZ / HTTP/1.1\r\nHost: a" + END, {"method": b"!#$%&'*+.^_`|~-09azAZ"}),
    ("asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: a" + END, {"method": b"OPTIONS", "target": b"*"}),
    ("absolute-form", b"GET http://a/p?q HTTP/1.1\r\nHost: a" + END, {"target": b"/p?q"}),
    ("absolute-form in capitals", b"GET HTTP://A/P HTTP/1.1\r\nHost: a" + END, {"target": b"/P"}),
    ("absolute-form without a path", b"GET http://a HTTP/1.1\r\nHost: a" + END, {}),
    ("absolute-form with a query only", b"GET http://a?q HTTP/1.1\r\nHost: a" + END, {"target": b"/?q"}),
    ("absolute-form with a default port", b"GET http://a:80/ HTTP/1.1\r\nHost: a" + END, {"authority": b"a:80"}),
    ("absolute-form, https", b"GET https://a/ HTTP/1.1\r\nHost: a:443" + END, {}),
    ("absolute-form in HTTP/1.0", b"GET http://a/ HTTP/1.0" + END, {"minor": 0, "keep_alive": False}),
    ("absolute-form of an asterisk", b"OPTIONS http://a HTTP/1.1\r\nHost: a" + END, {"method": b"OPTIONS", "target": b"*"}),
    ("a port", b"GET / HTTP/1.1\r\nHost: a:8080" + END, {"authority": b"a:8080"}),
    ("capitals in Host", b"GET / HTTP/1.1\r\nHOST: A-b_C.Example.COM" + END, {"authority": b"a-b_c.example.com"}),
    ("one capital in Host", b"GET / HTTP/1.1\r\nHost: A" + END, {}),
    ("an IPv4 address", b"GET / HTTP/1.1\r\nHost: 127.0.0.1:80" + END, {"authority": b"127.0.0.1:80"}),
    ("an IPv6 address", b"GET / HTTP/1.1\r\nHost: [::1]" + END, {"authority": b"[::1]"}),
    ("an IPv6 address and port", b"GET / HTTP/1.1\r\nHost: [FE80::1.2.3.4]:80" + END, {"authority": b"[fe80::1.2.3.4]:80"}),
    ("escapes and delimiters in Host", b"GET / HTTP/1.1\r\nHost: a%2Fb!$&'()*+,;=~" + END, {"authority": b"a%2fb!$&'()*+,;=~"}),
    ("white space around Host", b"GET / HTTP/1.1\r\nHost: \t a \t" + END, {}),
    ("no white space", b"GET / HTTP/1.1\r\nHost:a\r\nX:1" + END, {"headers": lines(b"X:1")}),
    (
        "fields as they came",
        b"GET / HTTP/1.1\r\nx-A:  1 \t\r\nHost: a\r\nX_a:\r\nX: \xe4\t\x80\xff" + END,
        {"headers": lines(b"x-A:  1 \t", b"X_a:", b"X: \xe4\t\x80\xff")},
    ),
    ("a length", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0012" + END, {"method": b"POST", "content_length": 12}),
    ("no body, said so", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0" + END, {"method": b"POST", "content_length": 0}),
    ("a length, twice", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\ncontent-length: 5" + END, {"content_length": 5}),
    ("a length, listed", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5 , 5" + END, {"content_length": 5}),
    ("the longest length", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 18 + END, {"content_length": 10**18 - 1}),
    ("chunks", b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked" + END, {"method": b"PUT", "chunked": True}),
    ("blanks around chunked", b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \t chunked " + END, {"method": b"PUT", "chunked": True}),
    ("to close", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close" + END, {"keep_alive": False}),
    ("to close, in capitals", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: CLOSE" + END, {"keep_alive": False}),
    ("to close, in two fields", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: , close" + END, {"keep_alive": False}),
    ("closely", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: closely" + END, {}),
    (
        "hop by hop",
        b"GET / HTTP/1.1\r\nHost: a\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nA: 1\r\nTE: gzip\r\nB: 2" + END,
        {"headers": lines(b"A: 1", b"B: 2")},
    ),
    (
        "for the client's proxy",
        b"GET / HTTP/1.1\r\nHost: a\r\nproxy-Authorization: x\r\nA: 1\r\nProxy-Authenticate: x\r\nProxy-Authentication-Info: x" + END,
        {"headers": lines(b"A: 1")},
    ),
    (
        "named by Connection",
        b"GET / HTTP/1.1\r\nA: 1\r\nAuthorization: x\r\nHost: a\r\nConnection: Authorization, x-B\r\nX-b: 2\r\nX-b: 3" + END,
        {"headers": lines(b"A: 1")},
    ),
    (
        "Connection names what it must not remove",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: Host, Content-Length, Transfer-Encoding" + END,
        {"method": b"POST", "content_length": 3},
    ),
    ("many cuts", b"GET / HTTP/1.1\r\nHost: a" + b"\r\nA: 1\r\nKeep-Alive: x" * 20 + END, {"headers": lines(*[b"A: 1"] * 20)}),
    ("Trailer is kept", b"GET / HTTP/1.1\r\nHost: a\r\nTrailer: x" + END, {"headers": lines(b"Trailer: x")}),
    ("an upgrade", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket" + END, {"upgrade": b"websocket"}),
    ("two upgrades", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b" + END, {"upgrade": b"a, b"}),
    ("an upgrade to nothing", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade" + END, {}),
    ("trailers are welcome", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip;q=0.5, Trailers" + END, {"te_trailers": True}),
    ("trailers are not welcome", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: TE\r\nTE: gzip, trailers;q=0, trailer" + END, {}),
    ("trailers, to HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nConnection: TE\r\nTE: trailers" + END, {"minor": 0, "keep_alive": False}),
    (
        "to continue",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-Continue" + END,
        {"method": b"PUT", "content_length": 3, "expect_continue": True, "headers": lines(b"Expect: 100-Continue")},
    ),
    ("something else expected", b"GET / HTTP/1.1\r\nHost: a\r\nExpect: 200" + END, {"headers": lines(b"Expect: 200")}),
    ("expected by HTTP/1.0", b"GET / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue" + END, {"minor": 0, "keep_alive": False}),
    ("like a claim, but none", b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Foo: 1" + END, {"headers": lines(b"X-Forwarded-Foo: 1")}),
    *[
        (
            f"{name.decode()} is a claim",
            b"GET / HTTP/1.1\r\n%b: 1\r\nHost: a\r\n\r\n" % name,
            {"headers": lines(name + b": 1"), "has_proxy_fields": True},
        )
        for name in (
            b"X-Forwarded-For", b"x-forwarded-proto", b"X-FORWARDED-HOST", b"X-Forwarded-Port", b"Forwarded", b"Via", b"X-Real-Ip",
            b"X-Request-Id", b"X-Request-Attempt", b"X_Forwarded_For", b"x-client_CERT-verify", b"X_Request-Id", b"content_Length",
            b"Transfer_ENCODING",
        )
    ],
    ("the longest target", b"GET /" + b"a" * 1023 + b" HTTP/1.1\r\nHost: a" + END, {"target": b"/" + b"a" * 1023}),
    ("the most fields", b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: 1\r\n" * 49 + b"\r\n", {"headers": lines(*[b"X: 1"] * 49)}),
]  # fmt: skip

# (name, bytes, what differs from ResponseHead.make(status=200, reason=b"OK"))
RESPONSES: list[tuple[str, bytes, dict[str, Any]]] = [
    ("the least", b"HTTP/1.1 200 OK" + END, {}),
    ("no reason phrase", b"HTTP/1.1 204 " + END, {"status": 204, "reason": b""}),
    ("no space for one", b"HTTP/1.1 204" + END, {"status": 204, "reason": b""}),
    ("a long reason", b"HTTP/1.1 404 No\tsuch \xe4 " + END, {"status": 404, "reason": b"No\tsuch \xe4 "}),
    ("an odd status", b"HTTP/1.1 999 X" + END, {"status": 999, "reason": b"X"}),
    ("an interim one", b"HTTP/1.1 100 Continue" + END, {"status": 100, "reason": b"Continue"}),
    ("HTTP/1.0", b"HTTP/1.0 200 OK" + END, {"minor": 0, "keep_alive": False}),
    ("HTTP/1.0 that stays", b"HTTP/1.0 200 OK\r\nConnection: keep-alive" + END, {"minor": 0}),
    ("to close", b"HTTP/1.1 200 OK\r\nConnection: close" + END, {"keep_alive": False}),
    (
        "a length",
        b"HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 7\r\nDate: y" + END,
        {"content_length": 7, "headers": lines(b"Server: x", b"Date: y")},
    ),
    ("a length, twice", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 7" + END, {"content_length": 7}),
    ("chunks", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked" + END, {"chunked": True}),
    (
        "hop by hop",
        b"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nA: 1\r\nTE: x\r\nProxy-Connection: x\r\nUpgrade: h2\r\nHost: b\r\nVia: x" + END,
        {"headers": lines(b"A: 1", b"Host: b", b"Via: x")},
    ),
    ("named by Connection", b"HTTP/1.1 200 OK\r\nX: 1\r\nConnection: x, close" + END, {"keep_alive": False}),
    (
        "another protocol",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: 1" + END,
        {"status": 101, "reason": b"Switching Protocols", "upgrade": b"websocket", "headers": lines(b"X: 1")},
    ),
    ("cookies apart", b"HTTP/1.1 200 OK\r\nSet-Cookie: a\r\nset-cookie: b" + END, {"headers": lines(b"Set-Cookie: a", b"set-cookie: b")}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "differing"), [row[1:] for row in REQUESTS], ids=[row[0] for row in REQUESTS])
def test_a_request(data: bytes, differing: dict[str, Any]) -> None:
    expected = repr(RequestHead.make(**{"authority": b"a", **differing}))
    end = find_head_end(data, 0, LIMITS)
    assert end == len(data)
    assert repr(parse_request(data, 0, end, LIMITS)) == expected
    behind = data + b"GET /next HTTP/1.1\r\nHost: b" + END
    assert find_head_end(behind, 0, LIMITS) == end
    assert repr(parse_request(behind, 0, end, LIMITS)) == expected
    before = b"\x00\r\n" + data
    assert repr(parse_request(before, 3, len(before), LIMITS)) == expected


@pytest.mark.parametrize(("data", "differing"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES])
def test_a_response(data: bytes, differing: dict[str, Any]) -> None:
    expected = repr(ResponseHead.make(**{"status": 200, "reason": b"OK", **differing}))
    end = find_head_end(data, 0, LIMITS)
    assert end == len(data)
    assert repr(parse_response(data, 0, end, LIMITS)) == expected
    behind = data + b"body"
    assert repr(parse_response(behind, 0, find_head_end(behind, 0, LIMITS), LIMITS)) == expected


@pytest.mark.parametrize("data", [row[1] for row in REQUESTS + RESPONSES], ids=[row[0] for row in REQUESTS + RESPONSES])
def test_a_head_in_pieces_is_waited_for(data: bytes) -> None:
    searched = 0
    for size in range(len(data)):
        assert find_head_end(data[:size], searched, LIMITS) == -1
        searched = max(0, size - 3)
    assert find_head_end(data, searched, LIMITS) == len(data)


def test_what_has_been_searched_is_not_searched_again() -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nX: 1\r\n\r\n"
    assert find_head_end(data, 0, LIMITS) == 27
    assert find_head_end(data, 24, LIMITS) == len(data)


def test_limits_are_exact() -> None:
    head = b"GET /1234567 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"
    request = parse_request(head, 0, find_head_end(head, 0, HeadLimits(len(head), 8, 2)), HeadLimits(len(head), 8, 2))
    assert request.target == b"/1234567"
    for limits, status in [((len(head) - 1, 8, 2), 431), ((len(head), 7, 2), 414), ((len(head), 8, 1), 431)]:
        with pytest.raises(WireError) as caught:
            read_request([head], HeadLimits(*limits))
        assert caught.value.status == status


@pytest.mark.parametrize("field", [b"X:", b"X: 1", b"keep-alive: 1"])
def test_the_number_of_fields_is_exact(field: bytes) -> None:
    """Of a response, and of trailers; the shortest count, and those that are not handed on."""
    block = (field + b"\r\n") * 3
    head = b"HTTP/1.1 200 OK\r\n" + block + b"\r\n"
    for most in (2, 3):
        limits = HeadLimits(4096, 1024, most)
        if most == 3:
            parse_response(head, 0, len(head), limits)
            parse_trailers(block, limits)
        else:
            with pytest.raises(WireError, match="more than 2 fields"):
                parse_response(head, 0, len(head), limits)
            with pytest.raises(WireError, match="more than 2 fields"):
                parse_trailers(block, limits)


FRAMING = {b"transfer-encoding", b"content-length"}  # two of them may be an error
NEARLY_PROXIES = (b"proxy_authorization", b"proxy-authenticated", b"proxy-authentication-inf")
NEARLY = (
    *NEARLY_PROXIES,
    b"t",
    b"tea",
    b"te-",
    b"te_",
    b"upgraded",
    b"keep_alive",
    b"content-typ",
    b"x-forwarded",
    b"vi",
    b"via-",
    b"hostname",
)
SPELLINGS = (bytes.lower, bytes.upper, bytes.title)
VALUES = (b"", b" ", b" close", b"\tclose ", b"close:te", b" via: 1")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([*sorted(NOT_TRAILERS - FRAMING), *NEARLY]), st.sampled_from(SPELLINGS), st.sampled_from(VALUES)),
        max_size=8,
    )
)
def test_what_is_not_handed_on_goes_by_its_whole_name(fields: list[tuple[bytes, Callable[[bytes], bytes], bytes]]) -> None:
    spelled = [(name, spelling(name) + b":" + value + b"\r\n") for name, spelling, value in fields]
    block = b"".join([line for _, line in spelled])
    trailers = parse_trailers(block, LIMITS)
    assert (trailers.encode() if trailers is not None else b"") == b"".join([line for name, line in spelled if name not in NOT_TRAILERS])
    head = b"HTTP/1.1 200 OK\r\n" + block + b"\r\n"
    response = parse_response(head, 0, len(head), LIMITS)
    assert response.headers.encode() == b"".join([line for name, line in spelled if name not in HOP_BY_HOP])


def test_a_head_is_refused_before_it_outgrows_its_limit() -> None:
    endless = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * LIMITS.head
    assert find_head_end(endless[: LIMITS.head - 1], 0, LIMITS) == -1
    with pytest.raises(WireError, match="the head is above 4096 bytes"):
        find_head_end(endless[: LIMITS.head], 0, LIMITS)


def test_a_target_is_refused_before_it_outgrows_its_limit() -> None:
    endless = b"GET /" + b"x" * LIMITS.target
    assert find_head_end(endless[:-1], 0, LIMITS) == -1
    with pytest.raises(WireError, match="the target is above 1024 bytes"):
        find_head_end(endless, 0, LIMITS)


@pytest.mark.parametrize(
    ("beginning", "is_refused"),
    [
        (b"", False),
        (b"G", False),
        (b"G" * 33, True),
        (b"\x16", True),
        (b"\r", True),
        (b"\n", True),
        (b" ", True),
        (b"GET / HTTP/1.1\r", False),
        (b"GET / HTTP/1.1\r\n\r", False),
        (b"GET / HTTP/1.1\n", True),
        (b"GET / HTTP/1.1\rX", True),
        (b"GET / FTP/1.1\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX\x00", True),
        (b"HTTP/1.1 200 ", False),
        (b"HTTP/1.1 20x\r\n", True),
    ],
)
def test_what_cannot_be_http_is_refused_at_once(beginning: bytes, is_refused: bool) -> None:
    if is_refused:
        with pytest.raises(WireError):
            read_request(bytewise(beginning))
        with pytest.raises(WireError):
            find_head_end(beginning, 0, LIMITS)
    else:
        assert find_head_end(beginning, 0, LIMITS) == -1


@pytest.mark.parametrize("read", [read_request, read_response])
def test_a_head_that_ends_early_is_no_message(read: Callable[[list[bytes]], object]) -> None:
    assert read([b"HTTP/1.1 200 OK\r\n"]) is None
