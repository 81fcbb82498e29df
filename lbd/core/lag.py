"""How late a reactor is: how long something that has come waits until it is looked at.

The length of a turn does not tell. Turns are short by design, and a worker with too much to do takes many of them to get through
everybody who waits. So something is sent along and timed: a descriptor of our own is made readable, comes to the end of the kernel's
list of those that are ready, and is looked at when all before it have been. While it has not come it has waited for at least as long:
with a long list there would be few readings otherwise, just when they matter.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from lbd.core.fiber import Expired
from lbd.core.reactor import Pollable

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.core.reactor import Reactor

__all__ = ["Hears", "take_readings"]

PAUSE = 0.1  # seconds between two readings, or two looks at one that does not come
LATE = 61  # kind of deadline


class Hears(Protocol):
    def __call__(self, lag: float, now: float, *, has_come: bool = True) -> None:
        """Seconds that something has waited, and when it was found out; without `has_come` it waits still."""


async def take_readings(reactor: Reactor, goes_on: Callable[[], bool], heard: Hears) -> None:
    """A fiber, for as long as `goes_on()`."""
    fiber, echo = reactor.running(), Pollable(reactor, os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    try:
        reactor.watch(echo)
        while goes_on():
            due = reactor.clock() + PAUSE
            await reactor.sleep(PAUSE)
            os.eventfd_write(echo.fd, 1)
            while not has_come(echo):
                try:
                    fiber.arm(PAUSE, LATE)
                    await echo.readable
                except Expired:
                    now = reactor.clock()
                    heard(now - due, now, has_come=False)
            fiber.disarm()
            now = reactor.clock()
            heard(max(0.0, now - due), now)
    finally:
        echo.close()


def has_come(echo: Pollable) -> bool:
    if not echo.may_read:
        return False
    echo.may_read = False
    try:
        return os.eventfd_read(echo.fd) > 0
    except BlockingIOError:
        return False
