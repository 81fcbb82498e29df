"""The master: what is in force, and how it changes.

A change goes through the same steps whether it is the first configuration or the hundredth: open sockets and logs, resolve names,
tell the workers, and only when all of them have applied it let go of what is no longer wanted. A step that fails undoes the ones
before; nothing is half in force.

What changes by itself (addresses behind names, health) is told to all workers at once. During a reload the addresses wait: until
it is decided which configuration they belong to.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from lbd.cluster.select import HASHES
from lbd.cluster.tiers import SpreadPolicy
from lbd.config.schema import load_config
from lbd.core.board import Board
from lbd.core.clock import wall_clock
from lbd.discovery.resolve import Resolver
from lbd.errors import ConfigErrors, EnvironmentFault
from lbd.master.control import Control, named
from lbd.master.doors import Doors
from lbd.master.dumps import Dumps
from lbd.master.ejections import Ejections
from lbd.master.endpoints import EndpointBook, Places
from lbd.master.faults import Faults
from lbd.master.heritage import Estate, bequeath, inherit, open_will
from lbd.master.inherited import Inherited
from lbd.master.logs import LogFiles, Logs, open_logs
from lbd.master.machine import Identity, resolve_identity, usable_cpus
from lbd.master.panics import Panics
from lbd.master.plan import Plan
from lbd.master.probe_tls import ProbeTls
from lbd.master.probes import Prober
from lbd.master.process import launch_worker, worker_environment
from lbd.master.reload import ReloadReport, as_it_runs, compare, would_end_all
from lbd.master.sockets import Change, Sockets, wanted_binds
from lbd.master.standings import Standings
from lbd.master.state_directory import StateDirectory
from lbd.master.states import MASTER_MOVES, MasterState, State
from lbd.master.sticky_key import StickyKey
from lbd.master.supervisor import Supervisor
from lbd.master.upgrade import STATE_LOCK, Handover, Successor, start_successor
from lbd.master.vault import CLUSTERS, Vault
from lbd.master.vigil import Vigil
from lbd.worker.messages import Certificates, ClusterCertificates, Endpoints, EndpointState, Health, Hello

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from lbd.config.schema import Config
    from lbd.discovery.resolve import ResolvedEndpoint
    from lbd.master.readings import Reading

__all__ = ["Master"]

log = logging.getLogger("lbd.master")


class Master:
    """Opens the logs at once, so that everything after can be said there; EnvironmentFault: there is no log at all."""

    def __init__(self, path: Path, config: Config, environ: Mapping[str, str]) -> None:
        self.handover = Handover(environ)
        inherited = Inherited(environ, os.getpid(), self.handover.fds)  # before we open anything
        self.path = path
        self.config = config
        self.state = State(MasterState.STARTING, MASTER_MOVES)
        self.generation = 0
        self.reloads = {"ok": 0, "failed": 0}
        self.upgrades = {"ok": 0, "failed": 0}
        self.last_report: ReloadReport | None = None
        self.needs_restart: tuple[str, ...] = ()  # keys of which the file in force says something else than what runs
        self._faults = Faults()  # told by prepare(), with its own
        self.logs = Logs(config.log, self._faults, self._tell_all)
        self.identity = Identity()
        with self._faults.gather():
            self.identity = resolve_identity(config.lbd.user, config.lbd.group, is_root=os.geteuid() == 0)
        self.state_directory = StateDirectory(None)
        with self._faults.gather():
            self.state_directory = StateDirectory.find(config.lbd.state_directory, environ, self.handover.take_lock())
        self.sticky_key = StickyKey(self.state_directory)
        self.slots = config.lbd.workers or usable_cpus()
        self.board = Board.create(self.slots)
        self.places = Places(self.board.endpoints, self.board.inflight)
        self.sockets = Sockets(self.slots, inherited, self.handover)
        self.resolver = Resolver(self._resolved)
        self.vault = Vault(lambda listener, material: self._tell_all(Certificates(listener, material)))
        self.cluster_vault = Vault(lambda cluster, material: self._tell_all(ClusterCertificates(cluster, material)), source=CLUSTERS)
        self.prober = Prober(
            self._flipped, secured=ProbeTls(self.cluster_vault.material, lambda cluster, address: self.book.name_of(cluster, address))
        )
        self.ejections = Ejections(self._tell_health, self._may_serve, self.board.totals, wall_clock)
        self.standings = Standings(self.prober, self.ejections)
        self.panics = Panics(self._standing)
        self._dumps = Dumps(self.slots)
        self.vigil = Vigil(lambda slot: self.board.segment(slot).beats, lambda: self.config.lbd.hang_timeout, self._dumps.ask)
        self.supervisor: Supervisor | None = None
        self.control = Control(self.state_directory, self._retell)
        self.doors = Doors()
        self.admin_scope = trio.CancelScope()
        self.successor: Successor | None = None  # once it serves in our place
        self.changing = trio.Lock()  # a reload or an upgrade, one at a time
        self._environ = environ
        self._waiting: dict[str, list[ResolvedEndpoint]] = {}  # what names resolved to during a reload
        self._untold: set[str] = set()  # clusters of which an operator has changed something during a reload

    # The start

    async def prepare(self) -> Supervisor:
        """Opens and resolves everything that the first configuration needs; EnvironmentFault: what of it cannot be had."""
        for warning in self.config.warnings:
            log.warning("%s", warning)
        await self.doors.open(self.sockets, self.config, self._environ, self._faults)
        if (will := self.handover.take_heritage()) >= 0:
            self.upgrades["ok"] = inherit(will, self._estate)
        with self._faults.gather():
            plan = await self._plan(self.config, 1)
            if self._faults.found:
                self.sockets.discard(plan.change)
        self._faults.raise_all()
        for doubt in plan.doubts():
            log.warning("%s", doubt)
        launch = partial(launch_worker, worker_environment(self._environ))
        self.supervisor = Supervisor(self.slots, launch, self._hello, plan, self.ejections.hear, self.board.forget)
        for step in self._steps(plan):  # one that fails is the end: there is nothing to protect yet
            step()
        return self.supervisor

    async def _plan(self, config: Config, generation: int) -> Plan:
        faults = Faults()
        tls: dict[str, Reading] = {}
        cluster_tls: dict[str, Reading] = {}
        with faults.gather():
            tls = await self.vault.first(config)
        with faults.gather():
            cluster_tls = await self.cluster_vault.first(config)
        found = await self.resolver.first(config.clusters)
        change: Change | None = None
        with faults.gather():
            change = await self.sockets.prepare(wanted_binds(config.listeners), self.doors.bounds)
        if faults.found and change is not None:
            self.sockets.discard(change)
        faults.raise_all()
        assert change is not None
        sticky_key = await trio.to_thread.run_sync(self.sticky_key.given_to, config.clusters)
        # An endpoint that is checked for the first time starts as its policy says; the prober hears of it when it is in force.
        checks = {cluster.name: cluster.health.initial for cluster in config.clusters if cluster.health}
        book = EndpointBook(found, self.places, partial(self._healths, checks), self.control.standings, self.ejections.trial)
        return Plan(generation, config, change, book, tls, cluster_tls, sticky_key)

    def _healths(self, checks: dict[str, str], cluster: str) -> Callable[[str], bool]:
        """`checks`: cluster -> what its endpoints are before the first result. Without a check there is no verdict either."""
        if cluster not in checks:
            return lambda address: not self.ejections.is_ejected(cluster, address)
        known = {address: state["up"] for address, state in self.prober.snapshot(cluster).items()}
        return lambda address: known.get(address, checks[cluster] == "up") and not self.ejections.is_ejected(cluster, address)

    def _hello(self, slot: int) -> tuple[Hello, list[int]]:
        files = self.logs.files
        hello = Hello(slot, self.slots, self.identity.uid, self.identity.gid, files.has_access, self.identity.groups)
        return hello, [self.board.fd, self._dumps.fd(slot), *files.fds]

    def _tell_all(self, message: object, fds: Sequence[int] = ()) -> None:
        if self.supervisor is not None:
            self.supervisor.broadcast(message, fds)

    # What changes by itself

    @property
    def book(self) -> EndpointBook:
        assert self.supervisor is not None, "nothing is in force yet"
        return self.supervisor.plan.book

    def _resolved(self, cluster: str, endpoints: list[ResolvedEndpoint]) -> None:
        if self.supervisor is None or self.state.now is MasterState.RELOADING:
            self._waiting[cluster] = endpoints
        elif self.book.replace(cluster, endpoints):
            self._watch(self.book)
            self.panics.look_at([cluster])
            self.supervisor.broadcast(Endpoints(cluster, self.book.of(cluster)))
            self.places.keep(self.book.keys())

    def _retell(self, cluster: str) -> None:
        """An operator has changed what holds for its endpoints."""
        if self.supervisor is None or self.state.now is MasterState.RELOADING:
            self._untold.add(cluster)
        elif cluster in self.book.found():
            self.panics.look_at([cluster])
            self.supervisor.broadcast(Endpoints(cluster, self.book.of(cluster)))

    def _flipped(self, cluster: str, address: str, is_up: bool, reason: str) -> None:
        if is_up:
            self.ejections.risen(cluster, address)
        self._tell_health(cluster, [address])

    def _may_serve(self, cluster: str, address: str) -> bool:
        """But for an ejection."""
        return self.prober.is_up(cluster, address) and not self.book.is_drained(cluster, address)

    def _tell_health(self, cluster: str, addresses: list[str]) -> None:
        if self.supervisor is not None:
            ups = {address: self.standings.is_up(cluster, address) for address in addresses}
            trials = {address: trial for address in addresses if (trial := self.ejections.trial(cluster, address))}
            self.supervisor.broadcast(Health(cluster, ups, trials))
            self.panics.look_at([cluster])

    def _standing(self, cluster: str) -> tuple[SpreadPolicy, tuple[EndpointState, ...]]:
        """Its rules and its endpoints; none when it has left."""
        policy = next((policy for policy in self.config.clusters if policy.name == cluster), None)
        return (SpreadPolicy(), ()) if policy is None else (policy.spread(), self.book.of(cluster))

    def _watch(self, book: EndpointBook) -> None:
        policies = {cluster.name: cluster.check() for cluster in self.config.clusters}
        addresses = book.addresses()
        self.prober.update({cluster: (policies[cluster], known) for cluster, known in addresses.items()})
        self.ejections.update(
            {each.name: (each.outlier, each.balance not in HASHES, addresses.get(each.name, ())) for each in self.config.clusters}
        )

    def _deliver_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for cluster, endpoints in waiting.items():
            self._resolved(cluster, endpoints)
        untold, self._untold = self._untold, set()
        for cluster in untold:
            self._retell(cluster)

    # Reload

    async def reload(self) -> ReloadReport:
        """Reads the configuration again and puts it in force, or changes nothing and says why."""
        async with self.changing:
            return await self._reload_or_not()

    async def _reload_or_not(self) -> ReloadReport:
        self.state.move(MasterState.RELOADING)
        try:
            report = await self._reload()
        except ConfigErrors as errors:
            report = ReloadReport(self.generation, tuple(map(str, errors.errors)))
        except Exception:  # the one place where a reload's bug ends: what is in force serves on
            log.exception("the reload failed in lbd itself")
            report = ReloadReport(self.generation, ("a bug in lbd; its trace is in the log",))
        finally:
            self.state.maybe_move(MasterState.READY)  # it may be draining by now
        self._deliver_waiting()
        self.reloads[report.result] += 1
        self.last_report = report
        for sentence in report.warnings:
            log.warning("%s", sentence)
        for sentence in report.errors:
            log.error("%s", sentence)
        log.log(logging.INFO if report.is_ok else logging.ERROR, "%s", report.line())
        return report

    async def _reload(self) -> ReloadReport:
        # Left behind when a stop comes meanwhile: the file may be on a disk that does not answer.
        config = await trio.to_thread.run_sync(load_config, self.path, self._environ, abandon_on_cancel=True)
        if reason := would_end_all(self.config, config):
            return ReloadReport(self.generation, (reason,))
        try:
            return await self._change(config)
        except EnvironmentFault as fault:
            return ReloadReport(self.generation, config.describe(fault))

    async def _change(self, file: Config) -> ReloadReport:
        """EnvironmentFault: nothing has changed."""
        assert self.supervisor is not None
        config = as_it_runs(self.config, file)
        report = compare(self.config, file, self.generation + 1)
        with ExitStack() as undo:
            faults = Faults()
            logs: LogFiles | None = None  # if there are to be others; SIGUSR1 may exchange ours meanwhile
            if not self.logs.files.is_for(config.log):
                with faults.gather():
                    logs = await open_logs(config.log)
                    undo.callback(logs.close)
            undo.callback(lambda: self.places.keep(self.book.keys()))
            with faults.gather():
                plan = await self._plan(config, self.generation + 1)
                undo.callback(self.sockets.discard, plan.change)
            faults.raise_all()
            undo.callback(self.sockets.hear, plan.change)
            self.sockets.deafen(plan.change)
            if logs is not None:
                undo.callback(lambda: self.logs.send(self.logs.files))
                self.logs.send(logs)
            if refusal := await self.supervisor.apply(plan):
                raise EnvironmentFault(f"the workers refuse it: {refusal}")
            undo.pop_all()
        self.needs_restart = report.needs_restart
        told = (*map(str, config.warnings), *plan.doubts(), *self._settle(self._steps(plan, logs)))
        return replace(report, warnings=told).renewed(plan.change.renewed, config)

    def _settle(self, steps: Iterable[Callable[[], object]]) -> list[str]:
        """The new configuration is in force: no step that fails keeps the others from being done. What went wrong, in sentences."""
        faults = Faults()
        bugs: list[str] = []
        for step in steps:
            try:
                with faults.gather():
                    step()
            except Exception:
                log.exception("generation %d is in force, but for what failed in lbd itself", self.generation)
                bugs = ["a bug in lbd: this is in force, but not all that belongs to it; the trace is in the log"]
        return [sentence for fault in faults.found for sentence in self.config.describe(fault)] + bugs

    def _steps(self, plan: Plan, logs: LogFiles | None = None) -> Iterator[Callable[[], object]]:
        """All workers have applied it: it is in force. What it does not want goes."""
        self.config, self.generation = plan.config, plan.generation
        if logs is not None:
            yield partial(self.logs.send, logs)  # once more, after what SIGUSR1 may have sent
            yield partial(self.logs.take, logs)
        yield partial(self.logs.speak, self.config.log)
        yield partial(self.sockets.commit, plan.change)
        yield self._waiting.clear  # of the old clusters; update() tells again what has changed since
        yield partial(self.vault.update, self.config, plan.tls)
        yield partial(self.cluster_vault.update, self.config, plan.cluster_tls)
        yield partial(self.resolver.update, self.config.clusters)
        yield partial(self._watch, plan.book)
        yield partial(self.panics.look_at, [cluster.name for cluster in self.config.clusters])
        yield lambda: self.places.keep(plan.book.keys())
        yield lambda: self.control.look_at({cluster: map(named, endpoints) for cluster, endpoints in plan.book.found().items()})

    async def reopen_logs(self) -> None:
        """After a rotation."""
        await self.logs.reopen(lambda: self.config)

    # Upgrade

    async def upgrade(self) -> str:
        """Starts a new master in our place: "" when it serves, and we are to drain; or why it does not."""
        async with self.changing:
            self.state.move(MasterState.UPGRADING)
            log.info("upgrading: starting a new master")
            sockets = {**self.sockets.handed(), **self.doors.handed()}
            files = {**self.sockets.files(), **self.doors.files()}
            if self.state_directory.lock >= 0:
                sockets[STATE_LOCK] = [self.state_directory.lock]
            will = open_will(bequeath(self._estate, self.upgrades["ok"] + 1))
            try:
                self.successor, reason = await start_successor(sockets, files, will, self._environ, self.config.lbd.upgrade_timeout)
            finally:
                os.close(will)
                self.state.maybe_move(MasterState.READY)
            if self.successor is None:
                self.upgrades["failed"] += 1
                log.error("the new master %s; this one stays", reason)
            else:
                self.retire()
                log.info("the new master (pid %d) serves", self.successor.pid)
            return reason

    def retire(self) -> None:
        """Somebody else has the state directory from now on."""
        self.control.retire()
        self.sticky_key.retire()

    @property
    def _estate(self) -> Estate:
        return Estate(self.prober, self.ejections, self.control, self.resolver, self.sticky_key)

    # The end

    async def drain(self) -> None:
        """Says that it leaves, then closes the listening sockets and lets the workers finish. With a successor nobody need be told."""
        assert self.supervisor is not None
        self.state.move(MasterState.DRAINING)
        lbd = self.config.lbd
        log.info("stopping: draining for %g s at most", lbd.drain_timeout)
        await trio.sleep(0 if self.successor else lbd.ready_delay)
        # Our copies first: the workers' are the last then, and they take what still queues there before they close them. Nobody else
        # gets into these queues; with a successor the sockets stay, and so does who queues there.
        self.sockets.close(keep_files=self.successor is not None)
        cut = await self.supervisor.drain(lbd.drain_timeout)
        log.log(
            logging.WARNING if cut else logging.INFO, "stopped: %s", f"{cut} requests were cut short" if cut else "nothing was cut short"
        )

    def close(self) -> None:
        """What is left of it, however it ends."""
        self.state.maybe_move(MasterState.STOPPED)
        self.sockets.close(keep_files=self.successor is not None)
        self.doors.close(keep_files=self.successor is not None)
        self.state_directory.close()
        self.logs.close()
        self._dumps.close()
        self.board.close()
