"""What a worker is doing at this moment, for its master's log: the stacks of all threads, tasks and fibers.

The master sends SIGNAL to a worker that gives no sign of life, and kills it soon after. Two handlers answer, into a file in memory that
the master reads:

- faulthandler's runs at once, whatever the interpreter is stuck in, and writes the stack of every thread. Of compiled code there is
  nothing in those.
- Ours runs when the interpreter comes to it, which in an endless loop of Python it does, in one of C not. It writes what tasks and
  fibers wait for, those that wait at the same place together, and END.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

import lbd
from lbd.core.fiber import PAUSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from lbd.core.fiber import Fiber

__all__ = ["END", "SIGNAL", "answer_dumps", "describe"]

SIGNAL = signal.SIGRTMIN  # nobody's habit: what a terminal or `systemctl kill` sends must not end up here
END = "end of the dump"
MOST_PLACES = 200  # where somebody waits; a worker has some dozens
MOST_NAMES = 8
HOME = Path(lbd.__file__).resolve().parent.parent


def answer_dumps(fd: int, fibers: Callable[[], Iterable[Fiber]]) -> None:
    """From now on, for the whole process; from within trio. The descriptor stays open."""

    def answer(_number: int, frame: FrameType | None) -> None:
        os.write(fd, "\n".join([*describe(frame, fibers()), END, ""]).encode())

    signal.signal(SIGNAL, answer)
    faulthandler.register(SIGNAL, file=fd, chain=True)


def describe(frame: FrameType | None, fibers: Iterable[Fiber]) -> Iterator[str]:
    """Lines: where the main thread is, every fiber, every task of the running trio."""
    yield "the main thread:"
    yield from (f"  {line}" for entry in traceback.format_stack(frame) for line in entry.rstrip().splitlines())
    yield from _grouped("fibers", [(_stack(fiber.coroutine), fiber.name) for fiber in list(fibers) if fiber.coroutine is not None])
    yield from _grouped("tasks", [(_stack(task.coro), task.name) for task in _tasks(trio.lowlevel.current_root_task())])


def _grouped(what: str, found: list[tuple[str, str]]) -> Iterator[str]:
    places: dict[str, list[str]] = {}
    for stack, name in found:
        places.setdefault(stack, []).append(name)
    yield f"{len(found)} {what}:"
    for stack, names in sorted(places.items(), key=lambda item: -len(item[1]))[:MOST_PLACES]:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        yield f"  {', '.join(names[:MOST_NAMES])}{more}: {stack}"


def _tasks(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    if task is not None:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from _tasks(child)


def _stack(coroutine: Any) -> str:  # noqa: ANN401 - a coroutine of Python or Cython, or what one awaits
    """From the outside in, down to what is waited for. Compiled coroutines know no lines."""
    places = []
    while (name := getattr(coroutine, "__qualname__", "")) and not isinstance(coroutine, type):
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        places.append(f"{name} ({_short(frame.f_code.co_filename)}:{frame.f_lineno})" if frame is not None else name)
        if getattr(coroutine, "cr_running", False):
            places.append("running")
            coroutine = None
        else:
            coroutine = _unwrapped(getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None))
    if coroutine is not None:
        places.append(next((pause.name for pause in PAUSES if pause.holds(coroutine)), type(coroutine).__name__))
    return " > ".join(places)


def _unwrapped(awaited: Any) -> Any:  # noqa: ANN401
    """Where one kind of coroutine awaits the other, plain and compiled, an object stands between them that shows nothing."""
    if type(awaited).__name__ == "coroutine_wrapper":
        return next(iter(gc.get_referents(awaited)), None)
    return awaited


def _short(file: str) -> str:
    return file.removeprefix(f"{HOME}{os.sep}")
