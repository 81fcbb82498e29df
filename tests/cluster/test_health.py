"""Runs of probe results, and which status codes are healthy."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.cluster.health import HealthPolicy, HealthState, parse_statuses

# (rise, fall, initial, results, state after each): o success, x failure; U up, d down.
RUNS = [
    (2, 3, "up", "xxx", "UUd"),
    (2, 3, "up", "xxoxx", "UUUUU"),  # one success starts the count anew
    (2, 3, "up", "xxxoo", "UUddU"),
    (2, 3, "up", "xxxoxoo", "UUddddU"),
    (2, 3, "up", "xxxooxxx", "UUddUUUd"),
    (2, 3, "down", "oo", "dU"),
    (2, 3, "down", "oxoo", "dddU"),
    (1, 1, "up", "xox", "dUd"),
    (1, 1, "down", "xo", "dU"),
    (3, 1, "up", "xooo", "dddU"),
]


@pytest.mark.parametrize(("rise", "fall", "initial", "results", "states"), RUNS)
def test_flips(rise: int, fall: int, initial: str, results: str, states: str) -> None:
    state = HealthState(HealthPolicy(rise=rise, fall=fall, initial=initial))
    seen = ""
    for result in results:
        before = state.up
        flipped = state.observe(result == "o", "" if result == "o" else "refused")
        assert flipped == (state.up != before)
        seen += "U" if state.up else "d"
    assert seen == states


def test_a_state_remembers_why() -> None:
    state = HealthState(HealthPolicy(fall=2))
    state.observe(ok=False, reason="refused")
    state.observe(ok=False, reason="status 503, expected 200-399")
    assert repr(state) == "<HealthState down after 2 failures, status 503, expected 200-399>"
    state.observe(ok=True)
    assert (state.reason, state.successes, state.failures) == ("status 503, expected 200-399", 1, 0)


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(["up", "down"]), st.lists(st.booleans(), max_size=60))
def test_a_flip_needs_a_whole_run(rise: int, fall: int, initial: str, results: list[bool]) -> None:
    """Against the definition: the last `fall` results were failures, or the last `rise` successes, since the last flip or not."""
    state = HealthState(HealthPolicy(rise=rise, fall=fall, initial=initial))
    expected = initial == "up"
    for count in range(1, len(results) + 1):
        if expected and count >= fall and not any(results[count - fall : count]):
            expected = False
        elif not expected and count >= rise and all(results[count - rise : count]):
            expected = True
        state.observe(results[count - 1])
        assert state.up is expected


@pytest.mark.parametrize(
    ("texts", "healthy", "unhealthy"),
    [
        (("200-399",), (200, 204, 301, 399), (199, 400, 503)),
        (("200",), (200,), (201, 404)),
        (("200-299", "404"), (200, 299, 404), (300, 403, 405)),
        (("100-599",), (100, 599), (99, 600)),
    ],
)
def test_statuses(texts: tuple[str, ...], healthy: tuple[int, ...], unhealthy: tuple[int, ...]) -> None:
    is_expected = parse_statuses(texts)
    assert all(map(is_expected, healthy))
    assert not any(map(is_expected, unhealthy))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("2xx",), '"2xx" is no status code or range of them: write "200" or "200-399"'),
        (("200-",), '"200-" is no status code or range of them: write "200" or "200-399"'),
        (("99",), '"99" is no status code or range of them: write "200" or "200-399"'),
        (("600",), '"600" is no status code or range of them: write "200" or "200-399"'),
        (("200", "399-200"), '"399-200" is an empty range: write "200-399"'),
        (("\u0662\u0660\u0660",), '"\u0662\u0660\u0660" is no status code or range of them: write "200" or "200-399"'),
        ((), 'no status would be healthy: write at least one, such as "200-399"'),
    ],
)
def test_what_is_no_status(texts: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_statuses(texts)
    assert str(caught.value) == message
