"""Overlays: what holds for an endpoint, until when, and the way to the disk and back."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from lbd.master import overlay as module
from lbd.master.control import describe
from lbd.master.overlay import DRAIN, WEIGHT, Named, Overlay, Overlays, Standing, dump_overlays, parse_overlays

ONE = Named("app:80", "10.0.0.1:80", 5)
TWO = Named("app:80", "10.0.0.2:80", 5)


def drain(endpoint: str, until: float = 0.0, since: float = 0.0) -> Overlay:
    return Overlay("web", endpoint, DRAIN, since, until, who="root", reason="disk")


def weigh(endpoint: str, weight: int, until: float = 0.0) -> Overlay:
    return Overlay("web", endpoint, WEIGHT, 0.0, until, weight, "root")


@pytest.mark.parametrize(
    ("overlays", "one", "two"),
    [
        ([], (False, 5), (False, 5)),
        ([drain("app:80")], (True, 5), (True, 5)),
        ([drain("10.0.0.1:80")], (True, 5), (False, 5)),
        ([weigh("app:80", 9)], (False, 9), (False, 9)),
        ([weigh("app:80", 9), weigh("10.0.0.2:80", 2)], (False, 9), (False, 2)),
        ([weigh("10.0.0.2:80", 2), weigh("app:80", 9)], (False, 9), (False, 2)),
        ([drain("app:80"), weigh("10.0.0.1:80", 1)], (True, 1), (True, 5)),
        ([drain("app:81"), weigh("10.0.0.3:80", 1), replace(drain("app:80"), cluster="api")], (False, 5), (False, 5)),
    ],
)
def test_a_name_is_all_its_addresses_and_an_address_is_itself(
    overlays: list[Overlay], one: tuple[bool, int], two: tuple[bool, int]
) -> None:
    held = Overlays(lambda: 0.0, overlays)
    assert held.standing("web", ONE) == Standing(*one)
    assert held.standing("web", TWO) == Standing(*two)
    assert held.standing("other", ONE) == Standing(False, 5)


def test_the_last_word_counts() -> None:
    held = Overlays(lambda: 0.0)
    held.put(weigh("app:80", 9))
    held.put(weigh("app:80", 2))
    assert held.standing("web", ONE).weight == 2
    held.drop([weigh("app:80", 0)])
    assert (held.standing("web", ONE).weight, len(held)) == (5, 0)


def test_each_ends_in_its_time() -> None:
    now = 100.0
    held = Overlays(lambda: now, [drain("a:1", until=110.0), drain("b:1", until=120.0), drain("c:1")])
    assert (held.expire(), held.next_end()) == ([], 10.0)
    now = 110.0
    assert [each.endpoint for each in held.expire()] == ["a:1"]
    assert held.next_end() == 10.0
    now = 500.0  # the clock was set, or the process slept
    assert held.next_end() == 0.0
    assert [each.endpoint for each in held.expire()] == ["b:1"]
    assert (held.next_end(), len(held)) == (float("inf"), 1)


def test_there_is_an_end_to_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    held = Overlays(lambda: 0.0, [drain("a:1"), drain("b:1")])
    held.put(drain("b:1", until=5.0))
    with pytest.raises(ValueError, match="take some back first"):
        held.put(drain("c:1"))


# On disk

TEXTS = st.text(max_size=30).filter(str.isprintable)
TIMES = st.floats(0, 1e11, allow_nan=False)
OVERLAYS = st.one_of(
    st.builds(Overlay, TEXTS, TEXTS, st.just(DRAIN), TIMES, TIMES, st.just(0), TEXTS, TEXTS),
    st.builds(Overlay, TEXTS, TEXTS, st.just(WEIGHT), TIMES, TIMES, st.integers(1, 65535), TEXTS, TEXTS),
)


@given(st.lists(OVERLAYS, max_size=5))
def test_what_is_written_is_read(overlays: list[Overlay]) -> None:
    assert parse_overlays(dump_overlays(overlays)) == overlays


@given(st.binary(max_size=300))
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_overlays(content)


@given(st.lists(OVERLAYS, min_size=1, max_size=2), st.data())
def test_a_damaged_file_is_refused_or_means_something(overlays: list[Overlay], data: st.DataObject) -> None:
    content = bytearray(dump_overlays(overlays))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse_overlays(bytes(content))
    except ValueError:
        return
    assert all(each.kind == DRAIN or 1 <= each.weight <= 65535 for each in found)
    assert parse_overlays(dump_overlays(found)) == found
    assert all(describe(each).isprintable() for each in found)


GOOD = json.loads(dump_overlays([weigh("app:80", 9)]))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"version": 2}, "version"),
        ({"overlays": {}}, "no list"),
        ({"overlays": [7]}, "other keys"),
        ({"overlays": [{"cluster": "web"}]}, "other keys"),
        ({"overlays": [{**GOOD["overlays"][0], "weight": 0}]}, "a weight that cannot be"),
        ({"overlays": [{**GOOD["overlays"][0], "weight": True}]}, "weight is of the wrong kind"),
        ({"overlays": [{**GOOD["overlays"][0], "until": -1}]}, "until is out of range"),
        ({"overlays": [{**GOOD["overlays"][0], "since": float("nan")}]}, "since is out of range"),
        ({"overlays": [{**GOOD["overlays"][0], "reason": None}]}, "reason is of the wrong kind"),
        ({"overlays": [{**GOOD["overlays"][0], "reason": "x" * 2000}]}, "reason is too long"),
        ({"overlays": [{**GOOD["overlays"][0], "reason": "\ud800"}]}, "reason is too long, or cannot be printed"),
        ({"overlays": [{**GOOD["overlays"][0], "until": 9e11}]}, "until is out of range"),
        ({"overlays": [{**GOOD["overlays"][0], "kind": "close"}]}, 'of kind "close"'),
    ],
)
def test_what_is_wrong_with_a_file(change: dict[str, object], why: str) -> None:
    assert parse_overlays(json.dumps(GOOD).encode()) == [weigh("app:80", 9)]
    with pytest.raises(ValueError, match=why):
        parse_overlays(json.dumps({**GOOD, **change}).encode())


def test_a_deep_file_is_refused() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        parse_overlays(b"[" * 100_000)
