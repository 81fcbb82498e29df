"""Tallies: who stands out among the others."""

from __future__ import annotations

import pytest

from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.tally import Tally, outstanding

POLICY = OutlierPolicy(latency=3.0)


def rates(*failures: int, attempts: int = 1000) -> dict[str, Tally]:
    return {f"e{i}": Tally(attempts, count) for i, count in enumerate(failures)}


def means(*milliseconds: float, answers: int = 200) -> dict[str, Tally]:
    return {f"e{i}": Tally(answers, 0, answers, answers * ms / 1000) for i, ms in enumerate(milliseconds)}


@pytest.mark.parametrize(
    ("tallies", "found"),
    [
        (rates(0, 0, 0, 0, 300), ["e4"]),
        (rates(0, 0, 0, 0, 1000), ["e4"]),
        (rates(0, 0, 0, 0, 20), []),  # all but perfect is good enough
        (rates(0, 0, 0, 1000), []),  # of four none can stand out by so much
        (rates(500, 500, 500, 500, 500), []),  # a page that fails everywhere
        (rates(300, 300, 300, 300, 700, 300), ["e4"]),
        (rates(*[10] * 20, 900, 600), ["e20", "e21"]),
        (rates(0, 0, 0, 0, 99, attempts=99), []),  # too few to tell
        (rates(0, 0, 0, 0, 2000), ["e4"]),  # a response that broke off was an answer as well
        ({}, []),
    ],
)
def test_success_rates(tallies: dict[str, Tally], found: list[str]) -> None:
    assert [(address, cause) for address, cause, _ in outstanding(POLICY, tallies)] == [(address, "success_rate") for address in found]


@pytest.mark.parametrize(
    ("tallies", "found"),
    [
        (means(20, 20, 20, 20, 100), ["e4"]),
        (means(20, 20, 20, 20, 59), []),
        (means(20, 25, 30, 200, 100), ["e3", "e4"]),
        (means(0.1, 0.1, 0.1, 0.1, 1.0), []),  # ten times next to nothing
        (means(20, 20, 20, 100), []),
        (means(20, 20, 20, 20, 100, answers=50), []),
    ],
)
def test_latencies(tallies: dict[str, Tally], found: list[str]) -> None:
    assert [(address, cause) for address, cause, _ in outstanding(POLICY, tallies)] == [(address, "latency") for address in found]


def test_words() -> None:
    assert [sentence for _, _, sentence in outstanding(POLICY, rates(0, 0, 0, 0, 250))] == [
        "75.0% of its 1000 requests succeeded, against 95.0% in the mean of all"
    ]
    assert [sentence for _, _, sentence in outstanding(POLICY, means(20, 20, 20, 20, 100))] == [
        "its answers took 0.1 s in the mean, against 0.02 s in the median of all"
    ]


def test_what_is_not_looked_at() -> None:
    assert list(outstanding(OutlierPolicy(success_rate=0.0), {**rates(0, 0, 0, 0, 500), **means(1, 1, 1, 1, 500)})) == []


def test_what_has_been_added() -> None:
    assert Tally(10, 2, 8, 1.5).since(Tally(4, 1, 3, 0.5)) == Tally(6, 1, 5, 1.0)
    assert Tally(3, 0, 3, 0.1).since(Tally(10, 2, 8, 1.5)) == Tally(), "it has left and come again"
