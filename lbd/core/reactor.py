"""The reactor: sockets, deadlines and trio, for fibers.

A fiber (core/fiber.py) is an ordinary coroutine that only ever waits on: a Pollable being readable or writable, a Signal, a
deadline, or the result of a trio function. A switch costs about 0.3 us where trio's costs 3; that difference is what makes a
proxy in Python possible, and it is bought by doing less: no cancel scopes, no nurseries, no checkpoints. What has structure
is trio's.

Theory of operation
-------------------
The reactor is one trio task. It runs *turns*. A turn polls one epoll descriptor, steps every fiber whose socket has news,
steps the fibers that other fibers woke, expires deadlines, and polls again until a millisecond's work is done or trio has
waited for four; then it lets trio run. When nothing has come for a millisecond it waits in trio, on the epoll descriptor
itself, until the next deadline. With nothing to do and no deadline it sleeps.

Sockets are registered once, edge-triggered, for both directions. An edge only sets `may_read` or `may_write` and wakes the
fiber that waits there. So a fiber tries first and waits only when told "not now":

    while (data := stream.recv(65536)) is None:
        await stream.readable

Rules
-----
- A wake may be spurious: whoever waits, waits in a loop.
- No fiber steps another: spawn(), Signal.set() and interrupt() put the other one in the queue.
- A fiber that always finds something to do starves the others: after some steps it calls yield_turn().
- A file descriptor is closed at the end of the batch of events in which its owner let go of it. Otherwise a later event of
  the same batch could be taken for one of a new connection that got the same number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio

from lbd.core.clock import steady_clock
from lbd.core.crossing import TrioTask
from lbd.core.fiber import AT_ONCE, READABLE, WRITABLE, Fiber, HungUp, Schedule, Signal
from lbd.core.pipes import PipePool
from lbd.core.syscalls import Poller

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.core.fiber import Pause

    Ts = TypeVarTuple("Ts")
    T = TypeVar("T")

__all__ = ["Pollable", "Reactor"]

EPOLLIN = 0x001
EPOLLOUT = 0x004
EPOLLERR = 0x008
EPOLLHUP = 0x010
EPOLLRDHUP = 0x2000
EPOLLET = 1 << 31
BROKEN = EPOLLHUP | EPOLLERR
ENDED = EPOLLRDHUP | BROKEN
INTEREST = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET

BATCH = 64  # events of one poll; about a millisecond's work
TURN = 0.001  # seconds of work before trio gets its chance
PATIENCE = 0.004  # seconds before it does even if most of them went by waiting
POLLS = 256  # likewise, where the clock stands still
LINGER = 1  # milliseconds of waiting in epoll before the wait is given to trio, which costs 15 us more
CLEANUP_ROUNDS = 100  # steps that a cancelled fiber gets to end when the reactor stops


class Pollable:
    """A descriptor that the reactor watches, and the fibers that wait for it.

    `may_read` and `may_write` are true until a call has said "not now". `hung_up`: the peer has at least finished sending.
    A guard is a fiber that waits for something else but must know, by HungUp, when this peer goes away.
    """

    __slots__ = ("broken", "fd", "guard", "hung_up", "is_closed", "may_read", "may_write", "reactor", "reader", "writer")

    def __init__(self, reactor: Reactor, fd: int) -> None:
        self.reactor = reactor
        self.fd = fd  # -1: closed, or none
        self.may_read = True
        self.may_write = True
        self.hung_up = False  # both ways, or the other side's sending side
        self.broken = False  # both ways: nothing can be sent any more
        self.is_closed = False
        self.reader: Fiber | None = None
        self.writer: Fiber | None = None
        self.guard: Fiber | None = None

    @property
    def readable(self) -> Pause:
        """To be awaited, at once, after "not now"; one fiber at a time."""
        if self.may_read:
            return AT_ONCE
        self.reader = self.reactor.current
        return READABLE

    @property
    def writable(self) -> Pause:
        if self.may_write:
            return AT_ONCE
        self.writer = self.reactor.current
        return WRITABLE

    def happened(self, events: int) -> None:
        """What epoll says of it."""
        if events & ENDED:
            self.hung_up = True
            if events & BROKEN:
                self.broken = True
                self.may_write = True  # so that the next send() learns the reason
            self.may_read = True
            guard, self.guard = self.guard, None
            if guard is not None:
                guard.interrupt(HungUp())
        if events & EPOLLIN:
            self.may_read = True
        if events & EPOLLOUT:
            self.may_write = True
        reader = self.reader
        if reader is not None and self.may_read:
            self.reader = None
            reader.step()
        writer = self.writer
        if writer is not None and self.may_write:
            self.writer = None
            writer.step()

    def close(self) -> None:
        """Idempotent. Whoever still waits for it is not woken; whoever uses it afterwards gets an OSError (EBADF)."""
        if not self.is_closed:
            self.is_closed = True
            self.reader = self.writer = self.guard = None
            fd, self.fd = self.fd, -1  # not a moment longer: the number may soon be another connection's
            if fd >= 0:
                self.reactor.close(fd)


class Reactor(Schedule):
    """One trio task that steps many fibers.

    `clock` gives seconds; `on_turn(seconds)` hears how long each turn kept trio and the sockets waiting. Without sockets
    there are memory streams only, and trio's clock, which may be a virtual one.
    """

    def __init__(
        self,
        clock: Callable[[], float] | None = None,
        *,
        on_fault: Callable[[Fiber, BaseException], None],
        on_turn: Callable[[float], None] | None = None,
        has_sockets: bool = True,
    ) -> None:
        self.clock = clock or (steady_clock if has_sockets else trio.current_time)
        Schedule.__init__(self, self.clock(), on_fault)
        self.pipes = PipePool()
        self._on_turn = on_turn
        self._poller = Poller(BATCH) if has_sockets else None
        self._pollables: list[Pollable | None] = []  # by descriptor
        self._news: dict[Pollable, int] = {}  # events that no poller brings
        self._closing: list[int] = []
        self._trio_is_due = False
        self._nursery: trio.Nursery | None = None

    async def in_trio(self, function: Callable[[Unpack[Ts]], Awaitable[T]], *args: Unpack[Ts]) -> T:  # noqa: UP044  # Cython cannot read *Ts
        """Runs a trio function as a task of the reactor's nursery; cancelling the fiber cancels the task.

        The fiber does not wait for a cancelled task to end, and a result that comes at the same moment is lost: what needs
        to be closed, the function closes itself unless it returns it to a fiber without a deadline.
        """
        if self._nursery is None:
            raise RuntimeError("the reactor does not run")
        task = TrioTask(Signal(self), function, args)
        self._trio_is_due = True
        self._nursery.start_soon(task.run)
        try:
            await task.done.wait()
        except BaseException:
            task.scope.cancel()
            raise
        result: T = task.outcome()
        return result

    def is_turn_over(self) -> bool:
        """For a fiber that has done something long and could go on: others have waited for a turn's time."""
        return self.clock() - self.now >= TURN

    # For streams

    def watch(self, pollable: Pollable) -> None:
        """Once for the life of its descriptor."""
        fd = pollable.fd
        while len(self._pollables) <= fd:
            self._pollables.extend([None] * 256)
        assert self._poller is not None, "this reactor has no sockets"
        self._poller.add(fd, INTEREST)
        self._pollables[fd] = pollable

    def hand_over(self, pollable: Pollable, successor: Pollable) -> None:
        """What happens to the one is news for the other from now on, which has no descriptor of its own."""
        if pollable.fd >= 0:
            self._pollables[pollable.fd] = successor
        if news := self._news.pop(pollable, 0):
            self.announce(successor, news)

    def unwatch(self, pollable: Pollable) -> None:
        """Before close(), for the descriptor of a file that others hold too: its events would come as long as it is open anywhere."""
        if self._poller is not None and pollable.fd >= 0:
            try:
                self._poller.remove(pollable.fd)
            except OSError:
                pass  # closed behind our back

    def close(self, fd: int) -> None:
        """Forgets a descriptor and closes it before the next poll."""
        self._pollables[fd] = None
        self._closing.append(fd)
        if self.nap is not None:
            self.rouse()

    def announce(self, pollable: Pollable, events: int) -> None:
        """As if the next poll had brought these events: for streams that no poller knows."""
        self._news[pollable] = self._news.get(pollable, 0) | events
        if self.nap is not None:
            self.rouse()

    # Turns

    def rouse(self) -> None:
        self.now = self.clock()
        if self.nap is not None:
            self.nap.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; then cancels every fiber and waits for none longer than a few steps.

        What it watches is closed with it. It does not run a second time.
        """
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                while True:
                    if self._turn():
                        await trio.lowlevel.checkpoint()
                    else:
                        await self._sleep()
        finally:
            self._nursery = None
            self._end_all()

    async def _sleep(self) -> None:
        deadline = self.wheel.next_at() + (trio.current_time() - self.clock())
        try:
            with trio.CancelScope(deadline=deadline) as nap:
                self.nap = nap
                if self._poller is None:
                    await trio.sleep_forever()
                else:
                    await trio.lowlevel.wait_readable(self._poller.fileno())
        finally:
            self.nap = None

    def _turn(self) -> bool:
        """About a millisecond of work; False when there is none left to do."""
        self._trio_is_due = False
        busy, began = 0.0, -1.0
        timeout = 0
        for _ in range(POLLS):
            events = self._poller.poll(timeout) if self._poller is not None else 0
            start = self.now = self.clock()
            if began < 0:
                began = start
            if timeout and events == 0:  # a deadline that passed meanwhile ends the coming sleep at once
                break
            self._handle(events)
            end = self.clock()
            busy += end - start
            if busy >= TURN or end - began >= PATIENCE or self._trio_is_due:
                self._trio_is_due = True
                break
            is_idle = not self._ready and not self._news
            if is_idle and self._poller is None:
                break
            timeout = LINGER if is_idle else 0
        if busy > 0 and self._on_turn is not None:
            self._on_turn(busy)
        return self._trio_is_due or bool(self._ready) or bool(self._news)

    def _handle(self, events: int) -> None:
        """A batch of events, and everything that they and the clock have made ready."""
        poller = self._poller
        for i in range(events):
            assert poller is not None
            poller.take(i)
            pollable = self._pollables[poller.fd]
            if pollable is not None:
                pollable.happened(poller.events)
        if self._news:
            news, self._news = self._news, {}
            for pollable, what in news.items():
                if not pollable.is_closed:
                    pollable.happened(what)
        self.expire()
        self.step_ready()
        if self._closing:
            self._close_all()

    def _close_all(self) -> None:
        closing, self._closing = self._closing, []
        for fd in closing:
            try:
                os.close(fd)
            except OSError:
                pass  # Linux has freed the number all the same, and a socket has no unwritten data to mourn

    def _end_all(self) -> None:
        self.stop(CLEANUP_ROUNDS)
        for pollable in self._pollables:
            if pollable is not None:
                pollable.close()
        self._close_all()
        self.pipes.close()
        if self._poller is not None:
            self._poller.close()
