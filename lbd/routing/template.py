"""Targets that a rewrite or a redirect puts together: fixed text, and groups of the route's regular expression.

    path_regex = "/users/(\\\\d+)/(?P<tab>\\\\w+)"       path = "/u/\\\\1?tab=\\\\g<tab>"

A group holds decoded text (path.py), so it is escaped again for where it goes: a "?" that was escaped in the path cannot begin a
query, nor a "&" in a query begin a parameter. The fixed text is taken as it stands, but for what a target may not contain.
"""

from __future__ import annotations

import re

from lbd.routing.path import quoted

__all__ = ["Template"]

GROUP = re.compile(r"\\(?:(\d{1,2})|g<(\w+)>)")
UNSAFE_IN_QUERY = re.compile(rb"[^A-Za-z0-9._~!$'()*,;:@/?%-]")  # of a value; path.quoted() less "&", "=" and "+"
UNSAFE_IN_TEXT = re.compile(rb"[^!-~]|[\"#<>\\^`{|}]")

Piece = bytes | int  # text as it is, or the number of a group


class Template:
    """`is_fixed`: nothing depends on the request."""

    __slots__ = ("_path", "_query", "is_fixed")

    def __init__(self, text: str, regex: re.Pattern[bytes] | None) -> None:
        """ValueError for a group that the regular expression does not have."""
        if not text.startswith("/"):
            raise ValueError(f'"{text}": a path starts with "/"')
        path, mark, query = text.partition("?")
        if "?" in path or "#" in text:
            raise ValueError(f'"{text}": a path and a query, without a fragment')
        self._path = parse_pieces(path, text, regex)
        self._query = parse_pieces(query, text, regex) if mark else []
        self.is_fixed = not any(isinstance(piece, int) for piece in self._path + self._query)

    def filled(self, match: re.Match[bytes] | None) -> tuple[bytes, bytes]:
        """Path and query (b"" for none). Without a match the groups are empty."""
        path = b"".join(piece if isinstance(piece, bytes) else quoted(group(match, piece)) for piece in self._path)
        query = b"".join(piece if isinstance(piece, bytes) else quoted_value(group(match, piece)) for piece in self._query)
        return path, query


def group(match: re.Match[bytes] | None, number: int) -> bytes:
    return (match[number] or b"") if match is not None else b""


def quoted_value(text: bytes) -> bytes:
    return UNSAFE_IN_QUERY.sub(escaped, text)


def escaped(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % ord(match[0])


def parse_pieces(text: str, whole: str, regex: re.Pattern[bytes] | None) -> list[Piece]:
    pieces: list[Piece] = []
    at = 0
    for reference in GROUP.finditer(text):
        pieces.append(fixed_text(text[at : reference.start()], whole))
        pieces.append(group_number(reference[1] or reference[2], whole, regex))
        at = reference.end()
    pieces.append(fixed_text(text[at:], whole))
    return [piece for piece in pieces if piece != b""]


def fixed_text(text: str, whole: str) -> bytes:
    if "\\" in text:
        raise ValueError(f'"{whole}": a backslash stands before the number of a group, as in \\1, or its name, as in \\g<name>')
    return UNSAFE_IN_TEXT.sub(escaped, text.encode())


def group_number(name: str, whole: str, regex: re.Pattern[bytes] | None) -> int:
    if regex is None:
        raise ValueError(f'"{whole}" refers to group {name}, but the route has no path_regex')
    if name.isdecimal() and int(name) <= regex.groups:
        return int(name)
    if name in regex.groupindex:
        return regex.groupindex[name]
    raise ValueError(f'"{whole}" refers to group {name}; path_regex has {regex.groups}')
