"""What a cluster has counted, learnt and begun lives through a reload."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

from lbd.cluster.cluster import Cluster, ClusterPolicy, RetryPolicy, TimeoutPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.slow_start import GRAIN
from tests.cluster.fakes import Facts

FACTS = [Facts(name, index=index) for index, name in enumerate(("a:1", "b:1"))]


class Reloaded:
    """A cluster that has been at work, and what it tells of its endpoints; time goes by when it is told to."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - any field of the policy
        self.now = 100.0
        self.told: list[str] = []
        policy = ClusterPolicy("web", (), **settings)
        self.cluster = Cluster(policy, None, None, Random(1), lambda _address, kind, _what: self.told.append(kind), lambda: self.now)
        self.cluster.update(FACTS)

    def reload(self, **changes: Any) -> None:  # noqa: ANN401 - any field of the policy
        """As a worker does it: other settings, then the endpoints that the master names."""
        timeouts = TimeoutPolicy(total=self.now)  # something else than before, each time
        self.cluster.apply_policy(replace(self.cluster.policy, timeouts=timeouts, **changes))
        self.cluster.update(FACTS)

    def spent(self) -> int:
        """How many retries there may be now."""
        count = 0
        while self.cluster.budget.spend(self.now):
            count += 1
        return count


def test_a_retry_budget_that_is_used_up_stays_so() -> None:
    subject = Reloaded()
    assert subject.spent() == 30  # the least, saved up
    subject.reload()
    subject.reload(retry=RetryPolicy(attempts=5, budget=0.5))
    assert subject.spent() == 0
    subject.now += 1.0
    assert subject.spent() == 3


def test_requests_of_before_bear_retries_after() -> None:
    subject = Reloaded(retry=RetryPolicy(budget=0.2, budget_min=0))
    subject.cluster.budget.begun += 100
    subject.reload()
    assert subject.spent() == 20
    subject.reload(retry=RetryPolicy(budget=0.4, budget_min=0))
    assert subject.spent() == 20


def test_a_percentile_of_answers_is_not_learnt_anew_unless_it_is_another_one() -> None:
    subject = Reloaded(retry=RetryPolicy(hedge_after="p95"))
    hedging = subject.cluster.hedging
    assert hedging is not None
    for _ in range(100):
        hedging.observe(0.2)
    subject.reload()
    subject.reload(retry=RetryPolicy(hedge_after="p95", attempts=5))
    assert subject.cluster.hedging is hedging
    assert 0.2 <= hedging.seconds < 0.23
    subject.reload(retry=RetryPolicy(hedge_after="p50"))
    assert subject.cluster.hedging is not hedging


def test_who_comes_back_goes_on_from_where_it_was() -> None:
    subject = Reloaded(slow_start=10.0, panic=0.0)
    cluster = subject.cluster
    cluster.set_health("a:1", False)
    cluster.set_health("a:1", True)
    subject.now += 5.0
    cluster.tick()
    weights = [11, GRAIN]
    assert [endpoint.weight for endpoint in cluster.endpoints] == weights
    subject.reload()
    assert [endpoint.weight for endpoint in cluster.endpoints] == weights
    subject.now += 5.0
    cluster.tick()
    assert [endpoint.weight for endpoint in cluster.endpoints] == [1, 1]


def test_and_all_the_slower_where_the_time_is_longer_now() -> None:
    subject = Reloaded(slow_start=10.0, panic=0.0)
    cluster = subject.cluster
    cluster.set_health("a:1", False)
    cluster.set_health("a:1", True)
    subject.now += 5.0
    subject.reload(slow_start=20.0)
    assert [endpoint.weight for endpoint in cluster.endpoints] == [round(GRAIN * (0.1 + 0.9 / 4)), GRAIN]


def test_a_run_of_failures_goes_on() -> None:
    subject = Reloaded(outlier=OutlierPolicy(failures=3))
    endpoint = subject.cluster.endpoints[0]
    endpoint.attempted("connect_refused")
    endpoint.attempted("connect_refused")
    subject.reload()
    assert subject.told == []
    endpoint.attempted("connect_refused")
    assert subject.told == ["gateway"]


def test_and_may_be_long_enough_for_a_new_limit() -> None:
    subject = Reloaded(outlier=OutlierPolicy(failures=10))
    endpoint = subject.cluster.endpoints[0]
    for _ in range(5):
        endpoint.attempted("connect_refused")
    subject.reload(outlier=OutlierPolicy(failures=6))
    assert subject.told == []
    endpoint.attempted("connect_refused")
    assert subject.told == ["gateway"]
