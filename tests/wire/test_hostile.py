"""Nothing in hostile.py gets through, however it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbd.wire.http1 import WireError
from lbd.wire.refusal import MOST_WORDS, h11_verdict, words_of
from tests.wire.hostile import BODIES, HEADS, RESPONSES
from tests.wire.reading import bytewise, read_request, read_response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
WAYS: dict[str, Callable[[bytes], Iterable[bytes]]] = {
    "whole": lambda data: [data],
    "bytewise": bytewise,
    "pipelined": lambda data: [data + NEXT],
    "in two": lambda data: [data[: len(data) // 2], data[len(data) // 2 :]],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("data", "reason", "status"), [row[1:] for row in HEADS + BODIES], ids=[row[0] for row in HEADS + BODIES])
def test_a_request_is_refused(data: bytes, reason: str, status: int, way: str) -> None:
    with pytest.raises(WireError) as caught:
        read_request(WAYS[way](data))
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert caught.value.message


@pytest.mark.parametrize("way", ["whole", "bytewise", "in two"])
@pytest.mark.parametrize(("data", "reason", "status"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES])
def test_a_response_is_refused(data: bytes, reason: str, status: int, way: str) -> None:
    with pytest.raises(WireError) as caught:
        read_response(WAYS[way](data))
    assert (caught.value.reason, caught.value.status) == (reason, status)


@pytest.mark.parametrize("data", [row[1] for row in HEADS], ids=[row[0] for row in HEADS])
def test_what_h11_refuses_too_is_refused_in_its_words(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        read_request([data])
    error = caught.value
    verdict = h11_verdict(data, is_request=True)
    if verdict is not None and error.status in (400, 501):
        assert error.message.removesuffix("...") == words_of(verdict)[:MOST_WORDS]
        assert error.status == verdict.error_status_hint
    else:
        assert "illegal" not in error.message  # ours
    assert "bytearray" not in error.message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"GET / HTTP/1.1\r\nX: 1\r\n\r\n", "Missing mandatory Host: header"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "Found multiple Host: headers"),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", "illegal header line: b'Host : a'"),
        (b"PROXY 'a\\(b)\" HTTP/1.1 \r\nHost: a\r\n\r\n", r"""illegal request line: b'PROXY \'a\\(b)" HTTP/1.1 '"""),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", "bad Content-Length"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "Only Transfer-Encoding: chunked is supported"),
        # h11 lets these pass
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", "a field folded over two lines: b' 2'"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", r"the control byte b'\x01': b'X: \x01'"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\nY: 2\r\n\r\n", r"the control byte b'\n': b'X: 1\nY: 2'"),
        (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "not a host: b'a/b'"),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", "HTTP/2.0 is not spoken here, only HTTP/1.1 and HTTP/1.0"),
        (
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "both Content-Length and Transfer-Encoding",
        ),
    ],
)
def test_a_refusal_says_why(data: bytes, message: str) -> None:
    with pytest.raises(WireError) as caught:
        read_request([data])
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"+5\r\n", r"illegal chunk header: b'+5\r\n'"),
        (b"x\r\n", r"illegal chunk header: b'x\r\n'"),
        (b"1\r\nxyz", r"malformed chunk footer: b'yz' (expected b'\r\n')"),
        # h11 lets these pass
        (b"5 \r\n", r"not the size of a chunk: b'5 \r'"),
        (b"1" + b"0" * 15 + b"\r\n", r"not the size of a chunk: b'1000000000000000\r'"),
        (b"5;" + b"a" * 2000 + b"\r\n", "a chunk's size and extensions are above 1024 bytes"),
        (b"0\r\nX: 1\r\n 2\r\n\r\n", "a field folded over two lines: b' 2'"),
    ],
)
def test_a_refused_body_says_why(body: bytes, message: str) -> None:
    with pytest.raises(WireError) as caught:
        read_request([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body])
    assert caught.value.message == message


def test_a_long_line_is_not_quoted_in_full() -> None:
    with pytest.raises(WireError) as caught:
        read_request([b"GET / HTTP/1.1\r\nHost: a\r\nX" + b"x" * 2000 + b" : 1\r\n\r\n"])
    assert len(caught.value.message) < 300
