"""Selection: levels, zones, subsets and drained endpoints, with every balance. Random numbers are seeded: the shares are exact ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from lbd import metrics
from lbd.cluster.cluster import BALANCES, Cluster
from lbd.cluster.select import HASHES
from lbd.core.board import Board
from tests.cluster.fakes import Facts, filled_cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.selection import Selection

TURNS = [balance for balance in BALANCES if balance not in HASHES]
PICKS = 2000


def members(text: str, **changes: Any) -> list[Facts]:  # noqa: ANN401 - any field
    """ "aa bb" are a0, a1 of priority 0 and b0, b1 of priority 1; capitals are down."""
    found: list[Facts] = []
    for priority, letters in enumerate(text.split()):
        for number, letter in enumerate(letters):
            fact = Facts(f"{letter.lower()}{number}", index=len(found), up=letter.islower(), priority=priority)
            found.append(replace(fact, **changes))
    return found


def shares(chooser: Cluster | Selection, count: int = PICKS) -> dict[str, float]:
    """Of each letter, in percent, over so many keys."""
    found: Counter[str] = Counter()
    for number in range(count):
        endpoint = chooser.pick(b"key-%d" % number, ())
        found["" if endpoint is None else endpoint.address[0]] += 1
    return {letter: 100 * picks / count for letter, picks in sorted(found.items())}


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board.create(1, cells=256)
    yield board
    board.close()


def spilled(board: Board) -> dict[str, int]:
    return {labels[1]: cells[0] for (number, labels), cells in board.totals().items() if number == metrics.SPILLS.number}


# Levels


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("aaaa bbbb", {"a": 100}),
        ("aaAA bbbb", {"a": 70, "b": 30}),
        ("aAAA bbBB cccc", {"a": 35, "b": 65}),
        ("AAAA bbbb", {"b": 100}),
        ("AAAA bbbb cc", {"b": 100}),
        ("AAAA BBBB", {"a": 50, "b": 50}),  # panic
    ],
)
def test_requests_spill_over_by_health(balance: str, text: str, expected: dict[str, int]) -> None:
    cluster = filled_cluster(members(text), Random(7), balance=balance)
    assert shares(cluster) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("balance", BALANCES)
def test_within_a_level_the_balance_stays_even(balance: str) -> None:
    """For hashes too: the keys that stay in a level lie everywhere on its circle."""
    cluster = filled_cluster(members("aaaaaAAAAA bb"), Random(7), balance=balance)
    found = Counter(endpoint.address for n in range(4 * PICKS) if (endpoint := cluster.pick(b"%d" % n, ())) is not None)
    whole = filled_cluster(members("aaaaaAAAAA"), Random(7), balance=balance)
    usual = Counter(endpoint.address for n in range(4 * PICKS) if (endpoint := whole.pick(b"%d" % n, ())) is not None)
    assert set(found) == {"a0", "a1", "a2", "a3", "a4", "b0", "b1"}
    for address, count in usual.items():
        assert found[address] == pytest.approx(0.7 * count, rel=0.15), address


@pytest.mark.parametrize("balance", HASHES)
def test_a_key_stays_in_its_level_while_the_shares_do(balance: str) -> None:
    cluster = filled_cluster(members("aaAA bb"), Random(7), balance=balance)
    keys = [b"%d" % number for number in range(500)]
    before = [cluster.pick(key, ()) for key in keys]
    assert [cluster.pick(key, ()) for key in keys] == before
    cluster.set_health("a1", False)  # 35 % stay
    now = [cluster.pick(key, ()) for key in keys]
    moved_back = [new for old, new in zip(before, now, strict=True) if old.address[0] == "b" and new.address[0] == "a"]  # type: ignore[union-attr]
    assert not moved_back
    cluster.set_health("a1", True)
    assert [cluster.pick(key, ()) for key in keys] == before


@pytest.mark.parametrize("balance", BALANCES)
def test_a_retry_tries_all_levels_each_endpoint_once(balance: str) -> None:
    cluster = filled_cluster([*members("aaA bb"), Facts("z0", backup=True)], Random(7), balance=balance)
    tried: list[Endpoint] = []
    while (endpoint := cluster.pick(b"x", tried)) is not None:
        tried.append(endpoint)
    assert sorted(e.address for e in tried) == ["a0", "a1", "b0", "b1", "z0"]
    assert tried[-1].address == "z0"


@pytest.mark.parametrize("balance", BALANCES)
def test_what_is_full_goes_to_the_next_level(balance: str) -> None:
    cluster = filled_cluster(members("aa b", max_requests=1), Random(7), balance=balance)
    taken = []
    while (endpoint := cluster.pick(b"x", ())) is not None:
        endpoint.begin()
        taken.append(endpoint.address)
    assert sorted(taken[:2]) == ["a0", "a1"]
    assert taken[2:] == ["b0"]


@pytest.mark.parametrize("balance", HASHES)
def test_a_bound_holds_in_each_level(balance: str) -> None:
    cluster = filled_cluster(members("aaaa bbbb"), Random(7), balance=balance, bound=1.25)
    for number in range(100):
        endpoint = cluster.pick(b"one-key", ())
        assert endpoint is not None
        assert endpoint.address[0] == "a", number
        endpoint.begin()
    assert max(endpoint.load() for endpoint in cluster.endpoints) <= 32
    for fact in ("a0", "a1", "a2"):
        cluster.set_health(fact, False)
    assert shares(cluster) == pytest.approx({"a": 35, "b": 65}, abs=4)


def test_spills_are_counted(board: Board) -> None:
    cluster = filled_cluster([*members("aaAA bb"), Facts("z0", backup=True)], Random(7), board)
    assert shares(cluster, 1000) == pytest.approx({"a": 70, "b": 30}, abs=4)
    assert spilled(board)["priority"] == pytest.approx(300, abs=40)
    before = spilled(board)["priority"]
    cluster.set_health("a2", True)
    cluster.set_health("a3", True)
    assert shares(cluster, 1000) == {"a": 100}
    assert spilled(board) == {"priority": before, "backup": 0}
    for fact in cluster.endpoints:
        cluster.set_health(fact.address, fact.address == "z0")
    assert shares(cluster, 1000) == {"z": 100}
    assert spilled(board) == {"priority": before, "backup": 1000}


def test_a_reload_may_change_the_factor() -> None:
    cluster = filled_cluster(members("aaAA bb"), Random(7))
    assert shares(cluster) == pytest.approx({"a": 70, "b": 30}, abs=4)
    cluster.apply_policy(replace(cluster.policy, overprovision=2.0))
    assert shares(cluster) == {"a": 100}


# Zones


def zoned(text: str, zones: str) -> list[Facts]:
    """Letters are as of members(), the zone of each stands below it."""
    return [replace(fact, zone=zone) for fact, zone in zip(members(text), zones, strict=True)]


@pytest.mark.parametrize("balance", TURNS)
@pytest.mark.parametrize(
    ("text", "zones", "expected"),
    [
        ("aabbcc", "112233", {"a": 100}),
        ("aAbbcc", "112233", {"a": 84, "b": 8, "c": 8}),
        ("aAAbbbccc", "111222333", {"a": 60, "b": 20, "c": 20}),
        ("AAbbcc", "112233", {"b": 50, "c": 50}),
        ("bbcc", "2233", {"b": 50, "c": 50}),
        ("aabbcc", "      ", {"a": 33, "b": 33, "c": 33}),
    ],
)
def test_zones(balance: str, text: str, zones: str, expected: dict[str, int]) -> None:
    cluster = filled_cluster(zoned(text, zones), Random(7), balance=balance, zone="1")
    assert shares(cluster) == pytest.approx(expected, abs=4)


@pytest.mark.parametrize("balance", HASHES)
def test_a_key_does_not_depend_on_the_zone(balance: str) -> None:
    here, there = (filled_cluster(zoned("abc", "112"), Random(7), balance=balance, zone=zone) for zone in "12")
    for number in range(200):
        one, other = here.pick(b"%d" % number, ()), there.pick(b"%d" % number, ())
        assert one is not None
        assert other is not None
        assert one.address == other.address


def test_zones_may_be_off(board: Board) -> None:
    cluster = filled_cluster(zoned("ab", "12"), Random(7), board, zone="1")
    assert shares(cluster) == {"a": 100}
    assert spilled(board) == {"zone": 0}
    cluster.apply_policy(replace(cluster.policy, zone_aware="off"))
    assert shares(cluster) == {"a": 50, "b": 50}
    cluster.apply_policy(replace(cluster.policy, zone_aware="prefer-local", zone=""))
    assert shares(cluster) == {"a": 50, "b": 50}
    cluster.apply_policy(replace(cluster.policy, zone="2", zone_minimum=3))
    assert shares(cluster) == {"a": 50, "b": 50}
    cluster.apply_policy(replace(cluster.policy, zone_minimum=2))
    assert shares(cluster) == {"b": 100}


# Drained


@pytest.mark.parametrize("balance", BALANCES)
def test_the_drained_get_nothing(balance: str) -> None:
    cluster = filled_cluster([Facts("a0"), Facts("b0", drained=True), Facts("c0", index=1)], Random(7), balance=balance)
    assert set(shares(cluster)) == {"a", "c"}
    cluster.set_health("a0", False)
    cluster.set_health("c0", False)
    assert cluster.pick(b"", ()) is not None
    assert cluster.is_panicking
    assert set(shares(cluster)) == {"a", "c"}
    cluster.update([Facts("b0", drained=True)])
    assert shares(cluster) == {"": 100}
    cluster.update([Facts("b0")])
    assert shares(cluster) == {"b": 100}


# Subsets

V1, V2 = ("version", "1"), ("version", "2")
CANARY = ("stage", "canary")


def versions(down: str = "", drained: str = "") -> list[Facts]:
    """Three of version 1, two of version 2, of which one is the canary."""
    facts = [
        *(Facts(f"a{number}", index=number, metadata=(V1,)) for number in range(3)),
        Facts("b0", index=3, metadata=(V2, CANARY)),
        Facts("c0", index=4, metadata=(V2,)),
    ]
    return [replace(fact, up=fact.address[0] not in down, drained=fact.address[0] in drained) for fact in facts]


@pytest.mark.parametrize("balance", BALANCES)
def test_subsets(balance: str) -> None:
    cluster = filled_cluster(versions(), Random(7), balance=balance)
    assert set(shares(cluster)) == {"a", "b", "c"}
    assert set(shares(cluster.selection((V1,)))) == {"a"}
    assert set(shares(cluster.selection((V2,)))) == {"b", "c"}
    assert set(shares(cluster.selection((V2, CANARY)))) == {"b"}
    assert set(shares(cluster.selection((V1, CANARY)))) == {""}
    assert cluster.selection((V2,)) is cluster.selection((V2,))
    cluster.set_health("b0", False)
    assert set(shares(cluster.selection((V2,)))) == {"c"}


def test_a_subset_panics_by_itself() -> None:
    cluster = filled_cluster(versions(down="bc"), Random(7))
    heeding, calm = cluster.selection((V2,)), cluster.selection((V2,), heeds_panic=False)
    assert set(shares(heeding)) == {"b", "c"}
    assert heeding.is_panicking
    assert shares(calm) == {"": 100}
    assert shares(cluster) == {"a": 100}
    assert not cluster.is_panicking
    cluster.update(versions(down="b", drained="c"))
    assert shares(heeding) == {"b": 100}


def test_a_selection_lives_through_reloads_and_follows_them() -> None:
    cluster = filled_cluster(versions(), Random(7))
    selection = cluster.selection((V2,))
    cluster.apply_policy(replace(cluster.policy, balance="random"))
    assert cluster.selection((V2,)) is selection
    assert set(shares(selection)) == {"b", "c"}
    assert [type(selector).__name__ for selector in selection.selectors] == ["Drawn"]
    for _ in range(2):  # nobody asks for it any more, but an exchange holds it
        cluster.apply_policy(cluster.policy)
    cluster.update([fact for fact in versions() if fact.address != "b0"])
    assert shares(selection) == {"c": 100}
    assert cluster.selection((V2,)) is not selection


def test_who_is_asked_for_in_particular() -> None:
    cluster = filled_cluster([*versions(down="c"), Facts("d0", max_requests=1, metadata=(V1,))], Random(7))
    everybody, first = cluster.selection(), cluster.selection((V1,))
    by_name = {endpoint.address: endpoint for endpoint in cluster.endpoints}
    assert everybody.takes(by_name["b0"])
    assert not first.takes(by_name["b0"])
    assert not everybody.takes(by_name["c0"])
    assert first.takes(by_name["d0"])
    by_name["d0"].begin()
    assert not first.takes(by_name["d0"])
    cluster.update(versions(drained="a"))
    assert not everybody.takes(by_name["a0"])
    assert not everybody.takes(by_name["d0"])  # it has left
