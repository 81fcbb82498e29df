"""PROXY headers: what is taken, what is refused, and that both directions mean the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from lbd.wire.crc32c import crc32c
from lbd.wire.proxy_protocol import LOCAL, LONGEST, ProxyHeader, encode_proxy_header, parse_proxy_header
from lbd.wire.refusal import WireError
from tests.wire.proxy_headers import BAD, LONGEST_V1, SIGNATURE, TAKEN, V4, binary, tlv, with_checksum

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv6Address


@pytest.mark.parametrize(("data", "header"), [case[1:] for case in TAKEN], ids=[case[0] for case in TAKEN])
def test_taken(data: bytes, header: ProxyHeader) -> None:
    assert parse_proxy_header(data) == (header, len(data))
    assert parse_proxy_header(data + b"GET / HTTP/1.1\r\n") == (header, len(data)), "what follows is not the header's"
    for end in range(len(data)):
        assert parse_proxy_header(data[:end]) is None, f"{end} bytes are not all of it"


@pytest.mark.parametrize("data", [case[1] for case in BAD], ids=[case[0] for case in BAD])
def test_refused(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_proxy_header(data)
    assert caught.value.reason == "proxy_header_invalid"
    early = 0  # what is refused as a whole is at no point before taken for a header
    while early < len(data):
        try:
            assert parse_proxy_header(data[:early]) is None
        except WireError:
            break
        early += 1


def test_the_longest_line_is_taken() -> None:
    assert len(LONGEST_V1) == 104
    assert parse_proxy_header(LONGEST_V1) is not None
    line = b"PROXY UNKNOWN".ljust(105, b"x")
    assert parse_proxy_header(b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n") == (ProxyHeader(), 107)
    with pytest.raises(WireError):
        parse_proxy_header(line + b"xx\r\n")


def test_the_largest_binary_header_is_taken() -> None:
    block = V4 + tlv(4, b"x" * (4096 - 12 - 3))
    assert parse_proxy_header(binary(0x21, 0x11, block)) is not None


@pytest.mark.parametrize(
    ("data", "checksum"),
    # RFC 3720 B.4, and the check value of the Rocksoft catalogue
    [(b"\0" * 32, 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283), (b"", 0)],
)
def test_crc32c(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_a_right_checksum_is_taken_and_made_anew_on_the_way_out() -> None:
    data = with_checksum(V4 + tlv(2, b"a.example"))
    parsed = parse_proxy_header(data)
    assert parsed is not None
    assert encode_proxy_header(2, parsed[0]) == data
    moved = ProxyHeader("192.0.2.9", 9, "198.51.100.2", 443, tlvs=parsed[0].tlvs)  # another address, another checksum
    again = parse_proxy_header(encode_proxy_header(2, moved))
    assert again is not None
    assert (again[0].source, again[0].tlvs[:-4]) == ("192.0.2.9", parsed[0].tlvs[:-4])
    assert again[0].tlvs[-4:] != parsed[0].tlvs[-4:]


@pytest.mark.parametrize(
    ("header", "v1", "family"),
    [
        (ProxyHeader("192.0.2.1", 1, "198.51.100.2", 2), b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\n", 0x11),
        (ProxyHeader("::1", 1, "::2", 2), b"PROXY TCP6 ::1 ::2 1 2\r\n", 0x21),
        (ProxyHeader("192.0.2.1", 1, "::2", 2), b"PROXY TCP6 ::ffff:c000:201 ::2 1 2\r\n", 0x21),
        (ProxyHeader("fe80::1%eth0", 1, "fe80::2%eth0", 2), b"PROXY TCP6 fe80::1 fe80::2 1 2\r\n", 0x21),
        (ProxyHeader("unix:/a", 0, "unix:/b", 0), b"PROXY UNKNOWN\r\n", 0x31),
        (ProxyHeader("unix:", 0, "192.0.2.1", 80), b"PROXY UNKNOWN\r\n", 0x00),
        (ProxyHeader(), b"PROXY UNKNOWN\r\n", 0x00),
        (LOCAL, b"PROXY UNKNOWN\r\n", 0x00),
    ],
)
def test_encoded(header: ProxyHeader, v1: bytes, family: int) -> None:
    assert encode_proxy_header(1, header) == v1
    data = encode_proxy_header(2, header)
    assert data[13] == family
    assert data[12] == (0x20 if header.is_local else 0x21)
    for encoded in (v1, data):
        parsed = parse_proxy_header(encoded)
        assert parsed is not None, "what we say, we take"
        assert parsed[1] == len(encoded)


def test_a_unix_path_too_long_is_cut() -> None:
    data = encode_proxy_header(2, ProxyHeader("unix:/" + "a" * 200, 0, "unix:", 0))
    assert len(data) == 16 + 216


ADDRESSES = st.one_of(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)))
PORTS = st.integers(0, 65535)
# Without a checksum: one at random would be wrong.
TLVS = st.lists(st.tuples(st.integers(4, 255), st.binary(max_size=40)).map(lambda pair: tlv(*pair)), max_size=4).map(b"".join)


@given(ADDRESSES, PORTS, PORTS, TLVS, st.sampled_from([1, 2]), st.binary(max_size=20))
def test_round_trip(
    addresses: tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address], left: int, right: int, tlvs: bytes, version: int, rest: bytes
) -> None:
    source, destination = (getattr(address, "ipv4_mapped", None) or address for address in addresses)
    header = ProxyHeader(str(source), left, str(destination), right, tlvs=tlvs if version == 2 else b"")
    data = encode_proxy_header(version, header)
    assert parse_proxy_header(data + rest) == (header, len(data))


@given(
    st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda data: SIGNATURE + data), st.binary().map(lambda d: b"PROXY " + d))
)
def test_noise_is_refused_or_waited_for_and_nothing_else(data: bytes) -> None:
    try:
        parsed = parse_proxy_header(data)
    except WireError:
        return
    assert parsed is not None or len(data) < LONGEST
