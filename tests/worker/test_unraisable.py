"""What nobody can catch is counted and logged, and not once for each time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from lbd.worker.unraisable import Unraisable

if TYPE_CHECKING:
    from collections.abc import Iterator


class Watch:
    def __init__(self) -> None:
        self.count = 0
        self.now = 0.0
        self.hook = Unraisable(self.more, lambda: self.now)

    def more(self) -> None:
        self.count += 1


@pytest.fixture
def watch() -> Iterator[Watch]:
    made, before = Watch(), sys.unraisablehook
    sys.unraisablehook = made.hook
    yield made
    sys.unraisablehook = before


class Bad:
    def __del__(self) -> None:
        raise RuntimeError("at the end")


def test_each_is_counted_and_one_a_minute_told(watch: Watch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(5):
        Bad()
    assert watch.count == 5
    (record,) = caplog.records
    assert "a bug, 1 times since the last such line" in record.getMessage()
    assert "Bad.__del__" in record.getMessage()
    assert "RuntimeError: at the end" in caplog.text
    watch.now += 61.0
    Bad()
    assert "a bug, 5 times since the last such line" in caplog.records[-1].getMessage()
    assert capfd.readouterr().err == ""
    assert watch.count == 6


def test_a_name_that_a_client_has_made_up_is_no_bug(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """As the ssl module reports that it cannot decode one."""
    name = b"\xff.example"
    with pytest.raises(UnicodeDecodeError) as caught:
        name.decode("ascii")

    class Arguments:
        exc_type, exc_value, exc_traceback, err_msg, object = UnicodeDecodeError, caught.value, None, None, name

    watch.hook(Arguments())  # type: ignore[arg-type]
    assert watch.count == 0
    assert not caplog.records
