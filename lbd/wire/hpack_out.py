"""Fields on their way out, in HPACK's representation (RFC 7541).

Theory. A balancer sees each field once, and most it sends are dates, ids and lengths, which nobody will refer to again. So we
never put anything into the dynamic table: what is in the static one costs a byte, the rest is a literal. That needs no state that
could be wrong, no search of a table, and a line of a response costs one look into a dictionary; HAProxy does the same. Credentials
are marked "never indexed" (7.1.3), so that the next hop does not put them into its own table either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack.table import HeaderTable

from lbd.wire.grammar import HOP_BY_HOP, OF_PROXIES

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EMPTY_TABLE", "LineEncoder", "encoded_fields", "encoded_status"]

LONGEST = 64  # bytes of a line that is remembered
MOST = 64  # lines
EMPTY_TABLE = b"\x20"  # "the dynamic table has no room", to stand at the beginning of a block

WHOLE = {(name, value): index for index, (name, value) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1))) if value}
NAMES = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}
NEVER_SENT = (HOP_BY_HOP - OF_PROXIES) | {b"host"}  # the latter only if a rewrite has set them
NEVER_INDEXED = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"))
NEVER_KEPT = NEVER_INDEXED | {b"x-request-id", b"traceparent"}  # secrets, and what is another each time


def encoded_integer(value: int, prefix: int, first: int) -> bytes:
    """RFC 7541, 5.1: a number whose first byte has `prefix` bits left beside those of `first`."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes((first | value,))
    value -= most
    digits = bytearray((first | most,))
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def encoded_name(name: bytes, first: int) -> bytes:
    index = NAMES.get(name)
    if index is not None:
        return encoded_integer(index, 4, first)
    return bytes((first,)) + encoded_integer(len(name), 7, 0) + name


# What names become, for all that there are in the static table; others are made when they come, they may be anything.
STARTS = {name: encoded_name(name, 0x10 if name in NEVER_INDEXED else 0) for name in NAMES}
LENGTHS = [encoded_integer(length, 7, 0) for length in range(512)]
INDEXED = {pair: bytes((0x80 | index,)) for pair, index in WHOLE.items()}


def encoded_fields(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Lower-case names and their values."""
    pieces: list[bytes] = []
    for pair in fields:
        ready = INDEXED.get(pair)
        if ready is not None:
            pieces.append(ready)
            continue
        name, value = pair
        pieces.append(STARTS.get(name) or encoded_name(name, 0))
        size = len(value)
        pieces.append(LENGTHS[size] if size < 512 else encoded_integer(size, 7, 0))
        pieces.append(value)
    return b"".join(pieces)


class LineEncoder:
    """Lines of HTTP/1 as fields. Most lines of a connection's responses are the same again and again: those are remembered."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, bytes] = {}

    def encode(self, block: bytes) -> bytes:
        """Names become lower-case; fields that speak of a connection, Host and Content-Length do not come along."""
        known = self._known
        pieces: list[bytes] = []
        for line in block.split(b"\r\n"):
            if line:
                ready = known.get(line)
                pieces.append(ready if ready is not None else self._encoded(line))
        return b"".join(pieces)

    def _encoded(self, line: bytes) -> bytes:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in NEVER_SENT:
            return b""
        encoded = encoded_fields(((name, value.strip(b" \t")),))
        if len(line) <= LONGEST and name not in NEVER_KEPT:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[line] = encoded
        return encoded


def encoded_status(status: int) -> bytes:
    ready = STATUSES.get(status)
    return ready if ready is not None else encoded_fields(((b":status", b"%d" % status),))


STATUSES = {status: encoded_fields(((b":status", b"%d" % status),)) for status in range(100, 600)}
