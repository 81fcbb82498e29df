"""The stories in small: each ends well with lbd's policy, and badly without, or it would show nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tests.simulation import scenarios

if TYPE_CHECKING:
    from tests.simulation.scenarios import Site


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
