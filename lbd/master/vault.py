"""The certificates in force, and the watch over their files.

Every INTERVAL seconds each file is looked at; one that was written or replaced makes its listener's files be read again, all of
them, and what can be used goes to the workers at once: connections that come from then on get it. Certificate and key are two files, and
whoever renews them writes one after the other: what does not fit is read again a moment later before it is a fault.

A fault leaves in force what was there of those files (readings.py). It is logged once for each state of the files, and the next change
is another try; so is every minute, since it may be over without one: a disk that is back, a certificate whose time has come.
"""

from __future__ import annotations

import logging
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import trio

from lbd import metrics
from lbd.core.clock import wall_clock
from lbd.master.certificates import day_of
from lbd.master.cluster_certificates import read_cluster, read_clusters, wanted_by_clusters
from lbd.master.listener_certificates import read_listener, read_listeners, wanted_by_listeners
from lbd.master.readings import Standing, stamps_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lbd.admin.view import OwnMetric
    from lbd.config.schema import Config
    from lbd.master.readings import Reading, Wanted
    from lbd.proxy.tls_material import TlsMaterial

__all__ = ["CLUSTERS", "LISTENERS", "Vault"]

INTERVAL = 5.0  # seconds between two looks at the files
PATIENCE = 1.0  # seconds before files that do not fit are read again
RETRY = 60.0  # seconds before they are read once more although nobody has written them
DAY = 86_400.0
STEPS = (0, 1, 7, 21)  # days before the end at which the log warns; at the last one it does more

log = logging.getLogger("lbd.master")


class Source(NamedTuple):
    """Whose files are watched."""

    noun: str
    wanted_by: Callable[[Config], Iterator[Wanted]]
    read_all: Callable[[Config, float, Standing], dict[str, Reading]]
    read: Callable[[Wanted, Path, float, Standing], Reading]


LISTENERS = Source("listener", wanted_by_listeners, read_listeners, read_listener)
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
        self._readings: dict[str, Reading] = {}
        self._read_at: dict[str, float] = {}  # trio's clock
        self._renewed: set[str] = set()  # since first()
        self._warned: dict[tuple[str, tuple[str, ...], float], int] = {}  # (name, names, end) -> days that the last warning was about
        self._results = {"ok": 0, "failed": 0}

    async def first(self, config: Config) -> dict[str, Reading]:
        """What a configuration asks for, before it is in force. EnvironmentFault: all that is wrong with it."""
        self._renewed.clear()
        standing = Standing({files: pair for reading in self._readings.values() for files, pair in reading.pairs.items()})
        # In a thread: the files may be on a disk that does not answer.
        return await trio.to_thread.run_sync(self._source.read_all, config, self._clock(), standing, abandon_on_cancel=True)

    def update(self, config: Config, readings: dict[str, Reading]) -> None:
        """A configuration is in force. `readings` is kept up to date from now on."""
        self._base = Path(config.file).parent
        self._wanted = {wanted.name: wanted for wanted in self._source.wanted_by(config)}
        self._readings = readings
        self._read_at.clear()
        # What the old configuration's files had to say meanwhile may have reached workers that had the new one.
        for name in self._renewed & readings.keys():
            self._changed(name, readings[name].material)
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
        known = self._readings.get(wanted.name)
        if known is None or self._wanted.get(wanted.name) is not wanted:
            return  # a reload came in between, and has read the files itself
        is_late = bool(known.refused) and trio.current_time() - self._read_at.get(wanted.name, -inf) >= RETRY
        if stamps == known.stamps and not is_late:
            return
        reading = await self._read(wanted, known)
        if reading.refused and not is_late:
            await trio.sleep(PATIENCE)
            reading = await self._read(wanted, known)
        if self._wanted.get(wanted.name) is wanted:
            self._read_at[wanted.name] = trio.current_time()
            self._accept(wanted.name, known, reading)

    async def _read(self, wanted: Wanted, known: Reading) -> Reading:
        standing = Standing(known.pairs, known.material.authorities, is_renewal=True)
        return await trio.to_thread.run_sync(self._source.read, wanted, self._base, self._clock(), standing, abandon_on_cancel=True)

    def _accept(self, name: str, known: Reading, reading: Reading) -> None:
        self._readings[name] = reading
        noun = self._source.noun
        if reading.material != known.material:
            self._results["ok"] += 1
            fresh = [pair for pair in reading.material.pairs if pair not in known.material.pairs]
            ends = ", ".join(f"{pair.names[0] if pair.names else '?'} until {day_of(pair.not_after)}" for pair in fresh)
            log.info("%s %s has new certificates%s", noun, name, f": {ends}" if ends else "")
            self._renewed.add(name)
            self._changed(name, reading.material)
        if reading.refused and (reading.stamps, sentences(reading)) != (known.stamps, sentences(known)):
            self._results["failed"] += 1
            for sentence in sentences(reading):
                log.error("%s %s keeps the one in use: %s", noun, name, sentence)

    def _warn_of_ends(self) -> None:
        now = self._clock()
        ends = {(name, pair.names, pair.not_after) for name, reading in self._readings.items() for pair in reading.material.pairs}
        self._warned = {key: days for key, days in self._warned.items() if key in ends}
        for key in sorted(ends):
            name, names, end = key
            left = (end - now) / DAY
            days = next((days for days in STEPS if left <= days), None)
            if days is not None and self._warned.get(key) != days:
                self._warned[key] = days
                when = f"expires on {day_of(end)}, in {left * 24:.0f} hours" if days else f"has expired on {day_of(end)}: clients refuse it"
                level = logging.WARNING if days else logging.ERROR
                log.log(level, "the certificate of %s %s for %s %s", self._source.noun, name, ", ".join(names) or "nobody", when)

    def material(self, name: str) -> TlsMaterial:
        """Of one that has TLS."""
        return self._readings[name].material

    def metrics(self, other: Vault | None = None) -> Iterator[OwnMetric]:
        """The reloads of another vault are counted with ours."""
        for result, count in self._results.items():
            also = other._results[result] if other is not None else 0
            yield metrics.CERTIFICATE_RELOADS.name, {"result": result}, float(count + also)
        for name, reading in self._readings.items():
            for number, pair in enumerate(reading.material.pairs, 1):
                labels = {"listener": name, "name": pair.names[0] if pair.names else str(number)}
                yield metrics.CERTIFICATE_EXPIRY.name, labels, pair.not_after


def sentences(reading: Reading) -> list[str]:
    return [str(fault) for fault in reading.refused]
