"""Messages read as a connection reads them: piece by piece into a buffer. And h11's reading of the same bytes, to compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11

from lbd.wire.http1 import (
    CHUNKED,
    LENGTH,
    NO_BODY,
    BodyReader,
    HeadLimits,
    find_head_end,
    parse_request,
    parse_response,
    response_framing,
)
from lbd.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LIMITS", "Received", "bytewise", "fields_of", "framing_of", "h11_reading", "read_request", "read_response"]

LIMITS = HeadLimits(4096, 1024, 50)


@dataclass
class Received:
    """A whole message, and what came behind it."""

    head: RequestHead | ResponseHead
    body: bytes
    trailers: Headers | None
    leftover: bytes


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


def read_request(pieces: Iterable[bytes], limits: HeadLimits = LIMITS) -> Received | None:
    """The first request; None when the pieces end before it does. WireError: refused."""
    source = iter(pieces)
    buffer = b""
    searched = 0
    for piece in source:
        buffer += piece
        end = find_head_end(buffer, searched, limits)
        if end >= 0:
            head = parse_request(buffer, 0, end, limits)
            return read_body(head, BodyReader(framing_of(head), head.content_length, limits), buffer[end:], source)
        searched = max(0, len(buffer) - 3)
    return None


def read_response(pieces: Iterable[bytes], method: bytes = b"GET", limits: HeadLimits = LIMITS) -> Received | None:
    """As read_request; the stream has ended after the last piece."""
    source = iter(pieces)
    buffer = b""
    searched = 0
    for piece in source:
        buffer += piece
        end = find_head_end(buffer, searched, limits)
        if end >= 0:
            head = parse_response(buffer, 0, end, limits)
            reader = BodyReader(response_framing(method, head), head.content_length, limits)
            return read_body(head, reader, buffer[end:], source, has_end=True)
        searched = max(0, len(buffer) - 3)
    return None


def framing_of(head: RequestHead) -> int:
    if head.chunked:
        return CHUNKED
    return LENGTH if head.content_length >= 0 else NO_BODY


def read_body(
    head: RequestHead | ResponseHead, reader: BodyReader, begun: bytes, source: Iterator[bytes], *, has_end: bool = False
) -> Received | None:
    body = reader.feed(begun) if begun else b""
    for piece in source:
        body += reader.feed(piece)
    if has_end:
        reader.feed_eof()
    return Received(head, body, reader.trailers, reader.leftover) if reader.done else None


def fields_of(headers: Headers | None) -> list[tuple[bytes, bytes]]:
    return [] if headers is None else [(name.lower(), value) for name, value in headers.items()]


@dataclass
class H11Reading:
    head: h11.Request | h11.Response | h11.InformationalResponse
    body: bytes
    trailers: list[tuple[bytes, bytes]]
    leftover: bytes


def h11_reading(data: bytes, method: bytes | None = None) -> H11Reading | None:
    """What h11 makes of the same bytes: of a request, or of the response to `method`, which ends with the stream.

    None: not whole. h11.RemoteProtocolError: refused.
    """
    connection = h11.Connection(h11.SERVER if method is None else h11.CLIENT, max_incomplete_event_size=len(data) + 1)
    if method is not None:
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "h")]))
        connection.send(h11.EndOfMessage())
    if data:
        connection.receive_data(data)
    head = connection.next_event()
    if not isinstance(head, h11.Request | h11.Response | h11.InformationalResponse):
        return None
    if isinstance(head, h11.InformationalResponse):
        return H11Reading(head, b"", [], connection.trailing_data[0])
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return H11Reading(head, body, list(event.headers), connection.trailing_data[0])
        elif event is h11.NEED_DATA and method is not None and not connection.trailing_data[1]:
            connection.receive_data(b"")
        else:
            return None
