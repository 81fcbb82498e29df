"""The workers' lives: all of them started, one that dies replaced, all told the same, all brought to an end.

A successor gets the sockets its predecessor had, from the master, with what queues in them; so a crash refuses nobody. It starts at
once the first time, then after growing pauses (backoff.py).

A worker that cannot start when the daemon starts ends the daemon, after BOOT_TRIES: there is nothing to protect yet, and whoever
started it is still looking. Later the others serve on, and the slot is tried for ever.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from lbd.errors import EnvironmentFault
from lbd.master.slot import Outcome, Slot
from lbd.master.states import WorkerState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from lbd.master.plan import Plan
    from lbd.master.process import WorkerProcess
    from lbd.worker.messages import Hello, Suspect

__all__ = ["BOOT_TRIES", "GRACE", "Supervisor"]

BOOT_TRIES = 3
GRACE = 2.0  # seconds beyond the drain timeout: the worker counts from when it hears of it, and says goodbye

log = logging.getLogger("lbd.master")


class Supervisor:
    """`launch` starts a process; `hello(slot)` is what each must hear first, with its descriptors; `on_suspect` hears what they notice,
    `on_death` of the slot whose process has come to its end, before there is another one."""

    def __init__(
        self,
        count: int,
        launch: Callable[[], Awaitable[WorkerProcess]],
        hello: Callable[[int], tuple[Hello, list[int]]],
        plan: Plan,
        on_suspect: Callable[[Suspect], None] = lambda _finding: None,
        on_death: Callable[[int], None] = lambda _slot: None,
    ) -> None:
        self.slots = [Slot(number, launch, self._greet, self._announce, on_suspect) for number in range(count)]
        self.plan = plan  # in force
        self.restarts = 0
        self._hello = hello
        self._on_death = on_death
        self._is_booting = True
        self._is_draining = False
        self._scopes = [trio.CancelScope() for _ in self.slots]
        self._moved = trio.Event()  # replaced at every move of a slot

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until every worker is gone after drain(); started() when all serve. EnvironmentFault: they cannot."""
        async with trio.open_nursery() as nursery:
            for slot in self.slots:
                nursery.start_soon(self._keep, slot)
            await self._until(lambda: self._is_draining or all(slot.state.now is WorkerState.SERVING for slot in self.slots))
            self._is_booting = False
            task_status.started()

    async def _keep(self, slot: Slot) -> None:
        """The slot's workers, one after the other."""
        backoff = slot.backoff
        with self._scopes[slot.number]:
            while True:
                lived = await slot.live()
                self._on_death(slot.number)
                if self._is_draining:
                    break
                slot.rest()
                delay = backoff.after(lived)
                if self._is_booting and backoff.crashes == BOOT_TRIES:
                    raise EnvironmentFault(f"worker {slot.number} {slot.reason} ({BOOT_TRIES} times in a row)")
                when = f"in {delay:g} s" if delay else "now"
                log.error("worker %d (pid %d) %s; its successor starts %s", slot.number, slot.pid, slot.reason, when)
                await trio.sleep(delay)
                self.restarts += 1

    def _greet(self, slot: Slot) -> None:
        slot.post(*self._hello(slot.number))
        if error := self._configure(slot, self.plan).error:
            slot.end(error)

    def _configure(self, slot: Slot, plan: Plan) -> Outcome:
        return slot.configure(*plan.message(slot.number, slot.expected_bounds), plan.bounds)

    def _announce(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._moved.wait()

    # What all workers are told

    def broadcast(self, message: object, fds: Sequence[int] = ()) -> None:
        for slot in self.slots:
            slot.post(message, fds)

    async def apply(self, plan: Plan) -> str:
        """Puts a plan in force in every worker, or in none: "" or what was wrong.

        A worker that crashes meanwhile counts as a refusal. One that somebody kills (the kernel for memory, an operator, we when it hangs)
        does not, as long as another has applied the plan: its successor has it too.
        """
        error = await self._configure_all(plan)
        if error:
            applied = [slot for slot in self.slots if slot.is_alive and slot.expected_generation == plan.generation]
            for slot, outcome in [(slot, self._configure(slot, self.plan)) for slot in applied]:
                if back := await outcome.wait():
                    log.error("%s: it does not go back to the old configuration either; its successor will have it", back)
                    slot.kill()
            return error
        self.plan = plan
        for slot in self.slots:  # those that started meanwhile began with the old one
            if slot.is_alive and slot.expected_generation != plan.generation and (error := self._configure(slot, plan).error):
                slot.end(error)
        return ""

    async def _configure_all(self, plan: Plan) -> str:
        outcomes = [self._configure(slot, plan) for slot in self.slots if slot.is_alive]
        errors = [await outcome.wait() for outcome in outcomes]
        if not all(errors):
            return "; ".join(outcome.error for outcome in outcomes if outcome.error and not outcome.was_killed)
        return "; ".join(errors)

    async def drain(self, timeout: float) -> int:
        """Lets workers finish for `timeout` seconds, then ends them; how many exchanges were cut short."""
        self._is_draining = True
        for slot, scope in zip(self.slots, self._scopes, strict=True):
            if slot.state.now is WorkerState.SERVING:
                slot.drain(timeout)
            else:
                scope.cancel()
        self._announce()
        with trio.move_on_after(timeout + GRACE):
            await self._until(lambda: not any(slot.is_alive for slot in self.slots))
        for slot, scope in zip(self.slots, self._scopes, strict=True):
            if slot.is_alive:
                log.error("worker %d (pid %d) did not end in time; killing it", slot.number, slot.pid)
            scope.cancel()
        return sum(slot.cut for slot in self.slots)

    # What is known of them

    def trouble(self, now: float) -> str:
        """Why new connections would better go elsewhere; "" when there is no reason.

        One worker that is being replaced is none: who queues at its socket waits for a moment. One that dies again and again is: the
        kernel gives its socket as many connections as any other's, and they wait for up to ten seconds, or die with it.
        """
        if not any(slot.state.now is WorkerState.SERVING for slot in self.slots):
            return "no worker serves"
        for slot in self.slots:
            if slot.crashes_again_and_again(now):
                return f"worker {slot.number} has died {slot.backoff.crashes} times in a row; the log says of what"
        return ""

    def is_responsive(self) -> bool:
        """No worker is beyond what killing it can mend."""
        return not any(slot.is_silent and slot.is_alive for slot in self.slots)

    def snapshot(self, now: float) -> list[dict[str, object]]:
        """For the admin API."""
        return [
            {
                "slot": slot.number,
                "pid": slot.pid if slot.is_alive else 0,
                "state": slot.state.now.value,
                "since_seconds": round(now - slot.since, 3),
                "generation": slot.generation,
                "unanswered_pings": max(0, slot.missed - 1),
                "deaths_in_a_row": slot.backoff.crashes,
            }
            for slot in self.slots
        ]
