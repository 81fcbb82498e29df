"""Every listening socket of the daemon.

The master keeps a copy of each, for as long as a listener names it: a crashed worker's successor gets the same sockets, with the
connections that queue in them. Closing a SO_REUSEPORT socket drops its queue (nginx, commit 337afd5f), so nothing is closed that
stays. A change is made in two steps, so that a reload that fails has changed nothing: prepare() opens what is new, then commit()
closes what is no longer wanted or discard() what was new.

A unix socket whose file somebody has removed or replaced is lost to whoever would connect: a change that keeps the bind opens it anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.master.binds import BindPolicy, Bound, adopt_bind, open_bind
from lbd.master.claims import Claims
from lbd.master.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from lbd.config.positions import KeyPath
    from lbd.master.binds import FileId
    from lbd.master.inherited import Inherited
    from lbd.master.upgrade import Handover
    from lbd.proxy.listener import ListenerPolicy

__all__ = ["Change", "Sockets", "wanted_binds"]


def wanted_binds(listeners: Iterable[ListenerPolicy]) -> dict[str, BindPolicy]:
    """Every bind there must be, by its address as configured."""
    return {
        bind: BindPolicy(bind, path_of(listener, number), listener.backlog, listener.mode)
        for listener in listeners
        for number, bind in enumerate(listener.bind)
    }


def path_of(listener: ListenerPolicy, number: int) -> KeyPath:
    """One bind needs no list, and no number then."""
    path = ("listener", listener.name, "bind")
    return (*path, number) if len(listener.bind) > 1 else path


class Change:
    """What prepare() has opened, and what would be in force."""

    def __init__(
        self, wanted: dict[str, BindPolicy], bounds: dict[str, Bound], opened: list[Bound], renewed: Collection[BindPolicy] = ()
    ) -> None:
        """`renewed`: of those that were open already, which were lost."""
        self.wanted = wanted
        self.bounds = bounds
        self.opened = opened
        self.renewed = renewed

    def fds(self, slot: int, held: Collection[Bound]) -> tuple[tuple[str, ...], list[int]]:
        """(binds, descriptors) that a worker in this slot needs when it has the sockets of those already."""
        missing = tuple(bind for bind in self.wanted if self.bounds[bind] not in held)
        return missing, [self.bounds[bind].fd(slot) for bind in missing]


class Sockets:
    """The listening sockets in force."""

    def __init__(self, slots: int, inherited: Inherited, handover: Handover) -> None:
        self._slots = slots
        self._inherited = inherited
        self._handover = handover
        self._bounds: dict[str, Bound] = {}

    async def prepare(self, wanted: dict[str, BindPolicy], doors: Collection[Bound] = ()) -> Change:
        """Opens what is not open yet; EnvironmentFault, for all that cannot be opened: nothing has changed. `doors` are open already."""
        opened: dict[str, Bound] = {}
        faults = Faults()
        staying = [(wanted[bind], bound) for bind, bound in self._bounds.items() if bind in wanted]
        claims = Claims([*((door.policy, door) for door in doors), *staying])
        try:
            for bind, policy in sorted(wanted.items(), key=lambda item: item[0] not in self._handover.binds):  # it listens already
                if bind not in self._bounds or self._bounds[bind].is_lost:
                    with faults.gather():
                        opened[bind] = await self.open(policy, self._slots, (*doors, *opened.values()), claims)
            faults.raise_all()
        except BaseException:
            for bound in opened.values():
                bound.close()
            raise
        bounds = {bind: opened.get(bind) or self._bounds[bind] for bind in wanted}
        return Change(wanted, bounds, list(opened.values()), [wanted[bind] for bind in opened if bind in self._bounds])

    async def open(self, policy: BindPolicy, slots: int, others: Iterable[Bound] = (), claims: Claims | None = None) -> Bound:
        """The sockets of one bind: handed over by a predecessor, or new. A port that is ours at another address is not in use."""
        claims = claims or Claims()
        if handed := self._handover.take(policy.bind, 1 if policy.bind.startswith(("unix:", "fd:")) else slots):
            return adopt_bind(policy, handed, slots, self._handover, claims)
        ports = {bound.policy.port for bound in (*self._bounds.values(), *others)}
        ports |= {BindPolicy(bind).port for bind in self._handover.binds}
        return await open_bind(policy, slots, self._inherited, claims, is_ours=policy.port in ports - {0})

    def commit(self, change: Change) -> None:
        """Only what the change wants stays open. EnvironmentFault: that is so, but not all settings could be changed."""
        leaving, self._bounds = self._leaving(change), change.bounds
        for bound in leaving:
            bound.close()
        faults = Faults()
        for bind, policy in change.wanted.items():
            with faults.gather():
                self._bounds[bind].apply(policy)
        faults.raise_all()

    def discard(self, change: Change) -> None:
        for bound in change.opened:
            bound.close()

    def deafen(self, change: Change) -> None:
        """What the change does not want lets nobody else in: workers are about to close it."""
        for bound in self._leaving(change):
            bound.deafen()

    def hear(self, change: Change) -> None:
        """Takes deafen() back."""
        for bound in self._leaving(change):
            bound.hear()

    def _leaving(self, change: Change) -> list[Bound]:
        return [bound for bind, bound in self._bounds.items() if change.bounds.get(bind) is not bound]

    def handed(self) -> dict[str, list[int]]:
        """For a successor: bind -> descriptors."""
        return {bind: [sock.fileno() for sock in bound.sockets] for bind, bound in self._bounds.items()}

    def files(self) -> dict[str, FileId]:
        """Likewise: those of unix sockets."""
        return {bind: bound.file for bind, bound in self._bounds.items() if bound.file is not None}

    def close(self, *, keep_files: bool = False) -> None:
        """The master's copies; workers that drain have their own until they close them. A successor keeps unix sockets' files and hears."""
        for bound in self._bounds.values():
            if not keep_files:
                bound.deafen()
            bound.close(keep_file=keep_files)
        self._bounds = {}
        self._inherited.close()
