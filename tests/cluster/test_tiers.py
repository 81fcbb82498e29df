"""Which part of a cluster's requests goes where, as a table of shares."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.cluster.tiers import BACKUP, SpreadPolicy, is_panic, spread
from lbd.cluster.zones import local_share
from tests.cluster.fakes import Facts

# An endpoint is a letter: U up, d down, x drained (and up).


def level(text: str, priority: int = 0, zone: str = "") -> list[Facts]:
    is_backup = priority == BACKUP
    return [
        Facts(f"{zone}{priority}-{i}", up=letter != "d", drained=letter == "x", backup=is_backup, priority=max(priority, 0), zone=zone)
        for i, letter in enumerate(text)
    ]


def shares(text: str, policy: SpreadPolicy) -> dict[str, float]:
    """ "UUUU dU / b": levels, and backups behind the slash -> what each gets, in percent, with ! where health is ignored."""
    levels, _, backups = text.partition("/")
    members = [fact for priority, letters in enumerate(levels.split()) for fact in level(letters, priority)]
    members += level(backups.strip(), BACKUP)
    found = spread(members, policy)
    for each in found:
        assert sum(part.share for part in each.parts) == pytest.approx(each.share)
    names = {each.number: "b" if each.number == BACKUP else str(each.number) for each in found}
    return {names[each.number] + "!" * each.is_panicking: round(100 * each.share) for each in found}


# Endpoints, and the shares. Envoy's examples with their factor, where it has some (docs: load balancing, priority levels).
SHARES: list[tuple[str, dict[str, int]]] = [
    ("UUUU", {"0": 100}),
    ("UUdd", {"0": 100}),  # nowhere to spill to
    ("Uddd", {"0!": 100}),
    ("dddd", {"0!": 100}),
    ("UUUU UUUU", {"0": 100, "1": 0}),
    ("UUUd UUUU", {"0": 100, "1": 0}),  # 1.4 times three quarters
    ("UUdd UUUU", {"0": 70, "1": 30}),
    ("Uddd UUUU", {"0": 35, "1": 65}),  # no panic while the next level has room
    ("dddd UUUU", {"0": 0, "1": 100}),
    ("dddd UUUd", {"0": 0, "1": 100}),
    ("Uddd UUdd", {"0": 35, "1": 65}),
    ("UUdd Uddd Uddd", {"0": 70, "1": 30, "2": 0}),
    ("Uddd Uddd Uddd", {"0": 35, "1": 35, "2": 30}),
    ("Uddd Udddd UUUU", {"0": 35, "1": 28, "2": 37}),
    ("Uddd Uddd", {"0!": 50, "1!": 50}),  # everybody is short: by number
    ("dddd dd", {"0!": 67, "1!": 33}),
    ("dddd Uddd", {"0!": 50, "1!": 50}),
    ("UUUUdddddd dddd", {"0!": 71, "1!": 29}),  # 4 of 10 is below half
    ("UUUUUddddd dddd", {"0": 100, "1": 0}),  # half is not, and so the other one, which has no room at all, gets nothing
    # Backups
    ("UU / UU", {"0": 100, "b": 0}),
    ("Ud / UU", {"0": 100, "b": 0}),  # no spill to backups
    ("Uddd / Udd", {"0": 100, "b": 0}),  # nor panic while one is up
    ("dddd / Udd", {"0": 0, "b": 100}),
    ("dddd / dd", {"0!": 100, "b!": 0}),
    ("dddd Uddd / U", {"0": 0, "1": 100, "b": 0}),
    ("dddd dddd / U", {"0": 0, "1": 0, "b": 100}),
    ("/ UU", {"b": 100}),
    ("/ dd", {"b!": 100}),
    # Drained
    ("xx", {"0": 0}),
    ("xU", {"0": 100}),
    ("xd", {"0!": 100}),  # the one that might be tried is down
    ("xxU UUU", {"0": 47, "1": 53}),
    ("xxx UUU", {"0": 0, "1": 100}),
    ("xxx ddd", {"0": 0, "1!": 100}),
    ("xxx / U", {"0": 0, "b": 100}),
    ("xUUU", {"0": 100}),
]


@pytest.mark.parametrize(("text", "expected"), SHARES)
def test_shares(text: str, expected: dict[str, int]) -> None:
    assert shares(text, SpreadPolicy()) == expected


@pytest.mark.parametrize(
    ("text", "policy", "expected"),
    [
        ("UUdd UUUU", SpreadPolicy(overprovision=1.0), {"0": 50, "1": 50}),
        ("Uddd UUUU", SpreadPolicy(overprovision=4.0), {"0": 100, "1": 0}),
        ("Uddd", SpreadPolicy(panic=0.0), {"0": 100}),
        ("dddd", SpreadPolicy(panic=0.0), {"0": 0}),
        ("dddd dd", SpreadPolicy(panic=0.0), {"0": 0, "1": 0}),
        ("Uddd dd", SpreadPolicy(panic=0.0), {"0": 100, "1": 0}),
        ("Uddd Uddd", SpreadPolicy(panic=0.2), {"0": 50, "1": 50}),
        ("UUUd", SpreadPolicy(panic=1.0), {"0!": 100}),
        ("UUUd UUUU", SpreadPolicy(panic=1.0), {"0": 100, "1": 0}),
    ],
)
def test_shares_by_other_rules(text: str, policy: SpreadPolicy, expected: dict[str, int]) -> None:
    assert shares(text, policy) == expected


def test_a_level_that_resolves_to_nobody_is_not_there() -> None:
    found = spread([*level("UU", 1), *level("UU", 4)], SpreadPolicy())
    assert [(each.number, each.share, [part.kind for part in each.parts]) for each in found] == [(1, 1.0, [""]), (4, 0.0, ["priority"])]


def test_nobody() -> None:
    assert spread([], SpreadPolicy()) == ()
    assert not is_panic([], SpreadPolicy())


STANDINGS = st.builds(
    Facts,
    st.just("a:1"),
    up=st.booleans(),
    backup=st.booleans(),
    priority=st.integers(0, 3),
    zone=st.sampled_from(["", "a", "b"]),
    drained=st.booleans(),
)


@given(st.lists(STANDINGS, max_size=12), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([1.0, 1.4, 5.0]), st.sampled_from(["", "a"]))
def test_everything_is_shared_among_those_who_may_take_it(members: list[Facts], panic: float, factor: float, zone: str) -> None:
    found = spread(members, SpreadPolicy(panic, factor, zone))
    assert sorted(map(id, members)) == sorted(id(member) for each in found for member in each.members)
    parts = [part for each in found for part in each.parts]
    usable = [member for part in parts for member in part.usable]
    assert len(set(map(id, usable))) == len(usable)
    assert not any(member.drained for member in usable)
    assert all(member.up for member in usable) or is_panic(members, SpreadPolicy(panic, factor, zone))
    assert {id(m) for m in members if m.up and not m.drained} <= set(map(id, usable))
    assert all(0.0 <= part.share <= 1.0 and part.usable for part in parts)
    assert sum(part.share for part in parts) == pytest.approx(1.0 if parts else 0.0)


# Zones


@pytest.mark.parametrize(
    ("local", "up", "zones", "factor", "expected"),
    [
        (3, 9, 3, 1.4, 1.0),
        (3, 9, 3, 1.0, 1.0),
        (2, 8, 3, 1.0, 0.75),  # a quarter here, a third would be needed
        (2, 8, 3, 1.4, 1.0),
        (1, 7, 3, 1.4, 0.6),
        (0, 6, 3, 1.4, 0.0),
        (3, 3, 3, 1.4, 1.0),  # all others are down
        (1, 1, 2, 1.0, 1.0),
        (1, 10, 2, 1.0, 0.2),
        (0, 0, 2, 1.4, 0.0),
    ],
)
def test_how_much_stays(local: int, up: int, zones: int, factor: float, expected: float) -> None:
    assert local_share(local, up, zones, factor) == pytest.approx(expected)


def zoned(here: str, there: str, elsewhere: str = "", **rules: float) -> list[tuple[str, int, int]]:
    members = [*level(here, zone="a"), *level(there, zone="b"), *level(elsewhere, zone="c")]
    (found,) = spread(members, SpreadPolicy(zone="a", **rules))  # type: ignore[arg-type]
    return [(part.kind, len(part.usable), round(100 * part.share)) for part in found.parts]


def test_zones() -> None:
    assert zoned("UUU", "UUU", "UUU") == [("", 3, 100), ("zone", 6, 0)]
    assert zoned("Udd", "UUU", "UUU") == [("", 1, 60), ("zone", 6, 40)]
    assert zoned("ddd", "UUU", "UUU") == [("zone", 6, 100)]
    assert zoned("UUU", "ddd", "ddd", panic=0.2) == [("", 3, 100)]
    assert zoned("Udd", "Udd", "Udd", panic=0.2) == [("", 1, 100), ("zone", 2, 0)]
    assert zoned("ddd", "ddd", "ddd") == [("", 3, 100), ("zone", 6, 0)]  # panic: here as well as there
    assert zoned("xxU", "UUU", "UUU") == [("", 1, 60), ("zone", 6, 40)]
    assert zoned("UUU", "") == [("", 3, 100)]
    assert zoned("", "UUU") == [("", 3, 100)]  # none of ours: zones say nothing
    assert zoned("U", "UU", zone_minimum=4) == [("", 3, 100)]
    assert zoned("U", "UUU", zone_minimum=4) == [("", 1, 70), ("zone", 3, 30)]


def test_zones_within_levels() -> None:
    members = [*level("Ud", 0, "a"), *level("Ud", 0, "b"), *level("UU", 1, "a"), *level("UU", 1, "b"), *level("U", BACKUP, "b")]
    found = spread(members, SpreadPolicy(zone="a"))
    assert [(part.kind, len(part.usable), round(100 * part.share)) for each in found for part in each.parts] == [
        ("", 1, 70),
        ("zone", 1, 0),
        ("priority", 2, 30),
        ("priority", 2, 0),
        ("backup", 1, 0),
    ]
