"""PROXY headers that are taken, with what they mean, and those that are refused."""

from __future__ import annotations

from ipaddress import IPv6Address
from struct import pack

from lbd.wire.crc32c import crc32c
from lbd.wire.proxy_protocol import LOCAL, LONGEST, ProxyHeader

__all__ = ["BAD", "LONGEST_V1", "SIGNATURE", "TAKEN", "V4", "binary", "tlv", "with_checksum"]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + pack("!HH", 1234, 443)
V6 = IPv6Address("2001:db8::1").packed + IPv6Address("2001:db8::2").packed + pack("!HH", 1234, 443)
MAPPED = IPv6Address("::ffff:192.0.2.1").packed
PATHS = b"/run/a".ljust(108, b"\0") + b"\0hidden".ljust(108, b"\0")


def binary(command: int, family: int, block: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + pack("!BBH", command, family, len(block) if length is None else length) + block


def tlv(kind: int, value: bytes) -> bytes:
    return pack("!BH", kind, len(value)) + value


def with_checksum(block: bytes, *, offset: int = 0) -> bytes:
    """A TCP4 header whose last TLV is a checksum; `offset` makes it wrong."""
    blank = binary(0x21, 0x11, block + tlv(3, b"\0\0\0\0"))
    return blank[:-4] + pack("!I", (crc32c(blank) + offset) & 0xFFFFFFFF)


LONGEST_V1 = b"PROXY TCP6 " + b" ".join([b"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] * 2) + b" 65535 65535\r\n"

TAKEN: list[tuple[str, bytes, ProxyHeader]] = [
    ("tcp4", b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443\r\n", ProxyHeader("192.0.2.1", 1234, "198.51.100.2", 443)),
    ("tcp6", b"PROXY TCP6 2001:DB8::1 ::1 1 65535\r\n", ProxyHeader("2001:db8::1", 1, "::1", 65535)),
    ("tcp6, mapped", b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ProxyHeader("192.0.2.1", 1, "::1", 2)),
    ("tcp6, mapped, without dots", b"PROXY TCP6 ::FFFF:C000:201 ::ffff:c633:6402 1 2\r\n", ProxyHeader("192.0.2.1", 1, "198.51.100.2", 2)),
    ("port 0", b"PROXY TCP4 192.0.2.1 198.51.100.2 0 443\r\n", ProxyHeader("192.0.2.1", 0, "198.51.100.2", 443)),
    ("unknown", b"PROXY UNKNOWN\r\n", ProxyHeader()),
    ("unknown with more", b"PROXY UNKNOWN ffff::1 whatever 3 4 5 6\r\n", ProxyHeader()),
    ("v2 tcp4", binary(0x21, 0x11, V4), ProxyHeader("192.0.2.1", 1234, "198.51.100.2", 443)),
    ("v2 tcp6", binary(0x21, 0x21, V6), ProxyHeader("2001:db8::1", 1234, "2001:db8::2", 443)),
    ("v2 tcp6, mapped", binary(0x21, 0x21, MAPPED + V6[16:]), ProxyHeader("192.0.2.1", 1234, "2001:db8::2", 443)),
    ("v2 unix", binary(0x21, 0x31, PATHS), ProxyHeader("unix:/run/a", 0, "unix:@hidden", 0)),
    ("v2 unix without names", binary(0x21, 0x31, b"\0" * 216), ProxyHeader("unix:", 0, "unix:", 0)),
    ("v2 unspec", binary(0x21, 0x00, b""), ProxyHeader()),
    ("v2 unspec with a tlv", binary(0x21, 0x00, tlv(4, b"x")), ProxyHeader(tlvs=tlv(4, b"x"))),
    ("v2 local", binary(0x20, 0x00, b""), LOCAL),
    ("v2 local with addresses", binary(0x20, 0x11, V4), LOCAL),
    ("v2 local with noise", binary(0x20, 0x77, b"noise"), LOCAL),
    (
        "v2 tlvs are kept",
        binary(0x21, 0x11, V4 + tlv(0x01, b"h2") + tlv(0x02, b"a.example") + tlv(0xEA, b"")),
        ProxyHeader("192.0.2.1", 1234, "198.51.100.2", 443, tlvs=tlv(0x01, b"h2") + tlv(0x02, b"a.example") + tlv(0xEA, b"")),
    ),
]
BAD = [
    ("a request", b"GET / HTTP/1.1\r\n"),
    ("tls", b"\x16\x03\x01"),
    ("lower case", b"proxy TCP4 192.0.2.1 198.51.100.2 1234 443\r\n"),
    ("another word", b"PROXYING TCP4 192.0.2.1 198.51.100.2 1234 443\r\n"),
    ("udp", b"PROXY UDP4 192.0.2.1 198.51.100.2 1234 443\r\n"),
    ("a missing port", b"PROXY TCP4 192.0.2.1 198.51.100.2 1234\r\n"),
    ("one word too many", b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443 x\r\n"),
    ("two blanks", b"PROXY TCP4  192.0.2.1 198.51.100.2 1234 443\r\n"),
    ("a blank at the end", b"PROXY TCP4 192.0.2.1 198.51.100.2 1234 443 \r\n"),
    ("a port with a leading zero", b"PROXY TCP4 192.0.2.1 198.51.100.2 01234 443\r\n"),
    ("a port too large", b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n"),
    ("a signed port", b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n"),
    ("another script's digits", "PROXY TCP4 192.0.2.1 198.51.100.2 \u0661 443\r\n".encode()),
    ("an octet with a leading zero", b"PROXY TCP4 192.0.2.01 198.51.100.2 1234 443\r\n"),
    ("an octet too large", b"PROXY TCP4 192.0.2.256 198.51.100.2 1234 443\r\n"),
    ("three octets", b"PROXY TCP4 192.0.2 198.51.100.2 1234 443\r\n"),
    ("the other family", b"PROXY TCP4 ::1 ::1 1234 443\r\n"),
    ("the other family again", b"PROXY TCP6 192.0.2.1 198.51.100.2 1234 443\r\n"),
    ("a scope", b"PROXY TCP6 fe80::1%eth0 ::1 1234 443\r\n"),
    ("bytes that are no text", b"PROXY TCP4 \xff\xff 198.51.100.2 1234 443\r\n"),
    ("a line without end", b"PROXY TCP4 " + b"1" * 96),
    ("an endless unknown", b"PROXY UNKNOWN " + b"x" * 200),
    ("v2: version 1", binary(0x11, 0x11, V4)),
    ("v2: another command", binary(0x22, 0x11, V4)),
    ("v2: datagrams", binary(0x21, 0x12, V4)),
    ("v2: no such family", binary(0x21, 0x41, V4)),
    ("v2: too short for its addresses", binary(0x21, 0x11, V4[:11])),
    ("v2: too short for its addresses, tcp6", binary(0x21, 0x21, V4)),
    ("v2: a path that begins as abstract names are written", binary(0x21, 0x31, PATHS.replace(b"/run/a", b"@run/a"))),
    ("v2: too long", binary(0x21, 0x11, V4, length=LONGEST - 15)),
    ("v2: half a tlv", binary(0x21, 0x11, V4 + b"\x04\x00")),
    ("v2: a tlv beyond the end", binary(0x21, 0x11, V4 + pack("!BH", 4, 2) + b"x")),
    ("v2: a wrong checksum", with_checksum(V4, offset=1)),
    ("v2: a checksum of three bytes", binary(0x21, 0x11, V4 + tlv(3, b"abc"))),
    ("v2: the signature goes wrong", SIGNATURE[:11] + b"X"),
]
