"""Health: when does a run of probe results flip an endpoint?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Choice, Count, Duration, Size

__all__ = ["HealthPolicy"]


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """An active health check, `[cluster.NAME.health]`. Run by the master, once for all workers."""

    protocol: Annotated[str, Choice(("http", "https", "tcp"))] = "http"
    path: str = "/"
    method: Annotated[str, Choice(("GET", "HEAD", "OPTIONS"))] = "GET"
    host: str = ""  # the Host field; "" is the endpoint's address
    headers: tuple[tuple[str, str], ...] = ()  # TOML: a table
    port: Annotated[int, Count(0, 65535)] = 0  # 0 is the endpoint's own
    interval: Annotated[float, Duration(0.01)] = 5.0
    interval_down: Annotated[float, Duration(0.0, zero="as interval")] = 0.0
    jitter: Annotated[float, Duration(0.0)] = -1.0  # -1: a tenth of the interval (not writable as such)
    timeout: Annotated[float, Duration(0.01)] = 2.0  # for the whole probe: connect, send, answer
    rise: Annotated[int, Count(1, 1000)] = 2
    fall: Annotated[int, Count(1, 1000)] = 3  # one failure never ejects: a lost SYN is not an outage
    expect_status: tuple[str, ...] = ("200-399",)
    expect_body: str = ""  # a regular expression searched for in the first `body_limit` bytes; "" is no check
    body_limit: Annotated[int, Size(0, 1 << 20)] = 16 * 1024
    initial: Annotated[str, Choice(("up", "down"))] = "up"
