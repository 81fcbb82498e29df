"""The marks that a policy's fields carry, so that one loader reads every policy.

A policy is a frozen dataclass of settings that lives in the file that obeys it. Its fields' types say what TOML may hold;
a mark in `Annotated` says how text becomes a number and which values are allowed:

    connect: Annotated[float, Duration(minimum=0.001)] = 1.0      # "1s" or "250ms" in TOML, seconds here
    head: Annotated[int, Size()] = 64 * 1024                      # "64KiB" in TOML, bytes here

Every default that is not obvious has a comment that gives its reason. The loader is config/schema.py.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MASK", "Choice", "Count", "Duration", "Ratio", "Secret", "Size", "Text"]

MASK = "********"  # what is shown in place of a secret


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds as float; TOML writes "250ms", "30s", "5m", "1h" (or "0s", which means none where `zero` says so)."""

    minimum: float = 0.0
    maximum: float = 10 * 365 * 86400.0
    zero: str = ""  # what 0 means, for the manual: "no limit"


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes as int; TOML writes "16KiB", "1MiB" or a plain integer."""

    minimum: int = 0
    maximum: int = 1 << 50
    zero: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """An integer."""

    minimum: int = 0
    maximum: int = 1 << 31
    zero: str = ""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A float."""

    minimum: float = 0.0
    maximum: float = 1.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A string with a grammar of its own; `parse` is called by the loader and raises ValueError with a sentence."""

    parse: object = None


class Secret(str):
    """A text that works like any other and is not shown: what prints a configuration writes MASK, and so does a trace that has it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(MASK)
