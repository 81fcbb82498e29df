"""One worker's place: the life of the process in it, from its start to its end.

What is to be sent goes into an outbox and never waits, so that whoever decides (a reload, a probe) decides for all workers at the
same moment and one slow worker holds nobody up. Descriptors are copied when they are posted: their owner may close them at once.

Every Configure is answered by one Applied, in order; `Outcome` is the promise of it. A worker that dies breaks all its promises.
"""

from __future__ import annotations

import logging
import math
import os
import signal
from collections import deque
from typing import TYPE_CHECKING

import trio

from lbd.master.backoff import Backoff
from lbd.master.process import describe_exit
from lbd.master.states import WORKER_MOVES, State, WorkerState
from lbd.worker.control import ControlError
from lbd.worker.messages import Applied, Configure, Drain, Drained, Ping, Pong, Suspect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from lbd.master.binds import Bound
    from lbd.master.process import Channel, WorkerProcess

__all__ = ["PING_INTERVAL", "SILENCE_LIMIT", "Outcome", "Slot"]

PING_INTERVAL = 2.0  # an idle daemon is woken by little else
SILENCE_LIMIT = 15  # pings without an answer: applying a huge configuration takes seconds, a stuck worker for ever
LAST_WORDS = 5.0  # seconds from closing the channel to the process's end

log = logging.getLogger("lbd.master")


class Outcome:
    """What becomes of a Configure: `error` is "" when it is in force."""

    def __init__(self, generation: int, bounds: frozenset[Bound]) -> None:
        self.generation = generation
        self.bounds = bounds
        self.error = ""
        self.was_killed = False  # the worker, from outside, before it has answered: that says nothing about the configuration
        self._done = trio.Event()

    def settle(self, error: str, *, was_killed: bool = False) -> None:
        self.error, self.was_killed = error, was_killed
        self._done.set()

    async def wait(self) -> str:
        await self._done.wait()
        return self.error


class Slot:
    """`launch` starts a process; `greet` posts what a new one must hear first: Hello and Configure; `on_move` hears of new states."""

    def __init__(
        self,
        number: int,
        launch: Callable[[], Awaitable[WorkerProcess]],
        greet: Callable[[Slot], None],
        on_move: Callable[[], None],
        on_suspect: Callable[[Suspect], None] = lambda _finding: None,
    ) -> None:
        self.number = number
        self.state = State(WorkerState.WAITING, WORKER_MOVES)
        self.pid = 0
        self.since = 0.0  # in this state
        self.generation = 0  # in force in this worker
        self.bounds: frozenset[Bound] = frozenset()  # whose sockets it has
        self.cut = 0  # exchanges it ended for want of time
        self.reason = ""  # of the last death
        self.missed = 0  # pings in a row
        self.backoff = Backoff()
        self._launch = launch
        self._greet = greet
        self._on_move = on_move
        self._on_suspect = on_suspect
        self._process: WorkerProcess | None = None
        self._outbox: deque[tuple[object, list[int]]] = deque()
        self._posted = trio.Event()
        self._outcomes: deque[Outcome] = deque()
        self._ping = 0
        self._served_since = math.inf

    def __repr__(self) -> str:
        return f"<Slot {self.number} {self.state.now.value} pid {self.pid}>"

    @property
    def is_alive(self) -> bool:
        """There is a process that hears what is posted. Not before it is greeted: Hello comes first, and says all that holds by then."""
        return self._process is not None and self.state.now in (WorkerState.STARTING, WorkerState.SERVING, WorkerState.DRAINING)

    @property
    def is_silent(self) -> bool:
        return self.missed >= SILENCE_LIMIT

    def crashes_again_and_again(self, now: float) -> bool:
        return self.backoff.is_habit(now - self.since if self.state.now is WorkerState.SERVING else 0.0)

    @property
    def is_applying(self) -> bool:
        """It has been told of a configuration and has not answered yet."""
        return bool(self._outcomes)

    @property
    def expected_bounds(self) -> frozenset[Bound]:
        """What it will have when it has obeyed everything that is posted."""
        return self._outcomes[-1].bounds if self._outcomes else self.bounds

    @property
    def expected_generation(self) -> int:
        return self._outcomes[-1].generation if self._outcomes else self.generation

    # What it is told

    def post(self, message: object, fds: Sequence[int] = ()) -> None:
        """Sends a message; to nobody when there is no process. OSError: the descriptors cannot be copied, and nothing is sent."""
        if self.is_alive:
            self._outbox.append((message, _copies(fds)))
            self._posted.set()

    def configure(self, message: Configure, fds: Sequence[int], bounds: frozenset[Bound]) -> Outcome:
        outcome = Outcome(message.generation, bounds)
        try:
            self.post(message, fds)
        except OSError as error:  # no descriptors left to copy these
            outcome.settle(f"worker {self.number} cannot be told: {error.strerror}")
        else:
            self._outcomes.append(outcome)
        return outcome

    def drain(self, timeout: float) -> None:
        """Lets a serving worker finish what runs."""
        self._move(WorkerState.DRAINING)
        self.post(Drain(timeout))

    def signal(self, number: int) -> None:
        if self._process is not None:
            self._process.signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def end(self, reason: str) -> None:
        """Kills it; the reason is told with its death."""
        self.reason = reason
        self.kill()

    def rest(self) -> None:
        """The dead one is mourned; there will be another."""
        self._move(WorkerState.WAITING)

    # Its life

    async def live(self) -> float:
        """One process, from start to end; how long it has served. Cancelled, it kills the process."""
        self._begin()
        code: int | None = None
        try:
            self._process = await self._launch()
            self.pid = self._process.pid
            self._greet(self)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, self._process.channel)
                nursery.start_soon(self._read, self._process.channel)
                nursery.start_soon(self._ask)
                code = await self._process.wait()
                nursery.cancel_scope.cancel()
        except OSError as error:  # no process to be had: memory, limits
            self.reason = f"could not be started: {error.strerror}"
        finally:
            with trio.CancelScope(shield=True):
                await self._end(code)
        return trio.current_time() - self._served_since if self._served_since < math.inf else 0.0

    def _begin(self) -> None:
        self._served_since = math.inf
        self.bounds, self.generation, self.missed, self.reason = frozenset(), 0, 0, ""
        self._move(WorkerState.STARTING)

    async def _end(self, code: int | None) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            code = await process.wait() if code is None else code
            process.channel.close()
            self.reason = ": ".join(filter(None, [describe_exit(code), self.reason]))
        for _, fds in self._outbox:
            _close(fds)
        self._outbox.clear()
        self._move(WorkerState.GONE)
        while self._outcomes:
            self._outcomes.popleft().settle(f"worker {self.number} {self.reason}", was_killed=code == -signal.SIGKILL)

    def _move(self, state: WorkerState) -> None:
        self.state.move(state)
        self.since = trio.current_time()
        self._on_move()

    async def _write(self, channel: Channel) -> None:
        while True:
            await self._posted.wait()
            self._posted = trio.Event()
            while self._outbox:
                message, fds = self._outbox.popleft()
                try:
                    await channel.send(message, fds)
                except trio.BrokenResourceError:
                    return  # _read() sees it too
                finally:
                    _close(fds)

    async def _read(self, channel: Channel) -> None:
        """Hears the worker out; one that breaks the protocol, or is done speaking but does not end, is killed."""
        try:
            while (received := await channel.receive()) is not None:
                message, fds = received
                _close(fds)
                self._hear(message)
            await trio.sleep(LAST_WORDS)
            log.error("worker %d (pid %d) closed its channel but does not end; killing it", self.number, self.pid)
        except ControlError as error:
            log.error("worker %d (pid %d) broke the protocol: %s; killing it", self.number, self.pid, error)
            self.reason = f"it broke the protocol: {error}"
        self.kill()

    def _hear(self, message: object) -> None:
        match message:
            case Pong(number) if number == self._ping:
                self.missed = 0
            case Pong():
                pass  # an answer that came late
            case Applied(generation, error):
                self._applied(generation, error)
            case Drained(cut) if isinstance(cut, int):
                self.cut = cut
            case Suspect(str(), str(), str(), str()):
                self._on_suspect(message)
            case _:
                raise ControlError(f"{message!r} is no answer")

    def _applied(self, generation: int, error: str) -> None:
        if not self._outcomes or self._outcomes[0].generation != generation:
            raise ControlError(f"it applied generation {generation!r}, which it was not asked for")
        outcome = self._outcomes.popleft()
        if not error:
            self.generation, self.bounds = generation, outcome.bounds
            if self.state.now is WorkerState.STARTING:
                self._move(WorkerState.SERVING)
                self._served_since = self.since
        elif self.state.now is WorkerState.STARTING:
            self.end(f"it cannot apply the configuration: {error}")
        outcome.settle(f"worker {self.number}: {error}" if error else "")

    async def _ask(self) -> None:
        """Pings, each once the last one is answered; so a stuck worker's outbox does not grow."""
        self._ping = 0
        while True:
            if self.missed == 0:
                self._ping += 1
                self.post(Ping(self._ping))
            self.missed += 1
            await trio.sleep(PING_INTERVAL)
            if self.is_silent:
                log.error("worker %d (pid %d) has not answered for %d s; killing it", self.number, self.pid, SILENCE_LIMIT * PING_INTERVAL)
                self.end("it did not answer")


def _copies(fds: Sequence[int]) -> list[int]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(os.dup(fd))  # noqa: PERF401 - so that those before it are known when one fails
    except OSError:
        _close(copies)
        raise
    return copies


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
