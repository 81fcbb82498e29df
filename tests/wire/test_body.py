"""Bodies: where they end, what is in them, and what comes after."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.wire.http1 import (
    CHUNKED,
    LENGTH,
    NO_BODY,
    UNTIL_CLOSE,
    BodyReader,
    HeadLimits,
    WireError,
    encode_chunk,
    encode_last_chunk,
    response_framing,
)
from lbd.wire.message import Headers, ResponseHead
from tests.wire.reading import LIMITS, fields_of

FRAMINGS = [
    (b"GET", ResponseHead.make(content_length=5), LENGTH),
    (b"GET", ResponseHead.make(content_length=0), LENGTH),
    (b"GET", ResponseHead.make(chunked=True), CHUNKED),
    (b"GET", ResponseHead.make(), UNTIL_CLOSE),
    (b"HEAD", ResponseHead.make(content_length=5), NO_BODY),
    (b"HEAD", ResponseHead.make(chunked=True), NO_BODY),
    (b"head", ResponseHead.make(content_length=5), LENGTH),  # methods are case-sensitive
    (b"GET", ResponseHead.make(status=204, content_length=5), NO_BODY),
    (b"GET", ResponseHead.make(status=304, content_length=5), NO_BODY),
    (b"GET", ResponseHead.make(status=304, chunked=True), NO_BODY),
    (b"GET", ResponseHead.make(status=100), NO_BODY),
    (b"GET", ResponseHead.make(status=101), NO_BODY),
    (b"POST", ResponseHead.make(status=205, content_length=0), LENGTH),
    (b"POST", ResponseHead.make(status=404), UNTIL_CLOSE),
]


@pytest.mark.parametrize(("method", "head", "framing"), FRAMINGS, ids=[f"{m.decode()} {h.status} {f}" for m, h, f in FRAMINGS])
def test_framing_of_responses(method: bytes, head: ResponseHead, framing: int) -> None:
    assert response_framing(method, head) == framing


def test_a_known_length() -> None:
    reader = BodyReader(LENGTH, 10, LIMITS)
    assert (reader.feed(b"0123"), reader.done, reader.remaining) == (b"0123", False, 6)
    reader.remaining -= 2  # went past us
    assert (reader.feed(b"6789GET"), reader.done, reader.remaining, reader.leftover) == (b"6789", True, 0, b"GET")
    assert (reader.feed(b" /"), reader.leftover) == (b"", b"GET /")
    reader.feed_eof()


@pytest.mark.parametrize(("framing", "length"), [(NO_BODY, -1), (LENGTH, 0)])
def test_no_body(framing: int, length: int) -> None:
    reader = BodyReader(framing, length, LIMITS)
    assert reader.done
    assert (reader.feed(b"GET"), reader.leftover, reader.trailers) == (b"", b"GET", None)
    reader.feed_eof()


def test_a_body_that_ends_with_its_connection() -> None:
    reader = BodyReader(UNTIL_CLOSE, -1, LIMITS)
    assert (reader.feed(b"HTTP/1.1 200 OK\r\n\r\n"), reader.done, reader.remaining) == (b"HTTP/1.1 200 OK\r\n\r\n", False, 0)
    reader.feed_eof()
    assert (reader.done, reader.leftover) == (True, b"")


def test_a_body_that_is_cut_short() -> None:
    reader = BodyReader(LENGTH, 10, LIMITS)
    reader.feed(b"0123")
    with pytest.raises(WireError) as caught:
        reader.feed_eof()
    assert (caught.value.reason, caught.value.message) == ("incomplete", "closed after 4 of 10 bytes of the body")


@pytest.mark.parametrize("data", [b"", b"5", b"5\r\n", b"5\r\nhello", b"5\r\nhello\r\n", b"0\r\n", b"0\r\nX: 1\r\n"])
def test_chunks_that_are_cut_short(data: bytes) -> None:
    reader = BodyReader(CHUNKED, -1, LIMITS)
    reader.feed(data)
    with pytest.raises(WireError) as caught:
        reader.feed_eof()
    assert (caught.value.reason, reader.done) == ("incomplete", False)


# (bytes, payload, trailers)
CHUNKS: list[tuple[bytes, bytes, list[tuple[bytes, bytes]]]] = [
    (b"0\r\n\r\n", b"", []),
    (b"000\r\n\r\n", b"", []),
    (b"5\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"1\r\nh\r\n004\r\nello\r\n0\r\n\r\n", b"hello", []),
    (b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"01234567890123456789", []),
    (b"5;a=b;c=\"\xe4\t \"\r\nhello\r\n0;x\r\n\r\n", b"hello", []),
    (b"5;\r\n\r\n0\r\n\r\n0\r\n\r\n", b"\r\n0\r\n", []),
    (b"000000000000005\r\nhello\r\n0\r\n\r\n", b"hello", []),
    (b"0\r\nGrpc-Status: 0\r\nX:\r\n\r\n", b"", [(b"grpc-status", b"0"), (b"x", b"")]),
    # Those that must not come last are dropped: RFC 9110, 6.5.1.
    (b"0\r\nContent-Length: 5\r\nHost: b\r\nAuthorization: x\r\nSet-Cookie: y\r\nX-Forwarded-For: z\r\n\r\n", b"", []),
    (b"0\r\nTransfer-Encoding: chunked\r\nConnection: close\r\nTE: x\r\nTrailer: y\r\nA: 1\r\n\r\n", b"", [(b"a", b"1")]),
]  # fmt: skip


@pytest.mark.parametrize(("data", "payload", "trailers"), CHUNKS)
def test_chunks(data: bytes, payload: bytes, trailers: list[tuple[bytes, bytes]]) -> None:
    behind = data + b"0\r\n\r\nGET"
    for size in (len(behind), len(data), 1, 2, 3, 7):
        reader = BodyReader(CHUNKED, -1, LIMITS)
        received = b"".join(reader.feed(behind[i : i + size]) for i in range(0, len(behind), size))
        assert (received, fields_of(reader.trailers), reader.leftover) == (payload, trailers, b"0\r\n\r\nGET")
        assert reader.done
        reader.feed_eof()


def test_payload_is_not_held_back() -> None:
    reader = BodyReader(CHUNKED, -1, LIMITS)
    assert reader.feed(b"ff\r\nabc") == b"abc"
    assert reader.feed(b"de") == b"de"


def test_no_trailers_is_none() -> None:
    reader = BodyReader(CHUNKED, -1, LIMITS)
    reader.feed(b"0\r\nHost: x\r\n\r\n")
    assert reader.trailers is None


def test_extensions_are_limited_in_all() -> None:
    chunk = b"1;" + b"x" * 98 + b"\r\ny\r\n"  # 102 bytes of line, of which 16 + 2 are free
    reader = BodyReader(CHUNKED, -1, HeadLimits(1000, 100, 10))
    assert reader.feed(chunk * 11) == b"y" * 11
    with pytest.raises(WireError, match="1000 bytes of chunk extensions"):
        reader.feed(chunk)


def test_extensions_without_end_in_a_body_that_is_worth_them() -> None:
    """As of a client that signs each of its chunks."""
    chunk = b"400;signature=" + b"x" * 256 + b"\r\n" + b"y" * 1024 + b"\r\n"
    reader = BodyReader(CHUNKED, -1, HeadLimits(1000, 100, 10))
    assert reader.feed(chunk * 1000) == b"y" * 1024 * 1000


def test_trailers_are_limited() -> None:
    reader = BodyReader(CHUNKED, -1, HeadLimits(100, 100, 10))
    reader.feed(b"0\r\n" + b"A: 1\r\n" * 10)
    reader.feed(b"\r\n")
    assert len(reader.trailers or []) == 10
    reader = BodyReader(CHUNKED, -1, HeadLimits(100, 100, 50))
    with pytest.raises(WireError) as caught:
        reader.feed(b"0\r\n" + b"A: 1\r\n" * 17)
    assert caught.value.status == 431


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.lists(st.integers(1, 30), max_size=20), st.booleans())
def test_what_we_write_as_chunks_we_read(pieces: list[bytes], sizes: list[int], has_trailers: bool) -> None:
    trailers = Headers.of([(b"X", b"1")]) if has_trailers else None
    data = b"".join(map(encode_chunk, pieces)) + encode_last_chunk(trailers) + b"next"
    reader = BodyReader(CHUNKED, -1, LIMITS)
    received = b""
    for size in sizes:
        received += reader.feed(data[:size])
        data = data[size:]
    received += reader.feed(data)
    assert (received, reader.done, reader.leftover) == (b"".join(pieces), True, b"next")
    assert fields_of(reader.trailers) == ([(b"x", b"1")] if has_trailers else [])
