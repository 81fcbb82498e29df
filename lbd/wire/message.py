"""Messages: what HTTP/1 and HTTP/2 have in common. See docs/architecture.md, wire.

Theory. A proxy hands on nearly every field as it came, and looks at few. So Headers *is* its HTTP/1 form: one block of checked
lines, from which framing, hop-by-hop fields and Host have been cut. Encoding it is no work; a look-up searches a lower-cased
copy, made when somebody first asks; a change cuts and appends bytes. A line break inside a value would break all of that, hence
add() and set() refuse one: nothing that reaches a block can forge a field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Headers", "RequestHead", "ResponseHead", "is_field_name", "is_field_value"]

NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2: token
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")  # 5.5, without the control characters; obs-text passes as it is


def is_field_name(name: bytes) -> bool:
    """May this be the name of a field? For configuration too."""
    return NAME.fullmatch(name) is not None


def is_field_value(value: bytes) -> bool:
    return VALUE.fullmatch(value) is not None


class Headers:
    """Fields in order; names may repeat and keep their case. Look-ups are by lower-case name."""

    __slots__ = ("_block", "_folded")

    def __init__(self, block: bytes = b"") -> None:
        """`block` is b"Name: value\\r\\n" for each field, and nothing that has not been checked; see of()."""
        self._block = block
        self._folded = b""  # a line feed and the block in lower case; b"" until it is needed

    @staticmethod
    def of(fields: Iterable[tuple[bytes, bytes]]) -> Headers:
        """ValueError: not a name or a value of a field."""
        return Headers(b"".join([encoded(name, value) for name, value in fields]))

    def get(self, name: bytes) -> bytes | None:
        """The first value."""
        at = self._find(name, 0)
        return None if at < 0 else self._value(at + len(name) + 1)

    def get_all(self, name: bytes) -> list[bytes]:
        """Each value of a repeated field on its own."""
        values: list[bytes] = []
        at = self._find(name, 0)
        while at >= 0:
            at += len(name) + 1
            values.append(self._value(at))
            at = self._find(name, at)
        return values

    def items(self) -> list[tuple[bytes, bytes]]:
        """(name as received, value)"""
        pairs: list[tuple[bytes, bytes]] = []
        for line in self._block.split(b"\r\n"):
            if line:
                name, _, value = line.partition(b":")
                pairs.append((name, value.strip(b" \t")))
        return pairs

    def add(self, name: bytes, value: bytes) -> None:
        self._replace(self._block + encoded(name, value))

    def set(self, name: bytes, value: bytes) -> None:
        """In the place of the first field of this name, if there is one, and of all others."""
        line = encoded(name, value)
        key = name.lower()
        at = self._find(key, 0)
        self.remove(key)
        if at < 0:
            at = len(self._block)
        self._replace(self._block[:at] + line + self._block[at:])

    def remove(self, name: bytes) -> None:
        key = name.lower()
        at = self._find(key, 0)
        if at < 0:
            return
        pieces: list[bytes] = []
        start = 0
        while at >= 0:
            pieces.append(self._block[start:at])
            start = self._block.index(b"\n", at) + 1
            at = self._find(key, start)
        pieces.append(self._block[start:])
        self._replace(b"".join(pieces))

    def remove_all(self, names: frozenset[bytes]) -> None:
        """Every field of these lower-case names, in one pass however many they are."""
        lines = self._block.split(b"\r\n")
        kept = [line for line in lines if not line or line.partition(b":")[0].lower() not in names]
        if len(kept) < len(lines):
            self._replace(b"\r\n".join(kept))

    def encode(self) -> bytes:
        """HTTP/1 form, each line with its end."""
        return self._block

    def __len__(self) -> int:
        return self._block.count(b"\n")

    def __repr__(self) -> str:
        return f"Headers({self._block!r})"

    def _find(self, name: bytes, start: int) -> int:
        """Where in the block the next line with this name begins; -1 for none."""
        if not self._folded:
            self._folded = b"\n" + self._block.lower()
        return self._folded.find(b"\n%b:" % name, start)

    def _value(self, start: int) -> bytes:
        return self._block[start : self._block.index(b"\r\n", start)].strip(b" \t")

    def _replace(self, block: bytes) -> None:
        self._block = block
        self._folded = b""


def encoded(name: bytes, value: bytes) -> bytes:
    if not is_field_name(name) or not is_field_value(value):
        raise ValueError(f"not a header field: {name[:100]!r}: {value[:100]!r}")
    return b"%b: %b\r\n" % (name, value)


class RequestHead:
    """A request without its body. Made by a codec; by hand with make()."""

    __slots__ = (
        "authority", "chunked", "content_length", "expect_continue", "has_proxy_fields", "headers", "keep_alive", "method", "minor",
        "path", "query", "scheme", "target", "te_trailers", "upgrade",
    )  # fmt: skip

    method: bytes
    target: bytes  # origin-form, or b"*"
    path: bytes  # the target up to its first question mark
    query: bytes  # what follows it; b"" for none
    authority: bytes  # host or host:port, lower-case; b"" for HTTP/1.0 without Host
    scheme: bytes
    minor: int  # of HTTP/1.minor; 2 for HTTP/2
    headers: Headers
    content_length: int  # -1: not given
    chunked: bool
    keep_alive: bool  # as far as the sender is concerned
    expect_continue: bool
    upgrade: bytes  # the protocols that are offered; b"" for none
    te_trailers: bool  # the sender takes trailers, and says so
    has_proxy_fields: bool  # one of those that proxies write came: Via, Forwarded, X-Forwarded-*, X-Request-Id and the like

    @staticmethod
    def make(*, method: bytes = b"GET", target: bytes = b"/", authority: bytes = b"", **rest: object) -> RequestHead:
        """Any attribute by name; the others as of a plain GET without fields."""
        head = RequestHead()
        head.method = method
        head.target = target
        head.path, _, head.query = target.partition(b"?")
        head.authority = authority
        head.scheme = b"http"
        head.minor = 1
        head.headers = Headers()
        head.content_length = -1
        head.chunked = False
        head.keep_alive = True
        head.expect_continue = False
        head.upgrade = b""
        head.te_trailers = False
        head.has_proxy_fields = False
        for name, value in rest.items():
            setattr(head, name, value)
        return head

    def __repr__(self) -> str:
        return described(self, REQUEST_ATTRIBUTES)


class ResponseHead:
    """A response without its body, an informational one included."""

    __slots__ = ("chunked", "content_length", "headers", "keep_alive", "minor", "reason", "status", "upgrade")

    status: int
    reason: bytes
    minor: int
    headers: Headers
    content_length: int  # -1: not given
    chunked: bool
    keep_alive: bool
    upgrade: bytes

    @staticmethod
    def make(*, status: int = 200, reason: bytes = b"", **rest: object) -> ResponseHead:
        """Any attribute by name; the others as of a response without fields."""
        head = ResponseHead()
        head.status = status
        head.reason = reason
        head.minor = 1
        head.headers = Headers()
        head.content_length = -1
        head.chunked = False
        head.keep_alive = True
        head.upgrade = b""
        for name, value in rest.items():
            setattr(head, name, value)
        return head

    def __repr__(self) -> str:
        return described(self, RESPONSE_ATTRIBUTES)


REQUEST_ATTRIBUTES = (
    "method", "target", "path", "query", "authority", "scheme", "minor", "headers", "content_length", "chunked", "keep_alive",
    "expect_continue", "upgrade", "te_trailers", "has_proxy_fields",
)  # fmt: skip
RESPONSE_ATTRIBUTES = ("status", "reason", "minor", "headers", "content_length", "chunked", "keep_alive", "upgrade")


def described(head: object, names: tuple[str, ...]) -> str:
    """Two heads that read the same are the same: tests compare these."""
    return f"{type(head).__name__}({', '.join(f'{name}={getattr(head, name)!r}' for name in names)})"
