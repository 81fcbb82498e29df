"""Bounded loads: how much more than its share a hash may send to one endpoint."""

from __future__ import annotations

from math import ceil
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.bound import LoadBound
from lbd.cluster.select import HASHES
from tests.cluster.fakes import Facts, endpoints, filled_cluster, give_load

# (weights, loads, factor, may each take one more?)
CASES = [
    ((1, 1), (0, 0), 1.25, (True, True)),
    ((1, 1), (1, 0), 1.25, (True, True)),  # ceil(1.25 * 2 / 2) = 2
    ((1, 1), (2, 0), 1.25, (False, True)),  # ceil(1.25 * 3 / 2) = 2
    ((1, 1), (6, 4), 1.25, (True, True)),  # ceil(1.25 * 11 / 2) = 7
    ((1, 1), (7, 3), 1.25, (False, True)),
    ((1, 1), (7, 3), 2.0, (True, True)),
    ((3, 1), (6, 2), 1.0, (True, True)),  # 7 and 3 are their shares of 9
    ((3, 1), (7, 1), 1.0, (False, True)),
    ((1, 1, 1), (3, 3, 3), 1.0, (True, True, True)),
    ((1, 1, 1), (4, 3, 2), 1.0, (False, True, True)),
    ((1, 1), (1, 1), 0.2, (True, True)),  # below 1 is 1
]


@pytest.mark.parametrize(("weights", "loads", "factor", "expected"), CASES)
def test_who_may_take_one_more(weights: tuple[int, ...], loads: tuple[int, ...], factor: float, expected: tuple[bool, ...]) -> None:
    members = endpoints(*weights)
    bound = LoadBound(members, factor)
    for endpoint, load in zip(members, loads, strict=True):
        give_load(endpoint, load)
    assert tuple(map(bound.allows, members)) == expected


def test_somebody_it_does_not_hold_for_may() -> None:
    bound = LoadBound(endpoints(1, 1), 1.25)
    (other,) = endpoints(1)
    give_load(other, 100)
    assert bound.allows(other)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 50)), min_size=1, max_size=8),
    st.floats(1.0, 3.0),
)
def test_somebody_always_may(members: list[tuple[int, int]], factor: float) -> None:
    found = endpoints(*[weight for weight, _ in members])
    for endpoint, (_, load) in zip(found, members, strict=True):
        give_load(endpoint, load)
    bound = LoadBound(found, factor)
    assert any(map(bound.allows, found))


def test_with_many_endpoints_the_mean_is_learned_by_and_by() -> None:
    members = endpoints(*[1] * 80)
    bound = LoadBound(members, 1.25)
    for endpoint in members:
        give_load(endpoint, 4)
    answers = [bound.allows(members[0]) for _ in range(12)]
    assert not answers[0]
    assert all(answers[10:])


def test_the_load_of_the_one_asked_about_is_always_as_of_now() -> None:
    members = endpoints(*[1] * 80)
    bound = LoadBound(members, 1.25)
    assert bound.allows(members[79])
    give_load(members[79], 5)
    assert not bound.allows(members[79])


@pytest.mark.parametrize("balance", HASHES)
@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_one_hot_key_does_not_sink_its_endpoint(balance: str, factor: float) -> None:
    names = [f"10.0.0.{i}:80" for i in range(8)]
    cluster = filled_cluster([Facts(name, index=i) for i, name in enumerate(names)], Random(1), balance=balance, bound=factor)
    for requests in range(1, 201):
        endpoint = cluster.pick(b"hot", ())
        assert endpoint is not None
        endpoint.begin()
        assert max(e.load() for e in cluster.endpoints) <= ceil(factor * requests / 8)


@pytest.mark.parametrize("balance", HASHES)
def test_at_low_load_every_key_stays_at_home(balance: str) -> None:
    states = [Facts(f"10.0.0.{i}:80") for i in range(8)]
    bounded = filled_cluster(states, Random(1), balance=balance, bound=1.25)
    free = filled_cluster(states, Random(1), balance=balance)
    for i in range(500):
        got, wanted = bounded.pick(b"%d" % i, ()), free.pick(b"%d" % i, ())
        assert got is not None
        assert wanted is not None
        assert got.address == wanted.address


@pytest.mark.parametrize("balance", HASHES)
def test_the_mean_is_of_those_that_are_up(balance: str) -> None:
    """Two of four hold everything: each may have its bounded half, not a bounded quarter."""
    states = [Facts(f"10.0.0.{i}:80", up=i < 2) for i in range(4)]
    cluster = filled_cluster(states, Random(1), balance=balance, bound=1.0)
    for requests in range(1, 41):
        endpoint = cluster.pick(b"hot", ())
        assert endpoint is not None
        endpoint.begin()
        assert max(e.load() for e in cluster.endpoints) <= ceil(requests / 2)


def test_when_the_bound_forbids_those_who_are_left_it_yields() -> None:
    states = [Facts("a:1", max_requests=1), Facts("b:1"), Facts("c:1")]
    cluster = filled_cluster(states, Random(1), balance="consistent-hash", bound=1.0)
    a, b, c = cluster.endpoints
    give_load(a, 1)
    give_load(b, 9)
    assert cluster.pick(b"x", [c]) is b


def test_a_bound_is_for_hashes() -> None:
    cluster = filled_cluster([Facts("a:1"), Facts("b:1")], Random(1), balance="round-robin", bound=1.0)
    give_load(cluster.endpoints[0], 50)
    assert {cluster.pick(b"", ()) for _ in range(4)} == set(cluster.endpoints)
