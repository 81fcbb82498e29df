"""Fields in bytes, both ways, with hpack as the other side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hpack.hpack import Decoder, Encoder
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman as their_huffman
from hypothesis import example, given, strategies as st

from lbd.wire.hpack_in import FieldDecoder
from lbd.wire.hpack_out import LineEncoder, encoded_fields, encoded_integer, encoded_status
from lbd.wire.huffman import decode_huffman

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lbd.wire.http2_fields import Field

FIELDS = st.lists(
    st.tuples(
        st.sampled_from([b":method", b":path", b"accept", b"x-a", b"x-b", b"cookie"]), st.sampled_from([b"GET", b"/", b"1", b"2" * 50, b""])
    ),
    max_size=6,
)


@given(st.lists(st.tuples(FIELDS, st.sampled_from([None, None, None, 0, 100, 4096])), max_size=30))
def test_blocks_that_are_remembered_mean_what_they_would_mean_to_hpack(blocks: list[tuple[list[tuple[bytes, bytes]], int | None]]) -> None:
    """Whatever is put into the table between them, and whatever its size becomes."""
    encoder, theirs, ours = Encoder(), Decoder(), FieldDecoder(1 << 16)
    for fields, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields)
        assert pairs_of(ours.decode(block)) == list(theirs.decode(block, raw=True)) == fields


def test_a_block_of_references_changes_its_meaning_with_the_table() -> None:
    encoder, decoder = Encoder(), FieldDecoder(1 << 16)
    decoder.decode(encoder.encode([(b"x", b"1")]))
    first = bytes((0x80 | 62,))  # the newest entry
    assert pairs_of(decoder.decode(first)) == pairs_of(decoder.decode(first)) == [(b"x", b"1")]
    decoder.decode(encoder.encode([(b"x", b"2")]))
    assert pairs_of(decoder.decode(first)) == [(b"x", b"2")]
    decoder.decode(b"\x20")  # no table any more
    with pytest.raises(HPACKError):
        decoder.decode(first)


def test_what_is_remembered_is_bounded_in_fields() -> None:
    """Sixty in each block that could be remembered would take seventy times what the dynamic table may."""
    decoder = FieldDecoder(1 << 16)
    blocks = [bytes((0x0F, 0, 0)) * 40 + bytes((0x00, 1, 0x61, 1, number)) for number in range(64)]
    first = [decoder.decode(block) for block in blocks]
    remembered = [len(fields) for block, fields in zip(blocks, first, strict=True) if decoder.decode(block) is fields]
    assert 0 < sum(remembered) <= 512
    decoder.decode(Encoder().encode([(b"x", b"1")]))  # the table has changed: everything is forgotten
    assert decoder.decode(blocks[-1]) is decoder.decode(blocks[-1])


def test_a_header_list_is_bounded() -> None:
    decoder = FieldDecoder(1000)
    decoder.decode(Encoder().encode([(b"x", b"1" * 900)]))
    with pytest.raises(OversizedHeaderListError):
        decoder.decode(bytes((0x80 | 62,)) * 2)


@pytest.mark.parametrize(
    ("resizes", "is_taken"), [(b"\x20", True), (b"\x20\x3f\xe1\x1f", True), (b"\x20\x20\x20", False), (b"\x3f\xe1\x1f" * 3, False)]
)
def test_a_table_is_resized_twice_at_most(resizes: bytes, is_taken: bool) -> None:  # RFC 7541, 4.2
    decoder = FieldDecoder(1000)
    if is_taken:
        assert pairs_of(decoder.decode(resizes + b"\x82")) == [(b":method", b"GET")]
    else:
        with pytest.raises(HPACKError):
            decoder.decode(resizes + b"\x82")


# Blocks that mean something more often than any bytes do: representations as RFC 7541, 6 has them, of which some are cut or wrong.
CODED = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
STRINGS = st.one_of(
    st.binary(max_size=20).map(lambda text: encoded_integer(len(text), 7, 0) + text),
    st.binary(max_size=20).map(CODED.encode).map(lambda coded: encoded_integer(len(coded), 7, 0x80) + coded),
    st.binary(max_size=6).map(lambda coded: encoded_integer(len(coded), 7, 0x80) + coded),
    st.just(encoded_integer(4050, 7, 0) + b"l" * 4050),  # the table has no room for anything beside it
    st.integers(0, 1 << 40).map(lambda size: encoded_integer(size, 7, 0)),
)
INDICES = st.one_of(st.integers(0, 70), st.integers(0, 1 << 40))
REPRESENTATIONS = st.one_of(
    INDICES.map(lambda index: encoded_integer(index, 7, 0x80)),
    st.tuples(st.sampled_from([(6, 0x40), (4, 0x10), (4, 0)]), INDICES, STRINGS).map(
        lambda parts: encoded_integer(parts[1] or 1, *parts[0]) + parts[2]
    ),
    st.tuples(st.sampled_from([b"\x40", b"\x10", b"\x00"]), STRINGS, STRINGS).map(b"".join),
    st.sampled_from([0, 100, 4095, 4096, 4097]).map(lambda size: encoded_integer(size, 5, 0x20)),
    st.binary(max_size=8),
)


@given(
    st.lists(st.one_of(REPRESENTATIONS, st.lists(REPRESENTATIONS, max_size=4).map(b"".join)), max_size=12), st.sampled_from([200, 1 << 16])
)
@example([b"\x82", b"\xbe", b"\x40\x01a\x01b", b"\xbe", b"\x82\x20", b"\x82"], 200)
@example([b"\xff\xff\xff\xff\xff\x7f", b"\x82"], 200)
@example([b"\xff\x80\x80\x80\x80\x00"], 200)
@example([b"\xff\x80\x80\x80\x80\x80\x00"], 200)
def test_what_is_decoded_and_what_refused_is_what_hpack_says(blocks: list[bytes], limit: int) -> None:
    """Block after block, until the first that is refused. Only the number of resizes is a rule of our own."""
    theirs, ours = Decoder(max_header_list_size=limit), FieldDecoder(limit)
    for block in blocks:
        expected = verdict(lambda block: theirs.decode(block, raw=True), block)
        said = verdict(lambda block: pairs_of(ours.decode(block)), block)
        if isinstance(said, HPACKError) and "resized" in str(said):
            break
        if isinstance(expected, HPACKError):
            assert isinstance(said, HPACKError)
            assert isinstance(said, OversizedHeaderListError) == isinstance(expected, OversizedHeaderListError)
            break
        assert said == expected


def verdict(decode: Callable[[bytes], Iterable[tuple[bytes, bytes]]], block: bytes) -> list[tuple[bytes, bytes]] | HPACKError:
    try:
        return [(name, value) for name, value in decode(block)]
    except HPACKError as error:
        return error


def pairs_of(fields: tuple[Field, ...]) -> list[tuple[bytes, bytes]]:
    return [(field.name, field.value) for field in fields]


def huffman_of(decode: Callable[[bytes], bytes], coded: bytes) -> bytes | None:
    try:
        return decode(coded)
    except HPACKError:
        return None


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(CODED.encode)))
@example(b"")
@example(b"\xff" * 4)  # the symbol that ends a string
@example(b"\xff\xff\xff\xfc")
@example(b"\x1f\xff")  # padding of more than seven bits
@example(b"\x18")  # padding of noughts
@example(b"\x1f")
def test_huffmans_code_is_read_as_hpack_reads_it(coded: bytes) -> None:
    assert huffman_of(decode_huffman, coded) == huffman_of(their_huffman, coded)


@pytest.mark.parametrize("size", [0, 1, 639, 640, 641, 1023, 1024, 1025, 20_000])
def test_a_coded_string_of_any_length(size: int) -> None:
    """Of five bits a byte, which need the most room, and of all bytes."""
    for text in (b"a" * size, bytes(range(256)) * (size // 256 + 1)):
        assert decode_huffman(CODED.encode(text)) == text


def read(block: bytes) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in Decoder().decode(block, raw=True)]


@pytest.mark.parametrize("repeats", [1, 2])
def test_lines_become_fields(repeats: int) -> None:
    lines = b"X-Name: a:b \r\nAccept:*/*\r\nConnection: close\r\nHOST: a\r\nContent-Length: 3\r\nSet-Cookie: s\r\nx: \r\n"
    encoder = LineEncoder()
    for _ in range(repeats):
        assert read(encoder.encode(lines)) == [(b"x-name", b"a:b"), (b"accept", b"*/*"), (b"set-cookie", b"s"), (b"x", b"")]
    assert encoder.encode(b"") == b""


def test_credentials_that_a_rewrite_has_set_for_a_proxy_are_sent() -> None:
    assert read(LineEncoder().encode(b"Proxy-Authorization: x\r\n")) == [(b"proxy-authorization", b"x")]


def test_more_lines_than_are_remembered() -> None:
    encoder = LineEncoder()
    for number in range(1000):
        assert read(encoder.encode(b"X-Id: %d\r\n" % number)) == [(b"x-id", b"%d" % number)]


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"])
def test_what_is_secret_is_marked(name: bytes) -> None:
    """RFC 7541, 7.1.3"""
    (field,) = Decoder().decode(encoded_fields(((name, b"secret"),)), raw=True)
    assert not field.indexable


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=300), st.binary(max_size=3000)), max_size=5))
def test_any_bytes_are_encoded(fields: list[tuple[bytes, bytes]]) -> None:
    assert read(encoded_fields(fields)) == fields


@pytest.mark.parametrize("status", [100, 103, 200, 204, 206, 304, 400, 404, 418, 500, 503, 599])
def test_a_status(status: int) -> None:
    assert read(encoded_status(status)) == [(b":status", b"%d" % status)]


@pytest.mark.parametrize(("value", "expected"), [(10, b"\x0a"), (30, b"\x1e"), (31, b"\x1f\x00"), (1337, b"\x1f\x9a\x0a")])
def test_integers(value: int, expected: bytes) -> None:
    """RFC 7541, C.1"""
    assert encoded_integer(value, 5, 0) == expected
