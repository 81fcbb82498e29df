"""The master as the admin listener sees it (lbd/admin/view.py): everything from memory, nothing waits but reload()."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from lbd import __version__, core, metrics
from lbd.admin.command import Fault
from lbd.cluster.tiers import is_panic
from lbd.config.dump import dump_json, dump_toml, grouped
from lbd.master.cluster_facts import admission_of, breaker_of, levels_of, retry_of, why_of
from lbd.master.commands import Member
from lbd.master.control import named
from lbd.master.overlay import Named
from lbd.master.states import MasterState, WorkerState

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from lbd.admin.command import Command
    from lbd.admin.view import OwnMetric
    from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
    from lbd.core.board import Board
    from lbd.master.cluster_facts import Totals
    from lbd.master.master import Master
    from lbd.master.reloads import Reloads

__all__ = ["MasterView"]


class MasterView:
    """An AdminView."""

    def __init__(self, master: Master, reloads: Reloads) -> None:
        self._master = master
        self._reloads = reloads
        self._started = trio.current_time()

    @property
    def board(self) -> Board:
        return self._master.board

    def trouble(self) -> str:
        master = self._master
        if master.supervisor is None or master.state.now not in (MasterState.READY, MasterState.RELOADING, MasterState.UPGRADING):
            return master.state.now.value
        return master.supervisor.trouble(trio.current_time())

    def status(self) -> dict[str, Any]:
        master, now = self._master, trio.current_time()
        totals = master.board.totals()
        workers = master.supervisor.snapshot(now) if master.supervisor else []
        return {
            "version": __version__,
            "compiled": core.COMPILED,
            "state": master.state.now.value,
            "pid": os.getpid(),
            "uptime_seconds": round(now - self._started, 3),
            "config": str(master.path.absolute()),  # who asks is somewhere else
            "generation": master.generation,
            "reloads": dict(master.reloads),
            "last_reload": master.last_report.to_json() if master.last_report else None,
            "needs_restart": list(master.needs_restart),
            "upgrades": dict(master.upgrades),
            "worker_restarts": master.supervisor.restarts if master.supervisor else 0,
            "workers": [{**worker, **load_of(totals, worker["slot"])} for worker in workers],
            "binds": [bind for listener in master.config.listeners for bind in listener.bind],
            "control": master.doors.control.policy.bind if master.doors.control else None,
            "names": master.resolver.snapshot(),
        }

    def clusters(self, wanted: Collection[str] = ()) -> dict[str, Any]:
        totals = self._master.board.totals()
        found = [cluster for cluster in self._master.config.clusters if not wanted or cluster.name in wanted]
        return {cluster.name: self._cluster(cluster, totals) for cluster in found}

    def _cluster(self, cluster: ClusterPolicy, totals: Totals) -> dict[str, Any]:
        master = self._master
        found = master.book.found()[cluster.name] if master.supervisor else ()
        states = master.book.of(cluster.name) if master.supervisor else ()
        health = master.prober.snapshot(cluster.name)
        breaker = breaker_of(totals, cluster)
        return {
            "balance": cluster.balance,
            "is_checked": cluster.health is not None,
            "up": sum(state.up and not state.drained for state in states),
            "panic": is_panic(states, cluster.spread()),
            "levels": levels_of(cluster, states),
            "sticky": cluster.sticky is not None,
            "breaker": breaker,
            "why": why_of(cluster, states, breaker) if master.supervisor else "",
            "retry": retry_of(totals, cluster, master.slots),
            **(admission_of(master.board, totals, master.book.places()[cluster.name], cluster, states) if master.supervisor else {}),
            "endpoints": [
                {
                    "name": state.name,
                    "address": state.address,
                    "weight": state.weight,
                    "configured_weight": endpoint.weight,
                    "drained": state.drained,
                    "overlays": master.control.of(cluster.name, named(endpoint)),
                    "backup": state.backup,
                    "priority": state.priority,
                    "zone": state.zone,
                    "metadata": grouped(state.metadata),
                    "max_requests": state.max_requests,
                    "max_connections": state.max_connections,
                    "inflight": master.board.inflight(state.index),
                    "connections": master.board.connections(state.index),
                    **health.get(state.address, {"checked": False}),
                    "up": state.up,
                    "state": master.standings.state(cluster.name, state.address),
                    "why": master.standings.why(cluster.name, state.address, master.control.why_drained(cluster.name, named(endpoint))),
                    "slow_start": totals.get((metrics.SLOW_STARTS.number, (cluster.name, state.address)), (0,))[0],
                }
                for endpoint, state in zip(found, states, strict=True)
            ]
            + [self._missing(cluster.name, endpoint, why) for endpoint, why in master.resolver.missing(cluster)],
        }

    def _missing(self, cluster: str, endpoint: EndpointPolicy, why: str) -> dict[str, Any]:
        """An endpoint without an address, in the words of the others."""
        control, place = self._master.control, Named(endpoint.address, "", endpoint.weight)
        is_drained, weight = control.overlays.standing(cluster, place)
        drained = control.why_drained(cluster, place)
        return {
            "name": endpoint.address,
            "address": "",
            "weight": weight,
            "configured_weight": endpoint.weight,
            "drained": is_drained,
            "overlays": control.of(cluster, place),
            "backup": endpoint.backup,
            "priority": endpoint.priority,
            "zone": endpoint.zone,
            "metadata": grouped(endpoint.metadata),
            "max_requests": endpoint.max_requests,
            "max_connections": endpoint.max_connections,
            "inflight": 0,
            "connections": 0,
            "checked": False,
            "up": False,
            "state": "unresolved",
            "why": f"{drained}, and {why}" if drained else why,
            "slow_start": 0,
        }

    def overlays(self) -> dict[str, Any]:
        return self._master.control.snapshot(self._named())

    async def obey(self, command: Command) -> dict[str, Any]:
        master = self._master
        if master.state.now not in (MasterState.READY, MasterState.RELOADING) or master.successor:
            raise Fault(503, f"lbd is {master.state.now.value}, and takes no commands meanwhile; try again in a moment")
        members: dict[str, list[Member]] = {cluster: [] for cluster in master.book.found()}
        if command.cluster in members:
            members[command.cluster] = self._members(command.cluster)
        return await master.control.obey(command, members)

    def _members(self, cluster: str) -> list[Member]:
        master = self._master
        return [
            Member(
                named(endpoint),
                state.up,
                state.backup,
                master.board.inflight(state.index),
                master.standings.why(cluster, state.address),
            )
            for endpoint, state in zip(master.book.found()[cluster], master.book.of(cluster), strict=True)
        ]

    def _named(self) -> dict[str, list[Named]]:
        master = self._master
        if master.supervisor is None:
            return {}
        return {cluster: [named(endpoint) for endpoint in endpoints] for cluster, endpoints in master.book.found().items()}

    def config_toml(self) -> str:
        waiting = [f"{key}: as it runs; the file has another value, in force only after a restart" for key in self._master.needs_restart]
        return "".join(f"# {line}\n" for line in (*waiting, *self._master.control.lines())) + dump_toml(self._master.config)

    def config_json(self) -> dict[str, Any]:
        return dump_json(self._master.config)

    async def reload(self) -> dict[str, Any]:
        return (await self._reloads.request().wait()).to_json()

    def own_metrics(self) -> Iterator[OwnMetric]:
        master = self._master
        yield metrics.CONFIG_GENERATION.name, {}, float(master.generation)
        for result, count in master.reloads.items():
            yield metrics.RELOADS.name, {"result": result}, float(count)
        for result, count in master.upgrades.items():
            yield metrics.UPGRADES.name, {"result": result}, float(count)
        yield from master.logs.bugs.metrics()
        yield metrics.WORKER_RESTARTS.name, {}, float(master.supervisor.restarts if master.supervisor else 0)
        states = [slot.state.now for slot in master.supervisor.slots] if master.supervisor else []
        for state in WorkerState:
            yield metrics.WORKERS.name, {"state": state.value}, float(states.count(state))
        if lost := master.logs.lines.lost:
            yield metrics.LOG_DROPPED.name, {"log": "log"}, float(lost)
        yield metrics.WORKER_HANGS.name, {}, float(master.vigil.hangs)
        for (cluster, address), place in master.places.items():
            if address:
                yield metrics.ENDPOINT_INFLIGHT.name, {"cluster": cluster, "endpoint": address}, float(master.board.inflight(place))
        yield metrics.STATE_FAILURES.name, {}, float(master.state_directory.failures)
        yield from master.control.metrics(self._named())
        yield from master.prober.metrics()
        yield from master.ejections.metrics()
        if master.supervisor:
            yield from master.standings.metrics(master.book.states().items())
        yield from master.vault.metrics(master.cluster_vault)
        yield from master.resolver.metrics()

    def processes(self) -> dict[str, int]:
        supervisor = self._master.supervisor
        workers = {f"worker-{slot.number}": slot.pid for slot in supervisor.slots if slot.is_alive and slot.pid} if supervisor else {}
        return {"master": os.getpid(), **workers}


def load_of(totals: Totals, slot: object) -> dict[str, float]:
    """Of a worker: how many priorities it refuses, the last in part, and how long what comes there waits."""
    level, lag = (totals.get((metric.number, (f"worker-{slot}",)), (0,))[0] / metric.scale for metric in (metrics.SHED_LEVEL, metrics.LAG))
    return {"shed_level": level, "lag_seconds": lag}
