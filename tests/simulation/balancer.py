"""lbd's decisions between clients and simulated servers: who is picked, what is tried again, who is taken out and comes back.

A worker's Cluster with its Endpoints, which count on a board, and the master's Ejections and Standings, which read it. What is missing
is what carries words between the two, so that these arrive at once, and the prober: scenarios say what health checks see.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.select import HASHES
from lbd.core.board import Board
from lbd.errors import Retry
from lbd.master.ejections import Ejections
from lbd.master.standings import Standings
from lbd.proxy.reasons import failure
from lbd.proxy.retry import Next, RetryRules, decide, pause
from lbd.worker.messages import EndpointState, Suspect

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.cluster.endpoint import Endpoint
    from tests.simulation.model import Server, World

__all__ = ["Balancer", "Second"]


@dataclass(slots=True)
class Second:
    """What happened in one second of virtual time, and how many were out, and so on, at its end."""

    requests: int = 0
    attempts: int = 0
    ok: int = 0
    failed: int = 0
    denied: int = 0  # retries that the budget did not allow
    ejected: int = 0
    down: int = 0  # as health checks say
    seconds: array[float] = field(default_factory=lambda: array("d"))  # that requests took

    def quantile(self, share: float) -> float:
        """Of what requests took."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


class Checks:
    """What a Prober would know."""

    def __init__(self) -> None:
        self.down: set[str] = set()

    def is_up(self, cluster: str, address: str) -> bool:
        return address not in self.down

    def why(self, cluster: str, address: str) -> str:
        return "" if self.is_up(cluster, address) else "its health check has failed: the scenario says so"


class Balancer:
    """One worker and its master. `patience`: seconds that an attempt may take."""

    def __init__(
        self, world: World, policy: ClusterPolicy, servers: dict[str, Server], random: Random, *, patience: float, budgeted: bool = True
    ) -> None:
        self.world, self.policy, self.servers = world, policy, servers
        self.patience = patience
        self.budgeted = budgeted
        self.rules = RetryRules(policy.retry)
        self.jitter = Random(0)  # of its own: it is drawn for retries alone
        self.checks = Checks()
        self.out: set[str] = set()  # ejected
        self.most_out = 0  # ever
        self.ejections: dict[str, list[float]] = {}  # when, by address
        board = Board.create(1, cells=8 * (len(servers) + 64), endpoints=len(servers) + 1)
        self.cluster = Cluster(policy, board.segment(0), board, random, self._suspect, clock=lambda: world.now)
        self.budget = self.cluster.budget
        self.judge = Ejections(self._tell, self.checks.is_up, board.totals, lambda: world.now, clock=lambda: world.now)
        self.standings = Standings(self.checks, self.judge)  # type: ignore[arg-type]  # asks no more of a prober
        self.cluster.update(EndpointState(address, 1, number) for number, address in enumerate(servers))
        self.judge.update({policy.name: (policy.outlier, policy.balance not in HASHES, servers.keys())})
        self.endpoints = {endpoint.address: endpoint for endpoint in self.cluster.endpoints}
        self.servers_of = {endpoint: servers[endpoint.address] for endpoint in self.cluster.endpoints}
        self.second = Second()
        self.seconds = [self.second]
        self.ends = 1.0  # the second
        self.look()

    # A request

    def ask(self, then: Callable[[bool], None] | None = None) -> None:
        if self.world.now >= self.ends:
            self.turn()
        self.second.requests += 1
        self.budget.begun += 1
        endpoint = self.cluster.pick(b"", ())
        if endpoint is None:
            self.end(False, 0.0, then)
        else:
            Attempt(self, endpoint, self.world.now, then).begin()

    def end(self, ok: bool, seconds: float, then: Callable[[bool], None] | None) -> None:
        if self.world.now >= self.ends:
            self.turn()
        second = self.second
        if ok:
            second.ok += 1
        else:
            second.failed += 1
        second.seconds.append(seconds)
        if then is not None:
            then(ok)

    def turn(self) -> None:
        """Begins a new second, if it is time."""
        while self.ends <= self.world.now:
            self.second = Second(ejected=len(self.out), down=len(self.checks.down))
            self.seconds.append(self.second)
            self.ends += 1.0

    # What the master does

    def set_checked(self, address: str, is_up: bool) -> None:
        """A health check flips."""
        if is_up:
            self.checks.down.discard(address)
            self.judge.risen(self.policy.name, address)
        else:
            self.checks.down.add(address)
        self._tell(self.policy.name, [address])

    def _suspect(self, address: str, kind: str, sentence: str) -> None:
        """A witness has spoken."""
        self.judge.hear(Suspect(self.policy.name, address, kind, sentence))

    def look(self) -> None:
        """Each second, as the worker does, and the master at least."""
        self.judge.work()
        self.cluster.tick()
        self.world.after(1.0, self.look)

    def _tell(self, cluster: str, addresses: list[str]) -> None:
        for address in addresses:
            if not self.judge.is_ejected(cluster, address):
                self.out.discard(address)
            elif address not in self.out:
                self.out.add(address)
                self.most_out = max(self.most_out, len(self.out))
                self.ejections.setdefault(address, []).append(self.world.now)
            self.cluster.set_health(address, self.standings.is_up(cluster, address), self.judge.trial(cluster, address))


class Attempt:
    """As an Exchange goes about it. The next one of the same request is another object: a server may still be at work on this one."""

    __slots__ = ("balancer", "began", "endpoint", "is_open", "number", "sent_at", "then", "tried")

    def __init__(self, balancer: Balancer, endpoint: Endpoint, began: float, then: Callable[[bool], None] | None) -> None:
        self.balancer = balancer
        self.endpoint = endpoint
        self.began = began  # the request
        self.then = then
        self.number = 1
        self.tried: tuple[Endpoint, ...] = ()
        self.is_open = True

    def begin(self) -> None:
        balancer = self.balancer
        now = self.sent_at = balancer.world.now
        balancer.second.attempts += 1
        self.endpoint.begin()
        until = now + balancer.patience
        if balancer.servers_of[self.endpoint].take(self) > until:
            balancer.world.push(until, Attempt.expire, self)

    def expire(self) -> None:
        self.done(False, "response_timeout")

    def done(self, ok: bool, reason: str = "upstream_reset") -> None:
        if not self.is_open:  # it has come too late
            return
        self.is_open = False
        endpoint, balancer = self.endpoint, self.balancer
        now = balancer.world.now
        endpoint.end()
        if ok:
            endpoint.observe(now - self.sent_at, now, 200)
            endpoint.attempted("ok")
            balancer.end(True, now - self.began, self.then)
        else:
            endpoint.attempted(reason)
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        balancer, now = self.balancer, self.balancer.world.now
        if now >= balancer.ends:
            balancer.turn()
        error = failure(reason, retry=Retry.UNANSWERED)
        step = decide(error, rules=balancer.rules, method=b"GET", is_unanswered=True, attempts=self.number, failures=self.number)
        tried = (*self.tried, self.endpoint)
        endpoint = balancer.cluster.pick(b"", tried) if step is not Next.GIVE_UP else None
        if endpoint is None:
            balancer.end(False, now - self.began, self.then)
        elif balancer.budgeted and not balancer.budget.spend(now):
            balancer.second.denied += 1
            balancer.end(False, now - self.began, self.then)
        else:
            following = Attempt(balancer, endpoint, self.began, self.then)
            following.number, following.tried = self.number + 1, tried
            wait = pause(balancer.rules, self.number, True, 0.0, balancer.jitter.random() if self.number > 1 else 0.0)
            if wait > 0.0:
                balancer.world.push(now + wait, Attempt.resume, following)
            else:
                following.begin()

    def resume(self) -> None:
        """After a back-off: things may have changed meanwhile."""
        balancer = self.balancer
        if balancer.world.now >= balancer.ends:
            balancer.turn()
        endpoint = balancer.cluster.pick(b"", self.tried)
        if endpoint is None:
            balancer.end(False, balancer.world.now - self.began, self.then)
        else:
            self.endpoint = endpoint
            self.begin()
