"""consistent-hash and maglev: the same key the same endpoint, and few keys move when endpoints come or go."""

from __future__ import annotations

from collections import Counter
from math import isqrt, log
from random import Random
from typing import TYPE_CHECKING

import pytest

from lbd.cluster.hashed import standing_names
from lbd.cluster.maglev import SIZES, fill_table, table_size
from lbd.cluster.points import build_points, ketama_points
from lbd.cluster.ring import MOST_POINTS, POINTS, KetamaRing, point_counts
from lbd.cluster.select import HASHES, build_selector
from tests.cluster.fakes import endpoints, make_endpoint

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint

KEYS = [b"key/%d" % i for i in range(10_000)]


def owners(balance: str, members: list[Endpoint], seed: int = 1, keys: list[bytes] = KEYS) -> list[str]:
    selector = build_selector(balance, members, Random(seed))
    return [selector.first(key).address for key in keys]


@pytest.mark.parametrize("balance", HASHES)
@pytest.mark.parametrize("weights", [(3, 1, 2, 5), (1, 1, 1, 1), (2, 1, 2, 1, 1)])
def test_a_key_stays_with_its_endpoint_whatever_else_happens(balance: str, weights: tuple[int, ...]) -> None:
    members = endpoints(*weights)
    first = owners(balance, members, seed=1)
    for endpoint in members:
        endpoint.begin()
        endpoint.observe(1.0, 1.0)
    assert owners(balance, members, seed=2) == first
    assert owners(balance, members[::-1]) == first  # nor does the order in the configuration matter


@pytest.mark.parametrize("balance", HASHES)
@pytest.mark.parametrize("count", [2, 3, 10, 40, 655, 1000, 1310])
def test_when_one_leaves_only_its_keys_move(balance: str, count: int) -> None:
    keys = [b"key/%d" % i for i in range(max(10_000, 50 * count))]
    members = endpoints(*[1] * count)
    before, after = owners(balance, members, keys=keys), owners(balance, members[1:], keys=keys)
    gone = members[0].address
    moved = sum(old != new for old, new in zip(before, after, strict=True))
    lost = before.count(gone)
    assert gone not in after
    assert lost / len(keys) == pytest.approx(1 / count, rel=0.35)
    # Of a ring nothing else moves. An entry of a table that becomes free goes to an endpoint that leaves another one for it, and so on: the
    # price of its evenness. Each link is somewhere in what was still to be given away then, so that there are log(count) of them at most.
    assert moved == lost if balance == "consistent-hash" else moved <= (1 + log(count)) * len(keys) / count


@pytest.mark.parametrize("balance", HASHES)
def test_those_who_inherit_share(balance: str) -> None:
    members = endpoints(*[1] * 10)
    selector = build_selector(balance, members, Random(1))
    heirs = Counter(list(selector.candidates(key))[1].address for key in KEYS[:4000] if selector.first(key) is members[0])
    assert len(heirs) == 9
    assert max(heirs.values()) < 0.3 * sum(heirs.values())


def test_skipping_an_endpoint_of_a_ring_is_like_a_ring_without_it() -> None:
    members = endpoints(1, 1, 2, 3)
    whole, rest = KetamaRing(members, Random(1)), KetamaRing(members[1:], Random(1))
    for key in KEYS[:1000]:
        assert next(e for e in whole.candidates(key) if e is not members[0]) is rest.first(key)


# Names


def test_an_endpoint_stands_under_its_name_while_that_is_its_own() -> None:
    one = make_endpoint("10.0.0.1:80", name="app1:80")
    two = make_endpoint("10.0.0.2:80", name="app2:80")
    moved = make_endpoint("10.9.9.9:80", name="app1:80")
    assert standing_names([one, two]) == ["app1:80", "app2:80"]
    assert standing_names([one, two, moved]) == ["10.0.0.1:80", "app2:80", "10.9.9.9:80"]
    for balance in HASHES:  # app1 came back under another address: nothing moves
        before = [address == "10.0.0.1:80" for address in owners(balance, [one, two])]
        assert [address == "10.9.9.9:80" for address in owners(balance, [moved, two])] == before


# Ketama


def test_points_are_those_of_nginx() -> None:
    """By hand, with another crc32: nginx's own chain of reversed polynomial steps."""

    def crc(data: bytes) -> int:
        value = 0xFFFFFFFF
        for byte in data:
            value ^= byte
            for _ in range(8):
                value = value >> 1 ^ (0xEDB88320 if value & 1 else 0)
        return value ^ 0xFFFFFFFF

    for name, seed in (("10.0.0.1:8080", b"10.0.0.1\x008080"), ("[::1]:80", b"[::1]\x0080"), ("unix:/run/a.sock", b"/run/a.sock\x00")):
        first = crc(seed + bytes(4))
        assert ketama_points(name, 2) == [first, crc(seed + first.to_bytes(4, "little"))]


def test_points_are_sorted_and_of_equal_ones_the_first_endpoint_has_it() -> None:
    """The second endpoint has the first one's name, so all its points coincide; the third has more of its own."""
    names, counts = ["a:1", "a:1", "unix:/b"], [160, 480, 160]
    points = list(build_points(names, counts))
    owners = dict.fromkeys(ketama_points("a:1", 480), 1)
    owners |= dict.fromkeys(ketama_points("a:1", 160), 0)
    owners |= dict.fromkeys(ketama_points("unix:/b", 160), 2)
    assert points == sorted(point << 32 | owner for point, owner in owners.items())


def test_a_weight_is_so_many_times_160_points() -> None:
    ring = KetamaRing(endpoints(1, 3), Random(1))
    counts = Counter(ring.owner(place).weight for place in range(ring.places))
    assert counts == {1: 160, 3: 480}


def test_a_ring_has_an_upper_limit_and_everybody_is_on_it() -> None:
    members = endpoints(65535, 65535, 1)
    ring = KetamaRing(members, Random(1))
    assert MOST_POINTS * 0.45 < ring.places <= MOST_POINTS
    assert Counter(ring.owner(place) for place in range(0, ring.places, 101))[members[0]] == pytest.approx(ring.places / 202, rel=0.1)
    assert len(list(ring.candidates(b"x"))) == 3


@pytest.mark.parametrize("weights", [[65535] * 10, [1] * 14_000, [1, 10, 100, 1000] * 40])
def test_who_leaves_a_ring_at_its_limit_leaves_the_points_of_all_others_alone(weights: list[int]) -> None:
    counts = point_counts(weights)
    assert MOST_POINTS * 0.45 < sum(counts) <= MOST_POINTS < POINTS * sum(weights)
    assert point_counts(weights[1:]) == counts[1:]
    # Where a ring shrinks after all everybody keeps every second point: what is left is a part of what there was.
    assert [count // 2 for count in counts if count > 1] == [count for count in point_counts(weights * 2)[: len(weights)] if count > 1]


def test_a_key_before_the_first_point_and_one_behind_the_last() -> None:
    ring = KetamaRing(endpoints(1, 1), Random(1))
    places = {ring.place(key) for key in KEYS}
    assert min(places) == 0
    assert max(places) == ring.places - 1


@pytest.mark.parametrize("balance", HASHES)
def test_requests_without_a_key_are_spread(balance: str) -> None:
    members = endpoints(3, 1)
    selector = build_selector(balance, members, Random(1))
    counts = Counter(selector.first(b"") for _ in range(4000))
    assert counts[members[0]] == pytest.approx(3000, abs=120)
    assert {next(iter(selector.candidates(b""))) for _ in range(50)} == set(members)


# Maglev


@pytest.mark.parametrize(
    ("count", "size"), [(1, 65537), (655, 65537), (656, 131101), (1311, 131101), (1312, 262147), (10_000, 1048583), (200_000, 16777259)]
)
def test_a_table_has_a_hundred_entries_for_each_while_it_can_grow(count: int, size: int) -> None:
    assert table_size(count) == size


@pytest.mark.parametrize("size", SIZES)
def test_the_sizes_of_tables_are_primes_and_double(size: int) -> None:
    """Any step from entry to entry must come by all of them."""
    assert all(size % divisor for divisor in range(2, isqrt(size) + 1))
    assert size == SIZES[0] or size / SIZES[SIZES.index(size) - 1] == pytest.approx(2, rel=0.001)


@pytest.mark.parametrize("weights", [(1, 1, 1), (1, 2, 4), (1, 1000), (7, 7, 7, 1)])
def test_shares_of_a_table_are_exact(weights: tuple[int, ...]) -> None:
    size = table_size(len(weights))
    counts = Counter(fill_table([f"name{i}" for i in range(len(weights))], weights, size))
    for number, weight in enumerate(weights):
        assert counts[number] == pytest.approx(size * weight / sum(weights), abs=len(weights))


def test_a_table_has_no_free_entries() -> None:
    assert set(fill_table(["a", "b"], [1, 1], 65537)) == {0, 1}
