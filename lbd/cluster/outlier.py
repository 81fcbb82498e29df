"""Outliers: which endpoints are taken out for what requests met there, for how long, and how they come back.

Each endpoint has a circuit of its own:

    IN ──suspected──> EJECTED ──its time is over, or a health check has seen it rise──> TRIAL ──`probes` successes──> IN
                         ^                                                                │
                         └────────────────────────── one failure ─────────────────────────┘

A worker that sees a run of failures suspects an endpoint (witness.py); so does the comparison of all of them every `interval` (tally.py).
Who suspects does not decide: one judge, in the master, sees the whole cluster, and so never takes out more than `max_ejected` of it, and
never the last endpoint that is up. Those on trial are up, with few requests at a time; a trial in which a request fails ends at once.

Each ejection in a row is longer by `growth`, up to `ejection_max`; each `ejection` of time spent IN takes one off the count. So an
endpoint that fails for an hour is tried every few minutes, and one that failed once last week is a first offender.

When somebody should go and there is no room, an ejected first offender comes on trial before its time: in a rolling restart whoever was
down a moment ago is well again when the next one goes.

And when nearly all are out, on trial, or ought to go, for MISERY seconds, it is no trouble of endpoints, and those that are out are missed:
half of a cluster that bears the load only as a whole fails under it for good, whatever had begun it. So all come back, and nobody is
ejected for AMNESTY seconds, longer each time that this does not help. (In a simulation everything was slow for 20 s at half of the
capacity. Before there were amnesties, nothing ever recovered.)

Decided here on the times that are handed in, without a clock; master/ejections.py acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import floor, inf
from typing import TYPE_CHECKING, Annotated

from lbd.policy import Count, Duration, Ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["OutlierPolicy", "Outliers", "Stage", "Standing", "Verdict"]

MOST_GROWTHS = 64  # so that the power of it stays a number
NEARLY_ALL = 0.8  # of the endpoints
RECENT = 10.0  # seconds for which a refused ejection says that an endpoint fails; witnesses repeat theirs each second
MISERY = 10.0  # longer than a rolling restart needs to be noticed by checks
AMNESTY, AMNESTY_MAX = 30.0, 300.0  # as ejections, by default
PAUSE = 1.0  # seconds between two looks for somebody who is up, when nobody is


@dataclass(frozen=True, slots=True)
class OutlierPolicy:
    """`[cluster.NAME.outlier]`: on without being written."""

    enabled: bool = True
    # In a row, as one worker sees them: no connection, a reset, a timeout, a refusal, 502, 503, 504. One failure never ejects.
    failures: Annotated[int, Count(0, 10_000, zero="not looked at")] = 5
    # In a row, any status from 500 on. Off: a page that always fails, asked for in a loop, would take out one endpoint after the other.
    errors: Annotated[int, Count(0, 10_000, zero="not looked at")] = 0
    interval: Annotated[float, Duration(1.0)] = 10.0  # between two comparisons
    # Standard deviations below the mean of all. Envoy's: with it one bad endpoint stands out among five, and among no fewer.
    success_rate: Annotated[float, Ratio(0.0, 100.0)] = 1.9  # 0 is not looked at
    latency: Annotated[float, Ratio(0.0, 10_000.0)] = 0.0  # times the median of all; 0 is not looked at: endpoints may be unlike by design
    min_endpoints: Annotated[int, Count(2)] = 5  # that can be compared, or no comparison is made
    min_requests: Annotated[int, Count(1)] = 100  # of an endpoint in an interval, for it to be compared
    ejection: Annotated[float, Duration(0.1)] = 30.0  # the first time
    ejection_max: Annotated[float, Duration(0.1)] = 300.0
    growth: Annotated[float, Ratio(1.0, 10.0)] = 2.0  # from one ejection to the next
    max_ejected: Annotated[float, Ratio(0.0, 1.0)] = 0.5  # of the endpoints, at a time; at least one of two or more, unless it is 0
    probes: Annotated[int, Count(1, 1000)] = 3  # successes that end a trial, and requests at once during it


class Stage(Enum):
    """Of an endpoint's circuit: closed, open, half-open."""

    IN = "in"
    EJECTED = "ejected"
    TRIAL = "half_open"


class Verdict(Enum):
    """What comes of a suspicion."""

    EJECTED = "ejected"
    NO_ROOM = "no_room"  # as many are out as may be
    LAST = "last"  # no other one is up
    AMNESTY = "amnesty"  # a moment ago all failed alike
    NOTHING = "nothing"  # it is out already, or nobody's


@dataclass(slots=True)
class Standing:
    """Of one endpoint. Times are those of the caller's clock."""

    stage: Stage = Stage.IN
    since: float = -inf  # in this stage
    until: float = inf  # EJECTED: when its time is over
    times: int = 0  # ejections that count
    cause: str = ""  # of the latest one: a label
    reason: str = ""  # and a sentence
    proved: int = 0  # TRIAL: successes


class Outliers:
    """One cluster's circuits. Endpoints about which there is nothing to say have no standing.

    When everybody fails, a suspicion comes from each worker about each endpoint each second, and to none of them is there anything to do:
    so what a suspicion costs must not grow with the number of endpoints. (With 3,000, half of them out, it was half a millisecond.)
    """

    def __init__(self, policy: OutlierPolicy) -> None:
        self.policy = policy
        self._standings: dict[str, Standing] = {}
        self._out: dict[str, Standing] = {}  # those EJECTED, in the order in which they went
        self._first: dict[str, Standing] = {}  # of them the first offenders
        self._trying: dict[str, Standing] = {}  # those on TRIAL
        self._spare = ""  # who was up when somebody was looked for
        self._nobody_until = -inf  # nobody was, and until then nobody is looked for
        self._refused: dict[str, float] = {}  # who is IN and ought to go, but there is no room, and when that was said; the latest last
        self._looked_at = -inf  # how many of all these there are
        self._miserable_since = inf
        self._amnesty, self._amnesty_until = 0.0, -inf  # the latest one: how long, and its end
        self.addresses: frozenset[str] = frozenset()

    def of(self, address: str) -> Standing | None:
        return self._standings.get(address)

    def is_ejected(self, address: str) -> bool:
        return address in self._out

    def trial(self, address: str) -> int:
        """How many requests at once it may have, being on trial; 0: it is not."""
        standing = self._standings.get(address)
        return self.policy.probes if standing is not None and standing.stage is Stage.TRIAL else 0

    def ejected(self) -> list[str]:
        return list(self._out)

    def allowed(self) -> int:
        """How many may be out at a time."""
        count = len(self.addresses)
        if count < 2 or self.policy.max_ejected == 0.0:
            return 0
        return min(max(1, floor(self.policy.max_ejected * count)), count - 1)

    # What changes it; each returns the addresses that it has moved, or what has become of one

    def settle(self, policy: OutlierPolicy, addresses: Collection[str], now: float) -> list[str]:
        """These are the endpoints and the policy now. Who stays keeps its standing, unless too many would be out."""
        self.policy, self.addresses = policy, frozenset(addresses)
        self._nobody_until = -inf
        for known in (self._standings, self._out, self._first, self._trying, self._refused):
            for gone in known.keys() - self.addresses:
                del known[gone]
        if not policy.enabled:
            freed = [address for address, standing in self._standings.items() if standing.stage is not Stage.IN]
            for known in (self._standings, self._out, self._first, self._trying, self._refused):
                known.clear()
            return freed
        out = sorted(self._out, key=lambda address: self._out[address].until)
        surplus = out[: max(0, len(out) - self.allowed())]
        for address in surplus:
            self._try(address, now)
        return surplus

    def inherit(self, address: str, cause: str, reason: str, times: int, since: float, until: float) -> None:
        """It was ejected before we came. Those that went first come first."""
        if self.policy.enabled and address in self.addresses and len(self._out) < self.allowed():
            self._standings[address] = Standing(Stage.EJECTED, since, until, times, cause, reason)
            self._note(address)

    def suspect(self, address: str, cause: str, reason: str, now: float, is_up: Callable[[str], bool]) -> Verdict:
        """Somebody has seen it fail. `is_up`: whether health checks hold an endpoint for up."""
        standing = self._standings.get(address)
        if not self.policy.enabled or address not in self.addresses or address in self._out:
            return Verdict.NOTHING
        if now < self._amnesty_until:
            return Verdict.AMNESTY
        if len(self._out) >= self.allowed():
            if standing is None or standing.stage is Stage.IN:
                self._refused.pop(address, None)
                self._refused[address] = now
            self._look(now)
            return Verdict.NO_ROOM
        if not self._has_other(address, now, is_up):
            return Verdict.LAST
        if standing is None:
            standing = self._standings[address] = Standing()
        elif standing.stage is Stage.IN:
            standing.times = max(0, standing.times - floor((now - standing.since) / self.policy.ejection))
        standing.times += 1
        standing.stage, standing.since, standing.until = Stage.EJECTED, now, now + self.duration(standing.times)
        standing.cause, standing.reason = cause, reason
        self._note(address)
        self._look(now)
        return Verdict.EJECTED

    @property
    def amnesty(self) -> float:
        """How long the latest one is."""
        return self._amnesty

    def duration(self, times: int) -> float:
        """Of the so-manieth ejection."""
        policy = self.policy
        return min(max(policy.ejection, policy.ejection_max), policy.ejection * policy.growth ** min(times - 1, MOST_GROWTHS))

    def release(self, now: float) -> list[str]:
        """Those whose time is over come on trial."""
        due = [address for address, standing in self._out.items() if standing.until <= now]
        for address in due:
            self._try(address, now)
        return due

    def risen(self, address: str, now: float) -> bool:
        """A health check that held it for down has seen it come back: somebody has mended it, and it need not wait."""
        if address not in self._out:
            return False
        self._try(address, now)
        return True

    def relieve(self, now: float, is_up: Callable[[str], bool]) -> str:
        """Somebody ought to go and cannot: those that are left are no better. Of the first offenders the one that is out for longest comes
        on trial, and is returned; "" for nobody. Who has failed a trial since waits, or all would come and go while everybody fails."""
        first = next((address for address in self._first if is_up(address)), "")
        if first:
            self._try(first, now)
        return first

    def forgive(self, now: float) -> list[str]:
        """All come back, if nearly all fail: they are returned. What they were ejected for the last time does not count."""
        freed = {**self._out, **self._trying}
        if now - self._miserable_since < MISERY or not freed:
            return []
        for standing in freed.values():
            standing.stage, standing.since, standing.until, standing.times = Stage.IN, now, inf, standing.times - 1
        for known in (self._out, self._first, self._trying, self._refused):
            known.clear()
        is_again = now - self._amnesty_until < self._amnesty
        self._amnesty = min(2.0 * self._amnesty, AMNESTY_MAX) if is_again else AMNESTY
        self._miserable_since, self._amnesty_until = inf, now + self._amnesty
        return list(freed)

    def prove(self, address: str, now: float) -> bool:
        """A request has succeeded there; whether that has ended its trial."""
        standing = self._standings.get(address)
        if standing is None or standing.stage is not Stage.TRIAL:
            return False
        standing.proved += 1
        if standing.proved < self.policy.probes:
            return False
        standing.stage, standing.since = Stage.IN, now
        del self._trying[address]
        return True

    def next_release(self) -> float:
        """When release() has something to do; infinity: never."""
        return min((standing.until for standing in self._out.values()), default=inf)

    def _has_other(self, address: str, now: float, is_up: Callable[[str], bool]) -> bool:
        """Whether somebody else is up."""

        def is_in(other: str) -> bool:
            return other != address and other not in self._out and is_up(other)

        if self._spare in self.addresses and is_in(self._spare):
            return True
        if now < self._nobody_until:
            return False
        self._spare = next(filter(is_in, self.addresses), "")
        if not self._spare and not is_up(address):
            self._nobody_until = now + PAUSE
        return bool(self._spare)

    def _look(self, now: float) -> None:
        """Whether nearly all fail."""
        refused = self._refused
        while refused and refused[first := next(iter(refused))] < now - RECENT:
            del refused[first]
        before, self._looked_at = self._looked_at, now
        if len(self._out) + len(self._trying) + len(refused) < NEARLY_ALL * len(self.addresses):
            self._miserable_since = inf
        elif self._miserable_since == inf or before < now - RECENT:
            self._miserable_since = now

    def _note(self, address: str) -> None:
        """It has just been EJECTED."""
        standing = self._out[address] = self._standings[address]
        self._trying.pop(address, None)
        self._refused.pop(address, None)
        if standing.times == 1:
            self._first[address] = standing

    def _try(self, address: str, now: float) -> None:
        standing = self._trying[address] = self._out.pop(address)
        self._first.pop(address, None)
        standing.stage, standing.since, standing.until, standing.proved = Stage.TRIAL, now, inf, 0
