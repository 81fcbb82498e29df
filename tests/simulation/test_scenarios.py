"""The stories in small: each ends well with lbd's policy, and badly without, or it would show nothing."""

from __future__ import annotations

import logging
from dataclasses import replace
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING

import pytest

from lbd.cluster import outlier
from lbd.cluster.retry_policy import RetryPolicy
from tests.simulation import fleet, scenarios
from tests.simulation.fleet import Fleet

if TYPE_CHECKING:
    from tests.simulation.scenarios import Site


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The master would tell of every ejection."""
    caplog.set_level(logging.CRITICAL, "lbd")


def answered(site: Site, first: int, last: int) -> float:
    """The share of what ended in those seconds."""
    seconds = site.balancer.seconds[first:last]
    return sum(second.ok for second in seconds) / max(1, sum(second.ok + second.failed for second in seconds))


def attempts(site: Site) -> float:
    seconds = site.balancer.seconds
    return sum(second.attempts for second in seconds) / sum(second.requests for second in seconds)


def test_a_budget_ends_a_retry_storm() -> None:
    storm = scenarios.retry_storm(4, budgeted=False, until=110)
    calm = scenarios.retry_storm(4, budgeted=True, until=110)
    assert attempts(storm) > 1.8
    assert attempts(calm) < 1.25
    assert answered(storm, 95, 110) < 0.5, "its cause has been over for 45 s"
    assert answered(calm, 95, 110) > 0.95


def test_ejections_do_not_keep_a_storm_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody fails while it lasts, so that half of them are ejected, and the others cannot bear what all could."""
    forgiving = scenarios.retry_storm(8, budgeted=True, ejecting=True, until=150)
    assert answered(forgiving, 100, 150) > 0.99
    assert not any(second.ejected for second in forgiving.balancer.seconds[100:])
    monkeypatch.setattr(outlier, "MISERY", inf)
    unforgiving = scenarios.retry_storm(8, budgeted=True, ejecting=True, until=150)
    assert answered(unforgiving, 100, 150) < 0.3


def test_panic_keeps_the_few_from_being_crushed() -> None:
    believed = scenarios.panic(10, threshold=0.0, until=120)
    panicked = scenarios.panic(10, threshold=0.5, until=120)
    assert answered(believed, 40, 80) < 0.5
    assert answered(panicked, 40, 120) > 0.99, "not when the checks are right again, either"


def test_slow_start_spares_a_cold_server() -> None:
    at_once = scenarios.slow_start(5, ramp=0.0, until=100)
    slowly = scenarios.slow_start(5, ramp=30.0, until=100)

    def late(site: Site) -> int:
        return sum(seconds > 0.9 for second in site.balancer.seconds[60:] for seconds in second.seconds)

    assert late(at_once) > 100
    assert late(slowly) < late(at_once) / 10


def test_ejection_does_not_flap() -> None:
    site = scenarios.flapping(60, hours=0.5, rate=60.0)
    bad, good = scenarios.ejections_of(site)
    assert not good
    policy = site.balancer.policy.outlier
    # From 30 s on each is twice as long, up to five minutes.
    assert min(bad) >= 1
    assert max(bad) <= 4 + 1800 / policy.ejection_max
    for times in site.balancer.ejections.values():
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert all(gap >= policy.ejection for gap in gaps)


def test_a_large_cluster_survives_all_of_it() -> None:
    """`make simulation` does the same with thousands."""
    story = Fleet(120, replace(fleet.POLICY, retry=RetryPolicy(budget_min=0))).run()
    balancer = story.site.balancer
    for event, least in (("a bad build", 0.999), ("a slow zone", 0.995), ("a rolling deployment", 0.999), ("wrong checks", 0.999)):
        assert story.answered(*fleet.EVENTS[event]) > least, event
    assert story.answered(fleet.END - 300, fleet.END) > 0.999, "a stall in the rush hour is over when it is over"
    assert max(story.attempts(minute, minute + 60) for minute in range(0, int(fleet.END), 60)) < 1.25
    assert story.attempts(0, fleet.END) < 1.1

    bad = story.times([*story.bad, *story.limping], fleet.BAD, fleet.DEPLOY)
    assert min(bad) >= 1
    assert max(bad) <= fleet.most_ejections(fleet.DEPLOY - fleet.BAD)
    assert story.unjust() == []
    assert balancer.most_out == len(story.servers) * balancer.policy.outlier.max_ejected


def test_a_large_cluster_does_not_without() -> None:
    story = Fleet(120, fleet.WITHOUT, budgeted=False).run()
    assert story.answered(*fleet.EVENTS["wrong checks"]) < 0.97
    assert story.answered(fleet.END - 300, fleet.END) < 0.1
