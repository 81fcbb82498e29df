"""When a request is tried again, and how often. A cluster's table; proxy/retry.py and budget.py obey it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from lbd.cluster.health import parse_statuses
from lbd.policy import Count, Duration, Ratio, Size

__all__ = ["FAILURES", "GRPC_STATUSES", "RetryPolicy", "parse_cause", "parse_hedge"]

# What an attempt can fail of before there is an answer.
FAILURES = ("connect", "reset", "refused-stream", "timeout")
GRPC_STATUSES = (  # by number (gRPC's doc/statuscodes.md)
    "ok", "cancelled", "unknown", "invalid-argument", "deadline-exceeded", "not-found", "already-exists", "permission-denied",
    "resource-exhausted", "failed-precondition", "aborted", "out-of-range", "unimplemented", "internal", "unavailable", "data-loss",
    "unauthenticated",
)  # fmt: skip
HEDGE = re.compile(r"p([1-9][0-9](?:\.[0-9]+)?)|([0-9]+(?:\.[0-9]+)?)(ms|s)")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`[cluster.NAME.retry]`."""

    attempts: Annotated[int, Count(0, 100)] = 2  # beyond the first
    # No status: an answer is an answer, and who sends a 503 may mean it. "grpc:unavailable" and its like are for calls of gRPC.
    on: tuple[str, ...] = FAILURES
    # What may be sent again after an endpoint may have worked on it: the idempotent ones (RFC 9110 9.2.2). All others are tried again
    # only where it is certain that no endpoint has looked at them.
    methods: tuple[str, ...] = ("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE")
    # Off, because a slow answer and none look the same for so long: whoever knows how long the slowest good answer takes, sets it.
    per_try: Annotated[float, Duration(0.0, zero="as timeouts.response")] = 0.0
    # At most 10 s, as long as Retry-After is obeyed: whoever was to wait for longer is told to come again.
    backoff: Annotated[float, Duration(0.0, 10.0, zero="no waiting")] = 0.025  # at the most before the second retry; then it doubles
    max_backoff: Annotated[float, Duration(0.0, 10.0)] = 0.25  # up to this: with 2 attempts a client waits for a third of a second at most
    max_body: Annotated[int, Size(zero="only what came whole with its head")] = (
        64 * 1024
    )  # of a body that streams up, kept to be sent again
    # Retries are for the failures of a few. When all fail they double the load of a service that has too much already, and a fifth
    # more is what most have in reserve. Envoy and Finagle: 20 % too.
    budget: Annotated[float, Ratio(0.0, 100.0)] = 0.2  # retries, as a share of the requests of the last ten seconds, of each worker
    budget_min: Annotated[int, Count(0, 1_000_000)] = 3  # a second, of each worker, however few requests it has
    hedge_after: str = ""  # "50ms", or "p95" of what answers have taken: then a second attempt begins beside the first; "" is never


def parse_cause(text: str) -> tuple[str, frozenset[int]]:
    """One item of `on`: ("failure", none), ("status", those of the range), ("grpc", that one). ValueError says what is wrong."""
    if text in FAILURES:
        return text, frozenset()
    kind, _, name = text.partition(":")
    if kind == "grpc":
        if name not in GRPC_STATUSES:
            raise ValueError(f'"{name}" is no status of gRPC; they are {", ".join(GRPC_STATUSES[1:])}')
        if name == "ok":
            raise ValueError('"grpc:ok" is a success; take it out')
        return "grpc", frozenset([GRPC_STATUSES.index(name)])
    if not re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        raise ValueError(f'"{text}" is nothing to try again on; write {", ".join(FAILURES)}, "503", "500-504", or "grpc:unavailable"')
    holds = parse_statuses([text])
    statuses = frozenset(status for status in range(100, 600) if holds(status))
    if min(statuses) < 300:
        raise ValueError(f'"{text}": a status below 300 is no failure; write statuses from 300 to 599')
    return "status", statuses


def parse_hedge(text: str) -> tuple[float, float]:
    """`hedge_after`: (seconds, 0) or (0, the share of answers that are faster). ValueError says what is wrong."""
    match = HEDGE.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is neither a duration like "50ms" nor a percentile like "p95", from p10 to p99.9')
    if match[1]:
        return 0.0, float(match[1]) / 100.0
    seconds = float(match[2]) * (0.001 if match[3] == "ms" else 1.0)
    if seconds < 0.001:
        raise ValueError(f'"{text}" is too short; the least is 1ms')
    return seconds, 0.0
