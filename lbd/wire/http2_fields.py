"""A field of HTTP/2, and what has been found out about it.

Theory. Most fields of a head are references to a table, and what a table gives is the same object each time. So whatever there is to know
about a field is kept with it: what its name means to a proxy, that name and value have been checked, and the line that it becomes. A
field that comes again costs a few looks at these; only one that is new is read.
"""

from __future__ import annotations

from hpack.table import HeaderTable

from lbd.wire.grammar import CLAIMS, HOP_BY_HOP, NOT_TRAILERS

__all__ = [
    "AUTHORITY",
    "FORBIDDEN",
    "HANDED_ON",
    "METHOD",
    "NOT_TRAILER",
    "PATH",
    "PROTOCOL",
    "REQUEST_NOTED",
    "RESPONSE_NOTED",
    "SCHEME",
    "STATUS",
    "UNKNOWN",
    "Field",
    "static_fields",
]

OVERHEAD = 32  # bytes that a field counts for beyond its own (RFC 7541 4.1, RFC 9113 6.5.2)

# Places of pseudo-headers; 0 is any other field.
METHOD, SCHEME, PATH, AUTHORITY, PROTOCOL, STATUS, UNKNOWN = range(1, 8)
PLACES = {b":method": METHOD, b":scheme": SCHEME, b":path": PATH, b":authority": AUTHORITY, b":protocol": PROTOCOL, b":status": STATUS}

# What a name means
REQUEST_NOTED, RESPONSE_NOTED = 0x01, 0x02  # it is looked at in such a head
HANDED_ON = 0x04  # all the same
NOT_TRAILER = 0x08
FORBIDDEN = 0x10  # RFC 9113 8.2.2; `te` may say "trailers", and that only

CONNECTION_FIELDS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te"))
MEANINGS = (
    (REQUEST_NOTED, HOP_BY_HOP | CLAIMS | {b"host", b"expect", b"cookie"}),
    (RESPONSE_NOTED, HOP_BY_HOP),
    (HANDED_ON, CLAIMS | {b"expect"}),
    (NOT_TRAILER, NOT_TRAILERS),
    (FORBIDDEN, CONNECTION_FIELDS),
)
MARKS = {name: sum(mark for mark, names in MEANINGS if name in names) for _, names in MEANINGS for name in names}


class Field:
    """`line` is b"" until somebody has needed it: of an :authority the checked host, of any other field a line of HTTP/1."""

    __slots__ = ("is_checked", "line", "marks", "name", "place", "size", "value")

    def __init__(self, name: bytes, value: bytes) -> None:
        self.name = name
        self.value = value
        self.size = len(name) + len(value) + OVERHEAD
        self.is_checked = False  # as what its place says
        self.line = b""
        self.marks = MARKS.get(name, 0)
        self.place = PLACES.get(name, UNKNOWN) if name.startswith(b":") else 0

    def __repr__(self) -> str:
        return f"Field({self.name!r}, {self.value!r})"

    def as_line(self) -> bytes:
        if not self.line:
            self.line = b"%b: %b\r\n" % (self.name, self.value)
        return self.line


def static_fields() -> list[Field]:
    """RFC 7541, appendix A."""
    return [Field(name, value) for name, value in HeaderTable.STATIC_TABLE]
