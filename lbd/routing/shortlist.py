"""Which of many routes a request may concern at all, before they are asked one by one.

Theory. Routes of one path and host differ in their conditions, and those with regular expressions in these. A table of ten thousand
tenants by the value of a header would be ten thousand questions to a request. So each route that demands a value, of a header or of a
parameter, is put under one that it demands, the rarest among its neighbours'; a request brings along its values, and with them the
routes that lie there. A regular expression is put under the text that it begins with. What demands no value, or begins with no text,
is asked always. The order stays what it is: candidates carry their places, and come in the order of these.

A route that is left out could not have taken the request; one that is let in is asked as ever. So an index that knew nothing would be slow,
and never wrong; when in doubt a pattern begins with no text at all.
"""

from __future__ import annotations

from collections import Counter
from heapq import merge
from operator import itemgetter
from typing import TYPE_CHECKING

from lbd.routing.conditions import parse_query

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from lbd.routing.conditions import Conditions, Field
    from lbd.routing.route import Route
    from lbd.wire.message import RequestHead

    Candidate = tuple[int, Route]  # its place in the order
    Index = dict[bytes, dict[bytes, list[Candidate]]]  # name -> value -> who demands it, in order

__all__ = ["FEW", "Prefixes", "Shortlist", "in_order", "literal_prefix", "values_of"]

FEW = 8  # are asked one by one: an index costs as much
LONGEST = 128  # bytes of a prefix that are looked at: one look-up for each length that there is
LITERAL = frozenset(b"/-_~!%&',:;=@<>\"` ") | frozenset(range(0x80, 0x100)) | frozenset(b"0123456789")
LITERAL |= frozenset(range(ord("a"), ord("z") + 1)) | frozenset(range(ord("A"), ord("Z") + 1))
PUNCTUATION = frozenset(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ ")  # an escape of one of these is that character
# What a group may begin with. Others turn flags on, are comments, or conditions: what comes after them may mean anything.
PLAIN_GROUPS = (b"(?:", b"(?P<", b"(?=", b"(?!", b"(?<=", b"(?<!")

place = itemgetter(0)


def in_order(lists: list[Collection[Candidate]]) -> Iterable[Candidate]:
    """All candidates of lists that are in order themselves; one that is in several may come several times."""
    return lists[0] if len(lists) == 1 else merge(*lists, key=place)


class Shortlist:
    """Routes of one path and host, or of one beginning, by the values that they demand."""

    __slots__ = ("_all", "_headers", "_query", "_rest")

    def __init__(self, candidates: list[Candidate]) -> None:
        """`candidates` are in order."""
        self._all = candidates
        self._rest: list[Candidate] = []
        self._headers: Index = {}
        self._query: Index = {}
        if len(candidates) > FEW:
            self._fill()

    def of(self, request: RequestHead) -> Iterable[Candidate]:
        """Those that may take it, in order."""
        if not (self._headers or self._query):
            return self._all
        lists: list[Collection[Candidate]] = [self._rest]
        for name, by_value in self._headers.items():
            lists += [by_value[value] for value in set(request.headers.get_all(name)) if value in by_value]
        if self._query:
            for name, values in parse_query(request.query).items():
                by_value = self._query.get(name, {})
                lists += [by_value[value] for value in set(values) if value in by_value]
        return in_order(lists)

    def _fill(self) -> None:
        demanded = [list(values_of(route.conditions)) for _, route in self._all]
        of_value = Counter(value for values in demanded for value in values)
        of_name = Counter(value[:2] for values in demanded for value in values)
        for candidate, values in zip(self._all, demanded, strict=True):
            if values:
                is_header, name, value = min(values, key=lambda value: (of_value[value], -of_name[value[:2]]))
                index = self._headers if is_header else self._query
                index.setdefault(name, {}).setdefault(value, []).append(candidate)
            else:
                self._rest.append(candidate)


def values_of(conditions: Conditions | None) -> Iterator[tuple[bool, bytes, bytes]]:
    """(whether of a header, name, value) for each that must be there as it stands."""
    if conditions is not None:
        for is_header, fields in ((True, conditions.headers), (False, conditions.query)):
            yield from ((is_header, name, expected) for name, expected in wanted(fields))


def wanted(fields: tuple[Field, ...]) -> Iterator[tuple[bytes, bytes]]:
    for name, expected in fields:
        if isinstance(expected, bytes):
            yield name, expected


class Prefixes:
    """Routes with regular expressions, by what these begin with."""

    __slots__ = ("_by_prefix", "_few", "_lengths")

    def __init__(self, candidates: list[Candidate]) -> None:
        """`candidates` are in order."""
        self._few: list[Collection[Candidate]] = [candidates] if 0 < len(candidates) <= FEW else []
        lists: dict[bytes, list[Candidate]] = {}
        for candidate in candidates if len(candidates) > FEW else ():
            lists.setdefault(literal_prefix(candidate[1].policy.path_regex)[:LONGEST], []).append(candidate)
        self._by_prefix = {prefix: Shortlist(those) for prefix, those in lists.items()}
        self._lengths = sorted(set(map(len, lists)))

    def of(self, path: bytes, request: RequestHead) -> list[Collection[Candidate]]:
        """Those that may take it: lists, each in order."""
        if self._few:
            return self._few
        lists: list[Collection[Candidate]] = []
        for length in self._lengths:
            if length > len(path):
                break
            if (shortlist := self._by_prefix.get(path[:length])) is not None:
                lists.append(shortlist.of(request))  # type: ignore[arg-type]
        return lists


def literal_prefix(pattern: str) -> bytes:
    """What all that this regular expression matches as a whole begins with: b"/svc7/" for "/svc7/[a-z]+"; b"" when in doubt.

    The beginning ends at the first thing that may be several things. Alternatives beside the whole pattern would make it worthless; to see
    that there are none the rest is walked, in which only groups, classes and escapes matter.
    """
    text = pattern.encode()
    at = 1 if text.startswith(b"^") else 0
    prefix = bytearray()
    while at < len(text):
        byte, size = text[at], 1
        if byte == ord("\\") and at + 1 < len(text) and text[at + 1] in PUNCTUATION:
            byte, size = text[at + 1], 2
        elif byte not in LITERAL:
            break
        following = text[at + size : at + size + 1]
        if following and following in b"*?{":  # it may be missing
            break
        prefix.append(byte)
        at += size
        if following == b"+":
            break
    return bytes(prefix) if is_one_branch(text, at) else b""


def is_one_branch(text: bytes, at: int) -> bool:
    """Whether there is surely no "|" outside of groups from here on."""
    depth = 0
    while at < len(text):
        byte = text[at : at + 1]
        if byte == b"\\":
            at += 1
        elif byte == b"[":
            at = end_of_class(text, at)
        elif byte == b"(":
            if text[at + 1 : at + 2] == b"?" and not text.startswith(PLAIN_GROUPS, at):
                return False
            depth += 1
        elif byte == b")":
            depth -= 1
        elif byte == b"|" and depth == 0:
            return False
        at += 1
    return depth == 0


def end_of_class(text: bytes, at: int) -> int:
    """Where the "]" stands of the class that begins here; a "]" that comes first in it is a member."""
    at += 2 if text[at + 1 : at + 2] == b"^" else 1
    first = at
    while at < len(text) and (text[at : at + 1] != b"]" or at == first):
        at += 2 if text[at : at + 1] == b"\\" else 1
    return at
