"""What holds for any bytes on a HTTP/2 connection, behind a greeting. AssertionError: a promise is broken.

1. Nothing raises: what is wrong is an event, and when it is the connection that is wrong, the last one.
2. How the bytes are cut into pieces makes no difference to the events, nor to what is sent.
3. What is sent can be read by hyperframe.
4. What passes for a request is one in HTTP/1 too, with the same meaning: nothing in it can become another field, or another request.
   The same of fields of responses and trailers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.body import CHUNKED, LENGTH, NO_BODY
from lbd.wire.encode import encode_request
from lbd.wire.head import parse_request
from lbd.wire.http2_events import ConnectionBroken, RequestArrived, ResponseArrived, TrailersArrived
from lbd.wire.http2_limits import Http2Limits
from lbd.wire.message import Headers, RequestHead, is_field_name, is_field_value
from lbd.wire.refusal import HeadLimits
from tests.wire.http2_frames import frames_of, greeted

if TYPE_CHECKING:
    from lbd.wire.http2_events import Event

__all__ = ["check_http2"]

LIMITS = Http2Limits(window=4096, streams=10)
BYTE_BY_BYTE = 2000  # longer ones come in larger pieces: the fuzzer has little time for each
GENEROUS = HeadLimits(1 << 20, 1 << 20, 1000)


def check_http2(data: bytes, *, is_downstream: bool) -> None:
    """`data` comes from a client that has been greeted, or from an upstream that owes answers to a GET and to a HEAD."""
    events, sent = told(data, len(data) or 1, is_downstream)
    for step in (1, 7) if len(data) <= BYTE_BY_BYTE else (509, 16_384):
        again, sent_again = told(data, step, is_downstream)
        assert list(map(repr, again)) == list(map(repr, events))
        assert sent_again == sent
    frames_of(sent)
    assert not any(isinstance(event, ConnectionBroken) for event in events[:-1])
    for event in events:
        if isinstance(event, RequestArrived):
            check_meaning(event.head)
        elif isinstance(event, ResponseArrived):
            check_fields(event.head.headers)
            assert 100 <= event.head.status <= 999
        elif isinstance(event, TrailersArrived) and event.trailers is not None:
            check_fields(event.trailers)


def told(data: bytes, step: int, is_downstream: bool) -> tuple[list[Event], bytes]:
    codec = greeted(is_downstream=is_downstream, limits=LIMITS)
    if not is_downstream:
        for method in (b"GET", b"HEAD"):
            codec.begin_request(RequestHead.make(method=method, scheme=b"http"), b"/", b"a", b"", False)
        codec.take()
    events: list[Event] = []
    for at in range(0, len(data), step):
        events += codec.receive(data[at : at + step], 0.0)
    return events, codec.take()


def check_meaning(head: RequestHead) -> None:
    check_fields(head.headers)
    if head.method == b"CONNECT":
        return
    framing = LENGTH if head.content_length >= 0 else CHUNKED if head.chunked else NO_BODY
    wire = encode_request(head, head.target, head.authority, framing, b"")
    read = parse_request(wire, 0, len(wire), GENEROUS)
    assert (read.method, read.target, read.authority) == (head.method, head.target, head.authority)
    assert (read.content_length, read.chunked, read.keep_alive, read.upgrade) == (head.content_length, head.chunked, True, b"")
    assert read.headers.items() == head.headers.items()
    assert wire.count(b"\r\n\r\n") == 1


def check_fields(headers: Headers) -> None:
    block = headers.encode()
    assert block == b"".join(b"%b: %b\r\n" % (name, value) for name, value in headers.items())
    assert all(is_field_name(name) and is_field_value(value) and name == name.lower() for name, value in headers.items())
