"""Endpoints without processes: facts as the master tells them, a board that is a list, connections that only know their age."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.cluster.endpoint import Endpoint
from lbd.cluster.pool import Pool, PoolPolicy

if TYPE_CHECKING:
    from random import Random

    from lbd.core.board import Board

__all__ = ["Connection", "Facts", "endpoints", "filled_cluster", "give_load", "make_endpoint"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What worker/messages.py's EndpointState says."""

    address: str
    weight: int = 1
    index: int = 0
    up: bool = True
    name: str = ""
    backup: bool = False
    max_requests: int = 0
    max_connections: int = 0
    priority: int = 0
    zone: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    drained: bool = False
    trial: int = 0


@dataclass(eq=False)
class Connection:
    """What a pool needs of a connection."""

    opened_at: float = 0.0
    idle_since: float = 0.0
    requests: int = 1
    fresh: bool = True  # as of the last poll
    fresh_now: bool = True  # as the kernel knows
    closed: int = 0
    asked: list[str] = field(default_factory=list)

    def is_fresh(self) -> bool:
        self.asked.append("poll")
        return self.fresh

    def is_fresh_now(self) -> bool:
        self.asked.append("kernel")
        return self.fresh and self.fresh_now

    def close(self) -> None:
        self.closed += 1


def make_endpoint(address: str, weight: int = 1, name: str = "") -> Endpoint:
    return Endpoint("web", Facts(address, weight, name=name), Pool(PoolPolicy()))


def endpoints(*weights: int) -> list[Endpoint]:
    """10.0.0.0:80 and following."""
    return [make_endpoint(f"10.0.{i // 250}.{i % 250}:80", weight) for i, weight in enumerate(weights)]


def give_load(endpoint: Endpoint, count: int) -> None:
    """So many requests more, or less, in flight."""
    for _ in range(abs(count)):
        if count > 0:
            endpoint.begin()
        else:
            endpoint.end()


def filled_cluster(facts: list[Facts], random: Random, board: Board | None = None, **settings: Any) -> Cluster:  # noqa: ANN401 - any field of the policy
    """A cluster of policy `settings` with these endpoints."""
    policy = ClusterPolicy("web", (), **settings)
    cluster = Cluster(policy, None if board is None else board.segment(0), board, random)
    cluster.update(facts)
    return cluster
