"""conf/lb.toml with everything that it only shows."""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["FULL", "with_defaults", "with_files"]

FULL = Path(__file__).resolve().parent.parent.parent / "conf/lb.toml"


def with_files() -> str:
    """What needs files is in force; they are not there."""
    return re.sub(r"^##", "", FULL.read_text(), flags=re.MULTILINE)


def with_defaults() -> str:
    """So is every key that has its default."""
    return re.sub(r"^#(?=[a-z_]+ = )", "", with_files(), flags=re.MULTILINE)
