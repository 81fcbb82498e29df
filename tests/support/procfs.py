"""What the kernel knows of a process: its family, CPU time, memory, descriptors."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

__all__ = ["Cpu", "children", "command_of", "cpu_of", "family", "fd_kinds", "is_alive", "open_fds", "rss_of", "run_time", "threads_of"]

TICK = 1.0 / os.sysconf("SC_CLK_TCK")


class Cpu(NamedTuple):
    """Seconds."""

    user: float
    system: float

    @property
    def total(self) -> float:
        return self.user + self.system

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.user - before.user, self.system - before.system)


def children(pid: int) -> list[int]:
    """Of every thread: a child belongs to the thread that started it."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass
    return sorted(found)


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    return [pid, *(p for child in children(pid) for p in family(child))]


def cpu_of(pids: list[int]) -> Cpu:
    """User and system time of living processes, their threads included. Linux scales the two so that their sum is the scheduler's
    exact run time; only the last tick (10 ms) is lost."""
    user = system = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        user += int(fields[11])
        system += int(fields[12])
    return Cpu(user * TICK, system * TICK)


def run_time(pids: list[int]) -> float:
    """Seconds on a CPU, exact to the nanosecond but without threads that have ended: for small amounts."""
    return sum(int((task / "schedstat").read_text().split()[0]) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9


def rss_of(pid: int) -> int:
    """Resident bytes, shared pages (the interpreter's own text) included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0  # a zombie has no memory


def open_fds(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def fd_kinds(pid: int) -> Counter[str]:
    """How many descriptors are of each kind: "socket", "pipe", "anon_inode", and "" for files."""
    kinds: Counter[str] = Counter()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            kinds[os.readlink(fd).rpartition(":")[0]] += 1
        except FileNotFoundError:  # closed meanwhile
            continue
    return kinds


def threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_alive(pid: int) -> bool:
    """Runs, and is not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
