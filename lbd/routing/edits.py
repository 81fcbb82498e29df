"""Header fields that a route sets, adds, removes, or answers with: checked once, and as bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.wire.message import Headers

__all__ = ["Edits", "HeaderEdits", "encoded_fields"]

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
# Framing and the connection: two opinions about them are how requests are smuggled.
OURS = {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """`{ set = {..}, add = {..}, remove = [..] }`."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


class Edits:
    """Header edits with their bytes ready: remove, then set, then add. ValueError for a field that cannot be or is not to be changed."""

    __slots__ = ("additions", "removals", "replacements")

    def __init__(self, policy: HeaderEdits) -> None:
        self.removals = tuple(name for name, _ in encoded_fields((name.lower(), "") for name in policy.remove))
        self.replacements = encoded_fields(policy.set)
        self.additions = encoded_fields(policy.add)

    def __bool__(self) -> bool:
        return bool(self.removals or self.replacements or self.additions)

    def apply(self, headers: Headers) -> None:
        for name in self.removals:
            headers.remove(name)
        for name, value in self.replacements:
            headers.set(name, value)
        for name, value in self.additions:
            headers.add(name, value)


def encoded_fields(fields: Iterable[tuple[str, str]]) -> tuple[tuple[bytes, bytes], ...]:
    """(name, value) as they go on the wire; ValueError, in a sentence, for what may not."""
    return tuple(encoded_field(name, value) for name, value in fields)


def encoded_field(name: str, value: str) -> tuple[bytes, bytes]:
    if not TOKEN.fullmatch(name):
        raise ValueError(f'"{name}" is not the name of a header field')
    if name.lower() in OURS:
        raise ValueError(f'"{name}" belongs to the connection, which is lbd\'s business')
    if name.lower() == "host":
        raise ValueError(f'"{name}" is changed by rewrite.host')
    if not VALUE.fullmatch(value):
        raise ValueError(f'the value of "{name}" has a line break or another control character')
    return name.encode(), value.strip().encode()
