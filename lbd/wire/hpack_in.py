"""Header blocks as they come, decoded (RFC 7541).

The decoder is our own, for speed: as strict as hpack's, in whose exceptions it speaks, and held to it by tests. What makes it small is
that the table has the size it begins with at most, since our SETTINGS never say another; so at most 128 fields lie in it, and a list
that is shifted for each new one will do.

Clients that ask the same again send the same few bytes, all of them references to the tables. What such a block meant it means as long
as the dynamic table has not changed; so those are remembered, and cost a look-up. What lies in a table is the same Field each time that
it is referred to (http2_fields.py).
"""

from __future__ import annotations

from hpack.exceptions import HPACKDecodingError, InvalidTableIndexError, InvalidTableSizeError, OversizedHeaderListError

from lbd.wire.http2_fields import Field, static_fields
from lbd.wire.huffman import decode_huffman

__all__ = ["FieldDecoder"]

LONGEST = 128  # bytes of a block that is remembered: references are a byte or two each
MOST = 64  # blocks
FIELDS = 512  # of all of them: a client that wants us to hold memory makes blocks of many small ones
RESIZES = 2  # of the table, at the head of a block: the smallest size since the block before, and the last (RFC 7541 4.2)
TABLE = 4096  # bytes of the dynamic table (RFC 9113 6.5.2)
DIGITS = 5  # bytes of a number behind its first: any larger number is nonsense

STATIC = static_fields()
STATICS = len(STATIC)


class FieldDecoder:
    """For one direction of one connection."""

    __slots__ = ("_at", "_block", "_has_changed", "_kept", "_known", "_limit", "_most", "_size", "_table")

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of a header list (RFC 9113 6.5.2)."""
        self._limit = limit
        self._table: list[Field] = []  # the newest first
        self._size = 0  # of it
        self._most = TABLE
        self._known: dict[bytes, tuple[Field, ...]] = {}
        self._kept = 0  # fields that are in it
        self._block = b""
        self._at = 0
        self._has_changed = False

    def decode(self, block: bytes) -> tuple[Field, ...]:
        """hpack.HPACKError: it cannot be decoded, and no other can be either from now on."""
        known = self._known.get(block)
        if known is not None:
            return known
        self._block = block
        self._at = 0
        self._has_changed = False
        fields = tuple(self._fields())
        if self._has_changed:
            self._known.clear()
            self._kept = 0
        elif len(block) <= LONGEST and len(self._known) < MOST and self._kept + len(fields) <= FIELDS:
            self._known[block] = fields
            self._kept += len(fields)
        return fields

    def _fields(self) -> list[Field]:
        block = self._block
        end = len(block)
        fields: list[Field] = []
        left = self._limit
        resizes = 0
        while self._at < end:
            first = block[self._at]
            if first >= 0x80:
                field = self._entry(self._number(0x7F))
            elif first >= 0x40:
                field = self._literal(0x3F)
                self._add(field)
            elif first >= 0x20:
                resizes += 1
                if fields or resizes > RESIZES:
                    raise HPACKDecodingError("the table is resized behind a field, or again and again")
                self._resize(self._number(0x1F))
                continue
            else:
                field = self._literal(0x0F)
            left -= field.size
            if left < 0:
                raise OversizedHeaderListError(f"a header list above {self._limit} bytes")
            fields.append(field)
        return fields

    def _number(self, mask: int) -> int:
        """5.1: of the bits of `mask`, and what follows when they are all ones."""
        block, at = self._block, self._at
        end = len(block)
        if at >= end:
            raise HPACKDecodingError("a block that ends too early")
        value = block[at] & mask
        at += 1
        if value == mask:
            shift = 0
            while True:
                if at >= end:
                    raise HPACKDecodingError("a block that ends within a number")
                if shift == 7 * DIGITS:
                    raise HPACKDecodingError("a number that is too long")
                digit = block[at]
                at += 1
                value += (digit & 0x7F) << shift
                if digit < 0x80:
                    break
                shift += 7
        self._at = at
        return value

    def _entry(self, index: int) -> Field:
        """2.3.3"""
        if 0 < index <= STATICS:
            return STATIC[index - 1]
        index -= STATICS + 1
        if not 0 <= index < len(self._table):
            raise InvalidTableIndexError("a field that is in no table")
        return self._table[index]

    def _literal(self, mask: int) -> Field:
        """6.2"""
        index = self._number(mask)
        name = self._entry(index).name if index else self._string()
        return Field(name, self._string())

    def _string(self) -> bytes:
        """5.2"""
        start = self._at
        size = self._number(0x7F)
        at = self._at
        if size > len(self._block) - at:
            raise HPACKDecodingError("a block that ends within a string")
        self._at = at + size
        string = self._block[at : at + size]
        return decode_huffman(string) if self._block[start] >= 0x80 else string

    def _add(self, field: Field) -> None:
        """4.4: one that is too large for the table empties it."""
        self._has_changed = True
        self._table.insert(0, field)
        self._size += field.size
        self._shrink()

    def _resize(self, size: int) -> None:
        if size > TABLE:
            raise InvalidTableSizeError(f"a table of {size} bytes, above {TABLE}")
        self._has_changed = True
        self._most = size
        self._shrink()

    def _shrink(self) -> None:
        while self._size > self._most:
            field = self._table.pop()
            self._size -= field.size
