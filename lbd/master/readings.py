"""What is read of certificates, and what of it is used.

Each pair stands for itself. What cannot be used leaves in force what was read of the same files before; the others are used, so that one
certificate that nobody renews does not keep the others from it. A start and a reload have their own rule for files that cannot be used at
all: they are refused, with all that is wrong. Dates refuse nothing there: a balancer that does not start because one of its sites has an
expired certificate takes all the others down with it.

When a pair's time is not now, because it has expired or is not valid yet, it is used only where nothing better is in force.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from lbd.errors import EnvironmentFault
from lbd.master.certificates import check_use, read_pair
from lbd.master.ciphers import check_ciphers
from lbd.master.faults import Faults
from lbd.proxy.tls_material import KeyPair, TlsMaterial

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.config.positions import KeyPath

__all__ = ["NOTHING", "Reader", "Reading", "Stamp", "Standing", "Wanted", "stamps_of"]

Pairs = Mapping[tuple[Path, Path], KeyPair]  # by their files, certificate and key


class Stamp(NamedTuple):
    """What tells that a file has been written anew, or replaced; all zero where it cannot be read."""

    device: int = 0
    inode: int = 0
    modified: int = 0
    size: int = 0


class Wanted(NamedTuple):
    """Files that a part of the configuration names, and the keys that name them."""

    name: str  # of the listener, or cluster
    policy: Any
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What one listener or cluster has of its files."""

    material: TlsMaterial
    stamps: tuple[Stamp, ...]  # from before the files were read: what is written meanwhile is seen later
    pairs: Pairs
    doubts: tuple[EnvironmentFault, ...]  # about what is in use all the same
    refused: tuple[EnvironmentFault, ...]  # why files are not in use; what was in force stays

    def warnings(self) -> tuple[EnvironmentFault, ...]:
        return (*self.doubts, *(EnvironmentFault(f"{fault}; the one in use stays", fault.path) for fault in self.refused))


class Standing(NamedTuple):
    """What is in force when files are read anew. `is_renewal`: the files are those that it was read of, and can stay whatever happens."""

    pairs: Pairs
    authorities: str = ""
    is_renewal: bool = False


NOTHING = Standing(MappingProxyType({}))


def stamps_of(files: tuple[Path, ...]) -> tuple[Stamp, ...]:
    return tuple(map(stamp_of, files))


def stamp_of(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return Stamp()
    return Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


class Reader:
    """Reads the files of one listener or cluster, one after the other; reading() is what comes of all of them."""

    def __init__(self, now: float, standing: Standing, path: KeyPath, ciphers: str) -> None:
        """`path` is that of the table with all keys, `ciphers` one of them."""
        self._now = now
        self._path = path
        self._ciphers = ciphers
        self._standing = standing
        self._faults = Faults()
        self._doubts: list[EnvironmentFault] = []
        self._refused: list[EnvironmentFault] = []
        self._pairs: list[tuple[tuple[Path, Path], KeyPair]] = []
        self._authorities = ""

    def read_pair(self, cert: Path, key: Path, path: KeyPath, prefix: str = "") -> None:
        """As certificates.read_pair()."""
        known = self._standing.pairs.get((cert, key))
        try:
            pair, doubts = read_pair(cert, key, path, self._now, prefix)
            check_use(pair, self._ciphers, cert, path)
        except EnvironmentFault as fault:
            if known is None or not self._standing.is_renewal:
                self._faults.found += fault.each()
                return
            pair, doubts = known, []
            self._refused += fault.each()
        if doubts and known is not None and known != pair and is_to_stay(known, pair, self._now):
            self._refused += doubts
            pair = known
        else:
            self._doubts += doubts
        self._pairs.append(((cert, key), pair))

    def read_authorities(self, read: Callable[[], str]) -> None:
        try:
            self._authorities = read()
        except EnvironmentFault as fault:
            if self._standing.is_renewal:
                self._authorities = self._standing.authorities
                self._refused += fault.each()
            else:
                self._faults.found += fault.each()

    def keep_names_apart(self) -> None:
        """Which of two certificates would a name get? Of two that are in the way of one another, the new ones are not used."""
        while clash := first_clash([pair for _, pair in self._pairs]):
            name, one, other = clash
            fault = EnvironmentFault(f"two certificates are for {name}, number {one + 1} and number {other + 1}; keep one", self._path)
            fresh = [number for number in (one, other) if self._standing.pairs.get(self._pairs[number][0]) != self._pairs[number][1]]
            if not self._standing.is_renewal or not fresh:
                self._faults.found.append(fault)
                return
            self._refused.append(fault)
            for number in fresh:
                files = self._pairs[number][0]
                self._pairs[number] = (files, self._standing.pairs[files])

    def reading(self, stamps: tuple[Stamp, ...]) -> Reading:
        """EnvironmentFault: everything that is wrong."""
        with self._faults.gather():
            self._doubts += check_ciphers(self._ciphers, self._path)
        self._faults.raise_all()
        material = TlsMaterial(tuple(pair for _, pair in self._pairs), self._authorities)
        return Reading(material, stamps, dict(self._pairs), tuple(self._doubts), tuple(self._refused))


def is_to_stay(known: KeyPair, fresh: KeyPair, now: float) -> bool:
    """Whether what is in force is better than a pair whose time is not now."""
    return known.not_before <= now < known.not_after or now < fresh.not_before


def first_clash(pairs: list[KeyPair]) -> tuple[str, int, int] | None:
    """A name that two are for, and which."""
    seen: dict[str, int] = {}
    for index, pair in enumerate(pairs):
        for name in pair.names:
            if (first := seen.setdefault(name, index)) != index:
                return name, first, index
    return None
