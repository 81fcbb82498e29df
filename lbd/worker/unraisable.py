"""Exceptions that nobody can catch: raised in a destructor, or by what a library in C calls back.

Python writes them to standard error as they are, however many come. Here they are what other bugs are: counted, and in the log once a
minute of each kind.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lbd.proxy.complaints import Complaints

if TYPE_CHECKING:
    import sys
    from collections.abc import Callable

__all__ = ["Unraisable"]

LONGEST = 300  # characters about where it was

log = logging.getLogger("lbd.worker")


class Unraisable:
    """In the place of sys.unraisablehook. `count` hears of each."""

    def __init__(self, count: Callable[[], None], clock: Callable[[], float]) -> None:
        self._count = count
        self._clock = clock
        self._complaints = Complaints()

    def __call__(self, unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if isinstance(error, UnicodeDecodeError) and error.object == unraisable.object:
            return  # the ssl module, of a name that a client has made up: the access log has the refusal
        self._count()
        if times := self._complaints.count(unraisable.exc_type.__name__, self._clock()):
            place = f"{unraisable.err_msg or 'nobody could catch it'}: {unraisable.object!r}"
            log.error("a bug, %d times since the last such line; %s", times, place[:LONGEST], exc_info=error)
