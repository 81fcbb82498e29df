"""How much memory workers get: the machine's, or what a container has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lbd.master.memory import for_each_worker, usable_memory
from lbd.proxy.shedding import OverloadPolicy

if TYPE_CHECKING:
    from pathlib import Path

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def cgroups(directory: Path, limits: dict[str, str], own: str = "0::/system.slice/lbd.service\n") -> int:
    """usable_memory() where these are the files memory.max, by directory."""
    for name, text in limits.items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / name / "memory.max").write_text(text)
    (directory / "own").write_text(own)
    return usable_memory(directory, directory / "own")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, MACHINE),
        ({".": f"{64 * MIB}\n"}, 64 * MIB),
        ({"system.slice/lbd.service": f"{64 * MIB}\n", "system.slice": f"{32 * MIB}\n"}, 32 * MIB),
        ({"system.slice/lbd.service": "max\n", "system.slice": "max\n"}, MACHINE),
        ({"another.slice": "4096\n"}, MACHINE),
        ({".": "a mess"}, MACHINE),
        ({".": f"{MACHINE * 2}\n"}, MACHINE),
    ],
)
def test_the_least_on_the_way_up_counts(limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert cgroups(tmp_path, limits) == expected


def test_without_version_2_it_is_the_machines(tmp_path: Path) -> None:
    assert cgroups(tmp_path, {".": "4096\n"}, own="5:memory:/docker/abc\n") == MACHINE
    assert usable_memory(tmp_path, tmp_path / "nothing") == MACHINE


def test_workers_share_it_unless_the_policy_says_how_much_each_has() -> None:
    assert for_each_worker(OverloadPolicy(memory=5), 4) == OverloadPolicy(memory=5)
    one, four = (for_each_worker(OverloadPolicy(), workers).memory for workers in (1, 4))
    assert 0.5 * usable_memory() < one < usable_memory()
    assert four == max(one // 4, 128 * MIB)
    assert for_each_worker(OverloadPolicy(), 100_000).memory == 128 * MIB  # whatever there is: a worker has some before it does anything
