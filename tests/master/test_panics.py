"""Clusters in distress are told of once, when it begins and when it ends."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.cluster.tiers import SpreadPolicy
from lbd.master.panics import PAUSE, Panics
from lbd.worker.messages import EndpointState

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.usefixtures("autojump_clock")

PANIC = "WARNING cluster web: {}, a smaller share than panic = 0.5: all are tried, whatever their checks say"
DOWN = "ERROR cluster web: {}: requests are answered with no_healthy_endpoint"
FINE = "INFO cluster web: {}: health counts again"
ALL_OUT = "0 of 3 endpoints up"


def states(text: str) -> tuple[EndpointState, ...]:
    """U up, d down; V and b likewise, of backups; x up, but drained."""
    return tuple(
        EndpointState(f"10.0.0.{i}:80", 1, i, letter in "UVx", "", letter in "Vb", 0, letter == "x") for i, letter in enumerate(text)
    )


# Panic, the endpoints one look after the other, and what is told.
STORIES: list[tuple[float, list[str], list[str]]] = [
    (0.5, ["UUU", "UUd", "UUU"], []),
    (0.5, ["UUU", "Udd", "ddd", "UUd"], [PANIC.format("1 of 3 endpoints up"), FINE.format("2 of 3 endpoints up")]),
    (0.0, ["UUU", "Udd", "ddd", "Udd"], [DOWN.format(ALL_OUT), FINE.format("1 of 3 endpoints up")]),
    (0.5, ["UUb", "ddV", "ddb"], [PANIC.format(ALL_OUT)]),  # a backup that is up is no panic
    (0.0, ["ddV", "ddb"], [DOWN.format(ALL_OUT)]),
    (0.5, ["UUU", "ddd", ""], [PANIC.format(ALL_OUT)]),  # it has left the configuration
    (0.5, ["ddd"], [PANIC.format(ALL_OUT)]),
    (0.5, ["VV", "Vb", "bb"], [PANIC.format("0 of 2 endpoints up")]),
    (0.5, ["xxU", "xUd", "xxd"], [PANIC.format(ALL_OUT)]),  # who is drained is neither up nor down
    (0.5, ["UUx", "xxx", "xxU"], [DOWN.format(ALL_OUT), FINE.format("1 of 3 endpoints up")]),
    (0.5, [""], []),
]


@pytest.mark.parametrize(("share", "looks", "told"), STORIES)
async def test_stories(share: float, looks: Sequence[str], told: Sequence[str], caplog: pytest.LogCaptureFixture) -> None:
    now = ""
    panics = Panics(lambda _: (SpreadPolicy(share), states(now)))
    with caplog.at_level(logging.INFO, "lbd.health"):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(panics.run)
            for now in looks:  # noqa: B007 - read by the lambda
                panics.look_at(["web"])
                await trio.sleep(2 * PAUSE)
            nursery.cancel_scope.cancel()
    assert [f"{record.levelname} {record.message}" for record in caplog.records] == told


async def test_flips_that_come_together_are_one_look() -> None:
    looked: list[tuple[str, float]] = []

    def look(cluster: str) -> tuple[SpreadPolicy, tuple[EndpointState, ...]]:
        looked.append((cluster, trio.current_time()))
        return SpreadPolicy(), ()

    panics = Panics(look)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(panics.run)
        for _ in range(100):
            panics.look_at(["b"])
            panics.look_at(["a"])
        await trio.sleep(1)
        panics.look_at(["b"])
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert [(cluster, round(at - start, 6)) for cluster, at in looked] == [("a", PAUSE), ("b", PAUSE), ("b", 1 + PAUSE)]
