"""What holds for any bytes whatever. Hypothesis and the fuzzer bring the bytes; AssertionError: a promise is broken.

1. What we accept, h11 accepts: the same method, target, fields, body, trailers, and the same bytes left over.
2. How bytes are cut into pieces makes no difference.
3. A message written and read again is the same message, and written again the same bytes.
4. The compiled scanner and the grammar give the same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import h11

from lbd.wire import head as fast, strict
from lbd.wire.grammar import HOP_BY_HOP, NOT_TRAILERS
from lbd.wire.http1 import (
    NO_BODY,
    UNTIL_CLOSE,
    WireError,
    encode_chunk,
    encode_last_chunk,
    encode_request,
    encode_response,
    response_framing,
)
from lbd.wire.message import RequestHead, ResponseHead
from tests.wire.reading import (
    LIMITS,
    H11Reading,
    Received,
    bytewise,
    fields_of,
    framing_of,
    h11_reading,
    read_request,
    read_response,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["check_request", "check_response", "check_twins"]

Fields = list[tuple[bytes, bytes]]


def check_request(data: bytes, pieces: Iterable[bytes] | None = None) -> bool:
    """Promises 1 to 3; whether it was accepted."""
    received = outcome(read_request, [data])
    check_pieces(read_request, received, bytewise(data) if pieces is None else pieces)
    if not isinstance(received, Received):
        return False
    reading = h11_opinion(data, None)
    assert isinstance(reading.head, h11.Request)
    head = received.head
    assert isinstance(head, RequestHead)
    assert head.method == reading.head.method
    assert head.target == expected_target(reading.head)
    assert head.authority == expected_authority(reading.head)
    compare(received, reading, HOP_BY_HOP | {b"host"})
    if head.authority:
        check_request_again(received)
    return True


def check_response(data: bytes, method: bytes, pieces: Iterable[bytes] | None = None) -> bool:
    def read(parts: Iterable[bytes]) -> Received | None:
        return read_response(parts, method)

    received = outcome(read, [data])
    check_pieces(read, received, bytewise(data) if pieces is None else pieces)
    if not isinstance(received, Received):
        return False
    head = received.head
    assert isinstance(head, ResponseHead)
    if head.status != 101:  # h11 wants to have been asked
        reading = h11_opinion(data, method)
        assert isinstance(reading.head, h11.Response | h11.InformationalResponse)
        assert (head.status, head.reason) == (reading.head.status_code, reading.head.reason)
        compare(received, reading, HOP_BY_HOP)
    check_response_again(received, method)
    return True


def check_twins(data: bytes) -> None:
    """Promise 4, of a head that fills `data`."""
    for ours, reference in ((fast.parse_request, strict.parse_request), (fast.parse_response, strict.parse_response)):
        assert verdict(ours, data, 0, len(data)) == verdict(reference, data, 0, len(data))
    for searched in (0, len(data) // 2):
        assert verdict(fast.find_head_end, data, searched) == verdict(strict.find_head_end, data, searched)


def verdict(decide: Callable[..., object], data: bytes, *places: int) -> str:
    try:
        return repr(decide(data, *places, LIMITS))
    except WireError as error:
        return repr(error)


def outcome(read: Callable[[Iterable[bytes]], Received | None], pieces: Iterable[bytes]) -> Received | WireError | None:
    try:
        return read(pieces)
    except WireError as error:
        return error


def check_pieces(
    read: Callable[[Iterable[bytes]], Received | None], expected: Received | WireError | None, pieces: Iterable[bytes]
) -> None:
    given = list(pieces)
    received = outcome(read, given)
    if isinstance(expected, WireError):
        if received is None:  # what comes in tiny pieces may be refused later, when its line has ended (strict.EARLY)
            received = outcome(read, [*given, b"\r\n\r\n"])
        assert isinstance(received, WireError), f"refused whole ({expected!r}), but not in pieces: {received!r}"
    else:
        assert repr(received) == repr(expected)


def h11_opinion(data: bytes, method: bytes | None) -> H11Reading:
    try:
        reading = h11_reading(data, method)
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"accepted, but h11 refuses it: {error}") from error
    assert reading is not None, "accepted, but h11 waits for more"
    return reading


def compare(received: Received, reading: H11Reading, ours: frozenset[bytes]) -> None:
    """Fields (but for those that are the connection's), body, trailers, and what is left over."""
    theirs = list(reading.head.headers)
    named = {
        option.strip().lower() for name, value in theirs if name == b"connection" for option in value.split(b",")
    }  # a named field is not handed on
    dropped = ours | named
    if isinstance(reading.head, h11.Request) and reading.head.http_version == b"1.0":
        dropped |= {b"expect"}
    assert fields_of(received.head.headers) == [field for field in theirs if field[0] not in dropped]
    lengths = {int(value) for name, value in theirs if name == b"content-length"}
    assert received.head.content_length == (lengths.pop() if lengths else -1)
    assert received.head.chunked == any(name == b"transfer-encoding" for name, _ in theirs)
    assert received.body == reading.body
    assert fields_of(received.trailers) == [field for field in reading.trailers if field[0] not in NOT_TRAILERS]
    assert received.leftover == reading.leftover


def expected_target(request: h11.Request) -> bytes:
    target = request.target
    if target.startswith(b"/") or target == b"*":
        return target
    _, _, rest = target.partition(b"://")
    starts = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
    if not starts:
        return b"*" if request.method == b"OPTIONS" else b"/"
    path = rest[min(starts) :]
    return path if path.startswith(b"/") else b"/" + path


def expected_authority(request: h11.Request) -> bytes:
    """The target's, if it has one, before Host's (RFC 9112, 3.2.2)."""
    if not request.target.startswith((b"/", b"*")):
        return request.target.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0].lower()
    return next((value.lower() for name, value in request.headers if name == b"host"), b"")


def body_again(received: Received) -> bytes:
    if not received.head.chunked:
        return received.body
    return (encode_chunk(received.body) if received.body else b"") + encode_last_chunk(received.trailers)


def check_request_again(received: Received) -> None:
    head = received.head
    assert isinstance(head, RequestHead)

    def written(request: RequestHead) -> bytes:
        return encode_request(request, request.target, request.authority, framing_of(request), b"")

    again = outcome(read_request, [written(head) + body_again(received) + received.leftover])
    assert isinstance(again, Received), again
    second = again.head
    assert isinstance(second, RequestHead)
    assert described(again) == described(received)
    assert (second.method, second.target, second.authority) == (head.method, head.target, head.authority)
    assert (second.path, second.query) == (head.path, head.query)
    assert head.has_proxy_fields or not second.has_proxy_fields  # one that Connection named was seen, and is not handed on
    assert written(second) == written(head)


def check_response_again(received: Received, method: bytes) -> None:
    head = received.head
    assert isinstance(head, ResponseHead)
    framing = response_framing(method, head)

    def written(response: ResponseHead) -> bytes:
        return encode_response(response, framing, 1, b"", b"")

    body = received.body if framing in (NO_BODY, UNTIL_CLOSE) else body_again(received)
    again = outcome(lambda parts: read_response(parts, method), [written(head) + body + received.leftover])
    assert isinstance(again, Received), again
    second = again.head
    assert isinstance(second, ResponseHead)
    assert (second.status, second.reason) == (head.status, head.reason)
    assert second.headers.items() == head.headers.items()
    assert (again.body, fields_of(again.trailers), again.leftover) == (received.body, fields_of(received.trailers), received.leftover)
    assert written(second) == written(head)


def described(received: Received) -> tuple[object, ...]:
    head = received.head
    return (
        head.headers.items(),
        head.content_length,
        head.chunked,
        received.body,
        fields_of(received.trailers),
        received.leftover,
    )
