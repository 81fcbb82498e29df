"""Targets put together from fixed text and groups."""

from __future__ import annotations

import re

import pytest

from lbd.routing.template import Template

NUMBERS = re.compile(rb"/users/([^/]+)/(?P<tab>.*)")
FILLED = [
    ("/u/\\1", b"/users/7/x", b"/u/7", b""),
    ("/\\g<tab>/\\g<1>", b"/users/7/x", b"/x/7", b""),
    ("/\\0", b"/users/7/x", b"//users/7/x", b""),
    ("/\\g<0>", b"/users/7/x", b"//users/7/x", b""),
    ("/u?id=\\1&tab=\\2", b"/users/7/x", b"/u", b"id=7&tab=x"),
    ("/u?id=\\1", b"/users/a&b=c/x", b"/u", b"id=a%26b%3Dc"),
    ("/u?id=\\1", b"/users/a+b c?d#e/x", b"/u", b"id=a%2Bb%20c?d%23e"),
    ("/u/\\1", b"/users/a?b#c d/x", b"/u/a%3Fb%23c%20d", b""),
    ("/u/\\1", b"/users/a%2Fb/x", b"/u/a%2Fb", b""),  # an escaped slash stays one
    ("/u/\\1", b"/users/\r\nx/x", b"/u/%0D%0Ax", b""),
    ("/u/\\1", "/users/\u00e9/x".encode(), b"/u/%C3%A9", b""),
    ("/caf\u00e9 x", b"/users/7/x", b"/caf%C3%A9%20x", b""),
    ("/a%20b/\\1", b"/users/7/x", b"/a%20b/7", b""),
    ("/x?a=1&b=+", b"/users/7/x", b"/x", b"a=1&b=+"),
    ("/x?", b"/users/7/x", b"/x", b""),
]


@pytest.mark.parametrize(("text", "path", "filled_path", "query"), FILLED)
def test_filled(text: str, path: bytes, filled_path: bytes, query: bytes) -> None:
    match = NUMBERS.fullmatch(path) or re.compile(b"(.*)(.*)", re.DOTALL).fullmatch(path)
    assert Template(text, NUMBERS).filled(match) == (filled_path, query)


def test_a_group_that_took_no_part_is_empty() -> None:
    pattern = re.compile(rb"/a(b)?")
    assert Template("/x\\1y", pattern).filled(pattern.fullmatch(b"/a")) == (b"/xy", b"")


def test_fixed_text_needs_no_match() -> None:
    template = Template("/x?y=1", None)
    assert template.is_fixed
    assert template.filled(None) == (b"/x", b"y=1")
    assert not Template("/\\1", NUMBERS).is_fixed


WRONG = [
    ("x", None, 'starts with "/"'),
    ("/\\1", None, "no path_regex"),
    ("/\\3", NUMBERS, "refers to group 3; path_regex has 2"),
    ("/\\g<nobody>", NUMBERS, "refers to group nobody"),
    ("/\\n", NUMBERS, "a backslash stands before"),
    ("/a#b", NUMBERS, "without a fragment"),
]


@pytest.mark.parametrize(("text", "regex", "message"), WRONG)
def test_wrong_templates(text: str, regex: re.Pattern[bytes] | None, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Template(text, regex)
