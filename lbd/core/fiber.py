"""Fibers, what they wait for, and the schedule that steps them.

A fiber is an ordinary coroutine. `await` ends, at the bottom, in an object whose __next__ returns once: that suspends the
whole stack of coroutines, and step() resumes it. Nothing is passed either way, so a wake may come at any time and for no
reason: whoever waits, waits in a loop.

Exceptions from outside
-----------------------
interrupt() leaves an exception that is thrown at the fiber's next step, in place of the wake it waited for. The waited-for
thing may keep a stale reference to the fiber, which later causes one spurious wake, no more.

A fiber that is cancelled before its first step still takes it, up to its first wait: what it was given to clean up, a
connection that its `finally` closes, would otherwise stay behind.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any, Protocol

from lbd.core.syscalls import resume
from lbd.core.timers import NEVER, Timed, TimerWheel

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

__all__ = [
    "AT_ONCE", "PAUSE", "PAUSES", "READABLE", "WRITABLE", "Expired", "Fiber", "FiberCancelled", "HungUp", "Pause", "Schedule", "Signal",
]  # fmt: skip

SLEEP = -1  # the kind of a sleeper's deadline


class FiberCancelled(BaseException):
    """Thrown into a fiber by cancel(). Nobody but `finally` should see it."""


class Expired(Exception):
    """A fiber's deadline has passed; `kind` is what arm() was given."""

    def __init__(self, kind: int) -> None:
        super().__init__(kind)
        self.kind = kind


class HungUp(Exception):
    """The peer of the stream that a fiber guards has gone away."""


class Nap(Protocol):
    """How the schedule's owner waits while there is nothing to do; a trio.CancelScope."""

    def cancel(self) -> None: ...


class Pause:
    """What a fiber awaits to be suspended: `await PAUSE`.

    A tuple's iterator gives None once and ends, in C; an iterator of our own would take half a microsecond more in plain Python, for each
    wait. `name` is for people who look at what fibers wait for.
    """

    __slots__ = ("_steps", "name")

    def __init__(self, name: str, steps: int = 1) -> None:
        self.name = name
        self._steps = tuple([None] * steps)

    def __await__(self) -> Generator[None, None, None]:
        return iter(self._steps)  # type: ignore[return-value]  # an iterator is all that `await` needs

    def holds(self, waiting: object) -> bool:
        """Whether an iterator that a fiber waits on is of this one."""
        return any(referent is self._steps for referent in gc.get_referents(waiting))


PAUSE = Pause("suspended")
READABLE = Pause("readable")  # these are for Pollables
WRITABLE = Pause("writable")
AT_ONCE = Pause("", 0)  # what is waited for is there already
PAUSES = (PAUSE, READABLE, WRITABLE)


class Signal:
    """An event that happens once. Fibers wait for it; anybody on the schedule's thread may set it."""

    __slots__ = ("_schedule", "_waiting", "is_set")

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._waiting: dict[Fiber, None] = {}
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        for fiber in self._waiting:
            self._schedule.wake(fiber)
        self._waiting.clear()

    async def wait(self) -> None:
        fiber = self._schedule.running()
        while not self.is_set:
            self._waiting[fiber] = None
            try:
                await PAUSE
            finally:
                self._waiting.pop(fiber, None)


class Fiber(Timed):
    """A coroutine on its way. `error` is what it ended with; `done` is set when it has ended."""

    __slots__ = ("_done", "_has_started", "_pending", "_schedule", "coroutine", "error", "kind", "name")

    def __init__(self, schedule: Schedule, coroutine: Coroutine[Any, None, None], name: str) -> None:
        Timed.__init__(self)
        self._schedule = schedule
        self.coroutine: Coroutine[Any, None, None] | None = coroutine
        self.name = name
        self.error: BaseException | None = None
        self.kind = 0
        self._done: Signal | None = None
        self._pending: BaseException | None = None
        self._has_started = False

    def __repr__(self) -> str:
        return f"<Fiber {self.name}{'' if self.coroutine is not None else ' ended'}>"

    @property
    def done(self) -> Signal:
        if self._done is None:
            self._done = Signal(self._schedule)
            if self.coroutine is None:
                self._done.set()
        return self._done

    def arm(self, seconds: float, kind: int) -> None:
        """Expired(kind) is thrown into the fiber after `seconds`, in place of any deadline armed before; 0 is none."""
        schedule = self._schedule
        if schedule.nap is not None:
            schedule.rouse()  # somebody outside: its time is old, and whoever sleeps does not know of this deadline
        self.kind = kind
        self.deadline = deadline = schedule.now + seconds if seconds > 0 else NEVER
        if deadline < self.due:  # as good as never: see TimerWheel.arm()
            schedule.wheel.arm(self, deadline)

    def arm_at(self, deadline: float, kind: int) -> None:
        """As arm(), at a moment of the schedule's clock."""
        schedule = self._schedule
        if schedule.nap is not None:
            schedule.rouse()
        self.kind = kind
        self.deadline = deadline
        if deadline < self.due:
            schedule.wheel.arm(self, deadline)

    def disarm(self) -> None:
        self.deadline = NEVER

    def interrupt(self, error: BaseException) -> None:
        """Throws an exception at the fiber's next step; a cancellation is not overtaken by a lesser one."""
        if self.coroutine is not None and not isinstance(self._pending, FiberCancelled):
            self._pending = error
            self._schedule.wake(self)

    def cancel(self) -> None:
        self.interrupt(FiberCancelled())

    def step(self) -> None:
        """Runs the fiber up to its next wait. For the schedule and the reactor only."""
        coroutine = self.coroutine
        if coroutine is None:
            return
        self._schedule.current = self
        try:
            if self._pending is None or not self._has_started:
                self._has_started = True
                ended = resume(coroutine)
            else:
                pending, self._pending = self._pending, None
                coroutine.throw(pending)
                ended = False
        except StopIteration:
            ended = True
        except BaseException as error:
            self.error = error
            ended = True
        self._schedule.current = None
        if ended:
            self._end()

    def abandon(self) -> None:
        """Ends a fiber that will not end by itself: its `finally` blocks run, but what they await does not happen."""
        if self.coroutine is None:
            return
        self._schedule.current = self
        try:
            self.coroutine.close()
            self.error = FiberCancelled()
        except BaseException as error:
            self.error = error
        self._schedule.current = None
        self._end()

    def _end(self) -> None:
        error = self.error
        self.coroutine = None
        self._pending = None
        self._schedule.end(self)
        if self._done is not None:
            self._done.set()
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise error
        if error is not None:
            error.__traceback__ = None  # the frames in it refer to the fiber: only the garbage collector would find them


class Schedule:
    """Which fiber runs, which are ready, and whose deadline comes next.

    `on_fault(fiber, error)` hears of fibers that ended with an exception nobody caught, which is a bug in the fiber and must
    not become one of the others.
    """

    def __init__(self, now: float, on_fault: Callable[[Fiber, BaseException], None]) -> None:
        self.now = now  # of this turn: cheap to ask, at most about a millisecond old
        self.wheel = TimerWheel()
        self.current: Fiber | None = None
        self.fibers: dict[Fiber, None] = {}
        self.is_stopping = False
        self.is_over = False
        self._on_fault = on_fault
        self._ready: list[Fiber] = []
        self.nap: Nap | None = None  # while its owner waits

    # For fibers

    def running(self) -> Fiber:
        """The fiber that asks."""
        assert self.current is not None, "only fibers may wait here"
        return self.current

    def spawn(self, coroutine: Coroutine[Any, None, None], name: str) -> Fiber:
        """A new fiber; it takes its first step after the running one has waited."""
        fiber = Fiber(self, coroutine, name)
        if self.is_over:
            fiber.abandon()
            return fiber
        self.fibers[fiber] = None
        self.wake(fiber)
        if self.is_stopping:
            fiber.cancel()
        return fiber

    async def sleep(self, seconds: float) -> None:
        """Takes the place of the fiber's deadline, which is none afterwards."""
        fiber = self.running()
        until = self.now + seconds
        fiber.arm_at(until, SLEEP)
        try:
            while self.now < until:
                await PAUSE
        except Expired as expired:
            if expired.kind != SLEEP:
                raise
        finally:
            fiber.disarm()

    async def yield_turn(self) -> None:
        """Lets every other ready fiber go first."""
        self.wake(self.running())
        await PAUSE

    # For those who wake them

    def wake(self, fiber: Fiber) -> None:
        self._ready.append(fiber)
        if self.nap is not None:
            self.rouse()

    def rouse(self) -> None:
        """Ends the nap: something came up that it does not know of."""
        if self.nap is not None:
            self.nap.cancel()

    def step_ready(self) -> None:
        """Steps every fiber that was ready when it began; those that become ready now wait for the next time."""
        if self._ready:
            ready, self._ready = self._ready, []
            for fiber in ready:
                fiber.step()

    def expire(self) -> None:
        """Throws Expired at the fibers whose deadline has passed."""
        for fiber in self.wheel.expired(self.now):
            assert isinstance(fiber, Fiber)
            fiber.interrupt(Expired(fiber.kind))

    def end(self, fiber: Fiber) -> None:
        """For Fiber only."""
        self.wheel.forget(fiber)
        self.fibers.pop(fiber, None)
        if fiber.error is not None and not isinstance(fiber.error, FiberCancelled):
            self._on_fault(fiber, fiber.error)

    def stop(self, rounds: int) -> None:
        """Cancels every fiber; whoever has not ended after so many steps is abandoned."""
        self.is_stopping = True
        for fiber in list(self.fibers):
            fiber.cancel()
        for _ in range(rounds):
            if not self._ready:
                break
            self.step_ready()
        self.is_over = True
        for fiber in list(self.fibers):  # they wait for what nobody will bring any more
            fiber.abandon()
        self._ready.clear()
