"""A configuration ready to be put in force: with its sockets open, its names resolved, and a number."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbd.config.schema import Config
from lbd.master.endpoints import EndpointBook
from lbd.master.machine import usable_cpus
from lbd.master.memory import for_each_worker
from lbd.master.readings import Reading
from lbd.master.sockets import Change
from lbd.master.sticky_key import with_secret
from lbd.worker.messages import Configure

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.master.binds import Bound

__all__ = ["Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every worker is sent. The endpoints are read from the book when it is sent: a worker that starts later hears of today."""

    generation: int
    config: Config
    change: Change
    book: EndpointBook
    tls: dict[str, Reading] = field(default_factory=dict)  # by listener; as the vault has it today
    cluster_tls: dict[str, Reading] = field(default_factory=dict)  # by cluster, likewise
    sticky_key: str = ""  # for clusters that have none of their own

    @property
    def bounds(self) -> frozenset[Bound]:
        return frozenset(self.change.bounds.values())

    def doubts(self) -> tuple[str, ...]:
        """What is not right about its certificates, and does not keep it from being put in force."""
        faults = [fault for reading in (*self.tls.values(), *self.cluster_tls.values()) for fault in reading.warnings()]
        return tuple(line for fault in faults for line in self.config.describe(fault))

    def message(self, slot: int, held: Collection[Bound]) -> tuple[Configure, list[int]]:
        """For the worker in this slot, which has the sockets of those `held`; with the descriptors of the others."""
        sockets, fds = self.change.fds(slot, held)
        config = self.config
        message = Configure(
            self.generation,
            config.listeners,
            with_secret(config.clusters, self.sticky_key),
            config.log,
            self.book.states(),
            sockets,
            config.lbd.drain_timeout,
            {name: reading.material for name, reading in self.tls.items()},
            {name: reading.material for name, reading in self.cluster_tls.items()},
            for_each_worker(config.lbd.overload, config.lbd.workers or usable_cpus()),
            self.book.places(),
        )
        return message, fds
