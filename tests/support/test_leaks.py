"""The check that every end-to-end test ends with can fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.support.leaks import Footprint, leaks

MIB = 1 << 20
READY = Footprint(
    master=10, workers=(11, 12), binds=2, idle=0, master_fds=20, master_rss=46 * MIB, sockets=5, pipes=0, others=9, rss=32 * MIB, threads=1,
    tasks=0, fibers=0, under_way=(), served=0,
)  # fmt: skip
RESTED = replace(READY, tasks=12, fibers=4, rss=36 * MIB, master_rss=47 * MIB)


def test_what_has_come_to_rest_leaks_nothing() -> None:
    assert leaks(READY, RESTED) == []


@pytest.mark.parametrize(("has", "told"), [
    ({"tasks": 15}, "15 tasks, more than 14"),
    ({"fibers": 6}, "6 fibers, more than 5"),
    ({"threads": 17}, "17 threads, more than 16"),
    ({"sockets": 7}, "7 sockets, more than 6"),
    ({"pipes": 34}, "34 descriptors of pipes, more than 32"),
    ({"others": 11}, "11 other descriptors, more than 10"),
    ({"rss": 49 * MIB}, "50176 KiB, more than 49152"),
    ({"master_fds": 25}, "25 descriptors in the master, more than 24"),
    ({"master_rss": 55 * MIB}, "56320 KiB in the master, more than 55296"),
    ({"under_way": ('lbd_tunnels{listener="web"} 1',)}, 'lbd_tunnels{listener="web"} 1'),
])  # fmt: skip
def test_what_is_too_much_is_told(has: dict[str, Any], told: str) -> None:
    assert leaks(READY, replace(RESTED, **has)) == [told]


@pytest.mark.parametrize("has", [
    {"idle": 3, "sockets": 9, "fibers": 8}, {"binds": 4, "sockets": 8, "fibers": 7, "master_fds": 28},
    {"workers": (11, 12, 13), "master_fds": 30},
])  # fmt: skip
def test_what_is_configured_or_kept_for_later_may_be_more(has: dict[str, Any]) -> None:
    assert leaks(READY, replace(RESTED, **has)) == []
