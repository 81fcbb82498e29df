"""Files -> one tree of TOML values, and where each of them stands.

    include = ["conf.d/*.toml"]        at the top of any file, relative to it; a pattern may match nothing, a plain name may not

Files are put together as if they were one: [listener.NAME] and [cluster.NAME] may come from any file, but each table from one only,
and so may [lbd], [log] and [admin]. A table that two files have is a fault that names both places: with "the last one
wins", the file that somebody forgot would decide.

${NAME} and ${NAME:-default} in strings are replaced from the environment, in values only; $${ stands for ${. As in a shell, the default
also takes the place of an empty variable.
"""

from __future__ import annotations

import ast
import glob
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.config.positions import KeyPath, dotted, key_lines, one_line
from lbd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Document", "Expanded", "Place", "escape", "read_document"]

COLLECTIONS = ("listener", "cluster")  # tables of named things, which may come from several files
DEPTH_LIMIT = 8  # includes within includes; deeper is a mistake
FILE_LIMIT = 10_000
WILDCARD = re.compile(r"[*?\[]")
VARIABLE = re.compile(r"\$(?:(\$\{)|\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\})?)")
WHERE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")

Tree = dict[str, object]


class Expanded(str):
    """A string with something in it from the environment, where a number has to be written as text too."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """`order` is the file's, in the order of reading."""

    order: int
    line: int
    file: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


class Document:
    """All files together."""

    def __init__(self) -> None:
        self.tree: Tree = {}
        self.errors: list[tuple[Place, ConfigError]] = []
        self.places: dict[KeyPath, Place] = {}
        self.files: dict[Path, Place] = {}  # real path -> who named it
        self.unread: set[KeyPath] = set()  # what has a fault already: its text is not what was meant

    def place(self, path: KeyPath) -> Place:
        """Where a key stands, or else the table it would stand in."""
        for end in range(len(path), 0, -1):
            if place := self.places.get(path[:end]):
                return place
        first = next(iter(self.files.values()), Place(0, 0, ""))
        return Place(0, 0, first.file)

    def fault(self, place: Place, key: str, sentence: str) -> None:
        self.errors.append((place, ConfigError(place.file, place.line, key, one_line(sentence))))


def escape(text: str) -> str:
    """The reverse of the replacement of variables, for a text that is to be read again."""
    return text.replace("${", "$${")


def read_document(path: Path, environ: Mapping[str, str]) -> Document:
    """Never raises for what is in the files: `errors` has it."""
    document = Document()
    Reader(document, environ).read(path, Place(0, 0, str(path)), ())
    return document


class Reader:
    """Reads a file and those that it includes."""

    def __init__(self, document: Document, environ: Mapping[str, str]) -> None:
        self._document = document
        self._environ = environ

    def read(self, path: Path, by: Place, chain: tuple[Path, ...]) -> None:
        """`by` is the place that names the file, `chain` the files on the way to it."""
        document = self._document
        own = Place(len(document.files), 0, str(path))
        key = "include" if chain else ""
        real = path.resolve()
        if real in chain:
            return document.fault(by, key, f"{path} includes itself, by way of {' -> '.join(str(p) for p in (*chain, real))}")
        if real in document.files:
            return document.fault(by, key, f"{path} is included twice; the other place is {document.files[real]}")
        if len(chain) > DEPTH_LIMIT or len(document.files) >= FILE_LIMIT:
            return document.fault(by, key, f"{path}: more than {DEPTH_LIMIT} includes within each other, or {FILE_LIMIT} files")
        document.files[real] = by if chain else own
        try:
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            return document.fault(Place(own.order, line, own.file), "", "this line is not UTF-8; TOML files are UTF-8 text")
        except OSError as error:
            what = f"{path} cannot" if chain else "cannot"
            return document.fault(by, key, f"{what} be read: {(error.strerror or str(error)).lower()}")
        return self._take(path, own, text.replace("\r\n", "\n"), (*chain, real))

    def _take(self, path: Path, own: Place, text: str, chain: tuple[Path, ...]) -> None:
        try:
            tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            line, sentence = syntax_fault(str(error), text)
            return self._document.fault(Place(own.order, line, own.file), "", sentence)
        except RecursionError:
            return self._document.fault(own, "", "arrays or tables are nested too deeply")
        places = {key: Place(own.order, line, own.file) for key, line in key_lines(text).items()}
        patterns = tree.pop("include", [])
        self._merge(tree, places)
        return self._include(patterns, places.get(("include",), own), path, chain)

    # Putting files together

    def _merge(self, tree: Tree, places: dict[KeyPath, Place]) -> None:
        own = grouped(places)
        for path, value in fragments(tree):
            if path in self._document.places:
                other = self._document.places[path]
                what = "table" if isinstance(value, dict) else "key"
                self._document.fault(places[path], dotted(path), f"this {what} is in {other} already; keep one of the two")
                continue
            table = self._document.tree
            for key in path[:-1]:
                below = table.setdefault(str(key), {})
                assert isinstance(below, dict)
                table = below
            table[str(path[-1])] = self._expanded(value, path, places)
            self._document.places |= own.get(path, {})
        for name in COLLECTIONS:
            if (name,) in places:
                self._document.places.setdefault((name,), places[(name,)])

    def _expanded(self, value: object, path: KeyPath, places: dict[KeyPath, Place]) -> object:
        if isinstance(value, str):
            try:
                return self._with_environment(value)
            except ValueError as error:
                place = next(places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in places)
                self._document.fault(place, dotted(path), str(error))
                self._document.unread.add(path)
                return value
        if isinstance(value, dict):
            return {key: self._expanded(item, (*path, key), places) for key, item in value.items()}
        if isinstance(value, list):
            return [self._expanded(item, (*path, index), places) for index, item in enumerate(value)]
        return value

    def _with_environment(self, text: str) -> str:
        if "${" not in text:
            return text
        expanded = VARIABLE.sub(self._replacement, text)
        return Expanded(expanded) if any(not match[1] for match in VARIABLE.finditer(text)) else expanded

    def _replacement(self, match: re.Match[str]) -> str:
        literal, name, default = match.groups()
        if literal is not None:
            return "${"
        if not name:
            # Not quoted: a password with "${" in it is how one gets here.
            raise ValueError("write ${NAME} or ${NAME:-default} for a variable of the environment, $${ for a plain ${")
        value = self._environ.get(name)
        if default is not None:
            return value or default
        if value is None:
            raise ValueError(f"the variable {name} is not in the environment; set it, or write ${{{name}:-default}}")
        return value

    # Files named in files

    def _include(self, patterns: object, place: Place, path: Path, chain: tuple[Path, ...]) -> None:
        if isinstance(patterns, str):
            patterns = [patterns]
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            return self._document.fault(place, "include", 'must be a list of file names, like ["conf.d/*.toml"]')
        found: dict[Path, None] = {}  # in order, each once: two patterns of a list may meet
        for pattern in patterns:
            try:
                found |= dict.fromkeys(matching(path.parent, self._with_environment(pattern)))
            except ValueError as error:
                self._document.fault(place, "include", str(error))
        for each in found:
            self.read(each, place, chain)
        return None


def matching(directory: Path, pattern: str) -> list[Path]:
    """Files in the order of their names."""
    if not WILDCARD.search(pattern):
        return [directory / pattern]
    return [Path(name) for name in sorted(glob.glob(os.path.join(glob.escape(str(directory)), pattern)))]


def fragments(tree: Tree) -> Iterator[tuple[KeyPath, object]]:
    """The parts of a file that are taken as a whole: [log], [listener.web], ..."""
    for key, value in tree.items():
        if key in COLLECTIONS and isinstance(value, dict):
            yield from (((key, name), table) for name, table in value.items())
        else:
            yield (key,), value


def grouped(places: dict[KeyPath, Place]) -> dict[KeyPath, dict[KeyPath, Place]]:
    """By the fragment they belong to."""
    groups: dict[KeyPath, dict[KeyPath, Place]] = {}
    for path, place in places.items():
        groups.setdefault(path[: 2 if path[0] in COLLECTIONS else 1], {})[path] = place
    return groups


def syntax_fault(message: str, text: str) -> tuple[int, str]:
    """tomllib's "Expected '=' after a key in a key/value pair (at line 3, column 8)" as (3, sentence)."""
    where = WHERE.search(message)
    sentence = plainer(WHERE.sub("", message))
    if where is None:
        return 0, sentence
    if where[1] is None:
        return text.rstrip("\n").count("\n") + 1, sentence + " at the end of the file"
    hint = "; strings stand in quotes" if sentence.endswith("invalid value") else ""
    return int(where[1]), f"{sentence} (column {where[2]}){hint}"


def plainer(message: str) -> str:
    """tomllib's words, or better ones for the mistakes that people make most."""
    if twice := re.fullmatch(r"Cannot declare (\(.*\)) twice", message):
        return f"the table [{dotted(ast.literal_eval(twice[1]))}] is there already; keep one of the two"
    if message.startswith(("Cannot overwrite a value", "Duplicate inline table key")):
        return "this key is there already; keep one of the two"
    return f"not TOML: {message[:1].lower()}{message[1:]}"
