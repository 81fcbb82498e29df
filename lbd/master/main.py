"""The daemon from its first breath to its exit code.

Signals are only heard here and acted upon by the tasks that own the matter:

    SIGHUP            reload; several during one become one more
    SIGTERM, SIGINT   drain and exit with 0; the second time: exit at once
    SIGUSR1           reopen the logs
    SIGUSR2           start a new master on the same sockets, and drain once it serves
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

from lbd import __version__, core
from lbd.admin.server import serve_admin
from lbd.errors import EnvironmentFault, Exit
from lbd.master.machine import raise_file_limit
from lbd.master.master import Master
from lbd.master.notify import Notifier, keep_watchdog, watchdog_interval
from lbd.master.reloads import Reloads
from lbd.master.states import MasterState
from lbd.master.view import MasterView
from lbd.worker.log import flush_lines
from lbd.worker.privileges import name_process

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from lbd.config.schema import Config
    from lbd.master.reload import ReloadReport

__all__ = ["run_master"]

# Seconds within which a second signal to stop is the first one heard twice: timeout(1) sends its signal to the process and then to
# the group, and some shells do as much.
TWICE = 0.5
HEARD = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

log = logging.getLogger("lbd.master")


def run_master(path: Path, config: Config) -> int:
    """Runs the daemon with the configuration that was read from `path`; returns its exit code."""
    name_process("lbd")
    if sys.stderr is not None:
        faulthandler.enable()  # of SIGABRT too, which is how systemd's watchdog ends us
    raise_file_limit()
    try:
        master = Master(path, config, os.environ)
    except EnvironmentFault as fault:
        _say(config.describe(fault))
        return Exit.FAULT
    return trio.run(_run, master, strict_exception_groups=True)


def _say(sentences: Iterable[str]) -> None:
    """To whoever started us; the log may be somewhere else."""
    if sys.stderr is not None:
        sys.stderr.writelines(f"lbd: {sentence}\n" for sentence in sentences)


async def _run(master: Master) -> Exit:
    """The log is written to the last line, however it ends."""
    code = Exit.OK
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(flush_lines, master.logs.lines, master.logs.file, log.error, is_own=True))
        try:
            await _live(master)
        except* EnvironmentFault as group:
            code = Exit.FAULT
            sentences = [sentence for fault in _leaves(group) for sentence in master.config.describe(fault)]
            for sentence in sentences:
                log.error("%s", sentence)
            if master.logs.files.policy.file != "stderr":
                _say(sentences)
        finally:
            master.close()
        nursery.cancel_scope.cancel()
    return code


def _leaves(group: BaseExceptionGroup[EnvironmentFault]) -> list[EnvironmentFault]:
    faults: list[EnvironmentFault] = []
    for error in group.exceptions:
        faults += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return faults


class _Wishes:
    """What the operator wants, heard but not yet done."""

    def __init__(self, reloads: Reloads) -> None:
        self.reloads = reloads
        self.stop = trio.Event()
        self.upgrade = trio.Event()  # replaced when it is obeyed
        self.reopening = trio.Event()  # of the logs; likewise


async def _live(master: Master) -> None:
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET", ""))

    async def reload() -> ReloadReport:
        notifier.reloading()
        report = await master.reload()
        notifier.ready(_serving(master))
        return report

    wishes = _Wishes(Reloads(reload))
    async with trio.open_nursery() as nursery:
        await nursery.start(_hear_signals, wishes, nursery.cancel_scope)
        nursery.start_soon(_reopen_logs, master, wishes)
        await _start(master, nursery, MasterView(master, wishes.reloads), wishes)
        if not wishes.stop.is_set():
            await _serve(master, notifier, wishes)
            await _leave(master, notifier)
        nursery.cancel_scope.cancel()
    notifier.close()


async def _hear_signals(
    wishes: _Wishes, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    first = 0.0
    with trio.open_signal_receiver(*HEARD) as signals:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)  # lbd/__main__.py has held some of them until now
        task_status.started()
        async for number in signals:
            if number == signal.SIGHUP:
                wishes.reloads.request()
            elif number == signal.SIGUSR1:
                wishes.reopening.set()
            elif number == signal.SIGUSR2:
                wishes.upgrade.set()
            elif not wishes.stop.is_set():
                log.info("%s", signal.Signals(number).name)
                first = trio.current_time()
                wishes.stop.set()
            elif trio.current_time() - first > TWICE:
                log.warning("%s again: exiting at once", signal.Signals(number).name)
                everything.cancel()


async def _reopen_logs(master: Master, wishes: _Wishes) -> None:
    while True:
        await wishes.reopening.wait()
        wishes.reopening = trio.Event()
        await master.reopen_logs()


async def _start(master: Master, nursery: trio.Nursery, view: MasterView, wishes: _Wishes) -> None:
    """Everything up to the first served request; given up when it is to stop meanwhile."""

    async def give_up() -> None:
        await wishes.stop.wait()
        starting.cancel_scope.cancel()

    async with trio.open_nursery() as starting:
        starting.start_soon(give_up)
        supervisor = await master.prepare()
        # With a predecessor that still answers on the same socket, ours would be a second opinion on whether lbd is ready.
        if not master.handover.is_upgrade:
            await _open_admin(master, nursery, view)
        await nursery.start(supervisor.run)
        nursery.start_soon(master.resolver.run)
        nursery.start_soon(master.prober.run)
        nursery.start_soon(master.ejections.run)
        nursery.start_soon(master.panics.run)
        nursery.start_soon(master.control.run)
        nursery.start_soon(master.sticky_key.run)
        nursery.start_soon(master.vigil.run, supervisor)
        nursery.start_soon(master.vault.run)
        nursery.start_soon(master.cluster_vault.run)
        if master.handover.is_upgrade:
            await _open_admin(master, nursery, view)
        starting.cancel_scope.cancel()


async def _open_admin(master: Master, nursery: trio.Nursery, view: MasterView) -> None:
    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        with master.admin_scope:
            async with trio.open_nursery() as doors:
                for bound, token in ((master.doors.admin, master.config.admin.token), (master.doors.control, "")):
                    if bound is not None:
                        await doors.start(serve_admin, list(bound.sockets), token, view)
                task_status.started()

    await nursery.start(serve)


def _serving(master: Master) -> str:
    binds = ", ".join(bind for listener in master.config.listeners for bind in listener.bind)
    return f"generation {master.generation} on {binds}"


async def _serve(master: Master, notifier: Notifier, wishes: _Wishes) -> None:
    """Ready, until it is to stop."""
    assert master.supervisor is not None
    master.state.move(MasterState.READY)
    core_name = "compiled core" if core.COMPILED else "pure Python"
    log.info("ready: lbd %s (%s), %d workers, %s", __version__, core_name, master.slots, _serving(master))
    if not master.handover.finish():
        log.error("the old master died before this one was ready; whoever looks after lbd starts another, so this one goes")
        master.admin_scope.cancel()  # what that one must have: the admin's port, the state directory
        master.retire()
        master.state_directory.close()
        return
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_tell_manager, master, notifier)
        nursery.start_soon(wishes.reloads.run)
        nursery.start_soon(_upgrade, master, notifier, wishes)
        await wishes.stop.wait()
        nursery.cancel_scope.cancel()


async def _tell_manager(master: Master, notifier: Notifier) -> None:
    """That it serves, and lives, as soon as the manager listens."""
    assert master.supervisor is not None
    await master.handover.wait_alone()
    notifier.ready(_serving(master))
    await keep_watchdog(notifier, watchdog_interval(os.environ, os.getpid()), master.supervisor.is_responsive)


async def _upgrade(master: Master, notifier: Notifier, wishes: _Wishes) -> None:
    while master.successor is None:
        await wishes.upgrade.wait()
        wishes.upgrade = trio.Event()
        if reason := await master.upgrade():
            notifier.status(f"{_serving(master)}; the upgrade failed: the new master {reason}")
    wishes.reloads.pass_on(master.successor.reload)
    wishes.stop.set()


async def _leave(master: Master, notifier: Notifier) -> None:
    if master.successor is not None:
        notifier.succeeded_by(master.successor.pid)
        master.successor.release()
        master.admin_scope.cancel()  # its answers are the successor's from now on
    else:
        notifier.stopping("draining")
    await master.drain()
