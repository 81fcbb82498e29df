"""The worker's side of the conversation: what is obeyed, what is answered, and who closes the descriptors."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.worker.__main__ import LATE, _Session
from lbd.worker.control import ControlChannel
from lbd.worker.log import LogPolicy
from lbd.worker.messages import Applied, Configure, Drain, Endpoints, Health, Ping, Pong, ReopenLogs
from tests.support import procfs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_leaked_fds")

CONFIGURE = Configure(1, (), (), LogPolicy(), {}, ("10.0.0.1:80", "unix:/x"), drain_timeout=7.0)


class FakeWorker:
    """Writes down what it is told; `fault` is raised by apply()."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.told: list[object] = []
        self.fault = fault

    def apply(self, message: Configure, sockets: dict[str, int]) -> None:
        self.told.append((message.generation, list(sockets)))
        if self.fault:
            raise self.fault
        for fd in sockets.values():
            os.close(fd)  # its own now

    def reopen_logs(self, log_fd: int, access_fd: int) -> None:
        self.told.append(("reopened", access_fd >= 0))
        for fd in {log_fd, access_fd} - {-1}:
            os.close(fd)

    def __getattr__(self, name: str) -> Callable[[object], None]:
        return self.told.append


async def converse(worker: Any, *messages: tuple[object, int]) -> list[object]:  # noqa: ANN401 - a FakeWorker
    """The answers; each message goes with so many descriptors, and then the master is gone."""
    ours, theirs = socket.socketpair()
    channel, near = ControlChannel(trio.socket.from_stdlib_socket(ours)), ControlChannel(trio.socket.from_stdlib_socket(theirs))
    answers: list[object] = []
    for message, count in messages:
        await channel.send(message, [ours.fileno()] * count)
    channel.close()
    with trio.fail_after(5):
        await _Session(worker, answers.append).listen(near)
    near.close()
    return answers


async def test_every_message_is_obeyed_in_its_turn() -> None:
    worker = FakeWorker()
    endpoints, health, drain = Endpoints("all", ()), Health("all", {}), Drain(1.0)
    told = [
        (Ping(1), 0),
        (CONFIGURE, 2),
        (endpoints, 0),
        (health, 0),
        (ReopenLogs(True), 2),
        (ReopenLogs(False), 1),
        (drain, 0),
        (Ping(2), 0),
    ]
    assert await converse(worker, *told) == [Pong(1), Applied(1), Pong(2)]
    assert worker.told[:-1] == [(1, list(CONFIGURE.sockets)), endpoints, health, ("reopened", True), ("reopened", False), drain]


async def test_a_configuration_that_cannot_be_applied_is_answered_and_its_sockets_closed() -> None:
    before = procfs.open_fds(os.getpid())
    assert await converse(FakeWorker(ValueError("no such thing")), (CONFIGURE, 2)) == [Applied(1, "ValueError: no such thing")]
    assert procfs.open_fds(os.getpid()) == before


@pytest.mark.parametrize(("messages", "timeout"), [([], 30.0), ([(CONFIGURE, 2)], 7.0)])
async def test_without_its_master_it_finishes_what_runs(messages: list[tuple[object, int]], timeout: float) -> None:
    worker = FakeWorker()
    await converse(worker, *messages)
    assert worker.told[-1] == Drain(timeout)


async def test_a_message_that_it_does_not_know_is_no_reason_to_stop() -> None:
    worker = FakeWorker()
    assert await converse(worker, (Pong(1), 0), (Ping(1), 0)) == [Pong(1)]
    assert worker.told == [Drain(30.0)]


def test_what_is_imported_late_can_be() -> None:
    for name in LATE:
        __import__(name)
