"""Faults found while a configuration is read: by path, put in order of place, and what is already known to be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.config.positions import dotted, one_line
from lbd.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.config.positions import KeyPath
    from lbd.config.text import Document, Place

__all__ = ["Report"]


class Report:
    """Collects; nothing is raised before everything has been looked at."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._errors: list[tuple[Place, ConfigError]] = list(document.errors)
        self._warnings: list[tuple[Place, ConfigError]] = []
        self.broken: set[KeyPath] = set(document.unread)
        self._incomplete = {path[:end] for path in self.broken for end in range(len(path) + 1)}  # what has something broken in it

    def error(self, path: KeyPath, sentence: str) -> None:
        """A fault of the key at this path, which need not exist: then it is shown at its table."""
        if path in self._document.unread:
            return
        place = self._document.place(path)
        self._errors.append((place, ConfigError(place.file, place.line, dotted(path), one_line(sentence))))
        self.broken.add(path)
        self._incomplete.update(path[:end] for end in range(len(path) + 1))

    def warn(self, path: KeyPath, sentence: str) -> None:
        place = self._document.place(path)
        self._warnings.append((place, ConfigError(place.file, place.line, dotted(path), one_line(sentence))))

    def is_sound(self, path: KeyPath) -> bool:
        """Nothing at, in or around this path is known to be wrong: worth asking what it means."""
        return path not in self._incomplete and not any(path[:end] in self.broken for end in range(1, len(path)))

    def is_broken_but_for(self, path: KeyPath, keys: Collection[str]) -> bool:
        """Whether this path is broken itself, or anything in it that is not below one of the keys."""
        if path not in self._incomplete:
            return False
        depth = len(path)
        return path in self.broken or any(each[:depth] == path and each[depth] not in keys for each in self.broken if len(each) > depth)

    def has(self, path: KeyPath) -> bool:
        """Somebody wrote this key."""
        return path in self._document.places

    def place_of(self, path: KeyPath) -> str:
        """For "... is at lb.toml:14"."""
        return str(self._document.place(path))

    def raise_errors(self) -> None:
        if self._errors:
            raise ConfigErrors(in_order(self._errors))

    def warnings(self) -> tuple[ConfigError, ...]:
        return tuple(in_order(self._warnings))


def in_order(found: list[tuple[Place, ConfigError]]) -> list[ConfigError]:
    """By file and line; each sentence once."""
    ordered = sorted(found, key=lambda item: (item[0].order, item[0].line))
    return list(dict.fromkeys(error for _, error in ordered))
