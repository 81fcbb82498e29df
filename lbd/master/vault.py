"""The certificates in force, and the watch over their files.

Every INTERVAL seconds each file is looked at; one that was written or replaced makes its listener's files be read again, all of
them, and what is whole goes to the workers at once: connections that come from then on get it. A fault leaves things as they are;
it is logged once for each state of the files, and the next change is another try.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from lbd import metrics
from lbd.core.clock import wall_clock
from lbd.errors import EnvironmentFault
from lbd.master.certificates import Stamp, Wanted, day_of, read_listener, read_listeners, stamps_of, wanted_by
from lbd.master.cluster_certificates import read_cluster, read_clusters, wanted_by_clusters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbd.admin.view import OwnMetric
    from lbd.config.schema import Config
    from lbd.proxy.tls_material import TlsMaterial

__all__ = ["CLUSTERS", "LISTENERS", "Vault"]

INTERVAL = 5.0  # seconds between two looks at the files
PATIENCE = 1.0  # seconds before a pair that does not fit is read again: certificate and key are written one after the other
DAY = 86_400.0
SOON = (1, 7, 21)  # days before the end at which the log warns

log = logging.getLogger("lbd.master")


class Source(NamedTuple):
    """Whose files are watched."""

    noun: str
    wanted_by: Callable[[Config], Iterator[Wanted]]
    read_all: Callable[[Config, float], dict[str, TlsMaterial]]
    read: Callable[[str, Any, Path, float], TlsMaterial]


LISTENERS = Source("listener", wanted_by, read_listeners, read_listener)
CLUSTERS = Source("cluster", wanted_by_clusters, read_clusters, read_cluster)


class Vault:
    """`changed(name, material)` hears of what is new; `clock` is the wall's."""

    def __init__(
        self, changed: Callable[[str, TlsMaterial], None], clock: Callable[[], float] = wall_clock, source: Source = LISTENERS
    ) -> None:
        self._source = source
        self._changed = changed
        self._clock = clock
        self._base = Path()
        self._wanted: dict[str, Wanted] = {}
        self._stamps: dict[str, tuple[Stamp, ...]] = {}
        self._materials: dict[str, TlsMaterial] = {}
        self._warned: dict[tuple[str, float], int] = {}  # (name, end) -> days that the last warning was about
        self._results = {"ok": 0, "failed": 0}

    async def first(self, config: Config) -> dict[str, TlsMaterial]:
        """What a configuration asks for, before it is in force. EnvironmentFault: all that is wrong with it."""
        # In a thread: the files may be on a disk that does not answer.
        return await trio.to_thread.run_sync(self._source.read_all, config, self._clock(), abandon_on_cancel=True)

    def update(self, config: Config, materials: dict[str, TlsMaterial]) -> None:
        """A configuration is in force. `materials` is kept up to date from now on."""
        self._base = Path(config.file).parent
        self._wanted = {wanted.name: wanted for wanted in self._source.wanted_by(config)}
        self._stamps = {name: stamps_of(wanted.files) for name, wanted in self._wanted.items()}
        self._materials = materials
        self._warn_of_ends()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(INTERVAL)
            for wanted in list(self._wanted.values()):
                await self._look_at(wanted)
            self._warn_of_ends()

    async def _look_at(self, wanted: Wanted) -> None:
        stamps = await trio.to_thread.run_sync(stamps_of, wanted.files, abandon_on_cancel=True)
        if stamps == self._stamps.get(wanted.name):
            return
        try:
            material = await self._read(wanted)
        except EnvironmentFault:
            await trio.sleep(PATIENCE)
            stamps = await trio.to_thread.run_sync(stamps_of, wanted.files, abandon_on_cancel=True)
            try:
                material = await self._read(wanted)
            except EnvironmentFault as fault:
                self._refuse(wanted, stamps, fault)
                return
        self._accept(wanted, stamps, material)

    async def _read(self, wanted: Wanted) -> TlsMaterial:
        return await trio.to_thread.run_sync(
            self._source.read, wanted.name, wanted.policy, self._base, self._clock(), abandon_on_cancel=True
        )

    def _accept(self, wanted: Wanted, stamps: tuple[Stamp, ...], material: TlsMaterial) -> None:
        if self._wanted.get(wanted.name) is not wanted:
            return  # a reload came in between, and has read the files itself
        self._stamps[wanted.name] = stamps
        if material == self._materials.get(wanted.name):
            return
        self._materials[wanted.name] = material
        self._results["ok"] += 1
        ends = ", ".join(f"{pair.names[0] if pair.names else '?'} until {day_of(pair.not_after)}" for pair in material.pairs)
        log.info("%s %s has new certificates%s", self._source.noun, wanted.name, f": {ends}" if ends else "")
        self._changed(wanted.name, material)

    def _refuse(self, wanted: Wanted, stamps: tuple[Stamp, ...], fault: EnvironmentFault) -> None:
        if self._wanted.get(wanted.name) is not wanted:
            return
        self._stamps[wanted.name] = stamps
        self._results["failed"] += 1
        for each in fault.each():
            log.error("%s %s keeps its certificates: %s", self._source.noun, wanted.name, each)

    def _warn_of_ends(self) -> None:
        now = self._clock()
        ends = {(name, pair.not_after): pair.names for name, material in self._materials.items() for pair in material.pairs}
        self._warned = {key: days for key, days in self._warned.items() if key in ends}
        for (name, end), names in ends.items():
            left = (end - now) / DAY
            days = next((days for days in SOON if left <= days), 0)
            if days and self._warned.get((name, end)) != days:
                self._warned[name, end] = days
                when = f"expires on {day_of(end)}, in {left * 24:.0f} hours" if left > 0 else f"has expired on {day_of(end)}"
                log.warning("the certificate of %s %s for %s %s", self._source.noun, name, ", ".join(names) or "nobody", when)

    def material(self, name: str) -> TlsMaterial:
        """Of one that has TLS."""
        return self._materials[name]

    def metrics(self, other: Vault | None = None) -> Iterator[OwnMetric]:
        """The reloads of another vault are counted with ours."""
        for result, count in self._results.items():
            also = other._results[result] if other is not None else 0
            yield metrics.CERTIFICATE_RELOADS.name, {"result": result}, float(count + also)
        for name, material in self._materials.items():
            for number, pair in enumerate(material.pairs, 1):
                labels = {"listener": name, "name": pair.names[0] if pair.names else str(number)}
                yield metrics.CERTIFICATE_EXPIRY.name, labels, pair.not_after
