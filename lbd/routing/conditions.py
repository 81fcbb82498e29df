"""What a request must have besides host and path: a method, header fields, query parameters.

A value is compared whole: "1" is equal to the field's value, "~[a-z]+" a regular expression that matches all of it (as
path_regex does, and unlike nginx's ~, so that a forgotten anchor opens nothing). Each value of a repeated field or parameter
is tried on its own; one is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from lbd.routing.route import RoutePolicy
    from lbd.wire.message import RequestHead

__all__ = ["PRESENT", "Conditions", "build_conditions", "compile_pattern", "is_plain", "parse_query"]

PRESENT = "\x00present"  # how a policy writes TOML's `true`

Expected = bytes | re.Pattern[bytes] | None  # None: any value, as long as there is one
Field = tuple[bytes, Expected]


class Conditions:
    """All of them must hold. `count` ranks routes that are otherwise equally specific."""

    __slots__ = ("count", "headers", "methods", "query")

    def __init__(self, methods: frozenset[bytes], headers: tuple[Field, ...], query: tuple[Field, ...]) -> None:
        self.methods = methods
        self.headers = headers
        self.query = query
        self.count = bool(methods) + len(headers) + len(query)

    def holds(self, request: RequestHead) -> bool:
        if self.methods and request.method not in self.methods:
            return False
        for name, expected in self.headers:
            if not has_value(request.headers.get_all(name), expected):
                return False
        return not self.query or self.query_holds(request.query)

    def query_holds(self, query: bytes) -> bool:
        parameters = parse_query(query)
        return all(has_value(parameters.get(name, []), expected) for name, expected in self.query)


def has_value(values: list[bytes], expected: Expected) -> bool:
    if expected is None:
        return bool(values)
    if isinstance(expected, bytes):
        return expected in values
    return any(expected.fullmatch(value) for value in values)


def parse_query(query: bytes) -> dict[bytes, list[bytes]]:
    """Name -> values, in order, as HTML forms are written: "+" is a space."""
    parameters: dict[bytes, list[bytes]] = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            parameters.setdefault(form_decoded(name), []).append(form_decoded(value))
    return parameters


def form_decoded(text: bytes) -> bytes:
    text = text.replace(b"+", b" ")
    return unquote_to_bytes(text) if b"%" in text else text


def build_conditions(policy: RoutePolicy) -> Conditions | None:
    """None for a route that has none; ValueError for a broken regular expression."""
    headers = tuple((name.lower().encode(), expected_value(value)) for name, value in policy.headers)
    query = tuple((name.encode(), expected_value(value)) for name, value in policy.query)
    conditions = Conditions(frozenset(method.encode() for method in policy.methods), headers, query)
    return conditions if conditions.count else None


def is_plain(text: str) -> bool:
    """Whether a value of the configuration is compared as it stands."""
    return text != PRESENT and not text.startswith("~")


def expected_value(text: str) -> Expected:
    if text == PRESENT:
        return None
    return compile_pattern(text[1:]) if text.startswith("~") else text.encode()


def compile_pattern(text: str) -> re.Pattern[bytes]:
    """A regular expression over bytes; non-ASCII letters stand for their UTF-8. "." is any byte: %0A is no way out of "/admin/.*"."""
    try:
        return re.compile(text.encode(), re.DOTALL)
    except re.error as error:
        raise ValueError(f'"{text}" is not a regular expression: {error}') from None
