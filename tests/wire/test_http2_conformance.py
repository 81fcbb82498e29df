"""Every MUST of RFC 9113, sections 3 to 8, that the other side can break: what it sends, and what becomes of it.

The frames are made by hand. Where the standard leaves a choice between a stream's error and the connection's, ours stands here.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from lbd.wire.http2 import Http2Codec
from lbd.wire.http2_events import (
    BodyArrived,
    ConnectionBroken,
    RequestArrived,
    RequestRefused,
    ResponseArrived,
    StreamReset,
    WentAway,
)
from lbd.wire.http2_limits import Http2Limits
from lbd.wire.message import RequestHead
from tests.wire.http2_frames import (
    ACK,
    CANCEL,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REQUEST,
    RESPONSE,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    WITH_PRIORITY,
    block,
    frames_of,
    goaway,
    goaways_of,
    greeted,
    headers,
    raw,
    reset,
    resets_of,
    settings,
    window,
)

MOST = 2**31 - 1


class Case(NamedTuple):
    section: str
    what: str
    data: bytes
    code: int


def request(*changes: tuple[str, str | bytes | None], more: tuple[tuple[str | bytes, str | bytes], ...] = (), ends: bool = True) -> bytes:
    """On stream 1: REQUEST with these pseudo-headers in place of its own (None: without), and more fields."""
    fields: dict[str, str | bytes | None] = {**dict(REQUEST), **dict(changes)}
    pairs = [(name, value) for name, value in fields.items() if value is not None]
    return headers(1, [*pairs, *more], END_HEADERS | (END_STREAM if ends else 0))


OPEN = headers(1, POST, END_HEADERS)  # stream 1, a body to come
ENDED = headers(1)  # stream 1, half closed
TWO_BYTES = request(more=(("content-length", "2"),), ends=False)

# The connection is lost
BREAKS = [
    Case("3.4", "a preface of another protocol", b"GET / HTTP/1.1\r\n", PROTOCOL_ERROR),
    Case("4.2", "a frame above SETTINGS_MAX_FRAME_SIZE", OPEN + raw(DATA, 0, 1, bytes(16385)), FRAME_SIZE_ERROR),
    Case("4.2", "a header block above SETTINGS_MAX_FRAME_SIZE", raw(HEADERS, END_HEADERS, 1, bytes(16385)), FRAME_SIZE_ERROR),
    Case("4.3", "a header block that is no HPACK", raw(HEADERS, END_HEADERS, 1, b"\x80"), COMPRESSION_ERROR),
    Case("4.3", "an index beyond the tables", raw(HEADERS, END_HEADERS, 1, b"\xff\x7f"), COMPRESSION_ERROR),
    Case("4.3", "a header block that ends in the middle of a field", raw(HEADERS, END_HEADERS, 1, b"\x00\x05ab"), COMPRESSION_ERROR),
    Case(
        "4.3", "a dynamic table above what we allow", raw(HEADERS, END_HEADERS, 1, b"\x3f\xff\xff\x03" + block(REQUEST)), COMPRESSION_ERROR
    ),
    Case("4.3", "another frame within a header block", raw(HEADERS, 0, 1, block(REQUEST)) + raw(PING, 0, 0, bytes(8)), PROTOCOL_ERROR),
    Case("4.3", "an unknown frame within a header block", raw(HEADERS, 0, 1, block(REQUEST)) + raw(0x77, 0, 1, b"?"), PROTOCOL_ERROR),
    Case("4.3", "another stream's CONTINUATION", raw(HEADERS, 0, 1, block(REQUEST)) + raw(CONTINUATION, 4, 3, b""), PROTOCOL_ERROR),
    Case("5.1", "DATA on an idle stream", raw(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    Case("5.1", "RST_STREAM on an idle stream", reset(1), PROTOCOL_ERROR),
    Case("5.1", "WINDOW_UPDATE on an idle stream", window(1, 1), PROTOCOL_ERROR),
    Case("5.1", "CONTINUATION on an idle stream", raw(CONTINUATION, END_HEADERS, 1, block(REQUEST)), PROTOCOL_ERROR),
    Case("5.1", "HEADERS on a stream that its sender has reset", OPEN + reset(1) + headers(1), STREAM_CLOSED),
    Case("5.1.1", "a stream with an even number", headers(2), PROTOCOL_ERROR),
    Case("5.1.1", "a stream with a number below one before", headers(5) + headers(3), PROTOCOL_ERROR),
    Case("5.4.1", "DATA on a stream of ours, which is idle", raw(DATA, 0, 2, b"x"), PROTOCOL_ERROR),
    Case("6.1", "DATA on stream 0", raw(DATA, 0, 0, b"x"), PROTOCOL_ERROR),
    Case("6.1", "DATA that is all padding and more", OPEN + raw(DATA, PADDED, 1, b"\x05abcd"), PROTOCOL_ERROR),
    Case("6.1", "padded DATA without a length of it", OPEN + raw(DATA, PADDED, 1, b""), FRAME_SIZE_ERROR),
    Case("6.2", "HEADERS on stream 0", raw(HEADERS, END_HEADERS, 0, block(REQUEST)), PROTOCOL_ERROR),
    Case("6.2", "HEADERS that are all padding and more", raw(HEADERS, END_HEADERS | PADDED, 1, b"\x04abc"), PROTOCOL_ERROR),
    Case("6.2", "HEADERS too short for their priority", raw(HEADERS, END_HEADERS | WITH_PRIORITY, 1, b"\0\0\0\0"), FRAME_SIZE_ERROR),
    Case("6.3", "PRIORITY on stream 0", raw(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    Case("6.3", "a short PRIORITY on a stream that cannot be reset", raw(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    Case("6.4", "RST_STREAM on stream 0", reset(0), PROTOCOL_ERROR),
    Case("6.4", "a short RST_STREAM", OPEN + raw(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    Case("6.5", "SETTINGS on a stream", raw(SETTINGS, 0, 1, b""), PROTOCOL_ERROR),
    Case("6.5", "SETTINGS of a broken length", raw(SETTINGS, 0, 0, bytes(5)), FRAME_SIZE_ERROR),
    Case("6.5", "an acknowledgement of SETTINGS with content", raw(SETTINGS, ACK, 0, bytes(6)), FRAME_SIZE_ERROR),
    Case("6.5.2", "ENABLE_PUSH of 2", settings((2, 2)), PROTOCOL_ERROR),
    Case("6.5.2", "INITIAL_WINDOW_SIZE above 2^31-1", settings((4, 2**31)), FLOW_CONTROL_ERROR),
    Case("6.5.2", "MAX_FRAME_SIZE below 2^14", settings((5, 16383)), PROTOCOL_ERROR),
    Case("6.5.2", "MAX_FRAME_SIZE above 2^24-1", settings((5, 2**24)), PROTOCOL_ERROR),
    Case("8441", "ENABLE_CONNECT_PROTOCOL of 2", settings((8, 2)), PROTOCOL_ERROR),
    Case("8441", "ENABLE_CONNECT_PROTOCOL taken back", settings((8, 1)) + settings((8, 0)), PROTOCOL_ERROR),
    Case("6.6", "PUSH_PROMISE by a client", OPEN + raw(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(REQUEST)), PROTOCOL_ERROR),
    Case("6.6", "PUSH_PROMISE on stream 0", raw(PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\2" + block(REQUEST)), PROTOCOL_ERROR),
    Case("6.7", "PING on a stream", raw(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    Case("6.7", "a short PING", raw(PING, 0, 0, bytes(6)), FRAME_SIZE_ERROR),
    Case("6.8", "GOAWAY on a stream", raw(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    Case("6.8", "a short GOAWAY", raw(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    Case("6.8", "a GOAWAY whose last stream rises", goaway(0) + goaway(2), PROTOCOL_ERROR),
    Case("6.9", "a short WINDOW_UPDATE", raw(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    Case("6.9", "the connection's window opened by 0", window(0, 0), PROTOCOL_ERROR),
    Case("6.9.1", "the connection's window above 2^31-1", window(0, MOST), FLOW_CONTROL_ERROR),
    Case("6.9.2", "a stream's window above 2^31-1 by SETTINGS", OPEN + window(1, MOST - 65535) + settings((4, 65536)), FLOW_CONTROL_ERROR),
    Case("6.10", "CONTINUATION on stream 0", raw(HEADERS, 0, 1, block(REQUEST)) + raw(CONTINUATION, END_HEADERS, 0, b""), PROTOCOL_ERROR),
    Case("6.10", "CONTINUATION behind the end of a header block", ENDED + raw(CONTINUATION, END_HEADERS, 1, b""), PROTOCOL_ERROR),
]

# A stream is
NO_FIELD = [
    ("an upper-case name", "X-Upper", "1"),
    ("an empty name", "", "1"),
    ("a name with a space", "a b", "1"),
    ("a name with a colon", "a:b", "1"),
    ("a name with a control byte", "a\x01", "1"),
    ("a name with a line feed", "a\nb", "1"),
    ("a name with a byte above ASCII", "\xe4", "1"),
    ("a NUL in a value", "x", "a\0b"),
    ("a carriage return in a value", "x", "a\rb"),
    ("a line feed in a value", "x", "a\nb"),
    ("a forged field in a value", "x", "a\r\nhost: evil"),
    ("another control byte in a value", "x", "a\x1bb"),
    ("a DEL in a value", "x", "a\x7f"),
    ("a space before a value", "x", " a"),
    ("a space behind a value", "x", "a "),
    ("a tab before a value", "x", "\ta"),
    ("connection", "connection", "close"),
    ("keep-alive", "keep-alive", "timeout=5"),
    ("proxy-connection", "proxy-connection", "keep-alive"),
    ("transfer-encoding", "transfer-encoding", "chunked"),
    ("upgrade", "upgrade", "h2c"),
    ("te that is not trailers", "te", "gzip"),
    ("te that is trailers and more", "te", "trailers, gzip"),
]
RESETS = [
    *(Case("8.2", what, request(more=((name, value),)), PROTOCOL_ERROR) for what, name, value in NO_FIELD),
    Case("5.1", "DATA behind the end of a stream", ENDED + raw(DATA, 0, 1, b"x"), STREAM_CLOSED),
    Case("5.1", "HEADERS behind the end of a stream", ENDED + headers(1), STREAM_CLOSED),
    Case("5.1", "DATA on a stream that its sender has reset", OPEN + reset(1) + raw(DATA, 0, 1, b"x"), STREAM_CLOSED),
    Case("5.1.1", "DATA on a stream that was left out", headers(3) + raw(DATA, 0, 1, b"x"), STREAM_CLOSED),
    Case("6.3", "a short PRIORITY", OPEN + raw(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    Case("6.9", "a stream's window opened by 0", OPEN + window(1, 0), PROTOCOL_ERROR),
    Case("6.9.1", "a stream's window above 2^31-1", OPEN + window(1, MOST), FLOW_CONTROL_ERROR),
    Case("6.9.1", "more than a stream's window", OPEN + raw(DATA, 0, 1, bytes(16384)) * 5, FLOW_CONTROL_ERROR),
    Case("8.1", "trailers that do not end the stream", OPEN + headers(1, [("x", "1")], END_HEADERS), PROTOCOL_ERROR),
    Case("8.1", "a pseudo-header among the trailers", OPEN + headers(1, [(":path", "/")]), PROTOCOL_ERROR),
    Case("8.1", "an upper-case name among the trailers", OPEN + headers(1, [("X-Up", "/")]), PROTOCOL_ERROR),
    Case("8.1", "connection among the trailers", OPEN + headers(1, [("connection", "x")]), PROTOCOL_ERROR),
    Case("8.1.1", "a body shorter than its length", TWO_BYTES + raw(DATA, 1, 1, b"x"), PROTOCOL_ERROR),
    Case("8.1.1", "a body longer than its length", TWO_BYTES + raw(DATA, 0, 1, b"xxx"), PROTOCOL_ERROR),
    Case(
        "8.1.1", "a body shorter than its length, behind it trailers",
        TWO_BYTES + raw(DATA, 0, 1, b"x") + headers(1, [("x", "1")]), PROTOCOL_ERROR,
    ),
    Case("8.1.1", "a length without a body", request(more=(("content-length", "2"),)), PROTOCOL_ERROR),
    Case("8.3", "a pseudo-header behind a field", headers(1, [*REQUEST[:3], ("x", "1"), REQUEST[3]]), PROTOCOL_ERROR),
    Case("8.3", "an unknown pseudo-header", request((":unknown", "1")), PROTOCOL_ERROR),
    Case("8.3", "a response's pseudo-header", request((":status", "200")), PROTOCOL_ERROR),
    *(Case("8.3", f"{name} twice", headers(1, [*REQUEST, (name, value)]), PROTOCOL_ERROR) for name, value in REQUEST),
    *(Case("8.3.1", f"no {name}", request((name, None)), PROTOCOL_ERROR) for name in (":method", ":scheme", ":path")),
    *(Case("8.3.1", f"an empty {name}", request((name, "")), PROTOCOL_ERROR) for name in (":method", ":scheme", ":path")),
    Case("8.3.1", "a :method with a space", request((":method", "GE T")), PROTOCOL_ERROR),
    Case("8.3.1", "a :scheme that nobody serves", request((":scheme", "ftp")), PROTOCOL_ERROR),
    *(
        Case("8.3.1", f"the :path {path!r}", request((":path", path)), PROTOCOL_ERROR)
        for path in ("a", "*", "/a b", "/a#b", "/a\tb", "/\x7f", "/\xe4", "http://example.com/", "/a\r\nx: 1")
    ),
    Case("8.5", "CONNECT with a :path", request((":method", "CONNECT"), (":scheme", None)), PROTOCOL_ERROR),
    Case("8441", ":protocol that was not offered", request((":method", "CONNECT"), (":protocol", "websocket")), PROTOCOL_ERROR),
    Case("8441", ":protocol without CONNECT", request((":protocol", "websocket")), PROTOCOL_ERROR),
]  # fmt: skip

# What is to be passed over
IGNORED = [
    ("4.1", "a frame of unknown type", raw(0x77, 0xFF, 0, b"?") + raw(0x77, 0xFF, 1, b"?")),
    ("4.1", "unknown flags", raw(PING, 0xFE, 0, bytes(8))),
    ("4.1", "the reserved bit of a stream's number", raw(WINDOW_UPDATE, 0, 1 << 31, b"\0\0\0\1")),
    ("5.1", "PRIORITY on an idle stream", raw(PRIORITY, 0, 9, bytes(5))),
    ("5.1", "WINDOW_UPDATE on a stream that is closed", OPEN + reset(1) + window(1, 1)),
    ("5.1", "RST_STREAM on a stream that is closed", OPEN + reset(1) + reset(1)),
    ("5.1", "PRIORITY on a stream that is closed", OPEN + reset(1) + raw(PRIORITY, 0, 1, bytes(5))),
    ("6.3", "a stream that depends on itself", OPEN + raw(PRIORITY, 0, 1, b"\0\0\0\1\0")),
    ("6.5.2", "an unknown setting", settings((0xAAAA, 7))),
    ("6.8", "GOAWAY: streams that are there go on", OPEN + goaway(0) + raw(DATA, END_STREAM, 1, b"x")),
    ("6.9.1", "the reserved bit of an increment", raw(WINDOW_UPDATE, 0, 0, b"\x80\0\0\1")),
]


def names(cases: list[Case]) -> list[str]:
    return [f"{case.section} {case.what}"[:90] for case in cases]


@pytest.mark.parametrize("case", BREAKS, ids=names(BREAKS))
@pytest.mark.parametrize("step", [0, 1])
def test_the_connection_is_lost(case: Case, step: int) -> None:
    """Whole, and byte by byte."""
    codec = greeted() if case.section != "3.4" else Http2Codec(is_downstream=True, limits=Http2Limits())
    events = []
    for piece in [case.data[at : at + 1] for at in range(len(case.data))] if step and len(case.data) < 500 else [case.data]:
        events += codec.receive(piece, 0.0)
    assert isinstance(events[-1], ConnectionBroken), events
    assert events[-1].code == case.code, events[-1]
    assert codec.is_broken
    sent = frames_of(codec.take())
    assert goaways_of(sent) == [case.code]
    assert sent[-1].type == GOAWAY
    assert codec.receive(headers(99), 0.0) == []


@pytest.mark.parametrize("case", RESETS, ids=names(RESETS))
def test_a_stream_is_lost_and_the_connection_goes_on(case: Case) -> None:
    codec = greeted()
    events = codec.receive(case.data, 0.0)
    sent = frames_of(codec.take())
    assert resets_of(sent) == [(1, case.code)]
    assert goaways_of(sent) == []
    assert 1 not in codec.streams
    heads = [event for event in events if isinstance(event, RequestArrived)]
    last = events[-1]
    if heads and heads[-1].stream == 1:
        assert isinstance(last, StreamReset)
        if last.is_ours:
            assert last.code == case.code
    elif not heads:
        assert isinstance(last, RequestRefused)
        assert not last.can_answer
    after = codec.receive(headers(7), 0.0)
    assert isinstance(after[0], RequestArrived)


@pytest.mark.parametrize(("section", "what", "data"), IGNORED, ids=[f"{section} {what}" for section, what, _ in IGNORED])
def test_what_is_passed_over(section: str, what: str, data: bytes) -> None:
    codec = greeted()
    codec.receive(data, 0.0)
    sent = frames_of(codec.take())
    assert resets_of(sent) == []
    assert goaways_of(sent) == []
    assert isinstance(codec.receive(headers(11), 0.0)[0], RequestArrived)


# The same of responses: lbd has sent a GET on stream 1 and has heard nothing yet.
HEAD = headers(1, RESPONSE, END_HEADERS)
OK = (":status", "200")


def response(*fields: tuple[str, str], ends: bool = False) -> bytes:
    return headers(1, fields, END_HEADERS | (END_STREAM if ends else 0))


UPSTREAM_BREAKS = [
    Case("5.1.1", "a stream that the upstream opens", headers(2, RESPONSE), PROTOCOL_ERROR),
    Case("5.1.1", "a stream that we have not opened", headers(3, RESPONSE), PROTOCOL_ERROR),
    Case("5.1", "DATA on a stream that we have not opened", raw(DATA, 0, 3, b"x"), PROTOCOL_ERROR),
    Case("6.5.2", "ENABLE_PUSH of 1 by a server", settings((2, 1)), PROTOCOL_ERROR),
    Case("6.9", "the connection's window opened by 0", window(0, 0), PROTOCOL_ERROR),
    Case("6.9.1", "the connection's window above 2^31-1", window(0, MOST), FLOW_CONTROL_ERROR),
    Case("6.9.2", "a stream's window above 2^31-1 by SETTINGS", window(1, MOST - 65535) + settings((4, 65536)), FLOW_CONTROL_ERROR),
    Case("8.4", "PUSH_PROMISE, that we have forbidden", raw(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block(REQUEST)), PROTOCOL_ERROR),
]
UPSTREAM_RESETS = [
    *(Case("8.2", what, response((":status", "200"), (name, value)), PROTOCOL_ERROR) for what, name, value in NO_FIELD),
    Case("8.1", "DATA before the head", raw(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR),
    Case("8.1", "DATA behind an informational response", response((":status", "100")) + raw(DATA, 0, 1, b"x"), PROTOCOL_ERROR),
    Case("8.1", "an informational response that ends the stream", response((":status", "103"), ends=True), PROTOCOL_ERROR),
    Case("8.1", "trailers that do not end the stream", HEAD + response(("x", "1")), PROTOCOL_ERROR),
    Case("8.1", "a second head", HEAD + response((":status", "200"), ends=True), PROTOCOL_ERROR),
    Case("8.1.1", "a body longer than its length", response(OK, ("content-length", "1")) + raw(DATA, 0, 1, b"xx"), PROTOCOL_ERROR),
    Case("8.1.1", "a body shorter than its length", response(OK, ("content-length", "2")) + raw(DATA, 1, 1, b"x"), PROTOCOL_ERROR),
    Case("8.1.1", "a length without a body", response((":status", "200"), ("content-length", "2"), ends=True), PROTOCOL_ERROR),
    Case("8.1.1", "a length that is none", response((":status", "200"), ("content-length", "+1")), PROTOCOL_ERROR),
    Case("8.1.1", "two lengths", response((":status", "200"), ("content-length", "1"), ("content-length", "2")), PROTOCOL_ERROR),
    Case("9110", "a 204 with a body", response((":status", "204")) + raw(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR),
    Case("9110", "a 304 with a body", response((":status", "304")) + raw(DATA, END_STREAM, 1, b"x"), PROTOCOL_ERROR),
    *(
        Case("8.3.2", f"the :status {text!r}", response((":status", text)), PROTOCOL_ERROR)
        for text in ("", "20", "2000", "099", "abc", "2 0", "\xb2\xb2\xb2")
    ),
    Case("8.3.2", "no :status", response(("x", "1")), PROTOCOL_ERROR),
    Case("8.3.2", ":status twice", response((":status", "200"), (":status", "200")), PROTOCOL_ERROR),
    Case("8.3.2", "a request's pseudo-header", response((":status", "200"), (":path", "/")), PROTOCOL_ERROR),
    Case("8.3", "a pseudo-header behind a field", response(("x", "1"), (":status", "200")), PROTOCOL_ERROR),
    Case("8.6", "101 Switching Protocols", response((":status", "101")), PROTOCOL_ERROR),
    Case("6.9", "a stream's window opened by 0 before the head", window(1, 0), PROTOCOL_ERROR),
    Case("6.9", "a stream's window opened by 0", HEAD + window(1, 0), PROTOCOL_ERROR),
    Case("6.9.1", "a stream's window above 2^31-1", HEAD + window(1, MOST), FLOW_CONTROL_ERROR),
    Case("6.9.1", "more than a stream's window", HEAD + raw(DATA, 0, 1, bytes(16384)) * 5, FLOW_CONTROL_ERROR),
]  # fmt: skip


def asked() -> Http2Codec:
    codec = greeted(is_downstream=False)
    assert codec.begin_request(RequestHead.make(scheme=b"http"), b"/", b"a", b"", False) == 1
    codec.take()
    return codec


@pytest.mark.parametrize("case", UPSTREAM_BREAKS, ids=names(UPSTREAM_BREAKS))
def test_an_upstream_connection_is_lost(case: Case) -> None:
    codec = asked()
    last = codec.receive(case.data, 0.0)[-1]
    assert isinstance(last, ConnectionBroken)
    assert last.code == case.code
    assert goaways_of(frames_of(codec.take())) == [case.code]


@pytest.mark.parametrize("case", UPSTREAM_RESETS, ids=names(UPSTREAM_RESETS))
def test_a_response_is_refused_and_the_connection_goes_on(case: Case) -> None:
    codec = asked()
    last = codec.receive(case.data, 0.0)[-1]
    assert isinstance(last, StreamReset)
    assert (last.stream, last.code, last.is_ours) == (1, case.code, True)
    assert resets_of(frames_of(codec.take())) == [(1, case.code)]
    assert codec.count == 0
    assert codec.begin_request(RequestHead.make(scheme=b"http"), b"/", b"a", b"", True) == 3
    assert isinstance(codec.receive(headers(3, RESPONSE), 0.0)[0], ResponseArrived)


def test_a_response_to_head_has_a_length_and_no_body() -> None:
    codec = greeted(is_downstream=False)
    codec.begin_request(RequestHead.make(method=b"HEAD", scheme=b"http"), b"/", b"a", b"", True)
    event = codec.receive(response((":status", "200"), ("content-length", "9"), ends=True), 0.0)[0]
    assert isinstance(event, ResponseArrived)
    assert (event.head.content_length, event.has_ended) == (9, True)
    codec.begin_request(RequestHead.make(method=b"HEAD", scheme=b"http"), b"/", b"a", b"", True)
    last = codec.receive(headers(3, [(":status", "200"), ("content-length", "1")], END_HEADERS) + raw(DATA, END_STREAM, 3, b"x"), 0.0)[-1]
    assert isinstance(last, StreamReset)


SMALL = Http2Limits(window=65535, connection_window=65535)


def opened(*, is_downstream: bool) -> tuple[Http2Codec, tuple[int, int]]:
    """Two streams on which bodies may come, that share a window which is no larger than one of theirs."""
    codec = greeted(is_downstream=is_downstream, limits=SMALL)
    if is_downstream:
        codec.receive(headers(1, POST, END_HEADERS) + headers(3, POST, END_HEADERS), 0.0)
    else:
        for number in (1, 3):
            assert codec.begin_request(RequestHead.make(scheme=b"http"), b"/", b"a", b"", True) == number
            codec.receive(headers(number, RESPONSE, END_HEADERS), 0.0)
    codec.take()
    return codec, (1, 3)


@pytest.mark.parametrize("is_downstream", [True, False])
@pytest.mark.parametrize("padded", [False, True])
def test_more_than_the_window_of_the_connection(is_downstream: bool, padded: bool) -> None:  # 6.9.1
    codec, (one, other) = opened(is_downstream=is_downstream)
    codec.receive(raw(DATA, 0, one, bytes(16384)) * 2 + raw(DATA, 0, other, bytes(16384)) + raw(DATA, 0, other, bytes(16383)), 0.0)
    assert not codec.is_broken, "all of it, and no more"
    last = codec.receive(raw(DATA, PADDED, other, b"\0x") if padded else raw(DATA, 0, other, b"x"), 0.0)[-1]
    assert isinstance(last, ConnectionBroken)
    assert last.code == FLOW_CONTROL_ERROR
    assert goaways_of(frames_of(codec.take())) == [FLOW_CONTROL_ERROR]


@pytest.mark.parametrize("is_downstream", [True, False])
def test_the_window_of_the_connection_counts_for_streams_that_are_closed_too(is_downstream: bool) -> None:  # 6.9
    codec, (one, other) = opened(is_downstream=is_downstream)
    codec.receive(raw(DATA, 0, one, bytes(16384)) * 3, 0.0)
    codec.reset(other, CANCEL)
    last = codec.receive(raw(DATA, 0, other, bytes(16384)), 0.0)[-1]
    assert isinstance(last, ConnectionBroken)
    assert last.code == FLOW_CONTROL_ERROR


@pytest.mark.parametrize("is_downstream", [True, False])
def test_each_settings_is_acknowledged(is_downstream: bool) -> None:  # 6.5.3
    codec = Http2Codec(is_downstream=is_downstream, limits=Http2Limits())
    codec.take()
    preface = PREFACE if is_downstream else b""
    for count, data in [(1, preface + settings()), (1, settings((4, 100), (3, 7))), (3, settings() * 3), (0, raw(SETTINGS, ACK, 0))]:
        codec.receive(data, 0.0)
        sent = frames_of(codec.take())
        assert [(frame.type, frame.stream_id, set(frame.flags), frame.settings) for frame in sent] == [(SETTINGS, 0, {"ACK"}, {})] * count


@pytest.mark.parametrize("is_downstream", [True, False])
@pytest.mark.parametrize("code", [14, 0xFF, 0xBADC0DE, 0xFFFFFFFF])
def test_error_codes_that_nobody_knows_mean_nothing_special(is_downstream: bool, code: int) -> None:  # 7
    codec, (one, other) = opened(is_downstream=is_downstream)
    event = codec.receive(reset(one, code), 0.0)[-1]
    assert isinstance(event, StreamReset)
    assert (event.stream, event.code, event.is_ours) == (one, code, False)
    went = codec.receive(goaway(MOST, code), 0.0)[-1]
    assert isinstance(went, WentAway)
    assert (went.last, went.code) == (MOST, code)
    assert isinstance(codec.receive(raw(DATA, END_STREAM, other, b"x"), 0.0)[-1], BodyArrived), "the other stream goes on"
    sent = frames_of(codec.take())
    assert (resets_of(sent), goaways_of(sent)) == ([], [])


@pytest.mark.parametrize("is_downstream", [True, False])
@pytest.mark.parametrize("first", [raw(PING, 0, 0, bytes(8)), raw(SETTINGS, ACK, 0), window(0, 1), headers(1)])
def test_settings_come_first(is_downstream: bool, first: bytes) -> None:  # 3.4
    codec = Http2Codec(is_downstream=is_downstream, limits=Http2Limits())
    last = codec.receive((PREFACE if is_downstream else b"") + first + settings(), 0.0)[-1]
    assert isinstance(last, ConnectionBroken)
    assert last.code == PROTOCOL_ERROR
