"""Durations, sizes and ratios: TOML's text to numbers and back. A ValueError is the rest of a sentence that begins with the key."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.policy import Count, Duration, Ratio, Size

__all__ = [
    "count_in_range",
    "duration_text",
    "kind_of",
    "parse_count",
    "parse_duration",
    "parse_ratio",
    "parse_size",
    "size_text",
]

NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
DURATION = re.compile(NUMBER + r"\s*([A-Za-z]*)")
SIZE = re.compile(NUMBER + r"\s*([A-Za-z]*)")
SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}
BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
# What people write who come from nginx ("16k") or elsewhere, and what they mean there: powers of two.
LOOSE_SIZES = {"k": "KiB", "kb": "KiB", "kib": "KiB", "m": "MiB", "mb": "MiB", "mib": "MiB", "g": "GiB", "gb": "GiB", "gib": "GiB"}
LOOSE_SECONDS = {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s", "min": "m", "mins": "m", "minute": "m", "minutes": "m",
    "hour": "h", "hours": "h", "day": "d", "days": "d", "msec": "ms", "millis": "ms", "w": "7d",
}  # fmt: skip


def kind_of(value: object) -> str:
    """What TOML calls it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    kinds = ((int, "an integer"), (float, "a float"), (str, "a string"), (list, "an array"), (dict, "a table"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "a date or time")


def parse_duration(value: object, mark: Duration) -> float:
    """Seconds."""
    if not isinstance(value, str):
        raise ValueError(f'must be a duration like "250ms" or "30s", not {kind_of(value)}')
    match = DURATION.fullmatch(value.strip())
    if match is None:
        raise ValueError(f'"{value}" is not a duration; write it like "250ms", "30s", "5m" or "1h"')
    number, unit = match.groups()
    if not unit:
        raise ValueError(f'"{value}" has no unit; write "{number}s" or "{number}ms"')
    if unit not in SECONDS:
        meant = LOOSE_SECONDS.get(unit.lower(), unit.lower())
        hint = f'write "{number}{meant}"' if meant in SECONDS else "the units are ms, s, m, h and d"
        raise ValueError(f'"{value}" has an unknown unit; {hint}')
    seconds = float(Decimal(number) * SECONDS[unit])
    if not mark.minimum <= seconds <= mark.maximum:
        raise ValueError(out_of_range(value, seconds < mark.minimum, duration_text(mark.minimum), duration_text(mark.maximum)))
    return seconds


def parse_size(value: object, mark: Size) -> int:
    """Bytes."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f'must be a size like "16KiB" or a number of bytes, not {kind_of(value)}')
    size = value if isinstance(value, int) else size_of(value)
    if not mark.minimum <= size <= mark.maximum:
        raise ValueError(out_of_range(str(value), size < mark.minimum, str(size_text(mark.minimum)), str(size_text(mark.maximum))))
    return size


def size_of(text: str) -> int:
    match = SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'"{text}" is not a size; write it like "16KiB", "1MiB" or a number of bytes')
    number, unit = match.groups()
    if unit and unit not in BYTES:
        meant = LOOSE_SIZES.get(unit.lower())
        raise ValueError(
            f'"{text}" has an unknown unit; {f"""write "{number}{meant}" """.strip() if meant else "the units are " + ", ".join(BYTES)}'
        )
    size = Decimal(number) * BYTES[unit or "B"]
    if size != size.to_integral_value():
        raise ValueError(f'"{text}" is not a whole number of bytes')
    return int(size)


def parse_count(value: object, mark: Count) -> int:
    """An integer; as text only where it comes from the environment, of which the caller sees to."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"must be an integer, not {kind_of(value)}")
    return count_in_range(value, mark)


def count_in_range(value: int, mark: Count) -> int:
    if not mark.minimum <= value <= mark.maximum:
        raise ValueError(out_of_range(str(value), value < mark.minimum, str(mark.minimum), str(mark.maximum)))
    return value


def parse_ratio(value: object, mark: Ratio) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number from {mark.minimum:g} to {mark.maximum:g}, not {kind_of(value)}")
    if not mark.minimum <= value <= mark.maximum:  # NaN is not
        raise ValueError(f"{value:g} is out of range; it must be from {mark.minimum:g} to {mark.maximum:g}")
    return float(value)


def out_of_range(text: str, too_small: bool, minimum: str, maximum: str) -> str:
    return f"{text} is too small; the least is {minimum}" if too_small else f"{text} is too large; the most is {maximum}"


def duration_text(seconds: float) -> str:
    """The shortest form that is read back as the same float: "250ms", "1500ms", "90s", "5m"."""
    exact = Decimal(repr(seconds))
    for unit in ("d", "h", "m", "s", "ms"):
        count = exact / SECONDS[unit]
        if count == count.to_integral_value() and count and float(count * SECONDS[unit]) == seconds:
            return f"{int(count)}{unit}"
    return f"{exact:f}s" if seconds else "0s"


def size_text(size: int) -> str | int:
    """ "64KiB", or a plain integer where no unit divides it."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if size and size % BYTES[unit] == 0:
            return f"{size // BYTES[unit]}{unit}"
    return size
