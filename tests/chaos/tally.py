"""What a client sees, and what may excuse it.

    ok         the right answer, whole
    excused    none, for a reason that no balancer can help: the worker that held the connection was killed, or the origin broke in the
               middle of an answer that had begun
    failed     an error that is allowed to be one: a POST, a call, a WebSocket or a session, at a time when a worker was killed or an
               origin was such that it fails them
    wrong      everything else, with a sentence: somebody else's answer, half an answer taken for a whole one, an error that nothing
               explains, an error that a safe request must not see while enough origins are well

Trouble is nearly always somewhere in a storm, so that nearly every error can be explained; hence each client must also be answered
most of the time.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["SHOWN", "Tally", "Trouble", "Troubles"]

SHOWN = 20  # sentences of each client
LEAST = 0.6  # of what a client asks is answered well; storms of 15 to 60 seconds leave 0.9 and more
BREAKS = frozenset({"kill", "stop", "hang", "reset", "cut"})  # an answer that has begun may break off
FAILS = frozenset({*BREAKS, "status"})  # a request that may not be sent twice may fail
ENDS = frozenset({"kill", "stop"})  # what knows no moods may fail: calls, WebSockets, sessions


@dataclass(slots=True, eq=False)
class Trouble:
    """An origin's, or a worker's death. `last` is when it is over and nothing of it is left to be seen."""

    kind: str
    first: float
    last: float = float("inf")


@dataclass(slots=True)
class Troubles:
    """When what was done; written by the storm, read by clients."""

    all: list[Trouble] = field(default_factory=list)
    over: bool = False

    def begin(self, kind: str, at: float) -> Trouble:
        self.all.append(trouble := Trouble(kind, at))
        return trouble

    def has(self, kinds: frozenset[str], begin: float, end: float) -> bool:
        return any(trouble.kind in kinds and trouble.first <= end and trouble.last >= begin for trouble in self.all)

    def worker_died(self, begin: float, end: float) -> bool:
        return self.has(frozenset({"worker"}), begin, end)

    def origin_broke(self, begin: float, end: float) -> bool:
        return self.has(BREAKS, begin, end)

    def may_fail(self, begin: float, end: float) -> bool:
        """A request over HTTP/1 or HTTP/2 that may not be sent twice."""
        return self.has(FAILS, begin, end) or self.worker_died(begin, end)

    def may_end(self, begin: float, end: float) -> bool:
        """A call, a WebSocket, a session."""
        return self.has(ENDS, begin, end) or self.worker_died(begin, end)


@dataclass(slots=True)
class Tally:
    name: str
    asked: int = 0
    ok: int = 0
    excused: int = 0
    failed: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    whole: set[str] = field(default_factory=set)  # identities of what must be carried out once, and was answered
    why: Counter[str] = field(default_factory=Counter)  # what failed, by what it looked like

    def judge(self, sentence: str) -> None:
        self.wrong.append(sentence)

    def fail(self, what: str, reason: str, *, explained: bool) -> None:
        """An error that is allowed to be one, if a trouble explains it."""
        if explained:
            self.failed += 1
            self.why[reason] += 1
        else:
            self.judge(f"{what}: {reason}, and nothing was wrong with anybody")

    def verdict(self) -> list[str]:
        """What is wrong, in sentences."""
        if self.ok < LEAST * self.asked or not self.ok:
            return [f"{self.name}: only {self.ok} of {self.asked} were answered", *self.wrong[:SHOWN]]
        return self.wrong[:SHOWN]

    def line(self) -> str:
        return f"{self.name:<22}{self.asked:>9,}{self.ok:>9,}{self.failed:>8}{self.excused:>9}{len(self.wrong):>7}{self.slowest:>9.2f} s"

    def reasons(self) -> str:
        """Why what failed did."""
        return f"{self.name} failed: " + ", ".join(f"{reason} {times}" for reason, times in self.why.most_common())
