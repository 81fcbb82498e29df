"""What lbd says by itself: an error's answer."""

from __future__ import annotations

import pytest

from lbd.proxy.answers import error_answer
from lbd.proxy.reasons import failure


@pytest.mark.parametrize(
    ("seconds", "field"), [(0.0, None), (0.2, b"Retry-After: 1\r\n"), (3.0, b"Retry-After: 3\r\n"), (3.1, b"Retry-After: 4\r\n")]
)
def test_who_is_asked_to_come_again_later_is_told_whole_seconds(seconds: float, field: bytes | None) -> None:
    fields = error_answer(failure("no_healthy_endpoint", retry_after=seconds), False, 0.0).fields
    assert (field in fields) if field else b"Retry-After" not in fields
