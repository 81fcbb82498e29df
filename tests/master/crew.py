"""Workers without processes, for a supervisor on virtual time: they do as they are told, or as a test wants them to."""

from __future__ import annotations

import math
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import trio

from lbd.cluster.cluster import ClusterPolicy
from lbd.config.schema import Config
from lbd.master.binds import BindPolicy, Bound
from lbd.master.endpoints import EndpointBook, Places
from lbd.master.plan import Plan
from lbd.master.sockets import Change
from lbd.master.supervisor import Supervisor
from lbd.worker.messages import Applied, Configure, Drain, Drained, Hello, Ping, Pong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Crew", "FakeWorker", "die", "obey", "plan"]


class FakeWorker:
    """A process and its end of the channel. With Hello it learns its slot, and `behave(slot)` gives what to call with every message."""

    def __init__(self, pid: int, behave: Callable[[int], Callable[[FakeWorker, object], None]]) -> None:
        self.pid = pid
        self.slot = -1
        self.channel = self
        self.heard: list[object] = []
        self.binds: set[str] = set()  # whose sockets it was given
        self._behave = behave
        self.behaviour: Callable[[FakeWorker, object], None] = obey
        self.work = 0.0  # seconds from Drain to the end
        self.cut = 0
        self.code: int | None = None
        self.signals: list[int] = []
        self.born = trio.current_time()
        self._said, self._answers = trio.open_memory_channel[object](math.inf)
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<FakeWorker {self.pid}>"

    @property
    def is_alive(self) -> bool:
        return self.code is None

    @property
    def generations(self) -> list[int]:
        return [message.generation for message in self.heard if isinstance(message, Configure)]

    def say(self, message: object) -> None:
        if self.is_alive:
            with suppress(trio.ClosedResourceError):  # it has closed its channel
                self._said.send_nowait(message)

    def close_channel(self) -> None:
        self._said.close()

    def exit(self, code: int) -> None:
        if self.is_alive:
            self.code = code
            self._said.close()
            self._ended.set()

    # As the master sees it

    async def send(self, message: object, fds: Sequence[int] = ()) -> None:
        await trio.lowlevel.checkpoint()
        if not self.is_alive:
            raise trio.BrokenResourceError
        self.heard.append(message)
        if isinstance(message, Hello):
            self.slot, self.behaviour = message.slot, self._behave(message.slot)
        if isinstance(message, Configure):
            assert len(fds) == len(message.sockets)
            self.binds |= set(message.sockets)
        self.behaviour(self, message)

    async def receive(self) -> tuple[object, list[int]] | None:
        try:
            return await self._answers.receive(), []
        except trio.EndOfChannel:
            return None

    def close(self) -> None:
        self._said.close()
        self._answers.close()

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.code is not None
        return self.code

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def kill(self) -> None:
        self.exit(-9)


def obey(worker: FakeWorker, message: object) -> None:
    """A good worker."""
    match message:
        case Ping(number):
            worker.say(Pong(number))
        case Configure(generation):
            worker.binds &= {bind for listener in message.listeners for bind in listener.bind} or worker.binds
            worker.say(Applied(generation))
        case Drain():
            trio.lowlevel.spawn_system_task(_leave, worker)


async def _leave(worker: FakeWorker) -> None:
    await trio.sleep(worker.work)
    worker.say(Drained(worker.cut))
    worker.exit(0)


def die(worker: FakeWorker, message: object) -> None:
    """One that crashes on its first configuration."""
    if isinstance(message, Configure):
        worker.exit(1)


class Crew:
    """All workers that were ever started. `next[slot]` is how the next one in that slot behaves, once; all others by `behaviour`."""

    def __init__(self, slots: int, behaviour: Callable[[FakeWorker, object], None] = obey) -> None:
        self.workers: list[FakeWorker] = []
        self.behaviour = behaviour
        self.next: dict[int, Callable[[FakeWorker, object], None]] = {}
        self.deaths: list[int] = []  # slots whose process has ended
        self.launch_time = 0.0  # seconds that it takes to have a process
        self.supervisor = Supervisor(slots, self._launch, lambda slot: (Hello(slot, slots), []), plan(1), on_death=self.deaths.append)

    @property
    def living(self) -> list[FakeWorker]:
        return [worker for worker in self.workers if worker.is_alive]

    def at(self, slot: int) -> FakeWorker:
        """The last that was started there."""
        return [worker for worker in self.workers if worker.slot == slot][-1]

    async def _launch(self) -> FakeWorker:
        await trio.sleep(self.launch_time)
        worker = FakeWorker(100 + len(self.workers), lambda slot: self.next.pop(slot, self.behaviour))
        self.workers.append(worker)
        return worker


class _NoSocket(Bound):
    """A bind whose descriptor is always the same, by default standard input."""

    def __init__(self, policy: BindPolicy, fd: int = 0) -> None:
        super().__init__(policy, [])
        self._fd = fd

    def fd(self, slot: int) -> int:
        return self._fd


@cache
def _kept(bind: str) -> Bound:
    """The same in all plans."""
    return _NoSocket(BindPolicy(bind))


def plan(generation: int, *binds: str, anew: str = "", fd: int = 0) -> Plan:
    """A configuration with these binds; the socket of `anew` is another one than in other plans. `fd` is every socket's."""
    wanted = {bind: BindPolicy(bind) for bind in binds or ("a",)}
    bounds = {bind: _NoSocket(policy, fd) if bind == anew or fd else _kept(bind) for bind, policy in wanted.items()}
    change = Change(wanted, bounds, [])
    config = Config("lb.toml", clusters=(ClusterPolicy("web", ()),))
    return Plan(generation, config, change, EndpointBook({"web": ()}, Places(10, lambda place: 0), lambda cluster: lambda address: True))
