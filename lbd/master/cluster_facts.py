"""What the admin API tells of a cluster as a whole: its limits, its levels, its breaker, and in a sentence what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lbd import metrics
from lbd.cluster.breaker import BreakerState
from lbd.cluster.tiers import BACKUP, is_panic, spread

if TYPE_CHECKING:
    from lbd.cluster.breaker import BreakerPolicy
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.core.board import Board
    from lbd.worker.messages import EndpointState

__all__ = ["Totals", "admission_of", "breaker_of", "levels_of", "retry_of", "why_of"]

DENIALS = ("budget", "deadline", "body", "endpoint")  # as lbd_retries_denied_total has them
HEDGES = ("won", "lost", "failed", "denied")  # and lbd_hedges_total

Totals = Mapping[tuple[int, tuple[str, ...]], Sequence[int]]  # of the board


def why_of(cluster: ClusterPolicy, states: Sequence[EndpointState], breaker: Mapping[str, int] | None) -> str:
    """What keeps requests from it, or from being spread as they should be, in one sentence; "" while nothing does."""
    if cluster.breaker is not None and breaker is not None and (sentence := _why_not_closed(cluster.breaker, breaker)):
        return sentence
    if not states:
        return "none of its names has resolved to an address, so requests are answered with no_healthy_endpoint"
    up = sum(state.up and not state.drained for state in states)
    if is_panic(states, cluster.spread()):
        share = f"{up} of {len(states)} endpoints up, a smaller share than panic = {cluster.panic:g}"
        return f"{share}, so all are tried whatever their checks say"
    if not up:
        return "no endpoint is up, so requests are answered with no_healthy_endpoint"
    return ""


def _why_not_closed(policy: BreakerPolicy, workers: Mapping[str, int]) -> str:
    count = sum(workers.values())
    if shut := workers[BreakerState.OPEN.value]:
        return (
            f"the breaker is open in {shut} of {count} workers, so requests are refused (circuit_open) for {policy.open:g} s: "
            f"{100 * policy.share:g} % or more of the attempts of {policy.window:g} s failed"
        )
    if trying := workers[BreakerState.HALF_OPEN.value]:
        passes = f"only {policy.probes} requests at once pass until {policy.probes} have succeeded"
        return f"the breaker is half-open in {trying} of {count} workers, so {passes}"
    return ""


def admission_of(board: Board, totals: Totals, place: int, cluster: ClusterPolicy, states: Sequence[EndpointState]) -> dict[str, Any]:
    """What all endpoints together have and may have, over all workers; 0 is no limit."""
    adaptive = totals.get((metrics.ADAPTIVE_LIMIT.number, (cluster.name,)), (0,))[0] if cluster.adaptive.enabled else 0
    return {
        "max_requests": cluster.limits.max_requests,
        "max_connections": cluster.limits.max_connections,
        "adaptive_limit": adaptive,
        "inflight": sum(board.inflight(state.index) for state in states),
        "connections": sum(board.connections(state.index) for state in states),
        "queued": board.waiting(place),
    }


def breaker_of(totals: Totals, cluster: ClusterPolicy) -> dict[str, int] | None:
    """How many workers have it in which state; None where there is none."""
    if cluster.breaker is None:
        return None
    series = {state.value: totals.get((metrics.BREAKER_STATE.number, (cluster.name, state.value)), (0,)) for state in BreakerState}
    return {state: cells[0] for state, cells in series.items()}


def retry_of(totals: Totals, cluster: ClusterPolicy, slots: int) -> dict[str, Any]:
    """Attempts beyond the first: what has come of them since the start, what may be made now, and when one is hedged (of each worker that
    knows). What is looked up is what there can be: to go through all series for each cluster would take seconds with thousands of them."""

    def cell(metric: metrics.Metric, *labels: str) -> int:
        return totals.get((metric.number, (cluster.name, *labels)), (0,))[0]

    workers = [f"worker-{slot}" for slot in range(slots)]
    delays = {worker: cell(metrics.HEDGE_DELAY, worker) / metrics.HEDGE_DELAY.scale for worker in workers}
    return {
        "made": cell(metrics.RETRIES_MADE),
        "denied": {reason: cell(metrics.RETRIES_DENIED, reason) for reason in DENIALS},
        "budget_left": cell(metrics.RETRIES_LEFT) if cluster.retry.attempts else None,
        "hedges": {outcome: cell(metrics.HEDGES, outcome) for outcome in HEDGES},
        "hedge_after": {worker: delay for worker, delay in delays.items() if delay} if cluster.retry.hedge_after else None,
    }


def levels_of(cluster: ClusterPolicy, states: Sequence[EndpointState]) -> list[dict[str, Any]]:
    """In the order in which they are tried, with their shares of all requests; `kind` says why requests are in a part ("": at home)."""
    return [
        {
            "level": "backup" if level.number == BACKUP else level.number,
            "endpoints": len(level.members),
            "up": level.up,
            "share": round(level.share, 3),
            "panic": level.is_panicking,
            "parts": [{"kind": part.kind, "endpoints": len(part.usable), "share": round(part.share, 3)} for part in level.parts],
        }
        for level in spread(states, cluster.spread())
    ]
