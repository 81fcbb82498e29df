"""How much memory a worker may have: a share of what the machine has, or the container that we run in."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.proxy.shedding import OverloadPolicy

__all__ = ["for_each_worker", "usable_memory"]

SHARE = 0.9  # the rest is the master's, the kernel's and everybody else's
# A worker that does nothing has 40 MiB resident, much of which it shares with the others: in a small container with many workers
# a plain share would have all of them refuse requests from the start.
LEAST = 128 * 1024 * 1024


def for_each_worker(policy: OverloadPolicy, workers: int) -> OverloadPolicy:
    """With the memory that each may have, where the policy leaves it open."""
    return policy if policy.memory else replace(policy, memory=max(LEAST, int(usable_memory() * SHARE / workers)))


def usable_memory(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes: the machine's, or less where a cgroup (version 2, memory.max) on the way from ours up to the root allows less."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        inside = next(line.removeprefix("0::").lstrip("/") for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return machine
    place = cgroups / inside
    above = (directory for directory in (place, *place.parents) if directory.is_relative_to(cgroups))
    return min([machine, *(limit for directory in above if (limit := maybe_limit(directory / "memory.max")))])


def maybe_limit(file: Path) -> int | None:
    """None: there is none."""
    try:
        text = file.read_text().strip()
        return None if text == "max" else int(text)
    except (OSError, ValueError):
        return None
