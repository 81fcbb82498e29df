"""The PROXY protocol, versions 1 and 2: who really speaks, said before the first byte of what is said.

https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt

Theory. A header is one piece at the very start of a connection, and whoever sent it is believed: a proxy tells whose connection it
carries. So a header is taken whole and right, or not at all. What could be read in two ways (leading zeros, two blanks, a length
that does not fit) is refused; guessing here means to log, to limit and to let in the wrong address.

parse_proxy_header() is fed everything that has come so far, as often as more comes: a header is small (107 bytes in version 1; LONGEST
in version 2), and in practice comes in one piece. It says None as long as the bytes may still become one.

"No address" is a header too: LOCAL (the proxy's own health check), UNKNOWN, UNSPEC. Then the connection's own addresses hold.

A dual-stack proxy that listens on [::] sees IPv4 clients as mapped addresses (::ffff:192.0.2.1) and says so. They are IPv4 here, as
everywhere in lbd: in logs and lists, and where clients are counted by their address.

TLVs are kept as they came, and go out again with the header; only the checksum covers the whole header and is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import pack, unpack_from

from lbd.wire.crc32c import crc32c
from lbd.wire.refusal import WireError

__all__ = ["BEGINNINGS", "LOCAL", "LONGEST", "VERSIONS", "ProxyHeader", "encode_proxy_header", "parse_proxy_header"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FIRST = b"PROXY"
BEGINNINGS = (b"PROXY ", SIGNATURE)  # of either version; nothing else that is spoken begins so
LONGEST_LINE = 107  # of version 1, CRLF included (section 2.1)
FIXED = 16  # version 2: signature, version and command, family, length
LONGEST = FIXED + 4096  # TLVs have certificates' names at most; a length of 65,535 only costs memory
UNIX_PATH = 108
VERSIONS = {"v1": 1, "v2": 2}  # as the configuration writes them
TLV_CRC32C = 0x03

LOCAL_COMMAND, PROXY_COMMAND = 0x20, 0x21
UNSPEC, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31
BLOCKS = {UNSPEC: 0, TCP4: 12, TCP6: 36, UNIX: 216}  # family -> bytes of its addresses


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """Addresses without brackets and with a port; of unix sockets "unix:/path" ("unix:" alone has no name) and port 0.

    `source` is "" when the header names none. `tlvs` are raw.
    """

    source: str = ""
    source_port: int = 0
    destination: str = ""
    destination_port: int = 0
    is_local: bool = False  # the proxy's own connection: nobody stands behind it
    tlvs: bytes = b""


LOCAL = ProxyHeader(is_local=True)


def parse_proxy_header(data: bytes) -> tuple[ProxyHeader, int] | None:
    """The header and where it ends; None: not all of it is here yet. WireError: it is none."""
    if data[: len(SIGNATURE)] == SIGNATURE[: len(data)]:
        return _parse_binary(data)
    if data[: len(FIRST)] == FIRST[: len(data)]:
        return _parse_line(data)
    raise _invalid("the connection does not begin with a PROXY header")


def _invalid(message: str) -> WireError:
    return WireError("proxy_header_invalid", 0, message)


# Version 1


def _parse_line(data: bytes) -> tuple[ProxyHeader, int] | None:
    end = data.find(b"\r\n", 0, LONGEST_LINE)
    if end < 0:
        if len(data) >= LONGEST_LINE:
            raise _invalid(f"its first line is longer than {LONGEST_LINE} bytes")
        return None
    words = data[:end].split(b" ")
    if words[:2] == [FIRST, b"UNKNOWN"]:  # whatever follows is to be ignored
        return ProxyHeader(), end + 2
    if words[0] != FIRST or len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise _invalid(f"not a PROXY line: {data[:end]!r}")
    kind = IPv4Address if words[1] == b"TCP4" else IPv6Address
    source, destination = _address(kind, words[2]), _address(kind, words[3])
    return ProxyHeader(source, _port(words[4]), destination, _port(words[5])), end + 2


def _address(kind: type[IPv4Address | IPv6Address], text: bytes) -> str:
    try:
        if b"%" in text:  # a scope means something on its own machine only
            raise ValueError
        return _name(kind(text.decode("ascii")))
    except ValueError:
        raise _invalid(f"{text!r} is not an address of its family") from None


def _name(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def _port(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (text[:1] == b"0" and text != b"0") or int(text) > 65535:
        raise _invalid(f"{text!r} is not a port")
    return int(text)


# Version 2


def _parse_binary(data: bytes) -> tuple[ProxyHeader, int] | None:
    if len(data) > 12 and data[12] not in (LOCAL_COMMAND, PROXY_COMMAND):
        raise _invalid(f"version and command are 0x{data[12]:02x}, which this protocol does not have")
    if len(data) < FIXED:
        return None
    family, length = data[13], int(unpack_from("!H", data, 14)[0])
    end = FIXED + length
    if end > LONGEST:
        raise _invalid(f"its length of {length} is above {LONGEST - FIXED}")
    if len(data) < end:
        return None
    if data[12] == LOCAL_COMMAND:
        return LOCAL, end
    if family not in BLOCKS:
        raise _invalid(f"the address family 0x{family:02x} is none of connections")
    begin = FIXED + BLOCKS[family]
    if begin > end:
        raise _invalid(f"its length of {length} has no room for the addresses")
    _check_tlvs(data[:end], begin)
    return _addressed(data, family, data[begin:end]), end


def _addressed(data: bytes, family: int, tlvs: bytes) -> ProxyHeader:
    if family == TCP4:
        source, destination, source_port, destination_port = unpack_from("!4s4sHH", data, FIXED)
        return ProxyHeader(str(IPv4Address(source)), source_port, str(IPv4Address(destination)), destination_port, tlvs=tlvs)
    if family == TCP6:
        source, destination, source_port, destination_port = unpack_from("!16s16sHH", data, FIXED)
        return ProxyHeader(_name(IPv6Address(source)), source_port, _name(IPv6Address(destination)), destination_port, tlvs=tlvs)
    if family == UNIX:
        source, destination = unpack_from("108s108s", data, FIXED)
        return ProxyHeader(_unix_name(source), 0, _unix_name(destination), 0, tlvs=tlvs)
    return ProxyHeader(tlvs=tlvs)


def _unix_name(raw: bytes) -> str:
    """Abstract ones begin with a zero, written "@" as in ss(8), and cannot go on with one: nothing tells how long they are."""
    if raw[:1] == b"@":
        raise _invalid("the name of its unix socket begins with @, as abstract ones are written")
    raw = b"@" + raw[1:] if raw[:1] == b"\0" and raw[1:2] != b"\0" else raw
    return "unix:" + raw.partition(b"\0")[0].decode("latin-1")


def _check_tlvs(header: bytes, begin: int) -> None:
    """They must fill the rest of the header, and a checksum must be right."""
    at = begin
    while at < len(header):
        if at + 3 > len(header):
            raise _invalid("its last TLV is cut off")
        kind, length = unpack_from("!BH", header, at)
        value = at + 3
        at = value + length
        if at > len(header):
            raise _invalid(f"a TLV of type 0x{kind:02x} is longer than the header")
        if kind == TLV_CRC32C:
            if length != 4:
                raise _invalid("its checksum is not of four bytes")
            stated = int(unpack_from("!I", header, value)[0])
            if crc32c(header[:value] + b"\0\0\0\0" + header[at:]) != stated:
                raise _invalid("its checksum is wrong")


# Out


def encode_proxy_header(version: int, header: ProxyHeader) -> bytes:
    """Version 1 or 2. Addresses that version 1 has no words for are UNKNOWN there."""
    return _encode_line(header) if version == 1 else _encode_binary(header)


def _encode_line(header: ProxyHeader) -> bytes:
    pair = None if header.is_local else _same_family(header.source, header.destination)
    if pair is None:
        return b"PROXY UNKNOWN\r\n"
    kind = "TCP4" if isinstance(pair[0], IPv4Address) else "TCP6"
    return f"PROXY {kind} {pair[0]} {pair[1]} {header.source_port} {header.destination_port}\r\n".encode()


def _encode_binary(header: ProxyHeader) -> bytes:
    if header.is_local:
        return SIGNATURE + pack("!BBH", LOCAL_COMMAND, UNSPEC, 0)
    family, block = _address_block(header)
    begin = FIXED + len(block)
    whole = SIGNATURE + pack("!BBH", PROXY_COMMAND, family, len(block) + len(header.tlvs)) + block + header.tlvs
    return _with_checksum(whole, begin)


def _address_block(header: ProxyHeader) -> tuple[int, bytes]:
    pair = _same_family(header.source, header.destination)
    if pair is not None:
        family = TCP4 if isinstance(pair[0], IPv4Address) else TCP6
        return family, pair[0].packed + pair[1].packed + pack("!HH", header.source_port, header.destination_port)
    if header.source.startswith("unix:") and header.destination.startswith("unix:"):
        return UNIX, _unix_bytes(header.source) + _unix_bytes(header.destination)
    return UNSPEC, b""


def _unix_bytes(name: str) -> bytes:
    raw = name[5:].encode("latin-1", "replace")
    raw = b"\0" + raw[1:] if raw.startswith(b"@") else raw
    return raw[:UNIX_PATH].ljust(UNIX_PATH, b"\0")


def _same_family(source: str, destination: str) -> tuple[IPv4Address, IPv4Address] | tuple[IPv6Address, IPv6Address] | None:
    """Both as addresses of one family: where one is IPv4 and the other IPv6, the former is mapped. None: they are none."""
    try:
        left, right = _ip(source), _ip(destination)
    except ValueError:
        return None
    if isinstance(left, IPv4Address) and isinstance(right, IPv4Address):
        return left, right
    return _mapped(left), _mapped(right)


def _ip(text: str) -> IPv4Address | IPv6Address:
    return IPv6Address(text.partition("%")[0]) if ":" in text else IPv4Address(text)


def _mapped(address: IPv4Address | IPv6Address) -> IPv6Address:
    return address if isinstance(address, IPv6Address) else IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _with_checksum(header: bytes, begin: int) -> bytes:
    """The one that came along holds for another header."""
    at = begin
    while at + 3 <= len(header):
        kind, length = unpack_from("!BH", header, at)
        if kind == TLV_CRC32C and length == 4:
            blank = header[: at + 3] + b"\0\0\0\0" + header[at + 7 :]
            header = blank[: at + 3] + pack("!I", crc32c(blank)) + blank[at + 7 :]
        at += 3 + length
    return header
