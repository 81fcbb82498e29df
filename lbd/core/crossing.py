"""From a fiber to trio and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.core.fiber import Signal

__all__ = ["TrioTask"]


class TrioTask:
    """A trio function that a fiber waits for: Reactor.in_trio()."""

    def __init__(self, done: Signal, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        self.scope = trio.CancelScope()
        self.done = done
        self._function = function
        self._args = args
        self._result: Any = None
        self._error: BaseException | None = None

    async def run(self) -> None:
        try:
            with self.scope:
                self._result = await self._function(*self._args)
        except Exception as error:
            self._error = error
        finally:
            self.done.set()

    def outcome(self) -> Any:  # noqa: ANN401  # whatever the function returns
        """The function's result, or the exception it raised; once."""
        error, self._error = self._error, None
        try:
            if error is not None:
                raise error
            return self._result
        finally:
            del error  # its traceback refers to this very frame
