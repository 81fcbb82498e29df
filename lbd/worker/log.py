"""The log and the access log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Choice

__all__ = ["LogPolicy"]


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """`[log]`."""

    level: Annotated[str, Choice(("debug", "info", "warning", "error"))] = "info"
    format: Annotated[str, Choice(("text", "json"))] = "text"
    file: str = "stderr"  # or a path
    access: str = "stdout"  # stdout | off | a path
    access_format: Annotated[str, Choice(("json", "combined"))] = "json"
