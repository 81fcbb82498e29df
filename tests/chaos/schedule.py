"""What goes wrong when: a list made from a seed and nothing else, so that a bad run can be run again.

At most `most_unwell` origins are unwell at a time; what is left is enough for every safe request to be answered.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["ATTACKS", "MOODS", "Event", "plan"]

MOODS = ("slow 0.3", "hang", "reset", "status 503", "status 500", "cut")
ATTACKS = ("slowloris", "garbage", "rapid reset", "abandon", "half a body")
GAP = (0.1, 0.7)  # seconds between two events
WORKER_GAP = 4.0  # between two deaths of workers: a successor must have come
UPGRADE_GAP = 12.0
QUIET = 2.0  # at the end: what is down comes back


@dataclass(frozen=True, slots=True)
class Event:
    """`target`: an origin's or a worker's number; `lasts`: seconds until it is taken back, for what can be."""

    at: float
    kind: str  # kill | stop | mood | names | reload | broken reload | worker | upgrade | attack
    target: int = 0
    argument: str = ""
    lasts: float = 0.0

    def __str__(self) -> str:
        words = [self.kind, self.argument, f"for {self.lasts:.1f} s" if self.lasts else ""]
        return f"{self.at:7.2f} s  {self.target}  {' '.join(filter(None, words))}"


def plan(
    seed: int, seconds: float, origins: int, workers: int, *, most_unwell: int = 2, without: frozenset[str] = frozenset()
) -> list[Event]:
    """In the order of time. `without`: kinds that this machine cannot do."""
    choose = random.Random(seed)
    events: list[Event] = []
    well_at = [0.0] * origins  # when each is well again
    next_worker, next_upgrade, names_at = WORKER_GAP, UPGRADE_GAP / 2, 0.0
    at = 0.5
    while at < seconds - QUIET:
        kind = choose.choices(
            ("kill", "stop", "mood", "names", "reload", "broken reload", "worker", "upgrade", "attack"), (4, 2, 8, 1, 4, 1, 2, 1, 4)
        )[0]
        lasts = choose.uniform(0.3, 2.0)
        well = [number for number in range(origins) if well_at[number] <= at]
        if kind in ("kill", "stop", "mood") and origins - len(well) < most_unwell:
            target = choose.choice(well)
            argument = choose.choice(MOODS) if kind == "mood" else ""
            # Health checks and ejections need a moment to let it in again; until then it counts as unwell.
            well_at[target] = at + lasts + 1.0
            events.append(Event(at, kind, target, argument, lasts))
        elif kind == "names" and at >= names_at and kind not in without:
            names_at = at + lasts + 1.0
            events.append(Event(at, kind, lasts=lasts))
        elif kind in ("reload", "broken reload"):
            events.append(Event(at, kind, argument=str(choose.randrange(1 << 30))))
        elif kind == "worker" and at >= next_worker:
            next_worker = at + WORKER_GAP
            events.append(Event(at, kind, choose.randrange(workers)))
        elif kind == "upgrade" and at >= next_upgrade and kind not in without:
            next_upgrade = at + UPGRADE_GAP
            events.append(Event(at, kind))
        elif kind == "attack":
            events.append(Event(at, kind, argument=choose.choice(ATTACKS)))
        at += choose.uniform(*GAP)
    return events
