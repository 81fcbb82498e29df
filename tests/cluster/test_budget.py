"""The retry budget: what it allows, by hand and by simulated load."""

from __future__ import annotations

import pytest

from lbd.cluster.budget import WINDOW, RetryBudget


def spent(budget: RetryBudget, now: float, wanted: int = 10_000) -> int:
    """How many of so many retries are allowed at one moment."""
    return sum(budget.spend(now) for _ in range(wanted))


def test_a_share_of_the_requests() -> None:
    budget = RetryBudget(0.2, 0)
    budget.begun += 1000
    assert spent(budget, 1.0) == 200
    assert spent(budget, 1.0) == 0
    budget.begun += 5
    assert spent(budget, 1.0) == 1


def test_no_requests_no_retries() -> None:
    assert spent(RetryBudget(0.2, 0), 1.0) == 0
    assert spent(RetryBudget(0.0, 0), 1.0) == 0


def test_the_least_is_there_from_the_start_and_comes_back() -> None:
    budget = RetryBudget(0.2, 3)
    assert spent(budget, 0.0) == 3 * WINDOW
    assert spent(budget, 0.1) == 0
    assert spent(budget, 1.0) == 3
    assert spent(budget, 1000.0) == 3 * WINDOW  # saved up, to a limit


def test_the_least_is_no_addition_to_the_share() -> None:
    budget = RetryBudget(0.2, 3)
    budget.begun = 1000
    assert spent(budget, 0.0) == 200 + 3 * WINDOW  # once: it has been saved up
    allowed = 0
    for second in range(1, 101):
        budget.begun += 100
        allowed += spent(budget, float(second))
    assert allowed / 100 <= 20.0  # not 23


def test_old_requests_and_old_retries_fade_alike() -> None:
    budget = RetryBudget(0.2, 0)
    budget.begun = 1000
    assert spent(budget, 0.0) == 200
    assert spent(budget, 3.0) == 0
    budget = RetryBudget(0.2, 0)
    budget.begun = 1000
    budget.look(0.0)
    assert spent(budget, 60.0) == 0  # of a minute ago


def test_what_came_while_nobody_looked_is_spread_over_that_time() -> None:
    budget = RetryBudget(0.2, 0)
    budget.look(0.0)
    budget.begun = 360_000  # 100 a second, for an hour
    assert spent(budget, 3600.0) == pytest.approx(0.2 * 100 * WINDOW, abs=1)


@pytest.mark.parametrize("rate", [1.0, 10.0, 1000.0])
@pytest.mark.parametrize("share", [0.1, 0.2, 1.0])
def test_when_everything_fails_attempts_are_a_fixed_share_above_requests(rate: float, share: float) -> None:
    budget = RetryBudget(share, 0)
    requests = retries = 0
    for i in range(int(300 * rate)):
        now = i / rate
        requests += 1
        budget.begun += 1
        retries += spent(budget, now, 2)  # each would make two
        assert retries <= share * requests + 1
    if rate * share * WINDOW >= 100:  # a few are rounded down
        assert retries >= share * requests * 0.95


def test_a_failure_after_a_quiet_time_finds_a_budget() -> None:
    """One of three endpoints dies under load: a third of the requests fails until it is out, and all of them are tried again."""
    budget = RetryBudget(0.2, 3)
    for tick in range(1000):  # 10 s at 1000 a second
        budget.begun += 10
        if tick % 100 == 0:
            budget.look(tick / 100)
    refused = 0
    for tick in range(300):  # 3 s until it is out
        budget.begun += 10
        refused += sum(not budget.spend(10.0 + tick / 100) for _ in range(3))
    assert refused == 0


def test_another_configuration_keeps_what_was_counted() -> None:
    budget = RetryBudget(0.2, 3)
    budget.begun = 1000
    budget.look(0.0)
    budget.obey(0.5, 0)
    assert spent(budget, 0.0) == 500


def test_a_clock_that_stands_still_or_steps_back() -> None:
    budget = RetryBudget(0.5, 0)
    budget.begun = 10
    assert spent(budget, 100.0) == 5
    budget.begun = 10
    assert spent(budget, 99.0) == 5


@pytest.mark.parametrize(("share", "least", "begun"), [(0.2, 3, 0), (0.2, 0, 99), (0.2, 3, 1000), (1.0, 1, 7), (0.0, 5, 100)])
def test_what_is_left_is_what_would_be_allowed(share: float, least: int, begun: int) -> None:
    budget = RetryBudget(share, least)
    budget.begun = begun
    budget.look(1.0)
    for now in (1.0, 1.0, 3.3):
        budget.look(now)
        left = budget.left()
        assert spent(budget, now, 5) == min(5, left)
    budget.look(4.0)
    left, made = budget.left(), budget.made
    assert spent(budget, 4.0) == left
    assert (budget.left(), budget.made - made, budget.denied >= 10_000 - left) == (0, left, True)
