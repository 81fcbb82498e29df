"""Idle upstream connections of one endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Count, Duration

__all__ = ["PoolPolicy"]


@dataclass(frozen=True, slots=True)
class PoolPolicy:
    """Kept-alive upstream connections, `[cluster.NAME.pool]`."""

    max_idle: Annotated[int, Count(0, 1_000_000)] = 128  # per endpoint and worker
    # Below the 5 s after which Node's server closes an idle connection, the most common origin that closes early:
    # closing first avoids the race in which a request meets a connection that the upstream is just closing.
    idle_timeout: Annotated[float, Duration(0.0, zero="not kept")] = 4.0
    max_age: Annotated[float, Duration(0.0, zero="no limit")] = 0.0
    max_requests: Annotated[int, Count(0, zero="no limit")] = 0
