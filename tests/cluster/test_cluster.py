"""Cluster: who may be picked, and what survives a change."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.cluster import BALANCES, Cluster, ClusterPolicy, EndpointPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.cluster.select import HASHES
from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.core.board import Board
from tests.cluster.fakes import Connection, Facts, filled_cluster, give_load

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint

TURNS = [balance for balance in BALANCES if balance not in HASHES]


def facts(*names: str, **changes: Any) -> list[Facts]:  # noqa: ANN401 - any field
    return [replace(Facts(name, index=index), **changes) for index, name in enumerate(names)]


def picked(cluster: Cluster, count: int = 300) -> Counter[str]:
    """Where so many requests would go, each with a key of its own; "" for nowhere."""
    found = (cluster.pick(b"key-%d" % i, ()) for i in range(count))
    return Counter(endpoint.address if endpoint is not None else "" for endpoint in found)


def who(cluster: Cluster) -> set[str]:
    return set(picked(cluster))


ABC = ("a:1", "b:1", "c:1")


# Picking


@pytest.mark.parametrize("balance", BALANCES)
def test_nobody(balance: str) -> None:
    cluster = Cluster(ClusterPolicy("web", (), balance=balance), None, None, Random(1))
    assert cluster.pick(b"x", ()) is None
    cluster.update([])
    assert cluster.pick(b"x", ()) is None
    assert not cluster.is_panicking


@pytest.mark.parametrize("balance", BALANCES)
def test_the_only_one(balance: str) -> None:
    cluster = filled_cluster(facts("a:1"), Random(1), balance=balance)
    (only,) = cluster.endpoints
    assert cluster.pick(b"x", ()) is only
    assert cluster.pick(b"x", [only]) is None


@pytest.mark.parametrize("balance", BALANCES)
def test_each_attempt_goes_to_another_endpoint_until_there_is_none(balance: str) -> None:
    cluster = filled_cluster(facts(*"abcdefgh"), Random(1), balance=balance)
    for key in (b"", b"x", b"y"):
        tried: list[Endpoint] = []
        while (endpoint := cluster.pick(key, tried)) is not None:
            tried.append(endpoint)
        assert sorted(endpoint.address for endpoint in tried) == list("abcdefgh")


@pytest.mark.parametrize("balance", BALANCES)
def test_the_unhealthy_get_nothing(balance: str) -> None:
    cluster = filled_cluster(facts(*ABC), Random(1), balance=balance)
    assert who(cluster) == set(ABC)
    cluster.set_health("b:1", False)
    assert who(cluster) == {"a:1", "c:1"}
    cluster.set_health("a:1", False)
    cluster.set_health("b:1", True)
    assert who(cluster) == {"b:1", "c:1"}
    assert cluster.healthy_count == 2
    cluster.set_health("a:1", True)
    assert who(cluster) == set(ABC)


def test_the_health_of_an_address_that_has_left_is_nobodys() -> None:
    cluster = filled_cluster(facts("a:1"), Random(1))
    cluster.set_health("gone:1", False)
    assert who(cluster) == {"a:1"}


@pytest.mark.parametrize("balance", TURNS)
def test_what_one_that_is_down_leaves_is_shared_by_weight(balance: str) -> None:
    states = [Facts("a:1", 8), Facts("b:1", 2), Facts("c:1", 1), Facts("d:1", 1)]
    cluster = filled_cluster(states, Random(1), balance=balance)
    cluster.set_health("a:1", False)
    found = picked(cluster, 4000)
    assert [found[address] / 4000 for address in ("a:1", "b:1", "c:1", "d:1")] == pytest.approx([0, 0.5, 0.25, 0.25], abs=0.03)


@pytest.mark.parametrize("balance", HASHES)
def test_only_the_keys_of_one_that_is_down_move_and_they_come_back(balance: str) -> None:
    cluster = filled_cluster(facts(*"abcdefgh"), Random(1), balance=balance)
    keys = [b"%d" % i for i in range(500)]
    before = [cluster.pick(key, ()) for key in keys]
    cluster.set_health("c", False)
    during = [cluster.pick(key, ()) for key in keys]
    for old, new in zip(before, during, strict=True):
        assert old is not None
        assert new is not None
        assert (old is new) == (old.address != "c")
    cluster.set_health("c", True)
    assert [cluster.pick(key, ()) for key in keys] == before


# Panic: (endpoints, how many of them down, panic, does health still count?)
PANICS = [
    (4, 2, 0.5, True),  # just half is not below half
    (4, 3, 0.5, False),
    (4, 4, 0.5, False),
    (4, 4, 0.0, True),
    (1, 1, 0.5, False),
    (2, 1, 0.5, True),
    (3, 2, 0.5, False),
    (10, 1, 1.0, False),
    (10, 9, 0.1, True),
]


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize(("count", "down", "panic", "counts"), PANICS)
def test_panic(balance: str, count: int, down: int, panic: float, counts: bool) -> None:
    addresses = [f"10.0.0.{i}:80" for i in range(count)]
    cluster = filled_cluster(facts(*addresses), Random(1), balance=balance, panic=panic)
    for address in addresses[:down]:
        cluster.set_health(address, False)
    assert who(cluster) == (set(addresses[down:]) or {""} if counts else set(addresses))
    assert cluster.is_panicking is not counts
    cluster.set_health(addresses[0], True)
    for address in addresses:
        cluster.set_health(address, True)
    assert who(cluster) == set(addresses)
    assert not cluster.is_panicking


# Backups


def with_backups(down: str = "") -> list[Facts]:
    return [Facts(name, up=name not in down, backup=name in "yz") for name in "abyz"]


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize(
    ("down", "expected"),
    [
        ("", "ab"),
        ("a", "b"),
        ("ab", "yz"),  # that is what backups are for: no panic while one of them is up
        ("aby", "z"),
        ("abyz", "ab"),  # panic
        ("yz", "ab"),
        ("ayz", "b"),  # half of them: no panic
    ],
)
def test_backups_are_used_when_nobody_else_can_be(balance: str, down: str, expected: str) -> None:
    cluster = filled_cluster(with_backups(down), Random(1), balance=balance)
    assert who(cluster) == set(expected)


@pytest.mark.parametrize("balance", BALANCES)
def test_backups_are_tried_last(balance: str) -> None:
    cluster = filled_cluster(with_backups(), Random(1), balance=balance)
    tried: list[Endpoint] = []
    while (endpoint := cluster.pick(b"x", tried)) is not None:
        tried.append(endpoint)
    assert sorted(e.address for e in tried[:2]) == ["a", "b"]
    assert sorted(e.address for e in tried[2:]) == ["y", "z"]


def test_backups_among_themselves_are_like_others() -> None:
    cluster = filled_cluster(facts("a:1", "b:1", backup=True), Random(1))
    assert who(cluster) == {"a:1", "b:1"}
    cluster.set_health("a:1", False)
    assert who(cluster) == {"b:1"}
    cluster.set_health("b:1", False)
    assert who(cluster) == {"a:1", "b:1"}


@pytest.mark.parametrize("balance", BALANCES)
def test_who_is_drained_gets_nothing_whatever_its_health(balance: str) -> None:
    members = facts(*ABC)
    cluster = filled_cluster(members, Random(1), balance=balance)
    places = {key: cluster.pick(key, ()) for key in (b"key-%d" % i for i in range(300))}
    drained = [members[0], replace(members[1], drained=True), members[2]]
    cluster.update(drained)
    assert who(cluster) == {"a:1", "c:1"}
    if balance in HASHES:
        moved = {key for key, endpoint in places.items() if cluster.pick(key, ()) is not endpoint}
        assert moved == {key for key, endpoint in places.items() if endpoint is not None and endpoint.address == "b:1"}
    cluster.set_health("b:1", True)
    assert who(cluster) == {"a:1", "c:1"}, "a check brings nobody back whom an operator has taken out"
    cluster.set_health("a:1", False)
    cluster.set_health("c:1", False)
    assert (who(cluster), cluster.is_panicking) == ({"a:1", "c:1"}, True), "nor does panic"
    cluster.set_health("a:1", True)
    assert (who(cluster), cluster.is_panicking) == ({"a:1"}, False), "one of the two that count is up"
    cluster.update(members)
    assert who(cluster) == set(ABC)


@pytest.mark.parametrize("balance", BALANCES)
def test_when_all_are_drained_backups_take_over_and_then_nobody(balance: str) -> None:
    members = [*facts("a:1", drained=True), replace(Facts("b:1", index=1), backup=True)]
    cluster = filled_cluster(members, Random(1), balance=balance)
    assert who(cluster) == {"b:1"}
    cluster.update([replace(member, drained=True) for member in members])
    assert who(cluster) == {""}
    assert cluster.why_none() == "no endpoint of web can take the request: 0 of 2 are up, 2 drained"


# Limits


@pytest.mark.parametrize("balance", BALANCES)
def test_an_endpoint_with_max_requests_in_flight_is_passed_over(balance: str) -> None:
    states = [replace(fact, max_requests=2) for fact in facts(*ABC)]
    cluster = filled_cluster(states, Random(1), balance=balance)
    for taken in range(6):
        endpoint = cluster.pick(b"x", ())
        assert endpoint is not None, taken
        endpoint.begin()
    assert [e.load() for e in cluster.endpoints] == [2, 2, 2]
    assert cluster.pick(b"x", ()) is None
    cluster.endpoints[1].end()
    assert who(cluster) == {"b:1"}


def test_the_only_one_has_a_limit_too() -> None:
    cluster = filled_cluster(facts("a:1", max_requests=1), Random(1))
    cluster.endpoints[0].begin()
    assert cluster.pick(b"", ()) is None


def test_a_limit_holds_in_panic_too() -> None:
    cluster = filled_cluster(facts("a:1", "b:1", up=False, max_requests=1), Random(1))
    cluster.endpoints[0].begin()
    assert who(cluster) == {"b:1"}
    assert cluster.is_panicking


def test_full_endpoints_send_to_the_backup() -> None:
    cluster = filled_cluster([Facts("a:1", max_requests=1), Facts("b:1", backup=True)], Random(1))
    assert who(cluster) == {"a:1"}
    cluster.endpoints[0].begin()
    assert who(cluster) == {"b:1"}


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([], "web has no endpoints: no name has resolved to an address yet"),
        ([Facts("a:1", up=False), Facts("b:1", up=False)], "no endpoint of web can take the request: 0 of 2 are up"),
        (
            [Facts("a:1", up=False), Facts("b:1", max_requests=1)],
            "no endpoint of web can take the request: 1 of 2 are up, 1 have as much as they may",
        ),
    ],
)
def test_why_nobody_can_take_it(members: list[Facts], sentence: str) -> None:
    cluster = filled_cluster(members, Random(1), panic=0.0)
    while endpoint := cluster.pick(b"", ()):
        endpoint.begin()
    assert cluster.why_none() == sentence


def test_limits_hold_over_all_workers() -> None:
    board = Board.create(2, cells=64, endpoints=16)
    try:
        states = [Facts("a:1", index=3, max_requests=2), Facts("b:1", index=4)]
        cluster = filled_cluster(states, Random(1), board)
        board.segment(1).add_inflight(3, 1)
        cluster.endpoints[0].begin()
        assert cluster.endpoints[0].load() == 2
        assert who(cluster) == {"b:1"}
        board.segment(1).add_inflight(3, -1)
        assert who(cluster) == {"a:1", "b:1"}
    finally:
        board.close()


# Changes


def test_who_stays_keeps_its_object() -> None:
    cluster = filled_cluster(facts(*ABC), Random(1))
    a, b, c = cluster.endpoints
    connection = Connection()
    b.pool.give(connection, 0.0)
    b.observe(0.5, 1.0)
    b.begin()
    removed = cluster.update([Facts("c:1", 5, index=2), Facts("b:1", index=1, up=False), Facts("d:1", index=7)])
    assert removed == (a,)
    assert cluster.endpoints[:2] == (c, b)
    assert (c.own_weight, b.up, b.latency, b.load(), len(b.pool)) == (5, False, 0.5, 1, 1)
    assert cluster.endpoints[2].address == "d:1"
    assert who(cluster) == {"c:1", "d:1"}
    everybody = cluster.endpoints
    assert cluster.update([]) == everybody
    assert who(cluster) == {""}


def test_an_update_that_changes_nothing_does_not_begin_anew() -> None:
    """Round-robin goes on where it was; a ring, which is dear, is not built again."""
    for balance in BALANCES:
        cluster = filled_cluster(facts(*ABC), Random(1), balance=balance)
        selectors = cluster.selectors
        assert cluster.update(facts(*ABC)) == ()
        cluster.apply_policy(cluster.policy)
        cluster.update(facts(*ABC))
        assert cluster.selectors == selectors
        cluster.update([replace(fact, weight=2) for fact in facts(*ABC)])
        assert cluster.selectors != selectors


@pytest.mark.parametrize("balance", HASHES)
def test_a_flip_does_not_build_a_ring(balance: str) -> None:
    cluster = filled_cluster(facts(*ABC), Random(1), balance=balance)
    selectors = cluster.selectors
    cluster.set_health("a:1", False)
    assert who(cluster) == {"b:1", "c:1"}
    assert cluster.selectors == selectors


def test_an_address_given_twice_is_one_endpoint() -> None:
    cluster = filled_cluster([Facts("a:1", 2), Facts("a:1", 3), Facts("b:1")], Random(1))
    assert [(e.address, e.weight) for e in cluster.endpoints] == [("a:1", 2), ("b:1", 1)]


def test_requests_in_flight_move_with_their_endpoint_to_another_index() -> None:
    board = Board.create(2, cells=64, endpoints=16)
    try:
        cluster = filled_cluster([Facts("a:1", index=1), Facts("b:1", index=2)], Random(1), board)
        a = cluster.endpoints[0]
        give_load(a, 3)
        cluster.update([Facts("a:1", index=5), Facts("b:1", index=2)])
        assert (board.inflight(1), board.inflight(5), a.load()) == (0, 3, 3)
        give_load(a, -3)
        assert (board.inflight(1), board.inflight(5)) == (0, 0)
    finally:
        board.close()


def test_a_reload_changes_the_balance_and_the_pools() -> None:
    cluster = filled_cluster(facts(*ABC), Random(1))
    before = cluster.endpoints
    assert cluster.hash_key is None
    policy = replace(cluster.policy, balance="maglev", hash_key="header:x-user", pool=PoolPolicy(max_idle=1))
    cluster.apply_policy(policy)
    cluster.update(facts(*ABC))
    assert cluster.endpoints == before
    assert cluster.policy is policy
    assert cluster.hash_key is not None
    assert cluster.hash_key.text == "header:x-user"
    assert {endpoint.pool.policy.max_idle for endpoint in before} == {1}
    assert len({cluster.pick(b"alice", ()) for _ in range(20)}) == 1
    cluster.apply_policy(replace(policy, balance="round-robin"))
    assert cluster.hash_key is None
    assert len({cluster.pick(b"alice", ()) for _ in range(20)}) == 3  # without an update(), too


def test_tls_is_spoken_with_those_with_whom_it_is() -> None:
    """A reload that changes with whom drops connections; one that changes something else does not."""
    cluster = filled_cluster(facts(*ABC), Random(1))
    way = object()
    endpoints = (EndpointPolicy("a:1"), EndpointPolicy("b:1", tls=False), EndpointPolicy("c:1"))
    pools = [endpoint.pool for endpoint in cluster.endpoints]
    cluster.apply_policy(replace(cluster.policy, endpoints=endpoints, tls=ClusterTlsPolicy()))
    cluster.originate(way)
    cluster.update(facts(*ABC, "d:1"))
    assert [endpoint.origination for endpoint in cluster.endpoints] == [way, None, way, way]
    assert not any(endpoint.pool in pools for endpoint in cluster.endpoints)
    pools = [endpoint.pool for endpoint in cluster.endpoints]
    cluster.apply_policy(replace(cluster.policy, panic=0.9))
    assert [endpoint.pool for endpoint in cluster.endpoints] == pools
    cluster.originate(None)
    assert not any(endpoint.origination for endpoint in cluster.endpoints)


def test_a_reload_may_raise_the_panic() -> None:
    cluster = filled_cluster([Facts("a:1"), Facts("b:1", up=False)], Random(1), panic=0.0)
    assert who(cluster) == {"a:1"}
    cluster.apply_policy(replace(cluster.policy, panic=0.9))
    assert who(cluster) == {"a:1", "b:1"}


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(BALANCES),
    st.lists(st.tuples(st.sampled_from(["flip", "begin", "end", "weigh", "leave", "join"]), st.integers(0, 7)), max_size=30),
)
def test_whatever_happens_a_pick_is_somebody_who_may_be_picked(balance: str, events: list[tuple[str, int]]) -> None:
    """Against the rules spelled out."""
    states = {f"e{i}": Facts(f"e{i}", 1 + i % 3, i, backup=i > 5, max_requests=i % 4) for i in range(8)}
    cluster = filled_cluster(list(states.values()), Random(1), balance=balance)
    for event, number in events:
        name = f"e{number}"
        endpoint = next((e for e in cluster.endpoints if e.address == name), None)
        if event == "join":
            states.setdefault(name, Facts(name, 1, number))
        elif event == "leave":
            states.pop(name, None)
        elif endpoint is not None and event == "flip":
            states[name] = replace(states[name], up=not endpoint.up)
            cluster.set_health(name, not endpoint.up)
        elif endpoint is not None and event == "weigh":
            states[name] = replace(states[name], weight=states[name].weight % 5 + 1)
        elif endpoint is not None and event in ("begin", "end"):
            give_load(endpoint, 1 if event == "begin" or not endpoint.load() else -1)
        if event in ("join", "leave", "weigh"):
            cluster.update(states.values())
        check_pick(cluster)


def check_pick(cluster: Cluster) -> None:
    got = cluster.pick(b"k", ())
    first = [e for e in cluster.endpoints if not e.backup] or list(cluster.endpoints)
    backups = [e for e in cluster.endpoints if e not in first]
    is_panic = not any(e.up for e in backups) and sum(e.up for e in first) < 0.5 * len(first)
    assert cluster.is_panicking == is_panic
    free = [[e for e in tier if (e.up or is_panic) and not e.is_full()] for tier in (first, backups)]
    if not free[0] + free[1]:
        assert got is None
    else:
        assert got in (free[0] or free[1])
