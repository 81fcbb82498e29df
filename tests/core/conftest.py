"""What every test of the ground floor must hold: nothing is left open, nothing is left running."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import pytest

from tests.conftest import open_fds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    before = open_fds()
    yield
    if left_open(before):
        gc.collect()  # a mapping is closed with the last reference to it, which a failed assertion's frames may hold
    assert not left_open(before)


def left_open(before: dict[int, str]) -> dict[int, str]:
    return {fd: target for fd, target in open_fds().items() if before.get(fd) != target}
