"""A worker process: `python -m lbd.worker FD`, started by the master, FD being the worker's end of the control channel.

Hello comes first and says who to be. What has to be read from disk is read before the rights to read it are given up: lbd may be
installed where the workers' user may not look (/root/lbd/.venv), and an import that comes later would find nothing. Then every
message is obeyed in the order it came. A worker outlives its master only to finish what it has begun: the end of the channel is
taken for Drain.

Signals are the master's business. A Ctrl-C or a `systemctl kill` reaches every process of the service; a worker that obeyed it
would leave before its master has told the world (readyz) that it does.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import math
import os
import signal
import sys
from typing import TYPE_CHECKING

import trio

from lbd.core.board import Board
from lbd.worker.control import ControlChannel
from lbd.worker.dump import answer_dumps
from lbd.worker.messages import (
    Applied,
    Certificates,
    ClusterCertificates,
    Configure,
    Drain,
    Endpoints,
    Health,
    Hello,
    Ping,
    Pong,
    ReopenLogs,
)
from lbd.worker.privileges import become, forbid_new_privileges, name_process
from lbd.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

# What lbd or a library imports only when it is first needed: h11 is asked why a message is refused (wire/refusal.py).
LATE = ("h11",)
LAST_RESORT = 10  # seconds beyond the drain timeout, for a worker without a master
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

log = logging.getLogger("lbd.worker")


class _Session:
    """The worker's side of the conversation."""

    def __init__(self, worker: Worker, answer: Callable[[object], None]) -> None:
        self._worker = worker
        self._answer = answer
        self.drain_timeout = 30.0

    async def listen(self, channel: ControlChannel) -> None:
        while (received := await channel.receive()) is not None:
            self._obey(*received)
        log.warning("the master is gone; finishing what runs")
        self._worker.drain(Drain(self.drain_timeout))

    def _obey(self, message: object, fds: list[int]) -> None:
        match message:
            case Ping():
                self._answer(Pong(message.number))
            case Configure():
                self._answer(self._configure(message, fds))
            case Endpoints():
                self._worker.update_endpoints(message)
            case Certificates():
                self._worker.set_certificates(message)
            case ClusterCertificates():
                self._worker.set_cluster_certificates(message)
            case Health():
                self._worker.set_health(message)
            case ReopenLogs():
                self._worker.reopen_logs(fds[0], fds[1] if message.has_access_log else -1)
            case Drain():
                self._worker.drain(message)
            case _:
                log.error("a message of the master that this worker does not know: %r", message)

    def _configure(self, message: Configure, fds: list[int]) -> Applied:
        try:
            self._worker.apply(message, dict(zip(message.sockets, fds, strict=True)))
        except Exception as error:  # the master decides what becomes of it: it rolls back
            log.exception("generation %d cannot be applied", message.generation)
            for fd in fds:
                os.close(fd)
            return Applied(message.generation, f"{type(error).__name__}: {error}")
        self.drain_timeout = message.drain_timeout
        return Applied(message.generation)


async def _run(fd: int) -> None:
    channel = ControlChannel.from_fd(fd)
    try:
        received = await channel.receive()
        if received is not None:
            hello, fds = received
            assert isinstance(hello, Hello)
            await _work(channel, hello, fds)
    finally:
        channel.close()


async def _work(channel: ControlChannel, hello: Hello, fds: list[int]) -> None:
    board_fd, dump_fd, log_fd, access_fd = fds if hello.has_access_log else (*fds, -1)
    name_process(f"lbd-worker-{hello.slot}")
    faulthandler.enable()  # to standard error: the log may be reopened, and its old number be a connection's by the time of a crash
    if hello.uid >= 0 or hello.gid >= 0:
        _give_up_root(hello)
    forbid_new_privileges()
    report, reports = trio.open_memory_channel[object](math.inf)
    worker = Worker(hello, Board(board_fd), log_fd, access_fd, report.send_nowait)
    sys.unraisablehook = worker.unraisable
    answer_dumps(dump_fd, worker.fibers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_forward, channel, reports)
        await _converse(channel, worker, report.send_nowait)
        report.close()  # what is in it still goes out


def _give_up_root(hello: Hello) -> None:
    for name in LATE:
        importlib.import_module(name)
    try:
        become(hello.uid, hello.gid, hello.groups)
    except OSError as error:
        sys.exit(
            f"lbd-worker-{hello.slot}: cannot become user {hello.uid} and group {hello.gid}: {error.strerror}; "
            "start lbd with the capabilities CAP_SETUID and CAP_SETGID, or as that user"
        )


async def _converse(channel: ControlChannel, worker: Worker, answer: Callable[[object], None]) -> None:
    """Until the worker has drained."""
    async with trio.open_nursery() as nursery:

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            await worker.run(task_status=task_status)
            nursery.cancel_scope.cancel()

        await nursery.start(run)
        session = _Session(worker, answer)
        await session.listen(channel)
        # Nobody is left to kill a worker that hangs while it drains; SIGALRM does, whatever it is stuck in.
        signal.alarm(math.ceil(session.drain_timeout) + LAST_RESORT)


async def _forward(channel: ControlChannel, reports: trio.MemoryReceiveChannel[object]) -> None:
    async for message in reports:
        try:
            await channel.send(message)
        except trio.BrokenResourceError:
            return  # receive() says so too


def main(arguments: Sequence[str]) -> None:
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    trio.run(_run, int(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
