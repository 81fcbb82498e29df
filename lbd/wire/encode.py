"""HTTP/1 as we write it: always 1.1, our own framing, and the fields as they came.

`extra` is ready lines, b"Name: value\\r\\n" each, to stand behind the fields that are handed on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.body import CHUNKED, LENGTH, NO_BODY

if TYPE_CHECKING:
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["encode_chunk", "encode_informational", "encode_last_chunk", "encode_request", "encode_response"]


def encode_request(head: RequestHead, target: bytes, host: bytes, framing: int, extra: bytes) -> bytes:
    """`target` and `host` stand in place of the head's own; the length is head.content_length."""
    block = head.headers.encode()
    if framing == LENGTH:
        return b"%b %b HTTP/1.1\r\nHost: %b\r\n%bContent-Length: %d\r\n%b\r\n" % (
            head.method, target, host, block, head.content_length, extra,
        )  # fmt: skip
    if framing == CHUNKED:
        extra = b"Transfer-Encoding: chunked\r\n" + extra
    return b"".join((head.method, b" ", target, b" HTTP/1.1\r\nHost: ", host, b"\r\n", block, extra, b"\r\n"))


def encode_response(head: ResponseHead, framing: int, minor: int, connection: bytes, extra: bytes) -> bytes:
    """For a downstream that speaks HTTP/1.minor, 0 being unable to read chunks; `connection` is a line or b""."""
    status = head.status
    length = head.content_length
    if framing == NO_BODY and (status < 200 or status == 204):
        length = -1  # RFC 9110, 8.6: must not be sent; with HEAD and 304 it says what a GET would bring
    lines = b""
    if framing == CHUNKED:
        if minor > 0:
            lines = b"Transfer-Encoding: chunked\r\n"
    elif length >= 0 and framing <= LENGTH:
        lines = b"Content-Length: %d\r\n" % length
    first = b"HTTP/1.1 200 OK\r\n" if status == 200 and head.reason == b"OK" else status_line(status, head.reason)
    return b"".join((first, head.headers.encode(), lines, connection, extra, b"\r\n"))


def status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def encode_informational(head: ResponseHead) -> bytes:
    """A 1xx response."""
    return b"%b%b\r\n" % (status_line(head.status, head.reason), head.headers.encode())


def encode_chunk(data: bytes) -> bytes:
    """Not for b"", which would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Headers | None) -> bytes:
    return b"0\r\n\r\n" if trailers is None else b"0\r\n%b\r\n" % trailers.encode()
