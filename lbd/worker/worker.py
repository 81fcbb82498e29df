"""One worker at work: a reactor full of connections, and the configuration in force.

apply() builds everything that can fail first and only then swaps, so that a configuration is in force as a whole or not at all.
What has not changed keeps its objects: listeners with their connections, clusters with their pools, health and counts.
"""

from __future__ import annotations

import logging
import os
import random
from functools import partial
from typing import TYPE_CHECKING

import trio

from lbd import metrics
from lbd.cluster.cluster import Cluster
from lbd.core.clock import wall_clock
from lbd.core.garbage import Collector
from lbd.core.reactor import Reactor
from lbd.core.stream import Acceptor
from lbd.proxy.accept import accept_all, serve_acceptor
from lbd.proxy.access import AccessLog
from lbd.proxy.forwarding import Forwarding
from lbd.proxy.listening import Listener
from lbd.proxy.origination import Origination
from lbd.proxy.room import room_of_process
from lbd.proxy.shedding import Shedding
from lbd.proxy.target import Histogram
from lbd.proxy.tls import Termination
from lbd.routing.route import RedirectPolicy, RoutePolicy
from lbd.routing.table import RoutingTable
from lbd.worker.leaving import cut_short, descriptors, hurry, leave_nothing, wait_empty
from lbd.worker.load import LoadWatch
from lbd.worker.log import LineBuffer, LogPolicy, flush_lines, setup_logging
from lbd.worker.log_file import LogFile
from lbd.worker.messages import Drained, Suspect
from lbd.worker.pulse import Pulse
from lbd.worker.retries import RetryWatch
from lbd.worker.series import InUse
from lbd.worker.unraisable import Unraisable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.core.board import Board
    from lbd.core.fiber import Fiber
    from lbd.proxy.listener import ListenerPolicy
    from lbd.proxy.tls_material import TlsMaterial
    from lbd.worker.messages import Certificates, ClusterCertificates, Configure, Drain, Endpoints, EndpointState, Health, Hello

__all__ = ["Worker"]

SWEEP = 1.0  # seconds between two looks at idle upstream connections and gauges
RELIEF = 0.05  # seconds between two looks at who waits for connections in other workers

log = logging.getLogger("lbd.worker")


class Worker:
    """`report` sends a message to the master."""

    def __init__(self, hello: Hello, board: Board, log_fd: int, access_fd: int, report: Callable[[object], None]) -> None:
        self._hello = hello
        self._board = board
        self._report = report
        self._segment = board.segment(hello.slot)
        self._segment.clear_tables()  # whoever was killed in this slot has left its counts
        self._segment.reset_gauges(metrics.GAUGES_OF_WORKERS)
        self._reactor = Reactor(on_fault=self._faulted, on_turn=Histogram(self._segment, metrics.LOOP_LAG, ()).observe)
        self.unraisable = Unraisable(lambda: self._count_fault("unraisable"), self._reactor.clock)  # for the process to install
        self._pulse = Pulse(self._reactor, self._segment, hello.slot)
        self._random = random.Random()
        self._clusters: dict[str, Cluster] = {}
        self._listeners: dict[str, Listener] = {}
        self._in_use = InUse()
        self._room = room_of_process(board, hello.slot)
        self._shedding = Shedding()
        self._load = LoadWatch(self._reactor, self._shedding, self._room, self._segment, hello.slot)
        self._retries = RetryWatch(self._segment, hello.slot)
        self._collector = Collector()
        self._leaving: list[Listener] = []  # no longer in the configuration, but still with connections
        self._log_lines, self._access_lines = LineBuffer(), LineBuffer()
        self._log_file, self._access_file = LogFile(log_fd), LogFile(access_fd)
        self._has_access_log = hello.has_access_log
        self._log_policy = LogPolicy()
        self._lost = {"log": 0, "access": 0}
        self._drain: Drain | None = None
        self._draining = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._descriptors: dict[int, str] = {}  # open at the start
        setup_logging(self._log_policy, self._log_lines.append, process=f"worker-{hello.slot}")

    def fibers(self) -> list[Fiber]:
        return list(self._reactor.fibers)

    # A worker's life

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until drained."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(partial(flush_lines, self._log_lines, self._log_file, log.error, is_own=True))
            nursery.start_soon(flush_lines, self._access_lines, self._access_file, log.error)
            await nursery.start(self._reactor.run)
            self._descriptors = descriptors()
            nursery.start_soon(self._sweep)
            nursery.start_soon(self._relieve)
            task_status.started()
            await self._draining.wait()
            await self._finish()
            nursery.cancel_scope.cancel()

    async def _sweep(self) -> None:
        """Closes upstream connections that have been idle for too long, and keeps gauges."""
        while True:
            await trio.sleep(SWEEP)
            self._pulse.beat()
            self._collector.tidy(len(self._reactor.fibers))
            self._load.look()
            self._retries.look(self._clusters.values(), self._reactor.clock())
            for cluster in self._clusters.values():
                cluster.tick()
                if cluster.admission is not None:
                    cluster.admission.tell()
                idle = active = 0
                for endpoint in cluster.endpoints:
                    endpoint.tidy(self._reactor.clock())
                    idle += len(endpoint.pool)
                    active += endpoint.pool.active(self._segment.inflight(endpoint.index))
                self._gauge_connections(cluster.name, idle, active)
            for name, buffer in (("log", self._log_lines), ("access", self._access_lines)):
                if lost := buffer.lost - self._lost[name]:
                    self._lost[name] = buffer.lost
                    self._segment.add(self._segment.series(metrics.LOG_DROPPED.number, (name,), 1), lost)

    async def _relieve(self) -> None:
        """Gives up idle connections where they are limited and other workers wait for some."""
        while True:
            limited = [
                cluster.admission for cluster in self._clusters.values() if cluster.admission is not None and cluster.limits_connections
            ]
            for admission in limited:
                admission.relieve()
            await trio.sleep(RELIEF if limited else SWEEP)

    def _gauge_connections(self, cluster: str, idle: int, active: int) -> None:
        for state, value in (("idle", idle), ("active", active)):
            self._segment.put(self._segment.series(metrics.UPSTREAM_CONNECTIONS.number, (cluster, state), 1), value)

    def _faulted(self, fiber: Fiber, error: BaseException) -> None:
        log.error("a bug, in %r", fiber, exc_info=error)
        self._count_fault("fiber")

    def _count_fault(self, where: str) -> None:
        self._segment.add(self._segment.series(metrics.FAULTS.number, (where,), 1), 1)

    # What the master says

    def apply(self, message: Configure, sockets: dict[str, int]) -> None:
        """Puts a configuration in force; raises when that cannot be, and then nothing has changed. Owns `sockets` on success."""
        tables = {policy.name: self._table(policy) for policy in message.listeners}
        forwardings = {policy.name: self._forwarding(policy) for policy in message.listeners}
        terminations = {policy.name: self._termination(policy, message.tls) for policy in message.listeners}
        made: list[Origination] = []
        originations = {policy.name: self._origination(policy, message.cluster_tls, made) for policy in message.clusters}
        fresh = {
            policy.name: Cluster(policy, self._segment, self._board, self._random, partial(self._suspect, policy.name), self._reactor.clock)
            for policy in message.clusters
            if policy.name not in self._clusters
        }
        self._check_binds(message, sockets)
        acceptors = self._acceptors(sockets)
        self._segment.begin(message.generation)
        self._log_policy = message.log
        self._shedding.obey(message.overload)
        setup_logging(message.log, self._log_lines.append, process=f"worker-{self._hello.slot}")
        clusters = {policy.name: self._clusters.get(policy.name) or fresh[policy.name] for policy in message.clusters}
        for policy in message.clusters:
            clusters[policy.name].place = message.places.get(policy.name, -1)
            clusters[policy.name].apply_policy(policy)
            clusters[policy.name].originate(originations[policy.name])
            self._update(clusters[policy.name], message.endpoints.get(policy.name, ()))
        for name in self._clusters.keys() - clusters.keys():
            self._update(self._clusters[name], ())
            self._gauge_connections(name, 0, 0)  # nobody looks at it any more
        self._clusters = clusters
        self._apply_listeners(message, tables, forwardings, acceptors)
        for name, listener in self._listeners.items():
            listener.terminate(terminations[name])
        self._retire_series()
        self._collector.settle()

    def _check_binds(self, message: Configure, sockets: dict[str, int]) -> None:
        held = {bind for listener in self._listeners.values() for bind in listener.acceptors}
        wanted = [bind for policy in message.listeners for bind in policy.bind]
        if missing := [bind for bind in wanted if bind not in held and bind not in sockets]:
            raise ValueError(f"no socket came for {', '.join(missing)}")
        if len(set(wanted)) < len(wanted) or not sockets.keys() <= set(wanted):
            raise ValueError(f"a bind that is wanted twice, or a socket for one that is not: {', '.join(wanted)}")

    def _acceptors(self, sockets: dict[str, int]) -> dict[str, Acceptor]:
        """The last thing that can fail. On duplicates: when it does, the descriptors are still the caller's."""
        acceptors: dict[str, Acceptor] = {}
        try:
            for bind, fd in sockets.items():
                acceptors[bind] = Acceptor(self._reactor, os.dup(fd), bind)
        except BaseException:
            for acceptor in acceptors.values():
                acceptor.close()
            raise
        for fd in sockets.values():
            os.close(fd)
        return acceptors

    def _table(self, policy: ListenerPolicy) -> RoutingTable:
        """The one in force when nothing has changed about it: it may have taken a while to build."""
        listener = self._listeners.get(policy.name)
        if listener is not None and routing_of(listener.policy) == routing_of(policy):
            return listener.table
        last: tuple[RoutePolicy, ...] = ()
        if policy.cluster:
            last = (RoutePolicy(name="default", cluster=policy.cluster),)
        elif policy.redirect_to_https:
            last = (RoutePolicy(name="https", redirect=RedirectPolicy(scheme="https")),)
        return RoutingTable.build((*policy.routes, *last), policy.name)

    def _forwarding(self, policy: ListenerPolicy) -> Forwarding:
        listener = self._listeners.get(policy.name)
        if listener is not None and listener.policy.forwarded == policy.forwarded:
            return listener.forwarding
        return Forwarding(policy.forwarded, os.urandom)

    def _termination(self, policy: ListenerPolicy, materials: Mapping[str, TlsMaterial]) -> Termination | None:
        """The one in force when nothing has changed about it: tickets for later sessions stay good."""
        if policy.tls is None:
            return None
        listener, material = self._listeners.get(policy.name), materials[policy.name]
        if listener is not None and listener.termination is not None and listener.termination.is_for(policy, material):
            return listener.termination
        return Termination(policy, material)

    def set_certificates(self, message: Certificates) -> None:
        """For the connections that come from now on."""
        if listener := self._listeners.get(message.listener):
            listener.terminate(self._termination(listener.policy, {message.listener: message.material}))

    def _origination(self, policy: ClusterPolicy, materials: Mapping[str, TlsMaterial], made: list[Origination]) -> Origination | None:
        """As _termination(): sessions that are kept stay good. Clusters that want the same have one of `made`: reading whom the system
        trusts takes milliseconds."""
        tls = policy.originates()
        if tls is None:
            return None
        cluster, material = self._clusters.get(policy.name), materials[policy.name]
        if cluster is not None and cluster.origination is not None and cluster.origination.is_for(tls, policy.protocol, material):
            made.append(cluster.origination)
            return made[-1]
        for other in made:
            if other.is_for(tls, policy.protocol, material):
                return other
        made.append(Origination(tls, policy.protocol, material))
        return made[-1]

    def set_cluster_certificates(self, message: ClusterCertificates) -> None:
        """For the connections that are made from now on."""
        if cluster := self._clusters.get(message.cluster):
            cluster.originate(self._origination(cluster.policy, {message.cluster: message.material}, []))

    def _apply_listeners(
        self, message: Configure, tables: dict[str, RoutingTable], forwardings: dict[str, Forwarding], acceptors: dict[str, Acceptor]
    ) -> None:
        access = self._access_log()
        for acceptor in [acceptor for listener in self._listeners.values() for acceptor in listener.acceptors.values()]:
            if acceptors.setdefault(acceptor.name, acceptor) is not acceptor:
                self._close_acceptor(acceptor)  # its bind has another socket now
        listeners: dict[str, Listener] = {}
        for policy in message.listeners:
            name = policy.name
            known = self._listeners.get(name)
            if known is not None and known.policy.protocol == policy.protocol:
                listener = self._listeners.pop(name)
            else:  # whoever speaks the old protocol sees the old listener leave
                listener = self._listener(policy)
            listener.access = access
            listener.apply(policy, tables[name], self._clusters, forwardings[name])
            listener.acceptors = {}
            listeners[name] = listener
        leaving, self._listeners = self._listeners, listeners
        self._room.listeners = list(listeners.values())
        for policy in message.listeners:
            for bind in policy.bind:
                self._take_acceptor(acceptors.pop(bind), listeners[policy.name])
        for listener in leaving.values():
            listener.acceptors = {bind: acceptors.pop(bind) for bind in list(listener.acceptors) if bind in acceptors}
            self._leave(listener, message.drain_timeout)
        for acceptor in acceptors.values():  # binds that a listener has lost
            self._close_acceptor(acceptor)

    def _access_log(self) -> AccessLog | None:
        if not self._has_access_log:
            return None
        return AccessLog(self._log_policy.access_format, self._access_lines.append, wall_clock)

    def _listener(self, policy: ListenerPolicy) -> Listener:
        listener = Listener(policy, self._segment, self._random.random, os.urandom)
        listener.room = self._room
        listener.shedding = self._shedding
        return listener

    def _take_acceptor(self, acceptor: Acceptor, listener: Listener) -> None:
        """A socket that stays keeps its fiber, unless it has changed hands."""
        listener.acceptors[acceptor.name] = acceptor
        if acceptor.owner is listener:
            return
        if acceptor.fiber is not None:
            acceptor.fiber.cancel()
        acceptor.owner = listener
        acceptor.fiber = self._reactor.spawn(serve_acceptor(acceptor, listener), f"accept {acceptor.name}")

    def _close_acceptor(self, acceptor: Acceptor) -> None:
        if acceptor.fiber is not None:
            acceptor.fiber.cancel()
        accept_all(acceptor, acceptor.owner)
        acceptor.close()

    def _leave(self, listener: Listener, timeout: float) -> None:
        """A listener that is no longer configured: what runs may finish."""
        self._begin_drain(listener)
        self._leaving.append(listener)
        assert self._nursery is not None
        self._nursery.start_soon(self._see_off, listener, timeout)

    async def _see_off(self, listener: Listener, timeout: float) -> None:
        await wait_empty([listener], timeout)
        await cut_short([listener], self._reactor)
        self._leaving.remove(listener)

    def update_endpoints(self, message: Endpoints) -> None:
        """A cluster's addresses have changed."""
        if cluster := self._clusters.get(message.cluster):
            self._update(cluster, message.endpoints)
            self._retire_series()

    def _update(self, cluster: Cluster, states: Iterable[EndpointState]) -> None:
        for endpoint in cluster.update(states):
            endpoint.pool.retire()  # requests that run there finish; their connections are not kept

    def _retire_series(self) -> None:
        self._in_use.settle([*self._listeners.values(), *self._leaving], self._clusters.values())
        self._segment.retire(self._in_use.keeps)

    def set_health(self, message: Health) -> None:
        """Endpoints have flipped."""
        if cluster := self._clusters.get(message.cluster):
            for address, is_up in message.states.items():
                cluster.set_health(address, is_up, message.trials.get(address, 0))

    def _suspect(self, cluster: str, address: str, kind: str, sentence: str) -> None:
        self._report(Suspect(cluster, address, kind, sentence))

    def reopen_logs(self, log_fd: int, access_fd: int) -> None:
        """After a rotation, or because there is to be an access log now, or none (-1)."""
        self._log_file.reopen(log_fd)
        self._access_file.reopen(access_fd)
        self._has_access_log = access_fd >= 0
        access = self._access_log()
        for listener in self._listeners.values():
            listener.access = access

    # The end

    def drain(self, message: Drain) -> None:
        """Accepts no more; run() returns once nothing is left, or after the timeout."""
        self._drain = message
        for listener in self._listeners.values():
            self._begin_drain(listener)
        self._draining.set()

    def _begin_drain(self, listener: Listener) -> None:
        listener.is_draining = True
        for acceptor in listener.acceptors.values():
            self._close_acceptor(acceptor)
        listener.acceptors = {}
        self._reactor.spawn(hurry(listener, self._reactor), "drain")

    async def _finish(self) -> None:
        assert self._drain is not None
        listeners = [*self._listeners.values(), *self._leaving]
        await wait_empty(listeners, self._drain.timeout)
        cut = await cut_short(listeners, self._reactor)
        if cut == 0:
            await leave_nothing(self._reactor, self._clusters.values(), self._descriptors)
        self._report(Drained(cut))


def routing_of(policy: ListenerPolicy) -> tuple[object, ...]:
    """What a routing table is made from."""
    return policy.routes, policy.cluster, policy.redirect_to_https
