"""Pipes for splicing, kept for the next body.

A pipe costs pipe2, fcntl and two close, and the kernel a table of its pages: worth keeping where bodies are of medium size. Only
empty ones are kept: a byte left inside would go to somebody else.
"""

from __future__ import annotations

import fcntl
import os
from typing import NamedTuple

__all__ = ["LARGEST", "Pipe", "PipePool"]

LARGEST = 1 << 20  # bytes; what an unprivileged user gets (/proc/sys/fs/pipe-max-size)
# Smaller ones where the user has too many pages in pipes already (/proc/sys/fs/pipe-user-pages-soft: 64 of the largest).
SMALLER = 256 * 1024
# Beyond the limit a new pipe has 8 KiB. Steps that small cost more than they save.
USEFUL = 64 * 1024
KEPT = 16


class Pipe(NamedTuple):
    reading: int
    writing: int


class PipePool:
    """Those that nobody uses."""

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> Pipe | None:
        """An empty pipe; None when none can be had that is worth it."""
        if self._idle:
            return self._idle.pop()
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # no descriptors left
            return None
        if _enlarge(pipe) >= USEFUL:
            return pipe
        self.give(pipe, is_empty=False)
        return None

    def give(self, pipe: Pipe, *, is_empty: bool) -> None:
        """Back, or away."""
        if is_empty and not self._is_closed and len(self._idle) < KEPT:
            self._idle.append(pipe)
        else:
            os.close(pipe.reading)
            os.close(pipe.writing)

    def close(self) -> None:
        """Those that are in use are closed when they come back."""
        self._is_closed = True
        while self._idle:
            self.give(self._idle.pop(), is_empty=False)


def _enlarge(pipe: Pipe) -> int:
    """Its size then."""
    for size in (LARGEST, SMALLER):
        try:
            return fcntl.fcntl(pipe.writing, fcntl.F_SETPIPE_SZ, size)
        except PermissionError:
            continue
    return fcntl.fcntl(pipe.writing, fcntl.F_GETPIPE_SZ)
