"""What happens often and is said seldom: a flood must not fill the disk with lines that all say the same."""

from __future__ import annotations

__all__ = ["Complaints", "LineBudget"]

SECONDS = 60.0  # between two complaints about the same
LINES = 100  # a second: enough for a person, or a script that bans addresses, and 2 GB a day at most


class Complaints:
    """Each kind of trouble is told of once in SECONDS, with the number of times since it was told of last."""

    __slots__ = ("_due", "_untold")

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def count(self, kind: str, now: float) -> int:
        """It has happened once more. How often it is to be told of now; 0: not now."""
        untold = self._untold.get(kind, 0) + 1
        if now < self._due.get(kind, now):
            self._untold[kind] = untold
            return 0
        self._due[kind] = now + SECONDS
        self._untold[kind] = 0
        return untold


class LineBudget:
    """LINES of a log in each second."""

    __slots__ = ("_second", "_written")

    def __init__(self) -> None:
        self._second = -1
        self._written = 0

    def takes(self, now: float) -> bool:
        """Whether one more line may be written."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._written = 0
        self._written += 1
        return self._written <= LINES
