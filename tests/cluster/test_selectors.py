"""What every selector promises, and what each of them promises besides.

Seeds are fixed, so that a tolerance either always holds or never.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.lottery import Lottery
from lbd.cluster.select import HASHES, SELECTORS, build_selector
from tests.cluster.fakes import endpoints, give_load, make_endpoint

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.selector import Selector

ALL = sorted(SELECTORS)
TURNS = sorted(set(SELECTORS) - set(HASHES))
LOADED = ["least-requests", "power-of-two", "peak-ewma"]
KEYS = [b"user-%d" % i for i in range(20_000)]


def build(balance: str, members: list[Endpoint], seed: int = 1) -> Selector:
    return build_selector(balance, members, Random(seed))


def shares(selector: Selector, count: int = len(KEYS)) -> dict[str, float]:
    """Of each address, among the first candidates of so many keys."""
    counts = Counter(selector.first(key).address for key in KEYS[:count])
    return {address: number / count for address, number in counts.items()}


# All of them


@pytest.mark.parametrize("balance", ALL)
@pytest.mark.parametrize("weights", [(1,), (7,), (1, 1), (1, 1, 1, 1, 1), (5, 1, 1), (100, 1), (2000, 1, 1), (3, 2, 2, 1, 9)])
def test_candidates_are_all_endpoints_each_once(balance: str, weights: tuple[int, ...]) -> None:
    members = endpoints(*weights)
    selector = build(balance, members)
    for key in KEYS[:50]:
        found = list(selector.candidates(key))
        assert len(found) == len(members)
        assert set(found) == set(members)


@pytest.mark.parametrize("balance", ALL)
@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.integers(1, 300), min_size=1, max_size=40), seed=st.integers(0, 1000), loads=st.data())
def test_candidates_are_a_permutation_whatever_weights_and_loads(balance: str, weights: list[int], seed: int, loads: st.DataObject) -> None:
    members = endpoints(*weights)
    selector = build(balance, members, seed)
    for key in KEYS[:3]:
        give_load(loads.draw(st.sampled_from(members)), loads.draw(st.integers(0, 5)))
        assert selector.first(key) in members
        assert sorted(map(id, selector.candidates(key))) == sorted(map(id, members))


@pytest.mark.parametrize("balance", ALL)
def test_the_first_candidate_is_what_first_says(balance: str) -> None:
    members = endpoints(4, 1, 2, 1, 1)
    one, other = build(balance, members), build(balance, members)  # from the same seed
    for key in KEYS[:100]:
        assert one.first(key) is next(iter(other.candidates(key)))


@pytest.mark.parametrize("balance", ALL)
@pytest.mark.parametrize("weights", [(1, 1, 1, 1), (3, 1), (5, 3, 2), (1, 10, 1)])
def test_requests_are_shared_by_weight(balance: str, weights: tuple[int, ...]) -> None:
    found = shares(build(balance, endpoints(*weights)))
    # Of a key's random place the ring's shares differ most: 160 points each are within some 8 % of even.
    tolerance = 0.1 if balance == "consistent-hash" else 0.012
    for address, weight in zip([e.address for e in endpoints(*weights)], weights, strict=True):
        assert found[address] == pytest.approx(weight / sum(weights), abs=tolerance)


@pytest.mark.parametrize("balance", ALL)
def test_one_endpoint_gets_everything(balance: str) -> None:
    members = endpoints(3)
    selector = build(balance, members)
    assert {selector.first(key) for key in KEYS[:20]} == set(members)


@pytest.mark.parametrize("balance", TURNS)
@pytest.mark.parametrize("weights", [[1] * 20, list(range(30, 50))], ids=["equal", "different"])
def test_two_workers_do_not_march_in_step(balance: str, weights: list[int]) -> None:
    members = endpoints(*weights)
    starts = {build(balance, members, seed).first(b"").address for seed in range(40)}
    assert len(starts) > 10


@pytest.mark.parametrize("balance", ALL)
def test_the_same_seed_gives_the_same_order(balance: str) -> None:
    members = endpoints(3, 1, 4, 1, 5)
    one, other = build(balance, members, 9), build(balance, members, 9)
    assert [one.first(key) for key in KEYS[:200]] == [other.first(key) for key in KEYS[:200]]


@pytest.mark.parametrize("balance", TURNS)
def test_whoever_comes_after_a_heavy_one_is_not_always_the_same(balance: str) -> None:
    selector = build(balance, endpoints(60_000, 1, 1, 1, 1))
    seconds = Counter(list(islice(selector.candidates(b""), 2))[1].address for _ in range(200))
    assert len(seconds) == 4
    assert max(seconds.values()) < 120


def test_an_unfinished_look_at_the_candidates_leaves_no_trace_but_turns() -> None:
    for balance in ALL:
        members = endpoints(2, 1, 1)
        selector = build(balance, members)
        for key in KEYS[:300]:
            next(iter(selector.candidates(key)))
        assert set(shares(selector, 300)) == {e.address for e in members}


# Round-robin


def test_equal_weights_go_round() -> None:
    members = endpoints(1, 1, 1, 1)
    selector = build("round-robin", members)
    start = members.index(selector.first(b""))
    assert [selector.first(b"") for _ in range(8)] == [members[(start + i) % 4] for i in range(1, 9)]


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.integers(1, 12), min_size=1, max_size=12), seed=st.integers(0, 10_000))
def test_no_bursts(weights: list[int], seed: int) -> None:
    """In any stretch of turns a group of one weight is within one turn of its share for each other group: nobody waits, nobody floods."""
    members = endpoints(*weights)
    selector = build("round-robin", members, seed)
    total, groups = sum(weights), len(set(weights))
    turns = [selector.first(b"").weight for _ in range(4 * total)]
    for weight in set(weights):
        share = weight * weights.count(weight) / total
        for length in (1, total // 2, total, 2 * total):
            for start in range(0, len(turns) - length, max(1, length // 3)):
                got = turns[start : start + length].count(weight)
                assert abs(got - share * length) <= groups, (weight, start, length)


def test_a_heavy_endpoint_is_interleaved_with_light_ones() -> None:
    """Weight 5 among 1, 1: nginx's order has at most 2 in a row within a round and 3 across two; a plain list would have 5."""
    for seed in range(20):
        members = endpoints(5, 1, 1)
        turns = "".join("abc"[members.index(build_turn)] for build_turn in take(build("round-robin", members, seed), 70))
        assert "aaaa" not in turns
        assert turns.count("a") == pytest.approx(50, abs=1)
        assert turns.count("b") == pytest.approx(10, abs=1)


def take(selector: Selector, count: int) -> list[Endpoint]:
    return [selector.first(b"") for _ in range(count)]


def test_round_robin_is_exact_over_millions_of_turns_worth_of_deadlines() -> None:
    """Past the point where deadlines are set back."""
    members = endpoints(3, 1, 1)
    selector = build("round-robin", members)
    counts = Counter(take(selector, 5 * 3000))
    assert [counts[e] for e in members] == pytest.approx([9000, 3000, 3000], abs=2)


def test_when_a_turn_cannot_be_used_the_next_ones_are_taken() -> None:
    """Whoever filters skips one endpoint; what is left keeps its proportions: no neighbour inherits everything."""
    members = endpoints(4, 2, 1, 1)
    selector = build("round-robin", members)
    counts = Counter(next(e for e in selector.candidates(b"") if e is not members[0]) for _ in range(4000))
    assert [counts[e] / 4000 for e in members[1:]] == pytest.approx([0.5, 0.25, 0.25], abs=0.02)


# Lots


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 5), st.integers(1, 65535)), min_size=1, max_size=60))
def test_a_lottery_gives_each_number_its_odds(weights: list[int]) -> None:
    """Exactly: the lengths of the stretches of [0, 1) that lead to a number add up to its share."""
    lottery = Lottery(weights)
    count, total = len(lottery.classes), sum(weights)
    odds = [0.0] * len(weights)
    for group, members in enumerate(lottery.classes):
        own = min(1.0, lottery.own[group])
        others = lottery.classes[lottery.fill[group]]
        for part, numbers, begins in ((own, members, 0.0), (1.0 - own, others, own)):
            for place, number in enumerate(numbers):
                odds[number] += part / len(numbers) / count
                if part > 1e-6:
                    assert lottery.draw((group + begins + part * (place + 0.5) / len(numbers)) / count) == number
    assert odds == pytest.approx([weight / total for weight in weights], abs=1e-9)
    assert lottery.draw(0.0) in range(len(weights))
    assert lottery.draw(1.0 - 2**-53) in range(len(weights))


@pytest.mark.parametrize("balance", ["power-of-two", "peak-ewma"])
def test_of_two_the_less_loaded_for_its_weight_is_taken(balance: str) -> None:
    members = endpoints(1, 1)
    selector = build(balance, members)
    give_load(members[0], 3)
    assert set(take(selector, 100)) == {members[1]}
    give_load(members[1], 8)
    assert set(take(selector, 100)) == {members[0]}
    heavy = endpoints(10, 1)
    selector = build(balance, heavy)
    give_load(heavy[0], 9)
    give_load(heavy[1], 2)
    assert set(take(selector, 100)) == {heavy[0]}


# Loads


@pytest.mark.parametrize("balance", LOADED)
def test_requests_in_flight_settle_by_weight(balance: str) -> None:
    """400 requests that do not end."""
    members = endpoints(1, 2, 3, 4, 10)
    selector = build(balance, members)
    for _ in range(400):
        selector.first(b"").begin()
    assert [e.load() for e in members] == pytest.approx([20, 40, 60, 80, 200], abs=15)


def test_least_requests_is_exact_for_a_few_endpoints() -> None:
    members = endpoints(1, 1, 2, 3, 1, 5)
    selector = build("least-requests", members)
    random = Random(5)
    for _ in range(3000):
        chosen = selector.first(b"")
        assert chosen.load() / chosen.weight == min(e.load() / e.weight for e in members)
        chosen.begin()
        for endpoint in members:
            if endpoint.load() and random.random() < 0.15:
                endpoint.end()


def test_least_requests_never_takes_the_busy_for_idle_and_notices_the_idle_soon() -> None:
    members = endpoints(*[1] * 80)
    selector = build("least-requests", members)
    for endpoint in members:
        give_load(endpoint, 5)
    take(selector, 20)
    give_load(members[42], -5)  # told to nobody
    latest = take(selector, 10)  # a look at 8 others each time: all 80 of them
    assert latest[-1] is members[42]
    give_load(members[42], 9)
    assert members[42] not in take(selector, 20)


def test_among_equally_idle_endpoints_least_requests_goes_round_by_weight() -> None:
    members = endpoints(4, 2, 1, 1)
    counts = Counter(take(build("least-requests", members), 800))
    assert [counts[e] for e in members] == pytest.approx([400, 200, 100, 100], abs=3)


def test_an_endpoint_that_was_busy_for_long_has_nothing_to_catch_up_on() -> None:
    members = endpoints(1, 1)
    selector = build("least-requests", members)
    members[0].begin()
    assert set(take(selector, 500)) == {members[1]}
    members[0].end()
    counts = Counter(take(selector, 20))
    assert counts[members[0]] == pytest.approx(10, abs=1)


def test_candidates_of_least_requests_come_by_load() -> None:
    members = endpoints(1, 1, 1, 1)
    for endpoint, load in zip(members, (3, 0, 2, 1), strict=True):
        give_load(endpoint, load)
    assert list(build("least-requests", members).candidates(b"")) == [members[i] for i in (1, 3, 2, 0)]


# Peak EWMA


def test_peak_ewma_prefers_the_quick() -> None:
    members = endpoints(1, 1)
    selector = build("peak-ewma", members)
    members[0].observe(0.200, 1.0)
    members[1].observe(0.010, 1.0)
    assert set(take(selector, 50)) == {members[1]}
    give_load(members[1], 25)  # a queue of 26 at 10 ms against one of 1 at 200 ms
    assert set(take(selector, 50)) == {members[0]}


def test_equally_quick_and_idle_endpoints_share_by_weight() -> None:
    members = endpoints(3, 1)
    for endpoint in members:
        endpoint.observe(0.1, 1.0)
    counts = Counter(take(build("peak-ewma", members), 4000))
    assert counts[members[0]] == pytest.approx(3000, abs=120)
    give_load(members[0], 7)  # 7 for a weight of 3 are more than 2 for one of 1
    give_load(members[1], 2)
    assert set(take(build("peak-ewma", members), 50)) == {members[1]}


def test_bad_news_travels_fast_and_good_news_must_last() -> None:
    endpoint = make_endpoint("10.0.0.1:80")
    endpoint.observe(0.010, 0.0)
    endpoint.observe(1.000, 0.1)
    assert endpoint.latency == 1.0
    endpoint.observe(0.010, 0.2)
    assert 0.98 < endpoint.latency < 1.0
    for i in range(100):
        endpoint.observe(0.010, 0.2 + i)
    assert endpoint.latency == pytest.approx(0.010, abs=0.001)


def test_a_slow_endpoint_is_forgiven_when_it_was_not_asked_for_long() -> None:
    """The latency of one that gets nothing fades against those that are observed."""
    members = endpoints(1, 1)
    selector = build("peak-ewma", members)
    members[0].observe(1.0, 0.0)
    members[1].observe(0.010, 0.0)
    now = 1.0
    while set(take(selector, 5)) == {members[1]}:
        members[1].observe(0.010, now)
        now += 1.0
    assert 40 < now < 50  # ten seconds times ln 100


def test_an_endpoint_that_was_not_heard_of_for_a_year_is_as_good_as_new() -> None:
    members = endpoints(1, 1)
    members[0].observe(9.0, 0.0)
    members[1].observe(0.001, 365 * 86400.0)
    assert set(take(build("peak-ewma", members), 20)) == {members[0]}
    assert set(take(build("peak-ewma", members[::-1]), 20)) == {members[0]}


def test_peak_ewma_goes_by_requests_while_latencies_are_unknown() -> None:
    members = endpoints(1, 1)
    selector = build("peak-ewma", members)
    members[0].observe(5.0, 1.0)  # the other one has never been heard of: it is neither flooded nor shunned
    counts = Counter(take(selector, 1000))
    assert counts[members[0]] == pytest.approx(500, abs=60)
    give_load(members[1], 1)
    assert set(take(selector, 50)) == {members[0]}
