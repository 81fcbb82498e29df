"""Header blocks as they come, decoded by hpack (RFC 7541).

Clients that ask the same again send the same few bytes, all of them references to the tables. What such a block meant it means as long
as the dynamic table has not changed; so those are remembered, and cost a look-up where decoding costs a microsecond a field.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack.exceptions import HPACKDecodingError
from hpack.hpack import Decoder
from hpack.table import HeaderTable

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FieldDecoder"]

LONGEST = 128  # bytes of a block that is remembered: references are a byte or two each
MOST = 64  # blocks
RESIZES = 2  # of the table, at the head of a block: the smallest size since the block before, and the last (RFC 7541 4.2)


class CountedTable(HeaderTable):
    """hpack's dynamic table, and how often something has been added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.changes = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.changes += 1
        super().add(name, value)


class FieldDecoder:
    """For one direction of one connection."""

    __slots__ = ("_decoder", "_known", "_table")

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of a header list (RFC 9113 6.5.2)."""
        self._decoder = Decoder(max_header_list_size=limit)
        self._table = self._decoder.header_table = CountedTable()
        self._known: dict[bytes, Sequence[tuple[bytes, bytes]]] = {}

    def decode(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        """hpack.HPACKError: it cannot be decoded, and no other can be either from now on."""
        known = self._known.get(block)
        if known is not None:
            return known
        before = self._table.changes
        resizes = bool(block) and block[0] & 0xE0 == 0x20
        if resizes:
            check_resizes(block)
        fields = tuple(self._decoder.decode(block, raw=True))
        if resizes or self._table.changes != before:
            self._known.clear()
        elif len(block) <= LONGEST and len(self._known) < MOST:
            self._known[block] = fields
        return fields


def check_resizes(block: bytes) -> None:
    """HPACKDecodingError: more of them than there may be. hpack takes a block that is nothing else, at 0.5 us a byte."""
    at = count = 0
    while at < len(block) and block[at] & 0xE0 == 0x20:
        count += 1
        if count > RESIZES:
            raise HPACKDecodingError("the table is resized again and again")
        more = block[at] & 0x1F == 0x1F
        at += 1
        while more and at < len(block):
            more = block[at] >= 0x80
            at += 1
