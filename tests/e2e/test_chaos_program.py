"""`make chaos` in small: a few seconds of everything, and nothing that must not be seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.__main__ import chaos
from tests.chaos.schedule import plan

if TYPE_CHECKING:
    from pathlib import Path

SECONDS, SEED = 15.0, 3


@pytest.mark.alone
def test_everything_at_once(tmp_path: Path) -> None:
    """More patient with each try than `make chaos` is: a machine that is shared may be slow for a moment."""
    assert chaos(tmp_path, SECONDS, SEED, per_try="4s") == []


def test_the_seed_is_the_schedule() -> None:
    events = plan(SEED, SECONDS, 5, 2)
    assert events == plan(SEED, SECONDS, 5, 2) != plan(SEED + 1, SECONDS, 5, 2)
    unwell = [(event.at, event.at + event.lasts, event.target) for event in events if event.kind in ("kill", "stop", "mood")]
    for at, _, _ in unwell:
        assert len({target for begin, end, target in unwell if begin <= at < end}) <= 2
