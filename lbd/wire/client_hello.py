"""The first thing a TLS client says, read without answering it: which name it wants, and which protocols it speaks.

RFC 8446 sections 4.1.2 and 5.1, RFC 6066 section 3, RFC 7301. The hello is in the clear, but it may come in pieces twice over:
spread over TLS records as its sender likes, and those over TCP segments. Post-quantum key shares have made hellos larger than one
packet; who looks only at the first one does not see the name (nginx reads up to 16 KiB, Envoy up to 16 KiB, and both join records).

HelloReader is fed what comes and keeps all of it: the bytes go on, untouched, to whoever answers. It is bounded, and whatever it cannot
read is a WireError. What could be read in two ways (an extension that comes twice) is refused: the endpoint may take the other one.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from lbd.wire.refusal import WireError

__all__ = ["MOST", "ClientHello", "HelloReader", "is_part_of_record", "raw_name"]

MOST = 32 * 1024  # bytes of records that a hello may take
HANDSHAKE_RECORD, CLIENT_HELLO = 22, 1
LARGEST_RECORD = 1 << 14
SERVER_NAME, ALPN = 0, 16
NAME = re.compile(rb"[A-Za-z0-9_.-]{1,255}")
# The extension server_name has three lengths in one another: its own, the list's, the name's; kinds are 0. OpenSSL takes no name above 255.
NAME_LENGTHS = re.compile(rb"(?=\0\0([\0\1].)([\0\1].)\0(\0.))", re.DOTALL)


class ClientHello(NamedTuple):
    """`sni` in lower case, "" without one."""

    sni: str
    alpn: tuple[bytes, ...]


def _bad(message: str) -> WireError:
    return WireError("client_hello_invalid", 0, message)


class HelloReader:
    """`received` is everything that came; `is_tls` is known from the first byte on."""

    __slots__ = ("_at", "_hello", "received")

    def __init__(self) -> None:
        self.received = b""
        self._at = 0  # where the next record begins
        self._hello = b""  # the records' contents

    @property
    def is_tls(self) -> bool:
        return self.received[:1] == b"\x16"

    def feed(self, data: bytes) -> ClientHello | None:
        """None as long as it is not whole. WireError: it is no hello, and will not become one."""
        self.received += data
        while (record := self._next_record()) is not None:
            self._hello += record
            if self._hello[0] != CLIENT_HELLO:
                raise _bad(f"its first message is of type {self._hello[0]}, not a ClientHello")
            if len(self._hello) < 4:
                continue
            length = int.from_bytes(self._hello[1:4], "big")
            if length > MOST:
                raise _bad(f"a hello of {length} bytes, above {MOST}")
            if len(self._hello) >= 4 + length:
                return _parse_hello(self._hello[4 : 4 + length])
        if len(self.received) >= MOST:
            raise _bad(f"no whole hello within {MOST} bytes")
        return None

    def _next_record(self) -> bytes | None:
        """The contents of the next whole record."""
        data, at = self.received, self._at
        head = data[at : at + 5]
        if head and head[0] != HANDSHAKE_RECORD:
            raise _bad(f"a record of type {head[0]}, not a handshake")
        if len(head) > 1 and head[1] != 3:
            raise _bad(f"a record of version {head[1]}, which is not TLS")
        if len(head) < 5:
            return None
        length = int.from_bytes(head[3:5], "big")
        if not 0 < length <= LARGEST_RECORD:
            raise _bad(f"a handshake record of {length} bytes")
        end = at + 5 + length
        if len(data) < end:
            return None
        self._at = end
        return data[at + 5 : end]


def is_part_of_record(received: bytes) -> bool:
    """More is to come of the first record; what is none is whole as it is."""
    if len(received) < 5:
        return True
    length = int.from_bytes(received[3:5], "big")
    return length <= LARGEST_RECORD and len(received) < 5 + length


def raw_name(record: bytes) -> bytes:
    """The name that is asked for in a hello of one record, whatever it is made of; b"" where none is found.

    For those who leave the hello to OpenSSL and want one look at the name before: a search in C, 2 us where parsing takes 20.
    """
    for match in NAME_LENGTHS.finditer(record):
        extension, names, name = (int.from_bytes(length, "big") for length in match.groups())
        if extension == name + 5 and names == name + 3:
            begin = match.start() + 9
            return record[begin : begin + name]
    return b""


class _Cursor:
    """Reads vectors; WireError where one says that it is longer than what it lies in."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise _bad("a hello that is cut off within a field")
        self._at += count
        return taken

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "big")

    def vector(self, width: int) -> bytes:
        return self.take(self.number(width))


def _parse_hello(data: bytes) -> ClientHello:
    cursor = _Cursor(data)
    cursor.take(2 + 32)  # version, random
    cursor.vector(1)  # session id
    cursor.vector(2)  # cipher suites
    cursor.vector(1)  # compression methods
    found: dict[int, bytes] = {}
    if cursor:  # before TLS 1.3 extensions may be missing altogether
        extensions = _Cursor(cursor.vector(2))
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind in found:
                raise _bad(f"the extension {kind} comes twice")
            found[kind] = content
    if cursor:
        raise _bad("bytes behind the extensions")
    sni = _parse_names(found[SERVER_NAME]) if SERVER_NAME in found else ""
    return ClientHello(sni, _parse_protocols(found[ALPN]) if ALPN in found else ())


def _parse_names(content: bytes) -> str:
    outer = _Cursor(content)
    names = _Cursor(outer.vector(2))
    kind, name = names.number(1), names.vector(2)
    if names or outer or kind != 0:  # RFC 6066: no two of one type, and there is one type
        raise _bad("a server name list that is not of one host name")
    if not NAME.fullmatch(name):
        raise _bad(f"{name[:100]!r} is not a host name")
    return name.decode().lower().rstrip(".")


def _parse_protocols(content: bytes) -> tuple[bytes, ...]:
    outer = _Cursor(content)
    protocols = _Cursor(outer.vector(2))
    found = []
    while protocols:
        found.append(protocols.vector(1))
    if outer or not all(found):
        raise _bad("a malformed list of protocols")
    return tuple(found)
