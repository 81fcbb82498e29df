"""What a worker is asked, and what becomes of the answer: whole, half, or none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.master.dumps import LIMIT, PATIENCE, Dumps
from lbd.worker.dump import END, SIGNAL

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.usefixtures("autojump_clock", "no_leaked_fds")


class Asked:
    """A slot whose worker writes this when it is asked."""

    number = 1

    def __init__(self, fd: int, *parts: bytes) -> None:
        self.pid = os.getpid()
        self._fd = fd
        self._parts = parts

    def signal(self, number: int) -> None:
        assert number == SIGNAL
        for part in self._parts:
            os.write(self._fd, part)


@pytest.fixture
def dumps() -> Iterator[Dumps]:
    made = Dumps(2)
    yield made
    made.close()


async def test_an_answer_to_the_end_is_not_waited_for_any_longer(dumps: Dumps) -> None:
    start = trio.current_time()
    lines = await dumps.ask(Asked(dumps.fd(1), b"threads\n", b"fibers\n", END.encode() + b"\n"))  # type: ignore[arg-type]
    assert lines[-3:] == ["threads", "fibers", END]
    assert any(line.startswith("State: ") for line in lines), "what the kernel knows"
    assert trio.current_time() - start < 0.1


async def test_half_an_answer_is_better_than_none(dumps: Dumps) -> None:
    start = trio.current_time()
    lines = await dumps.ask(Asked(dumps.fd(1), b"threads\n"))  # type: ignore[arg-type]
    assert lines[-1] == "threads"
    assert trio.current_time() - start == pytest.approx(PATIENCE, abs=0.1)


async def test_who_says_nothing_is_described_by_the_kernel(dumps: Dumps) -> None:
    lines = await dumps.ask(Asked(dumps.fd(1)))  # type: ignore[arg-type]
    assert {line.split(":")[0] for line in lines} == {"State", "VmRSS", "Threads", "Kernel"}


async def test_the_next_answer_is_not_mixed_with_the_last(dumps: Dumps) -> None:
    for word in (b"a very long first answer\n", b"second\n"):
        lines = await dumps.ask(Asked(dumps.fd(1), word, END.encode()))  # type: ignore[arg-type]
    assert lines[-2:] == ["second", END]
    assert not any("first" in line for line in lines)


async def test_a_worker_is_not_trusted_to_be_brief(dumps: Dumps) -> None:
    lines = await dumps.ask(Asked(dumps.fd(1), b"x" * (LIMIT * 3)))  # type: ignore[arg-type]
    assert sum(map(len, lines)) < LIMIT * 2
