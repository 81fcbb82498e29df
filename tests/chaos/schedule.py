"""What goes wrong when: a list made from a seed and nothing else, so that a bad run can be run again.

At most `most_unwell` origins are unwell at a time; what is left is enough for every safe request to be answered. A plan of `ENOUGH`
seconds has each kind of trouble at least once: they come first, in an order that the seed decides, and chance has the rest.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

__all__ = ["ATTACKS", "ENOUGH", "KINDS", "MOODS", "Event", "plan"]

MOODS = ("slow 0.3", "hang", "reset", "status 503", "status 500", "cut")
ATTACKS = ("slowloris", "garbage", "rapid reset", "abandon", "half a body")
UNWELL = ("kill", "stop", "mood")
WEIGHTS = {"kill": 4, "stop": 2, "mood": 8, "names": 1, "reload": 4, "broken reload": 1, "worker": 2, "upgrade": 1, "attack": 4}
ARGUMENTS = {"mood": MOODS, "attack": ATTACKS}
# Kind and argument of everything that can happen.
KINDS = tuple((kind, argument) for kind in WEIGHTS for argument in ARGUMENTS.get(kind, ("",)))
ENOUGH = 15.0  # seconds of a plan that has room for all of them
GAP = (0.1, 0.7)  # seconds between two events
LASTS = (0.3, 2.0)
WORKER_GAP = 4.0  # between two deaths of workers: a successor must have come
UPGRADE_GAP = 12.0
QUIET = 2.0  # at the end: what is down comes back
RECOVERY = 1.0  # health checks and ejections need a moment to let an origin in again; until then it counts as unwell


@dataclass(frozen=True, slots=True)
class Event:
    """`target`: an origin's or a worker's number; `lasts`: seconds until it is taken back, for what can be."""

    at: float
    kind: str  # of WEIGHTS
    target: int = 0
    argument: str = ""
    lasts: float = 0.0

    def __str__(self) -> str:
        words = [self.kind, self.argument, f"for {self.lasts:.1f} s" if self.lasts else ""]
        return f"{self.at:7.2f} s  {self.target}  {' '.join(filter(None, words))}"


class Planner:
    """What is possible at a time, given what was planned before."""

    def __init__(self, choose: random.Random, origins: int, workers: int, most_unwell: int, without: frozenset[str]) -> None:
        self.choose = choose
        self.workers = workers
        self.most_unwell = most_unwell
        self.well_at = [0.0] * origins  # when each is well again
        # When each of these may happen (again).
        self.possible_at = {"worker": WORKER_GAP, "upgrade": UPGRADE_GAP / 2} | dict.fromkeys(without, float("inf"))

    def can(self, kind: str, at: float) -> bool:
        if kind in UNWELL:
            return sum(well_at > at for well_at in self.well_at) < self.most_unwell
        return at >= self.possible_at.get(kind, 0.0)

    def event(self, at: float, kind: str, argument: str) -> Event:
        lasts = self.choose.uniform(*LASTS)
        match kind:
            case "kill" | "stop" | "mood":
                target = self.choose.choice([number for number, well_at in enumerate(self.well_at) if well_at <= at])
                self.well_at[target] = at + lasts + RECOVERY
                return Event(at, kind, target, argument, lasts)
            case "names":
                self.possible_at[kind] = at + lasts + RECOVERY
                return Event(at, kind, lasts=lasts)
            case "reload":
                return Event(at, kind, argument=str(self.choose.randrange(1 << 30)))
            case "worker":
                self.possible_at[kind] = at + WORKER_GAP
                return Event(at, kind, self.choose.randrange(self.workers))
            case "upgrade":
                self.possible_at[kind] = at + UPGRADE_GAP
        return Event(at, kind, argument=argument)


def plan(
    seed: int, seconds: float, origins: int, workers: int, *, most_unwell: int = 2, without: frozenset[str] = frozenset()
) -> list[Event]:
    """In the order of time. `without`: kinds that this machine cannot do."""
    choose = random.Random(seed)
    planner = Planner(choose, origins, workers, most_unwell, without)
    # Of origins only so many may be unwell: their troubles come as early as they can, and the rest in between.
    owed = sorted(choose.sample(KINDS, len(KINDS)), key=lambda which: which[0] not in UNWELL)
    events: list[Event] = []
    at = 0.5
    while at < seconds - QUIET:
        found = next((which for which in owed if planner.can(which[0], at)), None)
        if found is not None:
            owed.remove(found)
        else:
            kind = choose.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            found = kind, choose.choice(ARGUMENTS.get(kind, ("",)))
        if planner.can(found[0], at):
            events.append(planner.event(at, *found))
        at += choose.uniform(*GAP)
    return events
