"""The workers' lives, on virtual time, with workers that are no processes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from lbd.errors import EnvironmentFault
from lbd.master.backoff import CAP, GOOD, HABIT, Backoff
from lbd.master.slot import PING_INTERVAL, SILENCE_LIMIT
from lbd.master.states import WorkerState
from lbd.master.supervisor import BOOT_TRIES, GRACE
from lbd.worker.messages import Applied, Configure, Health, Hello, Ping, Pong
from tests.master.crew import Crew, FakeWorker, die, obey, plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

pytestmark = pytest.mark.usefixtures("autojump_clock", "no_leaked_fds")


@asynccontextmanager
async def running(crew: Crew) -> AsyncIterator[trio.CancelScope]:
    """The supervisor, started; ended by force when the test is done with it."""
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.supervisor.run)
        yield nursery.cancel_scope
        nursery.cancel_scope.cancel()
    assert not crew.living


def states(crew: Crew) -> list[WorkerState]:
    return [slot.state.now for slot in crew.supervisor.slots]


async def test_it_is_started_when_all_serve() -> None:
    crew = Crew(3)
    async with running(crew):
        assert states(crew) == [WorkerState.SERVING] * 3
        for worker in crew.workers:
            hello, configure = (message for message in worker.heard if not isinstance(message, Ping))
            assert isinstance(hello, Hello)
            assert isinstance(configure, Configure)
            assert configure.sockets == ("a",)


async def test_a_worker_that_is_slow_to_apply_delays_the_start() -> None:
    def slow(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure):
            trio.lowlevel.spawn_system_task(later, worker, message)
        else:
            obey(worker, message)

    async def later(worker: FakeWorker, message: Configure) -> None:
        await trio.sleep(7)
        obey(worker, message)

    crew = Crew(2)
    crew.next[0] = slow
    async with running(crew):
        assert trio.current_time() == pytest.approx(7, abs=0.01)


# Crashes


def test_the_first_crash_costs_nothing_and_many_cost_ten_seconds() -> None:
    backoff = Backoff()
    assert [backoff.after(0.0) for _ in range(9)] == [0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, CAP, CAP]
    assert backoff.after(GOOD) == 0.0
    assert backoff.after(GOOD - 1) == 0.25


async def test_one_that_dies_again_and_again_is_trouble_until_it_has_lived_well() -> None:
    crew = Crew(2)
    async with running(crew):
        supervisor = crew.supervisor
        for deaths in range(1, HABIT + 1):
            assert supervisor.trouble(trio.current_time()) == ""
            crew.at(1).exit(-11)
            await trio.sleep(0.01)
            assert supervisor.slots[1].backoff.crashes == deaths
            if deaths < HABIT:
                await trio.sleep(CAP)
        assert supervisor.trouble(trio.current_time()) == "worker 1 has died 5 times in a row; the log says of what"
        await trio.sleep(CAP)
        assert states(crew) == [WorkerState.SERVING] * 2
        assert supervisor.trouble(trio.current_time()) != "", "it has just begun"
        await trio.sleep(GOOD)
        assert supervisor.trouble(trio.current_time()) == ""


async def test_nobody_at_work_is_trouble() -> None:
    crew = Crew(2)
    async with running(crew):
        crew.behaviour = lambda worker, message: None
        for worker in list(crew.living):
            worker.exit(1)
        await trio.sleep(0.01)
        assert crew.supervisor.trouble(trio.current_time()) == "no worker serves"


async def test_a_crashed_worker_has_a_successor_with_the_same_sockets() -> None:
    crew = Crew(2)
    async with running(crew):
        crew.at(0).exit(-11)
        await trio.sleep(0.01)
        assert len(crew.workers) == 3
        assert crew.at(0).binds == {"a"}
        assert states(crew) == [WorkerState.SERVING] * 2
        assert crew.supervisor.restarts == 1
        assert crew.supervisor.slots[0].pid == crew.workers[2].pid == crew.at(0).pid


async def test_crashes_in_a_row_wait_longer_and_longer() -> None:
    crew = Crew(1)
    async with running(crew):
        start = trio.current_time()
        crew.behaviour = die
        crew.workers[0].exit(1)
        await trio.sleep(30)
        births = [worker.born - start for worker in crew.workers[1:]]
        assert births == pytest.approx([0, 0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 25.75], abs=0.05)


async def test_of_a_death_is_heard_before_there_is_a_successor() -> None:
    crew = Crew(2)
    async with running(crew):
        crew.behaviour = die
        crew.at(1).exit(1)
        await trio.sleep(0.1)  # the second one has died, and the third is waited for
        assert crew.deaths == [1, 1]
        assert [worker.is_alive for worker in crew.workers].count(True) == 1


async def test_after_a_good_life_a_crash_costs_nothing_again() -> None:
    crew = Crew(1)
    async with running(crew):
        crew.workers[-1].exit(1)
        await trio.sleep(GOOD + 1)
        died = trio.current_time()
        crew.workers[-1].exit(1)
        await trio.sleep(1)
        assert crew.workers[-1].born == pytest.approx(died, abs=0.01)


BROKEN_BOOTS: dict[str, tuple[Callable[[FakeWorker, object], None], str]] = {
    "exits": (die, "worker 0 exited with 1"),
    "is killed": (lambda worker, message: worker.exit(-11), "worker 0 was killed by SIGSEGV"),
    "cannot apply": (
        lambda worker, message: worker.say(Applied(1, "OSError: no")) if isinstance(message, Configure) else None,
        "worker 0 was killed by SIGKILL: it cannot apply the configuration: OSError: no",
    ),
}


@pytest.mark.parametrize("case", BROKEN_BOOTS)
async def test_a_worker_that_cannot_start_ends_the_daemon_with_a_reason(case: str) -> None:
    behaviour, sentence = BROKEN_BOOTS[case]
    crew = Crew(1, behaviour)
    with pytest.RaisesGroup(pytest.RaisesExc(EnvironmentFault, match=sentence), flatten_subgroups=True):
        async with running(crew):
            pytest.fail("it must not start")
    assert len(crew.workers) == BOOT_TRIES
    assert not crew.living


async def test_a_start_that_fails_once_goes_on() -> None:
    crew = Crew(2)
    crew.next[0] = die
    async with running(crew):
        assert states(crew) == [WorkerState.SERVING] * 2
        assert len(crew.workers) == 3


async def test_a_process_that_cannot_be_had_is_a_failed_start() -> None:
    crew = Crew(1)

    async def launch() -> FakeWorker:
        raise OSError(11, "Resource temporarily unavailable")

    crew.supervisor.slots[0]._launch = launch
    with pytest.RaisesGroup(pytest.RaisesExc(EnvironmentFault, match="could not be started: Resource"), flatten_subgroups=True):
        async with running(crew):
            pytest.fail("it must not start")


# Silence


async def test_a_silent_worker_is_killed_and_replaced() -> None:
    crew = Crew(2)
    crew.next[0] = lambda worker, message: None if isinstance(message, Ping) else obey(worker, message)
    async with running(crew):
        silent = crew.at(0)
        await trio.sleep((SILENCE_LIMIT - 1) * PING_INTERVAL)
        assert silent.is_alive
        await trio.sleep(2 * PING_INTERVAL)
        assert silent.code == -9
        assert states(crew) == [WorkerState.SERVING] * 2
        assert len([message for message in silent.heard if isinstance(message, Ping)]) == 1  # no heap of pings
        await trio.sleep(100)
        assert len(crew.workers) == 3


async def test_a_worker_that_answers_late_is_left_alone() -> None:
    async def later(worker: FakeWorker, number: int) -> None:
        await trio.sleep((SILENCE_LIMIT - 2) * PING_INTERVAL)
        worker.say(Pong(number))

    def late(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Ping):
            trio.lowlevel.spawn_system_task(later, worker, message.number)
        else:
            obey(worker, message)

    crew = Crew(1, late)
    async with running(crew):
        await trio.sleep(300)
        assert len(crew.workers) == 1
        assert crew.supervisor.is_responsive()


async def test_a_worker_that_breaks_the_protocol_is_killed() -> None:
    crew = Crew(1)
    async with running(crew):
        for nonsense in ("hello", Applied(99), Ping(1)):
            worker = crew.workers[-1]
            worker.say(nonsense)
            await trio.sleep(60)
            assert worker.code == -9
        assert len(crew.workers) == 4


async def test_a_worker_that_closes_its_channel_but_stays_is_killed() -> None:
    crew = Crew(1)
    async with running(crew):
        worker = crew.workers[0]
        worker.close_channel()
        await trio.sleep(10)
        assert worker.code == -9
        assert states(crew) == [WorkerState.SERVING]


# Reload


def refuse(worker: FakeWorker, message: object) -> None:
    """Applies nothing but the first generation."""
    if isinstance(message, Configure) and message.generation > 1:
        worker.say(Applied(message.generation, "ValueError: no such thing"))
    else:
        obey(worker, message)


async def test_a_plan_reaches_all_and_brings_only_new_sockets() -> None:
    crew = Crew(2)
    async with running(crew):
        assert await crew.supervisor.apply(plan(2, "a", "b")) == ""
        for worker in crew.workers:
            assert worker.generations == [1, 2]
            assert [m.sockets for m in worker.heard if isinstance(m, Configure)] == [("a",), ("b",)]
        assert [slot.generation for slot in crew.supervisor.slots] == [2, 2]


async def test_a_bind_whose_socket_is_another_one_is_sent_again_and_taken_back_by_a_refusal() -> None:
    crew = Crew(2)
    async with running(crew):
        assert await crew.supervisor.apply(plan(2, "a", "b", anew="a")) == ""
        assert [m.sockets for m in crew.at(0).heard if isinstance(m, Configure)] == [("a",), ("a", "b")]
        crew.at(1).behaviour = refuse
        assert await crew.supervisor.apply(plan(3, "a", "b", anew="b")) != ""
        assert [m.sockets for m in crew.at(0).heard if isinstance(m, Configure)][2:] == [("a", "b"), ("a", "b")]


async def test_descriptors_that_cannot_be_copied_refuse_a_plan_and_nothing_else() -> None:
    crew = Crew(2)
    async with running(crew):
        error = await crew.supervisor.apply(plan(2, "a", "b", fd=-1))
        assert error == "worker 0 cannot be told: Bad file descriptor; worker 1 cannot be told: Bad file descriptor"
        assert [slot.generation for slot in crew.supervisor.slots] == [1, 1]
        assert await crew.supervisor.apply(plan(3, "a", "b")) == ""
        assert [worker.generations for worker in crew.workers] == [[1, 3], [1, 3]]


async def test_a_refusal_by_one_takes_all_back() -> None:
    crew = Crew(3)
    crew.next[1] = refuse
    async with running(crew):
        error = await crew.supervisor.apply(plan(2, "b"))
        assert error == "worker 1: ValueError: no such thing"
        # Those that had applied it get the old one again, with the socket they had let go of; the refuser has changed nothing.
        assert [crew.at(slot).generations for slot in range(3)] == [[1, 2, 1], [1, 2], [1, 2, 1]]
        last = [m for m in crew.at(0).heard if isinstance(m, Configure)][-1]
        assert last.sockets == ("a",)
        assert crew.supervisor.plan.generation == 1
        assert [slot.generation for slot in crew.supervisor.slots] == [1, 1, 1]
        assert await crew.supervisor.apply(plan(3)) == "worker 1: ValueError: no such thing"


async def test_a_worker_that_does_not_go_back_is_replaced_by_one_that_does() -> None:
    def stubborn(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure) and len(worker.generations) == 3:
            worker.say(Applied(message.generation, "ValueError: never"))
        else:
            obey(worker, message)

    crew = Crew(2)
    crew.next.update({0: stubborn, 1: refuse})
    async with running(crew):
        first = crew.at(0)
        assert await crew.supervisor.apply(plan(2)) != ""
        await trio.sleep(1)
        assert first.code == -9
        assert crew.at(0).generations == [1]
        assert states(crew) == [WorkerState.SERVING] * 2


async def test_a_worker_that_dies_of_a_plan_refuses_it() -> None:
    def dies(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure) and message.generation == 2:
            worker.exit(-11)
        else:
            obey(worker, message)

    crew = Crew(2)
    crew.next[1] = dies
    async with running(crew):
        assert await crew.supervisor.apply(plan(2)) == "worker 1 was killed by SIGSEGV"
        await trio.sleep(1)
        assert [crew.at(slot).generations for slot in range(2)] == [[1, 2, 1], [1]]


async def test_a_worker_that_is_killed_meanwhile_refuses_nothing() -> None:
    def killed(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure) and message.generation == 2:
            worker.kill()
        else:
            obey(worker, message)

    crew = Crew(2)
    crew.next[1] = killed
    async with running(crew):
        assert await crew.supervisor.apply(plan(2)) == ""
        await trio.sleep(1)
        assert [crew.at(slot).generations[-1] for slot in range(2)] == [2, 2]
        assert [slot.generation for slot in crew.supervisor.slots] == [2, 2]


async def test_a_plan_that_nobody_has_lived_to_apply_is_refused() -> None:
    def killed(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure) and message.generation == 2:
            worker.kill()
        else:
            obey(worker, message)

    crew = Crew(2, killed)
    async with running(crew):
        assert await crew.supervisor.apply(plan(2)) == "worker 0 was killed by SIGKILL; worker 1 was killed by SIGKILL"
        await trio.sleep(1)
        assert [crew.at(slot).generations for slot in range(2)] == [[1], [1]]


async def test_a_worker_that_starts_during_a_reload_ends_with_the_new_plan() -> None:
    crew = Crew(2)

    def slow(worker: FakeWorker, message: object) -> None:
        if isinstance(message, Configure) and message.generation == 2:
            trio.lowlevel.spawn_system_task(later, worker, message)
        else:
            obey(worker, message)

    async def later(worker: FakeWorker, message: object) -> None:
        await trio.sleep(3)
        obey(worker, message)

    crew.next[0] = slow
    async with running(crew):
        crew.at(1).exit(1)
        await trio.sleep(0.01)
        crew.at(1).exit(1)  # the second crash in a row: its successor comes in 0.25 s
        await trio.sleep(0.01)
        assert await crew.supervisor.apply(plan(2)) == ""
        await trio.sleep(1)
        assert [worker.generations[-1] for worker in crew.living] == [2, 2]
        assert [slot.generation for slot in crew.supervisor.slots] == [2, 2]


async def test_a_broadcast_is_heard_after_the_configuration_by_a_new_worker() -> None:
    crew = Crew(1)
    async with running(crew):
        crew.workers[0].exit(1)
        await trio.sleep(0.01)
        crew.supervisor.broadcast(Health("web", {"a": False}))
        await trio.sleep(0.1)
        kinds = [type(message) for message in crew.workers[1].heard if not isinstance(message, Ping)]
        assert kinds == [Hello, Configure, Health]


async def test_a_new_worker_hears_nothing_before_hello() -> None:
    crew = Crew(2)
    async with running(crew):
        crew.launch_time = 1.0
        crew.at(1).exit(1)
        await trio.sleep(0.5)  # its successor is being started
        crew.supervisor.broadcast(Health("web", {"a": False}))
        assert await crew.supervisor.apply(plan(2)) == ""
        await trio.sleep(1)
        assert [type(message) for message in crew.at(1).heard if not isinstance(message, Ping)] == [Hello, Configure]
        assert crew.at(1).generations == [2]
        assert states(crew) == [WorkerState.SERVING] * 2


# The end


async def test_drain_waits_for_the_last_worker_and_no_longer() -> None:
    crew = Crew(2)
    async with running(crew):
        start = trio.current_time()
        crew.at(0).work, crew.at(1).work = 3, 5
        crew.at(1).cut = 2
        assert await crew.supervisor.drain(30) == 2
        assert trio.current_time() - start == pytest.approx(5, abs=0.01)
        assert [worker.code for worker in crew.workers] == [0, 0]


async def test_drain_kills_those_that_take_too_long() -> None:
    crew = Crew(2)
    async with running(crew):
        start = trio.current_time()
        crew.at(0).work = 1000
        await crew.supervisor.drain(30)
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() - start == pytest.approx(30 + GRACE, abs=0.01)
        assert [crew.at(slot).code for slot in range(2)] == [-9, 0]


async def test_nobody_succeeds_a_worker_that_dies_while_draining() -> None:
    crew = Crew(2)
    async with running(crew):
        crew.at(0).work = 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crew.supervisor.drain, 30.0)
            await trio.sleep(1)
            crew.at(0).exit(-9)
        assert len(crew.workers) == 2


async def test_drain_during_a_back_off_starts_nobody() -> None:
    crew = Crew(1)
    async with running(crew):
        crew.behaviour = die
        crew.at(0).exit(1)
        await trio.sleep(5)
        born = len(crew.workers)
        start = trio.current_time()
        await crew.supervisor.drain(30)
        assert trio.current_time() == start
        await trio.sleep(20)
        assert len(crew.workers) == born


async def test_cancelling_kills_all_at_once() -> None:
    crew = Crew(3)
    async with running(crew) as scope:
        scope.cancel()
    assert [worker.code for worker in crew.workers] == [-9, -9, -9]
