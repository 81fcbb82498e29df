"""The HTTP/2 codec where nobody breaks a rule: heads both ways, windows, ends; and its limits. h2 is the other side where it can be."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack.hpack import Encoder
from hypothesis import given, strategies as st

from lbd.wire.http2 import Http2Codec, StreamGone
from lbd.wire.http2_events import (
    BodyArrived,
    ConnectionBroken,
    Event,
    PingAnswered,
    RequestArrived,
    RequestRefused,
    ResponseArrived,
    StreamReset,
    TrailersArrived,
    WentAway,
    WindowOpened,
)
from lbd.wire.http2_limits import Allowance, Http2Limits
from lbd.wire.message import Headers, RequestHead, ResponseHead
from tests.wire.http2_frames import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    NO_ERROR,
    PADDED,
    PING,
    POST,
    PREFACE,
    REFUSED_STREAM,
    REQUEST,
    SETTINGS,
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
from tests.wire.http2_promises import check_http2

if TYPE_CHECKING:
    from collections.abc import Callable

MOST = 2**31 - 1
OPEN = headers(1, POST, END_HEADERS)


def arrived(fields: Any, *, ends: bool = True, limits: Http2Limits | None = None) -> Any:  # noqa: ANN401 - any event
    """The event that a request with these fields makes."""
    codec = greeted(limits=limits)
    return codec.receive(headers(1, fields, END_HEADERS | (END_STREAM if ends else 0)), 0.0)[0]


def client() -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
    connection.initiate_connection()
    return connection


def server() -> h2.connection.H2Connection:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    connection.initiate_connection()
    return connection


# Heads that come in


def test_a_request() -> None:
    fields = [(":method", "GET"), (":scheme", "https"), (":path", "/a?b=c"), (":authority", "Example.com:8443"), ("accept", "*/*")]
    head = arrived(fields).head
    assert (head.method, head.target, head.path, head.query) == (b"GET", b"/a?b=c", b"/a", b"b=c")
    assert (head.authority, head.scheme, head.minor) == (b"example.com:8443", b"https", 2)
    assert (head.content_length, head.chunked, head.keep_alive) == (-1, False, True)
    assert head.headers.encode() == b"accept: */*\r\n"


@pytest.mark.parametrize(
    ("more", "attribute", "value"),
    [
        ([("content-length", "5")], "content_length", 5),
        ([("content-length", "5"), ("content-length", "5")], "content_length", 5),
        ([], "chunked", True),
        ([("content-length", "5")], "chunked", False),
        ([("expect", "100-continue")], "expect_continue", True),
        ([("te", "trailers")], "te_trailers", True),
        ([("x-forwarded-for", "1.2.3.4")], "has_proxy_fields", True),
        ([("x-request-id", "1")], "has_proxy_fields", True),
        ([("x-other", "1")], "has_proxy_fields", False),
    ],
)
def test_what_frames_a_request_is_in_attributes(more: list[tuple[str, str]], attribute: str, value: object) -> None:
    assert getattr(arrived([*POST, *more], ends=False).head, attribute) == value


@pytest.mark.parametrize(
    ("more", "block"),
    [
        ([("cookie", "a=1"), ("x", "1"), ("cookie", "b=2")], b"x: 1\r\ncookie: a=1; b=2\r\n"),
        ([("content-length", "5"), ("x", "1")], b"x: 1\r\n"),
        ([("te", "trailers"), ("host", "example.com")], b""),
        ([("expect", "100-continue"), ("via", "1.1 a")], b"expect: 100-continue\r\nvia: 1.1 a\r\n"),
        ([("x", ""), ("x", "a b\tc"), ("x", b"\xe4")], b"x: \r\nx: a b\tc\r\nx: \xe4\r\n"),
    ],
)
def test_fields_to_hand_on(more: list[tuple[str, str | bytes]], block: bytes) -> None:
    assert arrived([*POST, *more], ends=False).head.headers.encode() == block


@pytest.mark.parametrize(
    ("authority", "host", "expected"),
    [
        ("a.example", None, b"a.example"),
        (None, "a.example", b"a.example"),
        ("a.example", "A.example", b"a.example"),
        ("a.example:443", "a.example", b"a.example:443"),
        ("a.example", "b.example", "bad_host"),
        ("a.example", "a.example:80", "bad_host"),
        ("user@a.example", None, "bad_host"),
        ("a.example:port", None, "bad_host"),
        ("", None, "bad_host"),
        ("a b", None, "bad_host"),
        ("a.example/x", None, "bad_host"),
        ("a.example", "", "bad_host"),
        (None, None, "bad_host"),
    ],
)
def test_authority_and_host_say_the_same(authority: str | None, host: str | None, expected: bytes | str) -> None:
    fields = [
        *REQUEST[:3],
        *([(":authority", authority)] if authority is not None else []),
        *([("host", host)] if host is not None else []),
    ]
    event = arrived(fields)
    if isinstance(expected, bytes):
        assert event.head.authority == expected
    else:
        assert (event.error.reason, event.error.status, event.can_answer) == (expected, 400, True)


def test_several_hosts_are_none() -> None:
    assert arrived([*REQUEST, ("host", "example.com"), ("host", "example.com")]).error.reason == "bad_host"


@pytest.mark.parametrize(
    ("fields", "reason", "status"),
    [
        ([(":method", "CONNECT"), (":authority", "a:443")], "unsupported", 501),
        ([*REQUEST[:2], (":path", "/" + "a" * 200), REQUEST[3]], "target_too_long", 414),
        ([*REQUEST, ("x", "a" * 2000)], "head_too_large", 431),
        ([*REQUEST, *[("x", "")] * 21], "head_too_large", 431),
        ([*POST, ("content-length", "1"), ("content-length", "2")], "bad_framing", 400),
        ([*POST, ("content-length", "-1")], "bad_framing", 400),
        ([*POST, ("content-length", "1" * 19)], "bad_framing", 400),
    ],
)
def test_what_is_answered_though_it_is_no_request(fields: Any, reason: str, status: int) -> None:  # noqa: ANN401
    codec = greeted(limits=Http2Limits(head=2000, target=100, fields=20))
    event = codec.receive(headers(1, fields), 0.0)[0]
    assert isinstance(event, RequestRefused)
    assert (event.error.reason, event.error.status, event.can_answer) == (reason, status, True)
    codec.send_response(1, ResponseHead.make(status=status, content_length=0), b"", True)
    assert resets_of(frames_of(codec.take())) == []
    assert codec.count == 0


def test_options_of_the_server_as_a_whole() -> None:
    assert arrived([(":method", "OPTIONS"), REQUEST[1], (":path", "*"), REQUEST[3]]).head.target == b"*"


def test_extended_connect_where_it_is_offered() -> None:
    fields = [(":method", "CONNECT"), *REQUEST[1:], (":protocol", "websocket")]
    limits = Http2Limits(extended_connect=True)
    event = arrived(fields, ends=False, limits=limits)
    assert (event.head.method, event.head.upgrade) == (b"CONNECT", b"websocket")
    first = Http2Codec(is_downstream=True, limits=limits).take()
    assert frames_of(first)[0].settings[8] == 1


def test_trailers_lose_what_must_not_come_last() -> None:
    codec = greeted()
    events = codec.receive(OPEN + headers(1, [("grpc-status", "0"), ("content-type", "x"), ("set-cookie", "a")]), 0.0)
    last = events[-1]
    assert isinstance(last, TrailersArrived)
    assert last.trailers is not None
    assert last.trailers.encode() == b"grpc-status: 0\r\n"


@pytest.mark.parametrize("flags", [0, PADDED, WITH_PRIORITY, PADDED | WITH_PRIORITY])
def test_padding_and_priorities_are_passed_over(flags: int) -> None:
    content = (b"\0\0\0\0\x10" if flags & WITH_PRIORITY else b"") + block(POST)
    if flags & PADDED:
        content = b"\x03" + content + bytes(3)
    codec = greeted()
    events = codec.receive(raw(HEADERS, END_HEADERS | flags, 1, content) + raw(DATA, END_STREAM | PADDED, 1, b"\x02xy\0\0"), 0.0)
    assert [type(event) for event in events] == [RequestArrived, BodyArrived]
    assert repr(events[1]) == repr(BodyArrived(1, b"xy", True))


# Both sides of ours, and h2's


NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=12).map(lambda name: b"x-" + name.encode())
VALUE = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40).map(str.encode)


@given(
    st.lists(st.tuples(NAME, VALUE), max_size=8),
    st.sampled_from([b"/", b"/a?b", b"/%41/..;x=y"]),
    st.binary(max_size=40_000),
    st.lists(st.tuples(NAME, VALUE), max_size=3),
    st.lists(st.integers(0, 45_000), max_size=6),
)
def test_a_request_arrives_as_it_was_sent_however_it_is_cut(
    fields: list[tuple[bytes, bytes]], target: bytes, body: bytes, trailers: list[tuple[bytes, bytes]], cuts: list[int]
) -> None:
    up = Http2Codec(is_downstream=False, limits=Http2Limits())
    request = RequestHead.make(method=b"POST", scheme=b"http", headers=Headers.of(fields), te_trailers=True)
    number = up.begin_request(request, target, b"example.com", b"X-Forwarded-For: 1.2.3.4\r\n", False)
    assert up.send_body(number, body, False) == len(body)
    up.send_trailers(number, Headers.of(trailers))
    data = up.take()
    whole = Http2Codec(is_downstream=True, limits=Http2Limits()).receive(data, 0.0)
    cut = cut_up(data, cuts)
    assert joined(cut) == joined(whole)
    head = next(event.head for event in cut if isinstance(event, RequestArrived))
    assert (head.method, head.target, head.authority, head.te_trailers) == (b"POST", target, b"example.com", True)
    assert head.headers.items() == [*fields, (b"x-forwarded-for", b"1.2.3.4")]
    assert b"".join(event.data for event in cut if isinstance(event, BodyArrived)) == body


def cut_up(data: bytes, cuts: list[int]) -> list[Event]:
    down = Http2Codec(is_downstream=True, limits=Http2Limits())
    events: list[Event] = []
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(places):
        events += down.receive(data[start:end], 0.0)
    return events


def joined(events: list[Event]) -> list[str]:
    return [repr(event) for event in events]


ANY_FIELD = [
    *REQUEST, (":status", "200"), (":status", "100"), (":method", "CONNECT"), (":protocol", "x"), ("content-length", "3"),
    ("cookie", "a"), ("te", "trailers"), ("expect", "100-continue"), ("host", "example.com"), ("via", "1.1 a"), ("Up", "1"), ("x", "a\nb"),
]  # fmt: skip
FRAMES = st.lists(
    st.one_of(
        st.builds(raw, st.integers(0, 10), st.integers(0, 255), st.sampled_from([0, 1, 2, 3, 5, 1 << 31]), st.binary(max_size=20)),
        st.builds(
            headers,
            st.sampled_from([1, 3, 5, 7]),
            st.lists(
                st.sampled_from(ANY_FIELD)
            ),
            st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM, 0]),
        ),
        st.builds(raw, st.just(DATA), st.sampled_from([0, END_STREAM, PADDED]), st.sampled_from([1, 3, 5]), st.binary(max_size=2000)),
        st.builds(window, st.sampled_from([0, 1, 3]), st.sampled_from([0, 1, 1000, MOST])),
        st.builds(reset, st.sampled_from([1, 3, 5])),
        st.builds(settings, st.tuples(st.integers(0, 9), st.sampled_from([0, 1, 16384, MOST, 1 << 31]))),
    ),
    max_size=8,
).map(b"".join)  # fmt: skip


@given(st.one_of(FRAMES, st.binary(max_size=300)), st.booleans())
def test_promises(data: bytes, is_downstream: bool) -> None:
    check_http2(data, is_downstream=is_downstream)


def test_h2_as_the_client() -> None:
    them, us = client(), Http2Codec(is_downstream=True, limits=Http2Limits())
    them.receive_data(us.take())
    fields = [(as_bytes(name), as_bytes(value)) for name, value in POST]
    for number in (1, 3):
        them.send_headers(number, [*fields, (b"authorization", b"secret")])
        them.send_data(number, b"x" * 1000)
        them.send_headers(number, [(b"x-last", b"1")], end_stream=True)
        events = us.receive(them.data_to_send(), 0.0)
        assert [type(event) for event in events][-3:] == [RequestArrived, BodyArrived, TrailersArrived]
        us.send_informational(number, ResponseHead.make(status=103, headers=Headers.of([(b"Link", b"</a>")])))
        us.send_response(number, ResponseHead.make(headers=Headers.of([(b"Set-Cookie", b"a=b")])), b"Via: 1.1 lbd\r\n", False)
        assert us.send_body(number, b"y" * 20_000, False) == 20_000
        us.send_trailers(number, Headers.of([(b"Grpc-Status", b"0")]))
        got = them.receive_data(us.take())
        assert [type(event).__name__ for event in got if getattr(event, "stream_id", 0) == number] == [
            "InformationalResponseReceived", "ResponseReceived", "DataReceived", "DataReceived", "TrailersReceived", "StreamEnded",
        ]  # fmt: skip
        response = next(event for event in got if isinstance(event, h2.events.ResponseReceived))
        assert response.headers == [(b":status", b"200"), (b"set-cookie", b"a=b"), (b"via", b"1.1 lbd")]
    assert us.count == 0


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def test_h2_as_the_server() -> None:
    them, us = server(), Http2Codec(is_downstream=False, limits=Http2Limits())
    number = us.begin_request(RequestHead.make(scheme=b"https", content_length=3), b"/x", b"a:1", b"", False)
    assert us.send_body(number, b"abc", True) == 3
    got = them.receive_data(us.take())
    request = next(event for event in got if isinstance(event, h2.events.RequestReceived))
    assert request.headers == [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/x"), (b":authority", b"a:1"), (b"content-length", b"3"),
    ]  # fmt: skip
    them.send_headers(number, [(b":status", b"404"), (b"server", b"h2")])
    them.send_data(number, b"no", end_stream=True)
    events = us.receive(them.data_to_send(), 0.0)
    response = next(event for event in events if isinstance(event, ResponseArrived))
    assert (response.head.status, response.head.reason, response.head.headers.encode()) == (404, b"Not Found", b"server: h2\r\n")
    assert repr(events[-1]) == repr(BodyArrived(number, b"no", True))
    assert us.count == 0


def test_a_smaller_table_is_acknowledged_where_it_must_be() -> None:
    """RFC 7541, 4.2; hpack refuses a block that does not begin so."""
    them, us = client(), Http2Codec(is_downstream=True, limits=Http2Limits())
    them.update_settings({h2.settings.SettingCodes.HEADER_TABLE_SIZE: 100})
    them.send_headers(1, [(as_bytes(name), as_bytes(value)) for name, value in REQUEST], end_stream=True)
    us.receive(them.data_to_send(), 0.0)
    us.send_response(1, ResponseHead.make(status=418), b"", True)
    assert any(isinstance(event, h2.events.ResponseReceived) for event in them.receive_data(us.take()))


def test_a_head_of_many_frames() -> None:
    up, down = Http2Codec(is_downstream=False, limits=Http2Limits()), Http2Codec(is_downstream=True, limits=Http2Limits())
    value = b"v" * 40_000
    up.begin_request(RequestHead.make(scheme=b"http", headers=Headers.of([(b"x", value)])), b"/", b"a", b"", True)
    data = up.take()
    assert [frame.type for frame in frames_of(data)[-3:]] == [HEADERS, CONTINUATION, CONTINUATION]
    event = down.receive(data, 0.0)[-1]
    assert isinstance(event, RequestArrived)
    assert event.head.headers.get(b"x") == value


# Windows


def test_a_body_goes_out_as_far_as_windows_allow() -> None:
    codec = greeted()
    codec.receive(settings((4, 1000)) + headers(1) + headers(3), 0.0)
    codec.send_response(1, ResponseHead.make(), b"", False)
    assert codec.room(1) == 1000
    assert codec.send_body(1, b"x" * 3000, True) == 1000
    assert codec.room(1) == 0
    assert codec.send_body(1, b"x" * 2000, True) == 0
    assert codec.room(3) == 1000
    assert WindowOpened(1) in codec.receive(window(1, 500), 0.0)
    assert codec.send_body(1, b"x" * 2000, True) == 500
    assert codec.count == 2
    codec.receive(window(1, 1500), 0.0)
    assert codec.send_body(1, b"x" * 1500, True) == 1500
    assert codec.count == 1


def test_the_window_of_the_connection_is_everybodys() -> None:
    codec = greeted()
    codec.receive(settings((4, 1 << 20)) + headers(1) + headers(3), 0.0)
    for number in (1, 3):
        codec.send_response(number, ResponseHead.make(), b"", False)
    assert codec.send_body(1, bytes(100_000), True) == 65535
    assert codec.room(3) == 0
    assert WindowOpened(0) in codec.receive(window(0, 10), 0.0)
    assert codec.room(3) == 10


def test_a_window_that_shrinks_below_nothing() -> None:  # 6.9.2
    codec = greeted()
    codec.receive(headers(1), 0.0)
    codec.send_response(1, ResponseHead.make(), b"", False)
    codec.send_body(1, bytes(60_000), False)
    codec.receive(settings((4, 10)), 0.0)
    assert codec.room(1) == 0
    codec.receive(window(1, 60_000 - 10), 0.0)
    assert codec.room(1) == 0
    assert codec.send_body(1, b"", True) == 0  # an end takes no room
    assert codec.count == 0


def test_a_body_can_end_while_its_window_is_below_nothing() -> None:  # 6.9.1
    """It was sent whole before the other side thought better of it: what is left is an empty frame that says so."""
    codec = greeted()
    codec.receive(headers(1), 0.0)
    codec.send_response(1, ResponseHead.make(), b"", False)
    codec.send_body(1, bytes(1000), False)
    codec.receive(settings((4, 10)), 0.0)
    codec.take()
    assert codec.send_body(1, b"x", True) == 0
    assert codec.take() == b""
    assert codec.send_body(1, b"", True) == 0
    (end,) = frames_of(codec.take())
    assert (end.stream_id, end.data, end.flags) == (1, b"", {"END_STREAM"})
    assert codec.count == 0


def test_the_other_side_may_send_more_when_somebody_took_what_came() -> None:
    limits = Http2Limits(window=65536, connection_window=1 << 20)
    codec = greeted(limits=limits)
    codec.receive(OPEN + raw(DATA, 0, 1, bytes(16384)) * 4, 0.0)
    assert codec.take() == b""
    codec.acknowledge(1, 16384)
    assert codec.take() == b""
    codec.acknowledge(1, 16384)
    assert [(frame.stream_id, frame.window_increment) for frame in frames_of(codec.take())] == [(1, 32768)]
    codec.receive(raw(DATA, 0, 1, bytes(16384)) * 2, 0.0)
    event = codec.receive(raw(DATA, 0, 1, b"x"), 0.0)[-1]
    assert isinstance(event, StreamReset)


@pytest.mark.parametrize("stuck", [1, 8, 14, 15])
def test_the_last_free_part_of_the_connections_window_is_enough_for_the_others(stuck: int) -> None:
    codec = greeted(limits=Http2Limits(window=65536, connection_window=1 << 20))
    for number in range(1, 2 * stuck, 2):
        codec.receive(headers(number, POST, END_HEADERS) + raw(DATA, 0, number, bytes(16384)) * 4, 0.0)
    codec.receive(headers(99, POST, END_HEADERS), 0.0)
    codec.take()
    ours, everybodys = 65536, (1 << 20) - stuck * 65536
    for _ in range(200):
        size = min(16384, ours, everybodys)
        assert size > 0, "nothing may be sent, though everything was taken"
        assert not codec.receive(raw(DATA, 0, 99, bytes(size)), 0.0)[1:]
        codec.acknowledge(99, size)
        told = [(frame.stream_id, frame.window_increment) for frame in frames_of(codec.take())]
        ours += sum(increment for number, increment in told if number == 99) - size
        everybodys += sum(increment for number, increment in told if number == 0) - size


@pytest.mark.parametrize("end", ["reset by us", "reset by them", "both ended"])
def test_what_nobody_took_of_a_stream_that_ended_is_given_back_to_the_connection(end: str) -> None:
    codec = greeted(limits=Http2Limits(connection_window=65536))
    for number in range(1, 21, 2):
        codec.receive(headers(number, POST, END_HEADERS) + raw(DATA, 0, number, bytes(16384)) * 2, 0.0)
        if end == "reset by us":
            codec.reset(number, CANCEL)
        elif end == "reset by them":
            codec.receive(reset(number), 0.0)
        else:
            codec.receive(raw(DATA, END_STREAM, number), 0.0)
            codec.send_response(number, ResponseHead.make(), b"", True)
        assert not codec.is_broken
    assert codec.count == 0


def test_data_of_a_stream_that_we_reset_is_dropped_and_counted() -> None:
    codec = greeted(limits=Http2Limits(connection_window=65536))
    codec.receive(OPEN, 0.0)
    codec.reset(1, NO_ERROR)
    for _ in range(20):
        assert codec.receive(raw(DATA, 0, 1, bytes(16384)), 0.0) == []
    assert codec.receive(headers(1, [("x", "1")]), 0.0) == []
    assert resets_of(frames_of(codec.take())) == [(1, NO_ERROR)]


def test_padding_is_given_back_by_itself() -> None:
    codec = greeted()
    codec.receive(OPEN, 0.0)
    for _ in range(5000):
        events = codec.receive(raw(DATA, PADDED, 1, b"\xff" + b"x" + bytes(255)), 0.0)
        codec.acknowledge(1, 1)
        assert repr(events) == repr([BodyArrived(1, b"x", False)])


def test_before_the_other_side_has_heard_of_a_small_window_it_may_use_the_default() -> None:
    codec = Http2Codec(is_downstream=True, limits=Http2Limits(window=4096))
    codec.receive(PREFACE + settings() + OPEN + raw(DATA, 0, 1, bytes(16384)) * 3, 0.0)
    assert codec.count == 1
    codec.receive(raw(SETTINGS, ACK, 0), 0.0)
    assert isinstance(codec.receive(raw(DATA, 0, 1, bytes(16384)), 0.0)[-1], StreamReset)


# Ends


def test_two_goaways_and_no_lost_stream() -> None:
    codec = greeted()
    codec.receive(headers(1), 0.0)
    codec.goaway(is_final=False)
    assert isinstance(codec.receive(headers(3), 0.0)[0], RequestArrived)
    codec.goaway()
    assert codec.receive(headers(5), 0.0) == []
    assert [frame.last_stream_id for frame in frames_of(codec.take())] == [MOST, 3]
    for number in (1, 3):
        codec.send_response(number, ResponseHead.make(), b"", True)
    assert codec.count == 0
    with pytest.raises(StreamGone):
        codec.send_response(5, ResponseHead.make(), b"", True)


def test_a_goaway_lets_our_streams_finish() -> None:
    codec = greeted(is_downstream=False)
    numbers = [codec.begin_request(RequestHead.make(scheme=b"http"), b"/", b"a", b"", True) for _ in range(2)]
    assert numbers == [1, 3]
    assert codec.receive(goaway(1, ENHANCE_YOUR_CALM), 0.0) == [WentAway(1, ENHANCE_YOUR_CALM, "")]
    assert codec.is_going()
    assert not codec.can_open()
    event = codec.receive(headers(1, [(":status", "200")]), 0.0)[0]
    assert isinstance(event, ResponseArrived)


def test_as_many_streams_as_the_other_side_lets_us_open() -> None:
    codec = greeted(is_downstream=False)
    codec.receive(settings((3, 2)), 0.0)
    for _ in range(2):
        assert codec.can_open()
        codec.begin_request(RequestHead.make(scheme=b"http"), b"/", b"a", b"", True)
    assert not codec.can_open()
    assert not codec.is_going()
    codec.receive(headers(1, [(":status", "204")]), 0.0)
    assert codec.can_open()


def test_pings_are_answered_and_answers_are_events() -> None:
    codec = greeted()
    codec.receive(raw(PING, 0, 0, b"abcdefgh"), 0.0)
    codec.ping(b"12345678")
    assert [(sorted(frame.flags), frame.opaque_data) for frame in frames_of(codec.take())] == [(["ACK"], b"abcdefgh"), ([], b"12345678")]
    assert codec.receive(raw(PING, ACK, 0, b"12345678"), 0.0) == [PingAnswered(b"12345678")]


@pytest.mark.parametrize(
    "send",
    [
        lambda codec: codec.send_body(1, b"x", True),
        lambda codec: codec.send_trailers(1, None),
        lambda codec: codec.send_response(1, ResponseHead.make(), b"", True),
        lambda codec: codec.send_informational(1, ResponseHead.make(status=103)),
    ],
)
def test_nothing_is_sent_on_a_stream_that_is_gone(send: Callable[[Http2Codec], object]) -> None:
    codec = greeted()
    codec.receive(headers(1) + reset(1), 0.0)
    with pytest.raises(StreamGone):
        send(codec)
    codec.reset(1, CANCEL)
    codec.acknowledge(1, 5)
    assert codec.take() == b""


# Limits


def test_a_stream_too_many_is_refused_and_costs_the_table_nothing() -> None:
    codec = greeted(limits=Http2Limits(streams=2))
    encoder = Encoder()
    fields = [*REQUEST, ("x-long-name", "that the third request puts into the table")]

    def request(number: int) -> bytes:
        return raw(HEADERS, END_HEADERS | END_STREAM, number, encoder.encode(fields if number >= 5 else REQUEST))

    codec.receive(request(1) + request(3) + request(5), 0.0)
    assert resets_of(frames_of(codec.take())) == [(5, REFUSED_STREAM)]
    codec.send_response(1, ResponseHead.make(), b"", True)
    event = codec.receive(request(7), 0.0)[0]
    assert isinstance(event, RequestArrived)
    assert event.head.headers.get(b"x-long-name") is not None


def broken_by(codec: Http2Codec, *frames: bytes, times: int = 1000, now: float = 0.0) -> int:
    """After how many rounds of these frames the connection was ended with ENHANCE_YOUR_CALM; -1 for never."""
    for count in range(1, times + 1):
        for frame in frames:
            for event in codec.receive(frame, now):
                if isinstance(event, ConnectionBroken):
                    assert event.code == ENHANCE_YOUR_CALM, event
                    assert goaways_of(frames_of(codec.take())) == [ENHANCE_YOUR_CALM]
                    return count
    return -1


LIMITS = Http2Limits(resets=50, idle_frames=200)


def test_rapid_resets() -> None:
    """CVE-2023-44487"""
    codec = greeted(limits=LIMITS)
    for number in range(1, 101, 2):
        assert broken_by(codec, headers(number) + reset(number), times=1) < 0
    assert broken_by(codec, headers(101) + reset(101), times=1) == 1


@pytest.mark.parametrize(
    "fault",
    [
        lambda number: headers(number, POST, END_HEADERS) + window(number, 0),
        lambda number: headers(number, POST, END_HEADERS) + window(number, MOST),
        lambda number: headers(number) + raw(DATA, 0, number, b"x"),
        lambda number: headers(number, [*REQUEST, ("X", "1")]),
        lambda number: headers(number, [*POST, ("content-length", "1")], END_HEADERS) + raw(DATA, END_STREAM, number, b"xx"),
        lambda number: headers(number) + raw(2, 0, number, bytes(4)),
    ],
)
def test_resets_that_we_are_made_to_send(fault: Any) -> None:  # noqa: ANN401
    """CVE-2025-8671"""
    codec = greeted(limits=LIMITS)
    for number in range(1, 101, 2):
        assert broken_by(codec, fault(number), times=1) < 0
    assert broken_by(codec, fault(101), times=1) == 1


@pytest.mark.parametrize(
    "frames",
    [
        (raw(PING, 0, 0, bytes(8)),),
        (settings(),),
        (raw(SETTINGS, ACK, 0),),
        (raw(DATA, 0, 1),),
        (window(0, 1),),
        (window(1, 1),),
        (raw(2, 0, 9, bytes(5)),),
        (raw(0x77, 0, 0, b"?"),),
        (reset(3),),
    ],
)
def test_frames_that_move_nothing(frames: tuple[bytes, ...]) -> None:
    codec = greeted(limits=LIMITS)
    codec.receive(OPEN + headers(3) + reset(3), 0.0)
    assert 160 < broken_by(codec, *frames) < 210


def test_what_is_answered_pays_for_resets() -> None:
    codec = greeted(limits=LIMITS)
    for number in range(1, 1001, 4):
        codec.receive(headers(number) + headers(number + 2), 0.0)
        codec.send_response(number, ResponseHead.make(status=204), b"", True)
        assert [type(event) for event in codec.receive(reset(number + 2), 0.0)] == [StreamReset]


def test_windows_opened_by_a_byte_do_not_pay_for_themselves() -> None:  # CVE-2019-9511
    codec = greeted(limits=LIMITS)
    codec.receive(settings((4, 0)) + OPEN, 0.0)
    codec.send_response(1, ResponseHead.make(), b"", False)

    opened = 0
    last: list[Event] = []
    while not any(isinstance(event, ConnectionBroken) for event in last):
        codec.send_body(1, b"x" * 100, False)
        last = codec.receive(window(1, 1), 0.0)
        opened += 1
    assert 150 < opened < 210


def test_settings_cost_more_the_more_streams_they_are_about() -> None:
    codec = greeted(limits=Http2Limits(idle_frames=200))
    codec.receive(b"".join(headers(number, flags=END_HEADERS) for number in range(1, 200, 2)), 0.0)
    assert codec.count == 100
    assert broken_by(codec, settings((4, 1)), settings((4, 65535))) < 30


def test_refusals_are_counted_before_the_other_side_has_heard_of_the_limit() -> None:
    codec = Http2Codec(is_downstream=True, limits=Http2Limits(streams=1, idle_frames=200))
    codec.receive(PREFACE + settings() + headers(1, flags=END_HEADERS), 0.0)
    last = codec.receive(b"".join(headers(number, flags=END_HEADERS) for number in range(3, 1000, 2)), 0.0)[-1]
    assert (type(last), last.flood) == (ConnectionBroken, "frames")  # type: ignore[union-attr]


def test_streams_beyond_our_goaway_are_counted() -> None:
    codec = greeted(limits=LIMITS)
    codec.receive(OPEN, 0.0)
    codec.goaway()
    last = codec.receive(b"".join(headers(number) for number in range(3, 1000, 2)), 0.0)[-1]
    assert (type(last), last.flood) == (ConnectionBroken, "frames")  # type: ignore[union-attr]


def test_heads_that_are_refused_for_their_size_are_dear() -> None:
    codec = greeted()
    large = [*REQUEST, *[("x", "")] * 101]
    answered = 0
    for number in range(1, 200, 2):
        last = codec.receive(headers(number, large), 0.0)[-1]
        if isinstance(last, ConnectionBroken):
            assert last.flood == "frames"
            break
        answered += isinstance(last, RequestRefused) and last.can_answer
        codec.reset(number, NO_ERROR)
    assert 10 < answered < 30


def test_windows_that_are_opened_for_what_we_send_are_not_idle() -> None:
    codec = greeted(limits=LIMITS)
    codec.receive(headers(1), 0.0)
    codec.send_response(1, ResponseHead.make(), b"", False)
    for _ in range(1000):
        codec.send_body(1, bytes(1000), False)
        assert broken_by(codec, window(1, 1000) + window(0, 1000), times=1) < 0


def test_an_allowance_comes_back_with_time() -> None:
    allowance = Allowance(10, 5.0)
    assert [allowance.take(0.0) for _ in range(11)] == [True] * 10 + [False]
    assert not allowance.take(0.4)
    assert allowance.take(2.0)
    assert [allowance.take(100.0) for _ in range(11)] == [True] * 10 + [False]


@pytest.mark.parametrize("size", [0, 1])
def test_continuation_without_end(size: int) -> None:
    """CVE-2024-27316"""
    codec = greeted()
    codec.receive(raw(HEADERS, 0, 1, block(REQUEST)), 0.0)
    assert 0 < broken_by(codec, raw(CONTINUATION, 0, 1, bytes(size))) < 200


def test_a_header_block_that_is_never_decoded_is_bounded() -> None:
    codec = greeted(limits=Http2Limits(head=1000))
    codec.receive(raw(HEADERS, 0, 1, block(REQUEST)), 0.0)
    assert 0 < broken_by(codec, raw(CONTINUATION, 0, 1, bytes(16384))) < 10


def test_a_header_block_that_grows_when_it_is_decoded() -> None:
    """One field of 4 KB in the table, and a byte for each time that it is to be repeated."""
    codec = greeted()
    encoder = Encoder()
    bomb = encoder.encode([*REQUEST, ("x", "a" * 4000)]) + b"\xbe" * 16_000
    assert len(bomb) < 21_000
    codec.receive(raw(HEADERS, END_STREAM, 1, bomb[:16_000]), 0.0)
    assert broken_by(codec, raw(CONTINUATION, END_HEADERS, 1, bomb[16_000:])) == 1
