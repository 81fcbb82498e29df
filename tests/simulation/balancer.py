"""lbd's decisions between clients and simulated servers: who is picked, what is tried again, who is taken out and comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.outlier import Outliers, Stage, Verdict
from lbd.cluster.tally import Tally, outstanding
from lbd.cluster.witness import PROVED
from lbd.errors import Retry
from lbd.proxy.reasons import failure
from lbd.proxy.retry import Next, RetryRules, decide
from lbd.worker.messages import EndpointState

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from lbd.cluster.endpoint import Endpoint
    from tests.simulation.model import Server, World

__all__ = ["Balancer", "Second"]


@dataclass(slots=True)
class Second:
    """What happened in one second of virtual time."""

    requests: int = 0
    attempts: int = 0
    ok: int = 0
    failed: int = 0
    denied: int = 0  # retries that the budget did not allow
    seconds: list[float] = field(default_factory=list)  # that requests took

    def quantile(self, share: float) -> float:
        """Of what requests took."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Balancer:
    """One worker and its master. `patience`: seconds that an attempt may take."""

    def __init__(
        self, world: World, policy: ClusterPolicy, servers: dict[str, Server], random: Random, *, patience: float, budgeted: bool = True
    ) -> None:
        self.world, self.policy, self.servers, self.random = world, policy, servers, random
        self.patience = patience
        self.budgeted = budgeted
        self.rules = RetryRules(policy.retry)
        self.outliers = Outliers(policy.outlier)
        self.checked = dict.fromkeys(servers, True)  # what health checks say
        self.ejections: dict[str, list[float]] = {}
        self.cluster = Cluster(policy, None, None, random, self._suspect, clock=lambda: world.now)
        self.budget = self.cluster.budget
        self.tallies: dict[str, list[int]] = {}  # since the latest comparison: attempts and failures
        self.cluster.update(EndpointState(address, 1, number) for number, address in enumerate(servers))
        self.outliers.settle(policy.outlier, list(servers), world.now)
        self.seconds: list[Second] = []
        world.every(1.0, self._look)
        world.every(policy.outlier.interval, self._compare)

    @property
    def second(self) -> Second:
        while len(self.seconds) <= self.world.now:
            self.seconds.append(Second())
        return self.seconds[int(self.world.now)]

    # A request

    def ask(self, then: Callable[[bool], None] | None = None) -> None:
        self.second.requests += 1
        self.budget.begun += 1
        Request(self, then).attempt()

    def answered(self, ok: bool, seconds: float) -> None:
        second = self.second
        second.ok += ok
        second.failed += not ok
        second.seconds.append(seconds)

    # What the master does

    def set_checked(self, address: str, is_up: bool) -> None:
        """A health check flips."""
        self.checked[address] = is_up
        self._tell(address)

    def _suspect(self, address: str, kind: str, sentence: str) -> None:
        """A witness has spoken, or a comparison."""
        now = self.world.now
        standing = self.outliers.of(address)
        if kind == PROVED:
            if standing is not None and standing.stage is Stage.TRIAL and self.outliers.prove(address, now):
                self._tell(address)
        elif self.outliers.suspect(address, kind, sentence, now, self.checked.__getitem__) is Verdict.EJECTED:
            self.ejections.setdefault(address, []).append(now)
            self._tell(address)

    def _look(self) -> None:
        for address in self.outliers.release(self.world.now):
            self._tell(address)
        self.cluster.tick()

    def _compare(self) -> None:
        tallies = {address: Tally(attempts, failures) for address, (attempts, failures) in self.tallies.items()}
        self.tallies.clear()
        for address, cause, sentence in outstanding(self.policy.outlier, tallies):
            self._suspect(address, cause, sentence)

    def _tell(self, address: str) -> None:
        is_up = self.checked[address] and not self.outliers.is_ejected(address)
        self.cluster.set_health(address, is_up, self.outliers.trial(address))


class Request:
    """As an Exchange goes about it."""

    __slots__ = ("attempts", "balancer", "began", "failures", "then", "tried")

    def __init__(self, balancer: Balancer, then: Callable[[bool], None] | None) -> None:
        self.balancer, self.then = balancer, then
        self.began = balancer.world.now
        self.attempts = self.failures = 0
        self.tried: list[Endpoint] = []

    def attempt(self) -> None:
        balancer = self.balancer
        endpoint = balancer.cluster.pick(b"", self.tried)
        if endpoint is None:
            self._end(False)
            return
        self.attempts += 1
        balancer.second.attempts += 1
        endpoint.begin()
        sent_at = balancer.world.now
        is_open = True

        def done(ok: bool, reason: str = "upstream_reset") -> None:
            nonlocal is_open
            if not is_open:  # it has come too late
                return
            is_open = False
            endpoint.end()
            tally = balancer.tallies.setdefault(endpoint.address, [0, 0])
            tally[0] += 1
            tally[1] += not ok
            if ok:
                endpoint.observe(balancer.world.now - sent_at, balancer.world.now, 200)
                endpoint.attempted("ok")
                self._end(True)
            else:
                endpoint.attempted(reason)
                self._failed(endpoint, reason)

        balancer.world.after(balancer.patience, lambda: done(False, "response_timeout"))
        balancer.servers[endpoint.address].take(done)

    def _failed(self, endpoint: Endpoint, reason: str) -> None:
        balancer = self.balancer
        self.failures += 1
        error = failure(reason, retry=Retry.UNANSWERED)
        step = decide(error, rules=balancer.rules, method=b"GET", is_unanswered=True, attempts=self.attempts, failures=self.failures)
        if step is Next.GIVE_UP:
            self._end(False)
        elif balancer.budgeted and not balancer.budget.spend(balancer.world.now):
            balancer.second.denied += 1
            self._end(False)
        else:
            self.tried.append(endpoint)
            self.attempt()

    def _end(self, ok: bool) -> None:
        self.balancer.answered(ok, self.balancer.world.now - self.began)
        if self.then is not None:
            self.then(ok)
