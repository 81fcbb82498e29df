"""Who watches the workers: what counts as silence, and what becomes of a worker that hangs. On virtual time."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.master.slot import PING_INTERVAL, SILENCE_LIMIT
from lbd.master.vigil import LOOK, Silence, Vigil, cpu_seconds
from lbd.worker.messages import Configure
from tests.master.crew import Crew, FakeWorker, obey, plan

if TYPE_CHECKING:
    from pathlib import Path

    from lbd.master.slot import Slot

pytestmark = pytest.mark.usefixtures("autojump_clock", "no_leaked_fds")


# Silence


def test_seconds_without_a_beat_add_up() -> None:
    silence = Silence(0.0)
    assert [silence.look(7, beat, now) for now, beat in enumerate((1, 1, 1, 2, 2), 1)] == [0.0, 1.0, 2.0, 0.0, 1.0]


def test_another_worker_in_the_slot_begins_anew() -> None:
    silence = Silence(0.0)
    assert [silence.look(7, 5, now) for now in (1.0, 2.0, 3.0)] == [0.0, 1.0, 2.0]
    assert [silence.look(8, 5, 4.0), silence.look(8, 5, 5.0)] == [0.0, 1.0]


def test_nobody_is_never_silent() -> None:
    silence = Silence(0.0)
    assert [silence.look(0, 5, now) for now in (1.0, 2.0, 30.0)] == [0.0] * 3


def test_a_pause_of_our_own_says_nothing_of_the_worker() -> None:
    """The machine was suspended for an hour, or SIGSTOP came to all of lbd: the worker had no chance to beat either."""
    silence = Silence(0.0)
    silence.look(7, 1, 1.0)
    assert silence.look(7, 1, 3601.0) == LOOK
    assert silence.look(7, 2, 3602.0) == 0.0


def test_of_one_that_waits_for_a_cpu_only_what_it_has_run_counts() -> None:
    """A machine with too much to do: it had a tenth of a second of each."""
    ran = [5.0]
    silence = Silence(0.0, lambda _pid: ran[0])
    silence.look(7, 1, 1.0)
    assert silence.look(7, 1, 2.0) == 1.0  # from here on it is known how much it runs
    for second in range(3, 13):
        ran[0] += 0.1
        silence.look(7, 1, float(second))
    assert silence.seconds == pytest.approx(2.0)
    ran[0] += 0.5
    assert silence.look(7, 2, 13.0) == 0.0


def test_one_that_loops_and_one_that_sleeps_are_silent_all_the_time() -> None:
    ran = [0.0]
    loops, sleeps = Silence(0.0, lambda _pid: ran[0]), Silence(0.0)
    for second in range(1, 12):
        ran[0] = float(second)
        loops.look(7, 1, float(second))
        sleeps.look(7, 1, float(second))
    assert (loops.seconds, sleeps.seconds) == (10.0, 10.0)


def test_what_the_kernel_says_of_a_process(tmp_path: Path) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    for pid, state in ((7, "R"), (8, "S"), (9, "T")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(
            f"{pid} (a) R (b) {state} 1 7 7 0 -1 4194304 100 0 0 0 {3 * ticks} {ticks} 0 0 20 0 1 0 5\n"
        )
    assert [cpu_seconds(pid, tmp_path) for pid in (7, 8, 9, 10)] == [4.0, None, None, None]
    assert cpu_seconds(os.getpid()) is not None  # we run


# The vigil


class Ward:
    """A crew whose workers beat as long as `hung` does not name their slot."""

    def __init__(self, limit: float = 10.0, *, dumping: float = 0.5) -> None:
        self.crew = Crew(2)
        self.hung: set[int] = set()
        self.asked: list[tuple[int, float]] = []
        self.dumping = dumping
        self.vigil = Vigil(self.beats, lambda: limit, self.dump)

    def beats(self, slot: int) -> int:
        return 0 if slot in self.hung else int(trio.current_time() * 10)

    async def dump(self, slot: Slot) -> list[str]:
        self.asked.append((slot.number, trio.current_time()))
        await trio.sleep(self.dumping)
        return ["the main thread:", "  spins"]

    async def run(self, seconds: float) -> None:
        """Both from the start, for so long."""
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                await nursery.start(self.crew.supervisor.run)
                nursery.start_soon(self.vigil.run, self.crew.supervisor)


async def test_workers_that_beat_are_left_alone() -> None:
    ward = Ward()
    await ward.run(3600)
    assert len(ward.crew.workers) == 2
    assert ward.vigil.hangs == 0


async def test_one_that_hangs_is_asked_what_it_does_and_replaced(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("lbd").propagate = True
    ward = Ward()
    ward.hung = {1}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ward.run, 60)
        await trio.sleep(12)
        assert [number for number, _ in ward.asked] == [1]
        ward.hung = set()
        await trio.sleep(30)
        first = ward.crew.workers[:2]
        victim = next(worker for worker in first if worker.slot == 1)
        assert victim.code == -9
        assert [worker.is_alive for worker in first if worker is not victim] == [True]
        assert ward.crew.at(1).is_alive
        assert ward.vigil.hangs == 1
        nursery.cancel_scope.cancel()
    said = caplog.text
    assert f"worker 1 (pid {victim.pid}) hangs: no sign of life for 10 s" in said
    assert f"worker 1 (pid {victim.pid}) |   spins" in said
    assert "was killed by SIGKILL: it hung: no sign of life for 10 s; its successor starts now" in said


async def test_without_a_limit_nobody_is_killed() -> None:
    ward = Ward(limit=0.0)
    ward.hung = {0, 1}
    await ward.run(3600)
    assert ward.asked == []


async def test_who_applies_a_configuration_has_as_long_as_a_ping() -> None:
    """A huge one takes seconds, in which nothing else happens."""

    def stuck(worker: FakeWorker, message: object) -> None:
        if not (isinstance(message, Configure) and message.generation == 2):
            obey(worker, message)

    ward = Ward(dumping=0.0)
    ward.crew.behaviour = stuck
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ward.run, 120)
        await trio.sleep(5)
        ward.hung = {0}
        nursery.start_soon(ward.crew.supervisor.apply, plan(2))
        begun = trio.current_time()
        await trio.sleep(60)
        number, asked_at = ward.asked[0]
        assert number == 0
        assert PING_INTERVAL * SILENCE_LIMIT - LOOK <= asked_at - begun <= PING_INTERVAL * SILENCE_LIMIT + 2 * LOOK
        nursery.cancel_scope.cancel()
