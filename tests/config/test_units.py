"""Durations, sizes, counts, ratios: to numbers and back."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.config.units import duration_text, parse_count, parse_duration, parse_ratio, parse_size, size_text
from lbd.policy import Count, Duration, Ratio, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("1s", 1.0),
        ("1.5s", 1.5),
        ("90s", 90.0),
        ("5m", 300.0),
        ("2h", 7200.0),
        ("1d", 86400.0),
        ("0s", 0.0),
        (" 3 s ", 3.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, Duration()) == seconds


@pytest.mark.parametrize("value", ["", "s", "1", "-1s", "1.s", "1e3s", "1s1s", "1S", "1 minute", "9999999d", 1, True, ["1s"], "\u0661s"])
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError):
        parse_duration(value, Duration())


@given(st.floats(0.0, 1e8, allow_subnormal=False))
def test_every_duration_is_written_as_what_it_is(seconds: float) -> None:
    assert parse_duration(duration_text(seconds), Duration()) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0s"), (0.25, "250ms"), (60.0, "1m"), (90.0, "90s"), (0.0005, "0.0005s")])
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (4096, 4096),
        ("0", 0),
        ("512B", 512),
        ("16KiB", 16384),
        ("16 KiB", 16384),
        ("1.5MiB", 1572864),
        ("64kB", 64000),
        ("2GB", 2 * 10**9),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value, Size()) == size


@pytest.mark.parametrize("value", ["", "16k", "16K", "KiB", "-1", -1, "0.5B", 1.0, True, None, "1KiBit"])
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError):
        parse_size(value, Size())


@given(st.integers(0, 1 << 50))
def test_every_size_is_written_as_what_it_is(size: int) -> None:
    assert parse_size(size_text(size), Size()) == size


@pytest.mark.parametrize(
    ("value", "hint"),
    [("16k", '"16KiB"'), ("2M", '"2MiB"'), ("1 gb", '"1GiB"'), ("1w", "the units are"), ("10", '"10s"')],
)
def test_wrong_units_get_the_right_one(value: str, hint: str) -> None:
    def parse() -> None:
        if value[-1] in "cw0":
            parse_duration(value, Duration())
        else:
            parse_size(value, Size())

    with pytest.raises(ValueError, match=hint):
        parse()


@pytest.mark.parametrize(("mark", "least", "most"), [(Count(1, 3), 1, 3), (Count(), 0, 1 << 31)])
def test_counts_have_two_ends(mark: Count, least: int, most: int) -> None:
    assert [parse_count(value, mark) for value in (least, most)] == [least, most]
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"{value} is too"):
            parse_count(value, mark)


@pytest.mark.parametrize(("value", "ratio"), [(0, 0.0), (1, 1.0), (0.5, 0.5)])
def test_ratios(value: object, ratio: float) -> None:
    assert parse_ratio(value, Ratio()) == ratio


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5"])
def test_what_is_no_ratio(value: object) -> None:
    with pytest.raises(ValueError):
        parse_ratio(value, Ratio())
