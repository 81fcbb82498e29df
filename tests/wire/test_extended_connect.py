"""Heads of extended CONNECT (RFC 8441), and the keys of WebSockets (RFC 6455)."""

from __future__ import annotations

import pytest

from lbd.wire.http2_fields import Field
from lbd.wire.http2_heads import request_fields, request_head, request_lines
from lbd.wire.http2_limits import Http2Limits
from lbd.wire.message import Headers, RequestHead
from lbd.wire.refusal import WireError
from lbd.wire.websocket import accept_of, handshake_key

Fields = list[tuple[bytes, bytes]]

LIMITS = Http2Limits(extended_connect=True)
CONNECT: Fields = [
    (b":method", b"CONNECT"),
    (b":protocol", b"websocket"),
    (b":scheme", b"https"),
    (b":path", b"/a?b"),
    (b":authority", b"h"),
]


def head_of(fields: Fields, limits: Http2Limits = LIMITS) -> RequestHead:
    return request_head(tuple(Field(name, value) for name, value in fields), False, limits)


def test_the_answer_to_a_key() -> None:
    assert accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 1.3
    assert handshake_key(b"the sample nonce") == b"dGhlIHNhbXBsZSBub25jZQ=="


def test_an_extended_connect() -> None:
    head = head_of([*CONNECT, (b"origin", b"x")])
    assert (head.method, head.upgrade, head.target, head.authority, head.query) == (b"CONNECT", b"websocket", b"/a?b", b"h", b"b")


def test_what_comes_on_it_is_no_content() -> None:
    head = head_of([*CONNECT, (b"content-length", b"5")])
    assert head.content_length == -1


@pytest.mark.parametrize(
    ("fields", "limits", "reason"),
    [
        (CONNECT, Http2Limits(), "bad_request"),  # nobody offered it
        ([(b":method", b"GET"), *CONNECT[1:]], LIMITS, "bad_request"),
        (CONNECT[:2], LIMITS, "bad_request"),  # it has :scheme and :path (RFC 8441 4)
        ([field for field in CONNECT if field[0] != b":path"], LIMITS, "bad_request"),
        ([field for field in CONNECT if field[0] != b":scheme"], LIMITS, "bad_request"),
        ([*CONNECT, (b":protocol", b"websocket")], LIMITS, "bad_request"),
        ([*CONNECT, (b"connection", b"upgrade")], LIMITS, "bad_request"),
        ([*CONNECT, (b"upgrade", b"websocket")], LIMITS, "bad_request"),
        ([(b":method", b"CONNECT"), (b":authority", b"h:80")], LIMITS, "unsupported"),  # a plain one
        ([*CONNECT[:-1], (b"origin", b"x")], LIMITS, "bad_host"),
    ],
)
def test_what_is_none(fields: Fields, limits: Http2Limits, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        head_of(fields, limits)
    assert caught.value.reason == reason


def test_an_offer_as_it_goes_upstream() -> None:
    headers = Headers(b"Sec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n")
    head = RequestHead.make(upgrade=b"websocket, other", headers=headers, content_length=0)
    assert request_fields(head, b"/", b"h") == [
        (b":method", b"CONNECT"),
        (b":scheme", b"http"),
        (b":path", b"/"),
        (b":authority", b"h"),
        (b":protocol", b"websocket"),
    ]
    assert request_lines(head) == b"Sec-WebSocket-Version: 13\r\n"
    assert headers.get(b"sec-websocket-key") == b"k"  # for the answer, and for another attempt
