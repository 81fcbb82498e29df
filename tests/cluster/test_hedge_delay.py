"""After how long an attempt is hedged."""

from __future__ import annotations

import random

import pytest

from lbd.cluster.hedge_delay import ENOUGH, HedgeDelay


def test_a_fixed_time_is_what_it_is() -> None:
    delay = HedgeDelay("50ms")
    for _ in range(1000):
        delay.observe(3.0)
    assert delay.seconds == 0.05


def test_a_quantile_is_not_known_before_enough_answers() -> None:
    delay = HedgeDelay("p95")
    for _ in range(ENOUGH - 1):
        delay.observe(0.01)
    assert delay.seconds == 0.0
    delay.observe(0.01)
    assert 0.01 <= delay.seconds < 0.0111


@pytest.mark.parametrize("share", ["p50", "p90", "p95", "p99"])
def test_it_is_the_quantile_up_to_a_tenth(share: str) -> None:
    draw, delay = random.Random(5), HedgeDelay(share)
    taken = [draw.lognormvariate(-3.0, 1.0) for _ in range(1900)]
    for seconds in taken:
        delay.observe(seconds)
    exact = sorted(taken)[int(float(share[1:]) / 100 * len(taken))]
    assert 0.9 * exact <= delay.seconds <= 1.2 * exact


def test_what_was_long_ago_fades() -> None:
    delay = HedgeDelay("p95")
    for _ in range(5000):
        delay.observe(0.5)
    for _ in range(8000):
        delay.observe(0.01)
    assert delay.seconds < 0.0111


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e6])
def test_nothing_is_too_short_or_too_long(seconds: float) -> None:
    delay = HedgeDelay("p95")
    for _ in range(200):
        delay.observe(seconds)
    assert 0.001 <= delay.seconds <= 700.0
