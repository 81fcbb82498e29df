"""Waiting for room in a cluster: who may not begin now because of a limit waits in its fiber for a turn.

The cluster's Admission decides (cluster/admission.py); here are the fiber that waits, its deadline, and the one that looks for room
which other workers have made, for as long as anybody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, Signal
from lbd.proxy.endings import QUEUE, TOTAL
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from lbd.cluster.admission import Admission
    from lbd.cluster.cluster import Cluster
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.reactor import Reactor
    from lbd.errors import ProxyError
    from lbd.proxy.exchange import Exchange
    from lbd.proxy.target import Target

__all__ = ["Waiter", "kin_of", "may_wait", "refusal", "wait_for_room"]

LOOK = 0.01  # seconds between two looks at what other workers have in flight


class Waiter:
    """A Place in the queue of `cluster`, for the running fiber. `pick()` gives an endpoint with room for it, if there is one."""

    __slots__ = ("_cluster", "_reactor", "_served", "_why", "endpoint", "kin", "pick", "rank", "since")

    def __init__(
        self, reactor: Reactor, cluster: Cluster, kin: object, pick: Callable[[], Endpoint | None], rank: int, since: float
    ) -> None:
        self._reactor = reactor
        self._cluster = cluster
        self._served = Signal(reactor)
        self._why = ""
        self.kin = kin
        self.pick = pick
        self.rank = rank
        self.since = since
        self.endpoint: Endpoint | None = None

    def grant(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._served.set()

    def turn_away(self, reason: str) -> None:
        self._why = reason
        self._served.set()

    async def wait(self, latest: float, kind: int) -> Endpoint:
        """An endpoint at which the request has begun. ProxyError: there was no room in time.

        `latest`, of the reactor's clock, and `kind` are the deadline that the request has anyway.
        """
        cluster, admission, reactor = self._cluster, self._cluster.admission, self._reactor
        assert admission is not None
        if not admission.enter(self):
            raise turned_away("queue_full" if admission.policy.queue.size else "concurrency_limited", cluster)
        if admission.begin_watch():
            reactor.spawn(look(admission, reactor), f"queue of {cluster.name}")
        if admission.waiting > 1:
            admission.serve()  # it has not been asked yet, and those before it may wait for others
        fiber, until = reactor.running(), reactor.now + admission.policy.queue.timeout
        fiber.arm_at(min(until, latest), QUEUE if until < latest else kind)
        try:
            await self._served.wait()
        except BaseException as error:
            if self.endpoint is not None:
                self.endpoint.end()
            if isinstance(error, Expired) and error.kind == QUEUE:
                raise turned_away("queue_timeout", cluster) from None
            raise
        finally:
            admission.leave(self)
            fiber.disarm()
        if self.endpoint is None:
            raise turned_away(self._why, cluster)
        return self.endpoint


def may_wait(target: Target, tried: Collection[Endpoint]) -> bool:
    """Whether pick() has found nobody only because of limits: there is an endpoint beside those `tried`."""
    return target.cluster is not None and target.cluster.admission is not None and target.is_usable(tried)


async def wait_for_room(exchange: Exchange, tried: Collection[Endpoint]) -> Endpoint:
    """The endpoint of the next attempt, which has begun there. ProxyError: there is none. A client that leaves meanwhile has left the
    queue."""
    cluster, reactor = exchange.target.cluster, exchange.reactor
    assert cluster is not None
    if not may_wait(exchange.target, tried):
        raise refusal(exchange.target)
    began = reactor.now
    kin = exchange if tried else kin_of(exchange.target)
    since = exchange.started if exchange.attempts else began
    waiter = Waiter(reactor, cluster, kin, lambda: exchange.pick(tried), exchange.route.rank, since)
    exchange.guard()
    try:
        return await waiter.wait(exchange.total_at, TOTAL)
    finally:
        exchange.downstream.stream.guard = None
        exchange.waited += reactor.now - began
        exchange.listener.queued(cluster.name, reactor.now - began)


def kin_of(target: Target) -> object:
    """What those have in common who have not tried anybody yet and may go to the same endpoints."""
    return target.chooser or target.cluster


def refusal(target: Target) -> ProxyError:
    """Why pick() has found nobody, and waiting for room is of no use."""
    assert target.cluster is not None
    circuit = target.cluster.circuit
    if circuit.breaker is None or circuit.is_closed:
        return failure("no_healthy_endpoint", target.why_none())
    why = f"the breaker of {target.cluster_name} is open: {circuit.breaker.why()}"
    return failure("circuit_open", why, retry_after=max(1.0, circuit.breaker.wait))


def turned_away(reason: str, cluster: Cluster) -> ProxyError:
    """With the time after which a place may be had: that in which all who wait now are gone."""
    return failure(reason, cluster.why_none(), retry_after=max(1.0, cluster.policy.queue.timeout))


async def look(admission: Admission, reactor: Reactor) -> None:
    """A fiber, while anybody waits."""
    try:
        while admission.waiting:
            await reactor.sleep(LOOK)
            admission.look()
    finally:
        admission.end_watch()
