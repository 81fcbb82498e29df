"""Outliers: the circuit of each endpoint, as a story and as properties; times are numbers."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.outlier import RECENT, OutlierPolicy, Outliers, Stage, Verdict
from lbd.cluster.tiers import SpreadPolicy, is_panic
from tests.cluster.fakes import Facts

POLICY = OutlierPolicy(ejection=30.0, ejection_max=300.0, growth=2.0, probes=2)


def circuits(count: int, policy: OutlierPolicy = POLICY) -> Outliers:
    outliers = Outliers(policy)
    outliers.settle(policy, [f"e{i}" for i in range(count)], 0.0)
    return outliers


def suspect(outliers: Outliers, address: str, now: float, down: tuple[str, ...] = ()) -> Verdict:
    return outliers.suspect(address, "gateway", "5 failures", now, lambda other: other not in down)


def test_out_on_trial_and_in_again() -> None:
    outliers = circuits(4)
    assert (outliers.of("e0"), outliers.next_release()) == (None, inf)
    assert suspect(outliers, "e0", 10.0) is Verdict.EJECTED
    assert suspect(outliers, "e0", 11.0) is Verdict.NOTHING  # the other worker has noticed, too
    assert (outliers.ejected(), outliers.next_release(), outliers.trial("e0")) == (["e0"], 40.0, 0)
    assert outliers.prove("e0", 12.0) is False  # what was under way when it went out
    assert outliers.release(39.9) == []
    assert outliers.release(40.0) == ["e0"]
    assert (outliers.ejected(), outliers.trial("e0"), outliers.next_release()) == ([], 2, inf)
    assert outliers.prove("e0", 41.0) is False
    assert outliers.prove("e0", 42.0) is True
    standing = outliers.of("e0")
    assert standing is not None
    assert (standing.stage, standing.since, outliers.trial("e0")) == (Stage.IN, 42.0, 0)


def test_a_trial_that_is_lost_is_followed_by_a_longer_ejection() -> None:
    outliers, now = circuits(4), 0.0
    lengths = []
    for _ in range(6):
        assert suspect(outliers, "e0", now) is Verdict.EJECTED
        lengths.append(outliers.next_release() - now)
        now = outliers.next_release()
        assert outliers.release(now) == ["e0"]
        assert outliers.prove("e0", now) is False  # one success of two does not help
    assert lengths == [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_good_behaviour_is_remembered_too() -> None:
    outliers, now = circuits(4), 0.0
    for _ in range(4):
        suspect(outliers, "e0", now)
        now = outliers.next_release()
        outliers.release(now)
    outliers.prove("e0", now)
    outliers.prove("e0", now)
    suspect(outliers, "e0", now + 61.0)  # twice 30 s: two of four are forgotten
    standing = outliers.of("e0")
    assert standing is not None
    assert (standing.times, standing.until - standing.since) == (3, 120.0)


@pytest.mark.parametrize(
    ("count", "share", "allowed"),
    [
        (0, 0.5, 0),
        (1, 0.5, 0),
        (1, 1.0, 0),
        (2, 0.5, 1),
        (2, 0.1, 1),
        (2, 1.0, 1),
        (3, 0.5, 1),
        (5, 0.5, 2),
        (100, 0.1, 10),
        (5, 1.0, 4),
        (9, 0.0, 0),
    ],
)
def test_how_many_may_be_out(count: int, share: float, allowed: int) -> None:
    assert circuits(count, replace(POLICY, max_ejected=share)).allowed() == allowed


def test_no_more_than_may() -> None:
    outliers = circuits(4)
    assert [suspect(outliers, f"e{i}", 0.0) for i in range(3)] == [Verdict.EJECTED, Verdict.EJECTED, Verdict.NO_ROOM]
    assert suspect(outliers, "nobody", 0.0) is Verdict.NOTHING
    outliers.release(30.0)
    assert suspect(outliers, "e2", 30.0) is Verdict.EJECTED, "those on trial are in"


def test_never_the_last_that_is_up() -> None:
    outliers = circuits(4)
    assert suspect(outliers, "e0", 0.0, down=("e1", "e2", "e3")) is Verdict.LAST
    assert suspect(outliers, "e0", 0.0, down=("e1", "e2")) is Verdict.EJECTED
    assert suspect(outliers, "e3", 0.0, down=("e1", "e2")) is Verdict.LAST


def test_a_check_that_sees_it_rise_ends_an_ejection() -> None:
    outliers = circuits(2)
    assert outliers.risen("e0", 0.0) is False
    suspect(outliers, "e0", 0.0)
    assert outliers.risen("e0", 5.0) is True
    assert (outliers.ejected(), outliers.trial("e0")) == ([], 2)
    assert outliers.risen("e0", 6.0) is False


def test_who_is_out_comes_before_its_time_when_the_others_are_no_better() -> None:
    outliers = circuits(2)
    assert outliers.relieve(0.0, lambda _address: True) == ""
    suspect(outliers, "e0", 0.0)
    assert outliers.relieve(1.0, lambda _address: False) == "", "its check has it for down"
    assert outliers.relieve(1.0, lambda _address: True) == "e0"
    assert (outliers.trial("e0"), outliers.ejected()) == (2, [])
    suspect(outliers, "e0", 2.0)
    assert outliers.relieve(3.0, lambda _address: True) == "", "it has failed a trial"


def fail(outliers: Outliers, count: int, now: float, first: int = 0) -> list[str]:
    """So many of them; who comes back by it."""
    for number in range(first, count):
        suspect(outliers, f"e{number}", now)
    return outliers.forgive(now)


def test_all_come_back_when_nearly_all_fail() -> None:
    outliers = circuits(10, replace(POLICY, ejection=60.0))
    assert [fail(outliers, 8, second) for second in range(1, 12)] == [[]] * 10 + [["e0", "e1", "e2", "e3", "e4"]]
    assert [suspect(outliers, "e5", now) for now in (12.0, 40.9, 41.0)] == [Verdict.AMNESTY, Verdict.AMNESTY, Verdict.EJECTED]
    assert suspect(outliers, "e0", 41.0) is Verdict.EJECTED
    assert outliers.next_release() == 41.0 + 60.0, "what everybody did is held against nobody"
    assert [fail(outliers, 8, second) for second in range(42, 53)] == [[]] * 10 + [["e5", "e0", "e1", "e2", "e3"]]
    assert [suspect(outliers, "e5", now) for now in (111.9, 112.0)] == [Verdict.AMNESTY, Verdict.EJECTED], "it had been too short"


def test_those_on_trial_are_not_well_yet() -> None:
    outliers = circuits(10)
    fail(outliers, 8, 0.0)
    assert outliers.risen("e0", 0.0) is True
    assert [fail(outliers, 8, second, 1) for second in range(1, 11)] == [[]] * 9 + [["e1", "e2", "e3", "e4", "e5", "e0"]]
    assert outliers.trial("e0") == 0


@pytest.mark.parametrize(
    ("failing", "pause"), [(7, 1.0), (8, RECENT + 1.0)], ids=["three of ten are well", "there is quiet in between"]
)  # fmt: skip
def test_and_not_before(failing: int, pause: float) -> None:
    outliers = circuits(10)
    assert [fail(outliers, failing, time * pause) for time in range(1, 30)] == [[]] * 29
    assert len(outliers.ejected()) == 5


def test_what_stays_is_kept_when_the_endpoints_change() -> None:
    outliers = circuits(4)
    suspect(outliers, "e0", 0.0)
    suspect(outliers, "e1", 1.0)
    assert outliers.settle(replace(POLICY, ejection=60.0), ["e0", "e1", "e2", "e3", "e4"], 2.0) == []
    assert outliers.ejected() == ["e0", "e1"]
    assert outliers.settle(POLICY, ["e0", "e1", "e2"], 3.0) == ["e0"], "only one of three may be out: the one that is due first comes back"
    assert (outliers.trial("e0"), outliers.ejected()) == (2, ["e1"])
    assert outliers.settle(POLICY, ["e0", "e2"], 4.0) == []
    assert outliers.of("e1") is None
    assert outliers.settle(replace(POLICY, enabled=False), ["e0", "e2"], 5.0) == ["e0"]
    assert suspect(outliers, "e0", 6.0) is Verdict.NOTHING


Step = tuple[str, int, float]  # what happens, to which endpoint, after how long
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["suspect", "suspect", "prove", "rise", "flip", "relieve", "forgive"]),
        st.integers(0, 7),
        st.integers(0, 100).map(float),  # whole seconds, whose sums are exact
    ),
    max_size=80,
)


@settings(deadline=None)
@given(count=st.integers(1, 8), share=st.floats(0.0, 0.5), growth=st.floats(1.0, 4.0), steps=STEPS)
def test_whatever_happens(count: int, share: float, growth: float, steps: list[Step]) -> None:
    """Never more out than may be, never all; none comes back too early; none stays longer than the longest; no panic by ejections alone."""
    policy = replace(POLICY, max_ejected=share, growth=growth)
    outliers = circuits(count, policy)
    now, down = 0.0, set[str]()
    for what, number, pause in steps:
        now, address = now + pause, f"e{number % count}"
        for released in outliers.release(now):
            standing = outliers.of(released)
            assert standing is not None
            assert standing.since <= now
        before = outliers.ejected()
        if what == "flip":
            down ^= {address}
        elif what == "prove":
            outliers.prove(address, now)
        elif what == "rise":
            outliers.risen(address, now)
        elif what == "relieve":
            outliers.relieve(now, (outliers.addresses - down).__contains__)
        elif what == "forgive":
            outliers.forgive(now)
        elif suspect(outliers, address, now, tuple(down)) is Verdict.EJECTED:
            standing = outliers.of(address)
            assert standing is not None
            assert address not in before
            assert policy.ejection <= standing.until - now <= policy.ejection_max
            assert any(other not in down and not outliers.is_ejected(other) for other in outliers.addresses)
        out = outliers.ejected()
        assert len(out) <= max(share * count, 1 if count > 1 and share else 0)
        assert all(standing.until > now for each in out if (standing := outliers.of(each)) is not None)
        assert not is_panic([Facts(each, up=each not in out) for each in outliers.addresses], SpreadPolicy()) or count == 0
