"""Tiers: which part of a cluster's requests goes to which of its endpoints, before a balance chooses among these.

Endpoints stand in levels (`priority`, 0 is the first), after which come the backups; a level may be split by zones (zones.py).

- A level takes requests by its health: while `overprovision` times its share of endpoints that are up is 1 or more, all that the levels
  before it have left; below that only so much, and the rest goes on to the next. With 1.4, half of the endpoints take 70 % (Envoy's
  rule and factor). When all levels together have room for less than everything, they share it in proportion to their room.
- Backups get requests only while no endpoint of any level is up.
- Panic: when a smaller share than `panic` of a level's endpoints is up, and neither other levels have room for the rest nor a backup is up,
  health is ignored there. Most likely the checks are wrong or starved, and sending everything to the few left would take those down too
  (Envoy's healthy_panic_threshold). When that is so of all levels, each gets what it would by the number of its endpoints.
- A drained endpoint gets nothing, whatever happens. It counts as room that is missing, for it is; for panic it does not count: that
  somebody has taken it out is no sign of wrong checks.

All of it counts endpoints, not weights: a weight that is changed for a while does not move traffic between levels. Master and workers
decide by the same rules from the same facts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from lbd.cluster.zones import local_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["BACKUP", "Level", "Part", "SpreadPolicy", "Standing", "is_panic", "spread"]

BACKUP = -1  # the number of the level that backups are
ENOUGH = 1.0 - 1e-9  # room for everything, to within a float's grain


class Standing(Protocol):
    """What spread() goes by, of an endpoint."""

    @property
    def up(self) -> bool: ...
    @property
    def drained(self) -> bool: ...
    @property
    def backup(self) -> bool: ...
    @property
    def priority(self) -> int: ...
    @property
    def zone(self) -> str: ...


class SpreadPolicy(NamedTuple):
    """What spread() goes by, of a cluster."""

    panic: float = 0.5
    overprovision: float = 1.4
    zone: str = ""  # ours; "" where zones do not count
    zone_minimum: int = 0


T = TypeVar("T", bound=Standing)


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Endpoints among which a balance chooses."""

    members: tuple[T, ...]
    usable: tuple[T, ...]  # of them, not empty
    share: float  # of all requests, 0 to 1; one without is for those that cannot go where they should
    kind: str  # why requests are here: "" is at home; zone, priority, backup


@dataclass(frozen=True, slots=True)
class Level(Generic[T]):
    """Endpoints of one priority. `share` is of all requests, `parts` those that can take some."""

    number: int
    members: tuple[T, ...]
    up: int  # drained ones are not
    share: float = 0.0
    is_panicking: bool = False
    parts: tuple[Part[T], ...] = ()

    @property
    def open(self) -> int:
        return len([1 for endpoint in self.members if not endpoint.drained])

    def is_short(self, panic: float) -> bool:
        """Panic, if nobody else helps."""
        return self.up < panic * len(self.members) and self.up < panic * self.open  # nearly always the first comparison is enough

    def room(self, overprovision: float) -> float:
        return min(1.0, overprovision * self.up / len(self.members))


def spread(endpoints: Iterable[T], policy: SpreadPolicy) -> tuple[Level[T], ...]:
    """In the order in which they are tried; the level of backups, if there is one, is the last."""
    groups = grouped(tuple(endpoints))
    levels = [Level(number, groups[number], count_up(groups[number])) for number in sorted(groups) if number != BACKUP]
    if BACKUP in groups:
        levels.append(Level(BACKUP, groups[BACKUP], count_up(groups[BACKUP])))
    if BACKUP in groups and not any(level.open for level in levels[:-1]):  # backups alone are used as if they were none
        levels = [*levels[:-1], *weighed(levels[-1:], policy)]
    elif BACKUP in groups:
        levels = [*weighed(levels[:-1], rules_beside(policy, levels[-1])), levels[-1]]
        levels[-1] = with_backups(levels)
    else:
        levels = weighed(levels, policy)
    home = levels[0].number if levels else 0
    return tuple(replace(level, parts=parts_of(level, level.number == home, policy)) for level in levels)


def is_panic(endpoints: Iterable[T], policy: SpreadPolicy) -> bool:
    """Whether health is ignored, in some level at least."""
    return any(level.is_panicking for level in spread(endpoints, policy))


def grouped(endpoints: tuple[T, ...]) -> dict[int, tuple[T, ...]]:
    """By the numbers of their levels. Here and below lists rather than generators: there may be thousands, and each flip comes by."""
    numbers = {BACKUP if endpoint.backup else endpoint.priority for endpoint in endpoints}
    if len(numbers) == 1:
        return {numbers.pop(): endpoints}
    groups: dict[int, list[T]] = {number: [] for number in numbers}
    for endpoint in endpoints:
        groups[BACKUP if endpoint.backup else endpoint.priority].append(endpoint)
    return {number: tuple(members) for number, members in groups.items()}


def count_up(endpoints: Iterable[Standing]) -> int:
    return len([1 for endpoint in endpoints if endpoint.up and not endpoint.drained])


def rules_beside(policy: SpreadPolicy, backups: Level[T]) -> SpreadPolicy:
    """No panic while a backup is up: that is what they are for."""
    return policy._replace(panic=0.0) if backups.up else policy


def with_backups(levels: Sequence[Level[T]]) -> Level[T]:
    """The last level, given the others. In panic it is tried after them, whatever its checks say."""
    backups, others = levels[-1], levels[:-1]
    is_needed = not any(level.share for level in others)
    return replace(backups, share=float(is_needed and backups.up > 0), is_panicking=any(level.is_panicking for level in others))


def weighed(levels: Sequence[Level[T]], policy: SpreadPolicy) -> list[Level[T]]:
    """With their shares. Level 0 is given what it has room for, then the next one of what is left."""
    if len(levels) == 1:  # nothing to spill to
        level = levels[0]
        is_short = level.is_short(policy.panic)
        return [replace(level, share=float(is_short or level.up > 0), is_panicking=is_short)]
    rooms = [level.room(policy.overprovision) for level in levels]
    total = sum(rooms)
    if total >= ENOUGH:
        left, found = 1.0, []
        for level, room in zip(levels, rooms, strict=True):
            share = min(room, left)
            left = max(0.0, left - share)
            found.append(replace(level, share=share if share > 1.0 - ENOUGH else 0.0))
        return found
    short = [level.is_short(policy.panic) for level in levels]
    if any(short) and all(is_short or not level.open for is_short, level in zip(short, levels, strict=True)):
        rooms, total = [float(level.open) for level in levels], float(sum(level.open for level in levels))
    return [
        replace(level, share=room / total, is_panicking=is_short) if room else level
        for level, room, is_short in zip(levels, rooms, short, strict=True)
    ]


def parts_of(level: Level[T], is_home: bool, policy: SpreadPolicy) -> tuple[Part[T], ...]:
    """One, or two where our zone has endpoints and others have too."""
    is_panicking = level.is_panicking
    if level.up == len(level.members):
        usable = level.members
    else:
        usable = tuple([endpoint for endpoint in level.members if (endpoint.up or is_panicking) and not endpoint.drained])
    if not usable:
        return ()
    kind = "" if is_home else "backup" if level.number == BACKUP else "priority"
    zones = {endpoint.zone for endpoint in level.members} if policy.zone else set()
    if policy.zone not in zones or len(zones) == 1 or len(level.members) < policy.zone_minimum:
        return (Part(level.members, usable, level.share, kind),)
    here, there = split(level.members, policy.zone)
    usable_here, usable_there = split(usable, policy.zone)
    stays = local_share(len(usable_here), len(usable), len(zones), policy.overprovision)
    both = (
        Part(here, usable_here, level.share * stays, kind),
        Part(there, usable_there, level.share * (1.0 - stays), kind or "zone"),
    )
    return tuple(part for part in both if part.usable)


def split(endpoints: Sequence[T], zone: str) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Those of the zone, and the others."""
    return tuple(e for e in endpoints if e.zone == zone), tuple(e for e in endpoints if e.zone != zone)
