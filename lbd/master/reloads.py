"""Reloads, one at a time. Whoever asks while one runs gets the next, together with all others who ask meanwhile.

Whoever asks during an upgrade, or of a master that has a successor, asks that one: it may have read the file before it was changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lbd.master.reload import ReloadReport

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Reloads", "Request"]


class Request:
    """A reload that somebody waits for."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._report = ReloadReport(0)

    def answer(self, report: ReloadReport) -> None:
        self._report = report
        self._done.set()

    async def wait(self) -> ReloadReport:
        await self._done.wait()
        return self._report


class Reloads:
    """`reload` does one."""

    def __init__(self, reload: Callable[[], Awaitable[ReloadReport]]) -> None:
        self._reload = reload
        self._next: Request | None = None
        self._requested = trio.Event()
        self._is_over = False
        self._successor: Callable[[], None] | None = None

    def pass_on(self, successor: Callable[[], None]) -> None:
        """Before run() is cancelled: `successor` asks for those that are not done by then, and for all that come later."""
        self._successor = successor

    def request(self) -> Request:
        """The next reload that begins: it reads the file as it is from now on."""
        if self._next is None:
            self._next = Request()
            self._requested.set()
        if self._is_over:
            self._send_away(self._next)
        return self._next

    async def run(self) -> None:
        """Until cancelled; those who still wait then are told."""
        current: Request | None = None
        try:
            while True:
                await self._requested.wait()
                self._requested = trio.Event()
                current, self._next = self._next, None
                assert current is not None
                current.answer(await self._reload())
                current = None
        finally:
            self._is_over = True
            for request in filter(None, (current, self._next)):
                self._send_away(request)

    def _send_away(self, request: Request) -> None:
        if self._successor is None:
            request.answer(ReloadReport(0, ("lbd is stopping",)))
            return
        self._successor()
        request.answer(
            ReloadReport(0, ("lbd has been upgraded meanwhile; the new one reads the file again, and its log says what came of it",))
        )
