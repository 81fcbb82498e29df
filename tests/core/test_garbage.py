"""When the collector may stop the world."""

from __future__ import annotations

import gc
import weakref
from typing import TYPE_CHECKING

import pytest

from lbd.core.garbage import FEW_FIBERS, MIDDLE, OVERDUE, WORTHWHILE, YOUNG, Collector

if TYPE_CHECKING:
    from collections.abc import Iterator


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that has settled; afterwards all is as it was."""
    thresholds = gc.get_threshold()
    collector = Collector()
    collector.settle()
    yield collector
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def survive(collections: int) -> None:
    """So many collections of the middle generation go by."""
    for _ in range(collections):
        gc.collect(1)


def test_it_never_starts_a_full_collection_by_itself(collector: Collector) -> None:
    collector.tidy(0)
    before = gc.get_stats()[2]["collections"]
    kept = [[] for _ in range(YOUNG * MIDDLE * 20)]  # type: ignore[var-annotated]
    assert len(kept) > 0
    assert gc.get_stats()[2]["collections"] == before
    assert gc.get_count()[2] > 1


def test_after_a_start_or_a_reload_there_is_one_as_soon_as_it_is_quiet(collector: Collector) -> None:
    assert not collector.tidy(FEW_FIBERS + 1)
    assert collector.tidy(FEW_FIBERS)
    assert not collector.tidy(0)
    collector.settle()
    assert collector.tidy(0)


@pytest.mark.parametrize(
    ("collections", "fibers", "expected"),
    [
        (WORTHWHILE - 1, 0, False),
        (WORTHWHILE, 0, True),
        (WORTHWHILE, FEW_FIBERS, True),
        (WORTHWHILE, FEW_FIBERS + 1, False),
        (OVERDUE, 100_000, True),
    ],
)
def test_then_when_much_has_survived_and_few_are_there(collector: Collector, collections: int, fibers: int, expected: bool) -> None:
    collector.tidy(0)
    survive(collections)
    assert collector.tidy(fibers) is expected
    assert not collector.tidy(fibers)


def test_what_was_frozen_is_found_all_the_same(collector: Collector) -> None:
    """An old configuration goes, even if it was a ring."""
    gone = weakref.ref(Ring())
    collector.settle()
    gc.collect()
    assert gone() is not None  # frozen
    assert collector.tidy(0)
    assert gone() is None
