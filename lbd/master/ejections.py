"""Ejections: hears what workers suspect, compares endpoints, judges, and tells of what has changed.

The rules are cluster/outlier.py's; here are the clock, the board, the log and the counts. What is known is kept by cluster and address over
every reload, and knows nothing of workers: one that dies takes no standing with it, and its successor is told with its first configuration.

A health check and the requests that fail both have a say, and neither hides the other: an endpoint is up when its check holds it for up
*and* it is not ejected. A check that succeeds as it always did does not shorten an ejection, for that an endpoint answers its check and
fails its requests is what ejections are there for. One that had it for down, and has seen it rise, does: somebody has mended it.
"""

from __future__ import annotations

import logging
from collections import Counter
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING

import trio

from lbd import metrics
from lbd.cluster.outlier import Outliers, Stage, Verdict
from lbd.cluster.tally import Tally, outstanding
from lbd.cluster.witness import ERROR, GATEWAY, PROBE, PROBE_ERROR, PROVED
from lbd.worker.log import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from lbd.cluster.outlier import OutlierPolicy, Standing
    from lbd.worker.messages import Suspect

    # cluster -> address -> cause, reason, ejections that count, seconds since the latest one, seconds to its end
    Heritage = Mapping[str, Mapping[str, tuple[str, str, int, float, float]]]
    Totals = Callable[[], Mapping[tuple[int, tuple[str, ...]], list[int]]]  # core/board.py's

__all__ = ["Ejections"]

LONGEST = 3600.0  # seconds between two looks at the clock
SENTENCE = 300  # characters; a worker's words are not to be trusted with the log, nor with the terminal of who asks for the status

logger = logging.getLogger("lbd.health")


class Ejections:
    """`on_change(cluster, addresses)` hears of endpoints that have gone out, on trial or in; `may_serve(cluster, address)` is the
    health check's word; `totals` are the board's; `wall_clock` is for people, `clock` for everything else."""

    def __init__(
        self,
        on_change: Callable[[str, list[str]], None],
        may_serve: Callable[[str, str], bool],
        totals: Totals,
        wall_clock: Callable[[], float],
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._may_serve = may_serve
        self._totals = totals
        self._wall_clock = wall_clock
        self._clusters: dict[str, Outliers] = {}
        self._is_fair: dict[str, bool] = {}  # cluster -> whether its endpoints get requests of the same kinds
        self._before: dict[str, dict[str, Tally]] = {}  # cluster -> the counts at the latest comparison
        self._due: dict[str, float] = {}  # cluster -> when the next one is
        self._counts: Counter[tuple[str, str, str]] = Counter()  # cluster, endpoint, cause
        self._refusals: Counter[tuple[str, str]] = Counter()  # cluster, why
        self._refused: set[tuple[str, str]] = set()  # cluster, endpoint: told of already
        self._inherited: Heritage = {}
        self._changed = trio.Event()

    # What is known

    def standing(self, cluster: str, address: str) -> Standing | None:
        outliers = self._clusters.get(cluster)
        return outliers.of(address) if outliers is not None else None

    def is_ejected(self, cluster: str, address: str) -> bool:
        standing = self.standing(cluster, address)
        return standing is not None and standing.stage is Stage.EJECTED

    def trial(self, cluster: str, address: str) -> int:
        """How many requests at once it may have, being on trial; 0: it is not."""
        outliers = self._clusters.get(cluster)
        return outliers.trial(address) if outliers is not None else 0

    def why(self, cluster: str, address: str) -> str:
        """One sentence, for people; "" while it is in."""
        standing = self.standing(cluster, address)
        if standing is None or standing.stage is Stage.IN:
            return ""
        since = _time_of_day(self._wall_clock() - (self._clock() - standing.since))
        outliers = self._clusters[cluster]
        if standing.stage is Stage.TRIAL:
            proved = f"{standing.proved} of {outliers.policy.probes} requests have succeeded"
            return f"on trial since {since}, {proved}; it was ejected for: {standing.reason}"
        again = f"; the {_ordinal(standing.times)} time" if standing.times > 1 else ""
        return f"ejected for {standing.until - standing.since:g} s since {since}: {standing.reason}{again}"

    def metrics(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """For /metrics."""
        for (cluster, address, cause), count in self._counts.items():
            yield metrics.ENDPOINT_EJECTIONS.name, {"cluster": cluster, "endpoint": address, "cause": cause}, float(count)
        for (cluster, why), count in self._refusals.items():
            yield metrics.EJECTIONS_REFUSED.name, {"cluster": cluster, "why": why}, float(count)

    def heritage(self) -> Heritage:
        """Who is ejected, for inherit() of another process."""
        now = self._clock()
        found: dict[str, dict[str, tuple[str, str, int, float, float]]] = {}
        for cluster, outliers in self._clusters.items():
            for address in outliers.ejected():
                if (standing := outliers.of(address)) is not None:
                    seconds = now - standing.since, standing.until - now
                    found.setdefault(cluster, {})[address] = (standing.cause, standing.reason, standing.times, *seconds)
        return found

    # What changes it

    def inherit(self, known: Heritage) -> None:
        """Before the first update(). ValueError or TypeError: that is not what heritage() gives."""
        self._inherited = {
            cluster: {
                address: (str(cause), str(reason), int(times), float(since), float(left))
                for address, (cause, reason, times, since, left) in ejected.items()
            }
            for cluster, ejected in known.items()
        }

    def update(self, clusters: Mapping[str, tuple[OutlierPolicy, bool, Collection[str]]]) -> None:
        """These are the clusters now: policy, whether requests are spread without a look at them, addresses."""
        now = self._clock()
        for gone in self._clusters.keys() - clusters.keys():
            del self._clusters[gone]
            self._before.pop(gone, None)
            self._due.pop(gone, None)
        for name, (policy, is_fair, addresses) in clusters.items():
            outliers = self._clusters.setdefault(name, Outliers(policy))
            self._is_fair[name] = is_fair
            if freed := outliers.settle(policy, addresses, now):
                logger.info("cluster %s: %s may be used again: the configuration has changed", name, ", ".join(freed))
                self._on_change(name, freed)
            for address, (cause, reason, times, since, left) in self._inherited.get(name, {}).items():
                outliers.inherit(address, cause, reason, times, now - since, now + left)
            self._schedule(name, now, len(addresses))
        self._inherited = {}
        for key in [key for key in self._counts if self._is_gone(*key[:2])]:
            del self._counts[key]
        for cluster in [key for key in self._refusals if key[0] not in clusters]:
            del self._refusals[cluster]
        self._refused = {key for key in self._refused if not self._is_gone(*key)}
        self._changed.set()

    def hear(self, finding: Suspect) -> None:
        """What a worker has noticed."""
        outliers, standing = self._clusters.get(finding.cluster), self.standing(finding.cluster, finding.address)
        if outliers is None:
            return
        sentence = one_line(finding.sentence[:SENTENCE])
        if finding.kind in (GATEWAY, ERROR):
            self._judge(finding.cluster, finding.address, finding.kind, sentence)
        elif standing is None or standing.stage is not Stage.TRIAL:
            return  # its trial is over by now
        elif finding.kind == PROBE or (finding.kind == PROBE_ERROR and standing.cause != GATEWAY):
            self._judge(finding.cluster, finding.address, PROBE, sentence)
        elif finding.kind in (PROVED, PROBE_ERROR) and outliers.prove(finding.address, self._clock()):
            logger.info("cluster %s: %s is back: its trial has succeeded", finding.cluster, finding.address)
            self._refused.discard((finding.cluster, finding.address))
            self._on_change(finding.cluster, [finding.address])

    def risen(self, cluster: str, address: str) -> None:
        """A health check has seen it come back."""
        outliers = self._clusters.get(cluster)
        if outliers is not None and outliers.risen(address, self._clock()):
            logger.info("cluster %s: %s is on trial: its health check has seen it rise", cluster, address)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            next_at = self.work()
            self._changed = trio.Event()
            with trio.move_on_at(next_at):
                await self._changed.wait()

    def work(self) -> float:
        """What is due now. Returns when there will be more to do, if nothing changes until then."""
        now = self._clock()
        self._release(now)
        self._compare(now)
        return min([*self._due.values(), *(outliers.next_release() for outliers in self._clusters.values()), now + LONGEST])

    def _judge(self, cluster: str, address: str, cause: str, sentence: str) -> None:
        outliers = self._clusters[cluster]
        verdict = outliers.suspect(address, cause, sentence, self._clock(), lambda other: self._may_serve(cluster, other))
        if verdict is Verdict.EJECTED:
            self._counts[cluster, address, cause] += 1
            logger.warning("cluster %s: %s is %s", cluster, address, self.why(cluster, address))
            self._on_change(cluster, [address])
            self._changed.set()
        elif verdict is not Verdict.NOTHING:
            self._refuse(outliers, cluster, address, verdict, sentence)
        if verdict in (Verdict.EJECTED, Verdict.NO_ROOM) and (freed := outliers.forgive(self._clock())):
            logger.warning(
                "cluster %s: nearly all fail, which is no trouble of endpoints: %d are used again, and none is ejected for %g s",
                *(cluster, len(freed), outliers.amnesty),
            )
            self._on_change(cluster, freed)
        elif verdict in (Verdict.NO_ROOM, Verdict.LAST) and cause in (GATEWAY, ERROR, PROBE):
            self._relieve(outliers, cluster)

    def _refuse(self, outliers: Outliers, cluster: str, address: str, verdict: Verdict, sentence: str) -> None:
        self._refusals[cluster, verdict.value] += 1
        if verdict is Verdict.AMNESTY or (cluster, address) in self._refused:
            return
        self._refused.add((cluster, address))
        why = (
            f"{len(outliers.ejected())} are out, and max_ejected allows no more"
            if verdict is Verdict.NO_ROOM
            else "no other endpoint is up"
        )
        logger.warning("cluster %s: %s stays, though it should be ejected: %s; %s", cluster, address, sentence, why)

    def _relieve(self, outliers: Outliers, cluster: str) -> None:
        if relieved := outliers.relieve(self._clock(), lambda other: self._may_serve(cluster, other)):
            logger.info("cluster %s: %s is on trial before its time: others fail, too", cluster, relieved)
            self._on_change(cluster, [relieved])

    def _release(self, now: float) -> None:
        for cluster, outliers in self._clusters.items():
            if released := outliers.release(now):
                probes = outliers.policy.probes
                logger.info("cluster %s: %s on trial: %d requests at once until %d have succeeded", cluster, _are(released), probes, probes)
                self._refused = {key for key in self._refused if key[0] != cluster}
                self._on_change(cluster, released)

    # Comparisons

    def _schedule(self, cluster: str, now: float, count: int) -> None:
        policy = self._clusters[cluster].policy
        if not (policy.enabled and self._is_fair[cluster] and (policy.success_rate or policy.latency) and count >= policy.min_endpoints):
            self._due.pop(cluster, None)
            self._before.pop(cluster, None)
        else:
            self._due[cluster] = min(self._due.get(cluster, inf), now + policy.interval)

    def _compare(self, now: float) -> None:
        due = [cluster for cluster, at in self._due.items() if at <= now]
        if not due:
            return
        tallies = _tallies(self._totals(), due)
        for cluster in due:
            outliers = self._clusters[cluster]
            before, self._before[cluster] = self._before.get(cluster), tallies[cluster]
            self._due[cluster] = now + outliers.policy.interval
            if before is None:
                continue  # the counts of days; now it is known where to count from
            recent = {
                address: tally.since(before.get(address, Tally()))
                for address, tally in tallies[cluster].items()
                if (standing := outliers.of(address)) is None or standing.stage is Stage.IN
            }
            for address, cause, sentence in outstanding(outliers.policy, recent):
                self._judge(cluster, address, cause, sentence)

    def _is_gone(self, cluster: str, address: str) -> bool:
        outliers = self._clusters.get(cluster)
        return outliers is None or address not in outliers.addresses


def _tallies(totals: Mapping[tuple[int, tuple[str, ...]], list[int]], clusters: Collection[str]) -> dict[str, dict[str, Tally]]:
    """By cluster and address."""
    attempts, failures, answers, seconds = (Counter[tuple[str, str]]() for _ in range(4))
    counted = {
        metrics.ATTEMPTS.number: attempts,
        metrics.ENDPOINT_FAILURES.number: failures,
        metrics.ENDPOINT_ANSWERS.number: answers,
        metrics.ENDPOINT_SECONDS.number: seconds,
    }
    for (number, labels), cells in totals.items():
        if number in counted and labels[0] in clusters:
            counted[number][labels[0], labels[1]] += cells[0]
    found: dict[str, dict[str, Tally]] = {cluster: {} for cluster in clusters}
    for key in attempts:
        cluster, address = key
        found[cluster][address] = Tally(attempts[key], failures[key], answers[key], seconds[key] / metrics.ENDPOINT_SECONDS.scale)
    return found


def _time_of_day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def _are(addresses: list[str]) -> str:
    return f"{', '.join(addresses)} {'is' if len(addresses) == 1 else 'are'}"


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
