"""How long to wait before a crashed worker's successor starts, and when crashing has become a habit."""

from __future__ import annotations

__all__ = ["CAP", "GOOD", "HABIT", "Backoff"]

FIRST = 0.25  # seconds, for the second crash in a row; the first costs nothing
CAP = 10.0  # its share of new connections waits meanwhile: no longer than a patient client
GOOD = 30.0  # a worker that lived this long was not crashing
HABIT = 5  # crashes in a row: the next successor comes after two seconds at least, and nobody believes in it any more


class Backoff:
    """Nothing, then 0.25 s, 0.5 s, 1 s ... 10 s; from the start again after a worker that has lived well."""

    def __init__(self) -> None:
        self.crashes = 0  # in a row

    def after(self, lived: float) -> float:
        """Seconds to wait, now that a worker died which had served for `lived` seconds."""
        if lived >= GOOD:
            self.crashes = 0
        delay = min(CAP, FIRST * 2 ** min(self.crashes - 1, 32)) if self.crashes else 0.0
        self.crashes += 1
        return delay

    def is_habit(self, lives: float) -> bool:
        """Whether it crashes again and again; the one at work now has served for `lives` seconds."""
        return self.crashes >= HABIT and lives < GOOD
