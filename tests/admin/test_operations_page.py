"""docs/operations.md knows every word the daemon may say at night: a new one without an explanation fails here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lbd.errors import Exit
from lbd.metrics import CATALOGUE
from lbd.proxy.reasons import REASONS
from lbd.wire import refusal

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
CODES = set(re.findall(r"`([a-z0-9_.]+)`", PAGE))


@pytest.mark.parametrize("name", sorted(metric.name for metric in CATALOGUE.values()))
def test_every_metric_is_explained(name: str) -> None:
    assert name in CODES


def test_no_metric_is_explained_that_there_is_not() -> None:
    named = set(re.findall(r"\b(?:lbd|process)_[a-z0-9_]+\b", PAGE))
    known = {metric.name + ending for metric in CATALOGUE.values() for ending in ("", "_bucket")}
    assert named <= known


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_explained_with_its_status(reason: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("|") and f"`{reason}`" in line)
    assert str(REASONS[reason].status) in row.split("|")[2]


def test_every_reason_of_the_codec_is_explained() -> None:
    said = set(re.findall(r'WireError\("([a-z_]+)"', "".join(path.read_text() for path in Path(refusal.__file__).parent.glob("*.py"))))
    assert said
    assert said <= CODES


def test_every_field_of_the_access_log_is_explained() -> None:
    fields = set(re.findall(r'"([a-z_]+)":', (ROOT / "lbd/proxy/access.py").read_text()))
    assert len(fields) > 15
    assert fields <= CODES


@pytest.mark.parametrize("result", ["ok", "connect", "timeout", "tls", "closed", "protocol", "status", "body", "fault"])
def test_every_result_of_a_health_check_is_explained(result: str) -> None:
    assert result in CODES


@pytest.mark.parametrize("code", list(Exit))
def test_every_exit_code_is_explained(code: Exit) -> None:
    assert f"**{code.value}**" in PAGE
