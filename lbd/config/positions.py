"""Where each key of a TOML text stands: path -> line.

tomllib says what a text means and forgets where it said it. This scanner walks the same text once more and notes the lines. It runs
only on what tomllib has accepted, so it decides nothing: it must merely find keys, and step over strings, comments, arrays and
inline tables without being fooled by what is inside them.

A path is a tuple of keys and of places in arrays: `[[listener.web.route]]`, the second, is ("listener", "web", "route", 1).
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

__all__ = ["BARE", "KeyPath", "dotted", "key_lines", "one_line"]

KeyPath = tuple[str | int, ...]

BARE = re.compile(r"[A-Za-z0-9_-]+")
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'')
# The end of a multi-line string may have up to two quotes of its own before it.
STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}(?!")|\'\'\'.*?\'{3,5}(?!\')|"(?:[^"\\]|\\.)*"|\'[^\']*\'', re.DOTALL)
BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
SCALAR = re.compile(r"[^,\]}#\r\n]+")


def dotted(path: KeyPath) -> str:
    """As errors show it: places in arrays count from 1, as the names of routes do; keys are quoted where TOML needs it."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += ("." if text else "") + (part if BARE.fullmatch(part) else f'"{one_line(part)}"')
    return text


def one_line(text: str) -> str:
    """Control characters as escapes: an error stays on its line, and a file cannot steer the terminal that shows it."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line of each key, table and array item; where a table has several headers, the first."""
    return Scanner(text).run()


class Scanner:
    """One walk through one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._lines: dict[KeyPath, int] = {}
        self._arrays: dict[KeyPath, int] = {}  # arrays of tables: how many there are so far

    def run(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self._skip_blank():
            if self._text.startswith("[[", self._at):
                table = self._header("]]", is_array=True)
            elif self._text.startswith("[", self._at):
                table = self._header("]", is_array=False)
            else:
                self._pair(table)
        return self._lines

    def _skip_blank(self) -> bool:
        """To the next thing that is neither blank nor comment; False at the end."""
        self._at = self._match(BLANK).end()
        return self._at < len(self._text)

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise AssertionError(f"line {self._line()}: tomllib accepted what this scanner cannot read")
        return match

    def _line(self) -> int:
        return bisect_right(self._line_starts, self._at)

    def _note(self, path: KeyPath, line: int) -> None:
        self._lines.setdefault(path, line)

    def _header(self, end: str, *, is_array: bool) -> KeyPath:
        line = self._line()
        self._at += len(end)
        keys = self._keys()
        self._at = self._text.index(end, self._at) + len(end)
        path: KeyPath = ()
        for depth, key in enumerate(keys, 1):
            path += (key,)
            self._note(path, line)
            if is_array and depth == len(keys):
                self._arrays[path] = self._arrays.get(path, 0) + 1
            if path in self._arrays:
                path += (self._arrays[path] - 1,)
                self._note(path, line)
        return path

    def _keys(self) -> list[str]:
        """A dotted key, and the blanks behind it."""
        keys: list[str] = []
        while True:
            self._skip_blank()
            if self._text[self._at] in "\"'":
                raw = self._match(QUOTED)
                keys.append(str(tomllib.loads(f"key = {raw[0]}")["key"]))
            else:
                raw = self._match(BARE)
                keys.append(raw[0])
            self._at = raw.end()
            self._skip_blank()
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _pair(self, table: KeyPath) -> None:
        """`a.b = value` inside a table."""
        line = self._line()
        path = table
        for key in self._keys():
            path += (key,)
            self._note(path, line)
        self._at += 1  # the equals sign
        self._skip_blank()
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        first = self._text[self._at]
        if first in "\"'":
            self._at = self._match(STRING).end()
        elif first == "[":
            self._items(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._at = self._match(SCALAR).end()

    def _items(self, path: KeyPath) -> None:
        self._at += 1
        index = 0
        while self._skip_blank() and self._text[self._at] != "]":
            if self._text[self._at] == ",":
                self._at += 1
                index += 1
                continue
            self._note((*path, index), self._line())
            self._value((*path, index))
        self._at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self._at += 1
        while self._skip_blank() and self._text[self._at] != "}":
            if self._text[self._at] == ",":
                self._at += 1
                continue
            self._pair(path)
        self._at += 1
