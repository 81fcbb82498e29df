"""The way out."""

from __future__ import annotations

import pytest

from lbd.wire.http1 import (
    CHUNKED,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    encode_chunk,
    encode_informational,
    encode_last_chunk,
    encode_request,
    encode_response,
)
from lbd.wire.message import Headers, RequestHead, ResponseHead

FIELDS = Headers(b"A:1\r\nb: 2\r\n")


@pytest.mark.parametrize(
    ("head", "framing", "extra", "expected"),
    [
        (RequestHead.make(), NO_BODY, b"", b"GET /t HTTP/1.1\r\nHost: h\r\n\r\n"),
        (RequestHead.make(headers=FIELDS), NO_BODY, b"X: 1\r\n", b"GET /t HTTP/1.1\r\nHost: h\r\nA:1\r\nb: 2\r\nX: 1\r\n\r\n"),
        (
            RequestHead.make(method=b"PUT", headers=FIELDS, content_length=12),
            LENGTH,
            b"X: 1\r\n",
            b"PUT /t HTTP/1.1\r\nHost: h\r\nA:1\r\nb: 2\r\nContent-Length: 12\r\nX: 1\r\n\r\n",
        ),
        (RequestHead.make(method=b"PUT", content_length=0), LENGTH, b"", b"PUT /t HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"),
        (
            RequestHead.make(method=b"PUT", headers=FIELDS, chunked=True),
            CHUNKED,
            b"X: 1\r\n",
            b"PUT /t HTTP/1.1\r\nHost: h\r\nA:1\r\nb: 2\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n",
        ),
        (RequestHead.make(minor=0, te_trailers=True, upgrade=b"h2c"), NO_BODY, b"", b"GET /t HTTP/1.1\r\nHost: h\r\n\r\n"),
    ],
)
def test_requests(head: RequestHead, framing: int, extra: bytes, expected: bytes) -> None:
    assert encode_request(head, b"/t", b"h", framing, extra) == expected


def response(status: int = 200, reason: bytes = b"OK", content_length: int = -1) -> ResponseHead:
    return ResponseHead.make(status=status, reason=reason, headers=FIELDS, content_length=content_length, minor=0)


@pytest.mark.parametrize(
    ("head", "framing", "minor", "expected"),
    [
        (response(content_length=5), LENGTH, 1, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nContent-Length: 5\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(content_length=5), LENGTH, 0, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nContent-Length: 5\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(), CHUNKED, 1, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nTransfer-Encoding: chunked\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(), CHUNKED, 0, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(), UNTIL_CLOSE, 1, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(200, b""), UNTIL_CLOSE, 1, b"HTTP/1.1 200 \r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(201, b"Made it"), UNTIL_CLOSE, 1, b"HTTP/1.1 201 Made it\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        # To HEAD, and 304: what a GET would bring
        (response(content_length=5), NO_BODY, 1, b"HTTP/1.1 200 OK\r\nA:1\r\nb: 2\r\nContent-Length: 5\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(304, b"N", 5), NO_BODY, 1, b"HTTP/1.1 304 N\r\nA:1\r\nb: 2\r\nContent-Length: 5\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(304, b"N"), NO_BODY, 1, b"HTTP/1.1 304 N\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(204, b"N", 0), NO_BODY, 1, b"HTTP/1.1 204 N\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
        (response(101, b"S", 0), NO_BODY, 1, b"HTTP/1.1 101 S\r\nA:1\r\nb: 2\r\nC: x\r\nX: 1\r\n\r\n"),
    ],
)
def test_responses(head: ResponseHead, framing: int, minor: int, expected: bytes) -> None:
    assert encode_response(head, framing, minor, b"C: x\r\n", b"X: 1\r\n") == expected


def test_informational() -> None:
    assert encode_informational(ResponseHead.make(status=103, reason=b"Early Hints", headers=Headers(b"Link: x\r\n"))) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    )


def test_chunks() -> None:
    assert encode_chunk(b"x" * 31) == b"1f\r\n" + b"x" * 31 + b"\r\n"
    assert encode_last_chunk(None) == b"0\r\n\r\n"
    assert encode_last_chunk(Headers(b"X: 1\r\n")) == b"0\r\nX: 1\r\n\r\n"
