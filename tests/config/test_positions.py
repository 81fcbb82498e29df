"""The scanner of lines against tomllib: every key that tomllib finds has a line, and it is the right one."""

from __future__ import annotations

import tomllib

import pytest
import tomli_w
from hypothesis import given, settings, strategies as st

from lbd.config.positions import KeyPath, dotted, key_lines

TRICKY = '''\
# a = "comment" [not.a.table]
top = 1
"quoted key" . 'b' = """
[not.a.table]
x = "y" \\
"""
list = [ # comment ]
  1, "two ] # no comment",
  [ 3, { deep = true } ],
  """
multi""", 5,
]
strings = ["a\\"]", 'c:\\', """d"""", \'\'\'e\'\'\'\']
date = 1979-05-27 07:32:00Z # a blank inside
float = -1.5e-3

[ a . "b c" ]
inline = { x = 1, y.z = [ "}" ], "#" = { } }
[a.d]
[[a.list]]
name = "first"
  [a.list.sub]
  key = 1
[[a.list]]
  [[a.list.more]]
  [[a.list.more]]
  x = 1
[a]
late = true
'''
TRICKY_LINES: dict[KeyPath, int] = {
    ("top",): 2,
    ("quoted key",): 3,
    ("quoted key", "b"): 3,
    ("list",): 7,
    ("list", 0): 8,
    ("list", 1): 8,
    ("list", 2): 9,
    ("list", 2, 0): 9,
    ("list", 2, 1): 9,
    ("list", 2, 1, "deep"): 9,
    ("list", 3): 10,
    ("list", 4): 11,
    ("strings",): 13,
    **{("strings", index): 13 for index in range(4)},
    ("date",): 14,
    ("float",): 15,
    ("a",): 17,
    ("a", "b c"): 17,
    ("a", "b c", "inline"): 18,
    ("a", "b c", "inline", "x"): 18,
    ("a", "b c", "inline", "y"): 18,
    ("a", "b c", "inline", "y", "z"): 18,
    ("a", "b c", "inline", "y", "z", 0): 18,
    ("a", "b c", "inline", "#"): 18,
    ("a", "d"): 19,
    ("a", "list"): 20,
    ("a", "list", 0): 20,
    ("a", "list", 0, "name"): 21,
    ("a", "list", 0, "sub"): 22,
    ("a", "list", 0, "sub", "key"): 23,
    ("a", "list", 1): 24,
    ("a", "list", 1, "more"): 25,
    ("a", "list", 1, "more", 0): 25,
    ("a", "list", 1, "more", 1): 26,
    ("a", "list", 1, "more", 1, "x"): 27,
    ("a", "late"): 29,
}


def test_a_text_full_of_traps() -> None:
    assert key_lines(TRICKY) == TRICKY_LINES
    assert paths(tomllib.loads(TRICKY)) == set(TRICKY_LINES)


def paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    """Everything in a tree that has a place."""
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, item in value.items():
            found |= paths(item, (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            found |= paths(item, (*path, index))
    return found


# Mostly what a scanner could stumble over.
TEXTS = st.text(alphabet="ab_-.=,[]{}#\"'\\\n\r\t \x00\x7f\u00e9\U0001f600", max_size=6)
SCALARS = TEXTS | st.integers(-5, 5) | st.booleans() | st.floats(allow_nan=False)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=12)
TREES = st.dictionaries(TEXTS, VALUES, max_size=5)


@settings(max_examples=50, deadline=None)
@given(TREES)
def test_every_key_has_a_line(tree: dict[str, object]) -> None:
    text = tomli_w.dumps(tree)
    lines = key_lines(text)
    assert set(lines) >= {path for path in paths(tree) if path}
    for path, line in lines.items():
        if isinstance(path[-1], str) and path[-1].isalnum() and path[-1].isascii():
            assert path[-1] in text.split("\n")[line - 1]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ((), ""),
        (("cluster", "web", "endpoints", 0), "cluster.web.endpoints[1]"),
        (("listener", "a b", "route", 2, "path"), 'listener."a b".route[3].path'),
    ],
)
def test_a_path_as_people_see_it(path: KeyPath, text: str) -> None:
    assert dotted(path) == text
