"""Active health checks: which endpoints are probed, when, and what is known of them.

Rules:
- What is probed is keyed by (check policy, address), never by address alone: two clusters may ask different questions of the same
  endpoint and get different answers. Where they ask exactly the same, one probe serves both.
- State outlives reloads. A check that stays goes on with its counts and its rhythm; one whose policy changed starts from what the
  old one believed, because traffic sent to a dead endpoint while the new check makes up its mind would be an outage made by a reload.
- Probes are spread: the first falls anywhere in the first interval, each pause has its jitter, so that neither one lbd with a
  thousand endpoints nor a fleet started at once probes in waves.
- An endpoint that is being lost or won is told of once, with the reason (logger lbd.health), on the flip and not on every probe.
- A bug in a probe says nothing about the endpoint: it is logged with its trace, counted as "fault", retried ever more slowly,
  and changes no health.
"""

from __future__ import annotations

import logging
import ssl
from collections import Counter
from functools import cache, partial
from random import Random
from typing import TYPE_CHECKING, Any

import trio

from lbd.cluster.health import HealthState
from lbd.master.probe import Outcome, Probe
from lbd.metrics import HEALTH_CHECKS, HEALTH_FLIPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from lbd.cluster.health import HealthPolicy
    from lbd.master.probe_tls import ProbeTls

__all__ = ["Prober"]

# An endpoint that starts as down gets no request until it is checked, so its first probe is not spread over a long interval.
FIRST_WHEN_DOWN = 1.0
SLOWEST_AFTER_FAULT = 60.0

logger = logging.getLogger("lbd.health")


class _Check:
    """One question asked of one endpoint, again and again."""

    def __init__(self, policy: HealthPolicy, address: str, now: float) -> None:
        self.policy = policy
        self.address = address
        self.state = HealthState(policy)
        self.clusters: list[str] = []  # that ask this question
        self.scope: trio.CancelScope | None = None  # of its task
        self.last: Outcome | None = None
        self.since = now  # when it flipped last, or began
        self.faults = 0  # in a row

    def pause(self, random: Random) -> float:
        """From one probe's start to the next."""
        if self.faults:
            return min(SLOWEST_AFTER_FAULT, self.policy.interval * 2.0 ** min(self.faults, 16))
        interval = self.policy.interval if self.state.up else self.policy.interval_down or self.policy.interval
        jitter = self.policy.jitter if self.policy.jitter >= 0 else interval / 10
        return max(0.0, interval + random.uniform(-jitter, jitter))

    def first_pause(self, random: Random) -> float:
        spread = self.policy.interval if self.state.up else min(self.policy.interval, FIRST_WHEN_DOWN)
        return random.uniform(0, spread)

    def observe(self, outcome: Outcome, now: float) -> bool:
        """Takes one outcome in; whether the endpoint flipped."""
        self.last = outcome
        flipped = self.state.observe(outcome.ok, outcome.reason)
        if flipped:
            self.since = now
        return flipped


class Prober:
    """Probes every endpoint that has a check; `on_flip(cluster, address, up, reason)` is called once for each cluster and flip."""

    def __init__(
        self,
        on_flip: Callable[[str, str, bool, str], None],
        *,
        random: Random | None = None,
        make_probe: Callable[[HealthPolicy, str], Probe] | None = None,
        secured: ProbeTls | None = None,
    ) -> None:
        self._on_flip = on_flip
        self._random = random or Random()
        # One TLS context for all, made by the first https check: loading the system's CAs takes milliseconds.
        self._make_probe = make_probe or partial(Probe, tls=cache(ssl.create_default_context), secured=secured)
        self._checks: dict[tuple[HealthPolicy, str], _Check] = {}
        self._clusters: dict[str, dict[str, _Check | None]] = {}  # None: not checked
        self._counts: Counter[tuple[str, str, str]] = Counter()  # (cluster, address, result)
        self._flips: Counter[tuple[str, str, str]] = Counter()  # (cluster, address, "up" or "down")
        self._inherited: dict[str, dict[str, tuple[bool, str]]] = {}  # cluster -> address -> up, the last failure's reason
        self._nursery: trio.Nursery | None = None

    def heritage(self) -> dict[str, dict[str, tuple[bool, str]]]:
        """What is believed of endpoints that are checked, for inherit() of another process."""
        return {
            cluster: {address: (check.state.up, check.state.reason) for address, check in known.items() if check is not None}
            for cluster, known in self._clusters.items()
        }

    def inherit(self, known: Mapping[str, Mapping[str, tuple[bool, str]]]) -> None:
        """Before the first update(): those of its endpoints that are checked begin so."""
        self._inherited = {
            cluster: {address: (bool(up), str(reason)) for address, (up, reason) in states.items()} for cluster, states in known.items()
        }

    def update(self, clusters: Mapping[str, tuple[HealthPolicy | None, Sequence[str]]]) -> None:
        """These are the endpoints now. To be called within trio; flips nothing by itself: ask `is_up` for what is known."""
        before, checks = self._clusters, self._checks
        self._clusters, self._checks = {}, {}
        for check in checks.values():
            check.clusters = []
        for cluster, (policy, addresses) in clusters.items():
            self._clusters[cluster] = dict.fromkeys(addresses)
            if policy is not None:
                for address in self._clusters[cluster]:
                    known = self._checks.get((policy, address)) or checks.get((policy, address))
                    check = known or self._begin(policy, cluster, address, before.get(cluster, {}).get(address))
                    check.clusters.append(cluster)
                    self._checks[policy, address] = self._clusters[cluster][address] = check
        for key, check in checks.items():
            if key not in self._checks and check.scope is not None:
                check.scope.cancel()
        self._inherited = {}
        for check in self._checks.values():
            self._keep_watching(check)
        for counts in (self._counts, self._flips):
            for gone in [counted for counted in counts if counted[1] not in self._clusters.get(counted[0], ())]:
                del counts[gone]

    def is_up(self, cluster: str, address: str) -> bool:
        """True too for endpoints that are not checked or not known."""
        check = self._clusters.get(cluster, {}).get(address)
        return check is None or check.state.up

    def why(self, cluster: str, address: str) -> str:
        """Why it is down, in a sentence; "" when it is not."""
        check = self._clusters.get(cluster, {}).get(address)
        if check is None or check.state.up:
            return ""
        state = check.state
        if state.successes:
            since = f" since it failed: {state.reason}" if state.reason else ""
            return f"{state.successes} of {check.policy.rise} health checks have succeeded{since}"
        if state.failures > 1:
            return f"its health check has failed {state.failures} times in a row, the last time: {state.reason}"
        if state.reason:
            return f"its health check has failed: {state.reason}"
        return "its health check fails in lbd itself, the log has a trace" if check.faults else "its health check has not been made yet"

    def snapshot(self, cluster: str) -> dict[str, dict[str, Any]]:
        """For the admin API: address -> what is known."""
        now = trio.current_time()
        return {address: _describe(check, now) for address, check in self._clusters.get(cluster, {}).items()}

    def metrics(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """For /metrics."""
        for (cluster, address, result), count in self._counts.items():
            yield HEALTH_CHECKS.name, {"cluster": cluster, "endpoint": address, "result": result}, float(count)
        for (cluster, address, to), count in self._flips.items():
            yield HEALTH_FLIPS.name, {"cluster": cluster, "endpoint": address, "to": to}, float(count)

    async def run(self) -> None:
        """Probes until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for check in self._checks.values():
                    self._keep_watching(check)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def _begin(self, policy: HealthPolicy, cluster: str, address: str, before: _Check | None) -> _Check:
        check = _Check(policy, address, trio.current_time())
        if before is not None:
            check.state.up, check.state.reason = before.state.up, before.state.reason
            check.since = before.since
        elif inherited := self._inherited.get(cluster, {}).get(address):
            check.state.up, check.state.reason = inherited
        return check

    def _keep_watching(self, check: _Check) -> None:
        """Starts the check's task, once there is a nursery and unless it runs."""
        if self._nursery is not None and check.scope is None:
            check.scope = trio.CancelScope()
            self._nursery.start_soon(self._watch, check, check.scope, name=f"check {check.address}")

    async def _watch(self, check: _Check, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(check.first_pause(self._random))
            while True:
                started = trio.current_time()
                await self._probe_once(check)
                # From start to start: a slow endpoint is not probed less often. Never without a breath between two probes.
                await trio.sleep_until(max(started + check.pause(self._random), trio.current_time() + 0.001))

    async def _probe_once(self, check: _Check) -> None:
        """The one catch of everything: what goes wrong here must not end the loop."""
        try:
            outcome = await self._make_probe(check.policy, check.address).run()
            self._take(check, outcome)
            check.faults = 0
        except Exception:
            check.faults += 1
            logger.exception("the check of %s failed in lbd itself (%d times in a row)", check.address, check.faults)
            self._count(check, Outcome("fault", "a bug in lbd"))

    def _take(self, check: _Check, outcome: Outcome) -> None:
        self._count(check, outcome)
        if not check.observe(outcome, trio.current_time()):
            return
        up = check.state.up
        for cluster in check.clusters:
            level = logging.INFO if up else logging.WARNING
            word, count = ("up", check.policy.rise) if up else ("down", check.policy.fall)
            logger.log(level, "cluster %s: %s is %s after %d checks: %s", cluster, check.address, word, count, outcome.reason)
            self._flips[cluster, check.address, word] += 1
            self._on_flip(cluster, check.address, up, outcome.reason)

    def _count(self, check: _Check, outcome: Outcome) -> None:
        for cluster in check.clusters:
            self._counts[cluster, check.address, outcome.result] += 1


def _describe(check: _Check | None, now: float) -> dict[str, Any]:
    if check is None:
        return {"up": True, "checked": False}
    last = check.last
    return {
        "up": check.state.up,
        "checked": last is not None,
        "last_result": last.result if last else "",
        "last_reason": last.reason if last else "not checked yet",
        "consecutive": check.state.failures or check.state.successes,
        "since_seconds": round(now - check.since, 3),
    }
