"""A cluster: endpoints, a selector, health, limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.cluster.health import HealthPolicy
from lbd.cluster.pool import PoolPolicy
from lbd.policy import Choice, Count, Duration, Ratio

__all__ = ["BALANCES", "ClusterPolicy", "EndpointPolicy", "RetryPolicy", "TimeoutPolicy"]

BALANCES = ("round-robin", "least-requests", "power-of-two", "random", "consistent-hash", "maglev", "peak-ewma")


@dataclass(frozen=True, slots=True)
class EndpointPolicy:
    """One entry of `endpoints`: "host:port", "unix:/path", or a table with these keys."""

    address: str
    weight: Annotated[int, Count(1, 65535)] = 1


@dataclass(frozen=True, slots=True)
class TimeoutPolicy:
    """`[cluster.NAME.timeouts]`; a route may override single keys."""

    connect: Annotated[float, Duration(0.001)] = 1.0
    response: Annotated[float, Duration(0.0, zero="no limit")] = 30.0  # end of the request -> head of the response
    idle: Annotated[float, Duration(0.0, zero="no limit")] = 60.0  # of a body in transit, either way: no byte moved
    total: Annotated[float, Duration(0.0, zero="no limit")] = 0.0  # the whole exchange, attempts included


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`[cluster.NAME.retry]`. It stands here because it is a cluster's table; proxy/retry.py obeys it."""

    attempts: Annotated[int, Count(0, 100)] = 2  # beyond the first


@dataclass(frozen=True, slots=True)
class ClusterPolicy:
    """`[cluster.NAME]`."""

    name: str
    endpoints: tuple[EndpointPolicy, ...]
    balance: Annotated[str, Choice(BALANCES)] = "round-robin"
    hash_key: str = "client-ip"  # client-ip | path | uri | host | header:NAME | cookie:NAME | query:NAME
    bound: Annotated[float, Ratio(0.0, 100.0)] = 0.0  # bounded load for the hashes: 1.25 is 25 % above the mean; 0 is off
    panic: Annotated[float, Ratio(0.0, 1.0)] = 0.5  # below this healthy share, health is ignored; 0 is never
    resolve_interval: Annotated[float, Duration(0.0, zero="by the records' TTL, or 30s where it is not known")] = 0.0
    health: HealthPolicy | None = None
    timeouts: TimeoutPolicy = field(default_factory=TimeoutPolicy)
    pool: PoolPolicy = field(default_factory=PoolPolicy)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
