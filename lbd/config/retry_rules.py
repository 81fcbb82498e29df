"""Whether what is said of retries fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.retry_policy import RetryPolicy, parse_hedge
from lbd.config.units import duration_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.routing.route import RoutePolicy

__all__ = ["check_retry", "check_route_retry"]


def check_retry(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    retry, own = cluster.retry, (*path, "retry")
    if not retry.attempts:
        check_off(retry, own, report)
        return
    if not retry.budget and not retry.budget_min and sound(own, report, "budget", "budget_min", "attempts"):
        report.error((*own, "budget"), "allows no retry at all, with budget_min = 0; write attempts = 0 for that, or a share like 0.2")
    if retry.backoff > retry.max_backoff and sound(own, report, "backoff", "max_backoff"):
        report.error(
            (*own, "backoff"), f"is above max_backoff, {duration_text(retry.max_backoff)}, up to which it grows; make one of the two fit"
        )
    check_per_try(cluster, own, report)
    check_hedge(retry, own, report)


def check_off(retry: RetryPolicy, own: KeyPath, report: Report) -> None:
    """Nothing is tried again: what is said of how it is must be a mistake, and hedging is one attempt more."""
    if retry.hedge_after and sound(own, report, "hedge_after"):
        report.error((*own, "hedge_after"), "is a second attempt, and attempts = 0 forbids it; write attempts = 1, or take it out")
    for key in ("on", "methods", "per_try", "backoff", "max_backoff", "max_body", "budget", "budget_min"):
        if report.has((*own, key)) and getattr(retry, key) != getattr(RetryPolicy(), key):
            report.warn((*own, key), "has no effect with attempts = 0")


def check_per_try(cluster: ClusterPolicy, own: KeyPath, report: Report) -> None:
    retry, timeouts = cluster.retry, cluster.timeouts
    if not retry.per_try or not sound(own, report, "per_try"):
        return
    key, place = (*own, "per_try"), (*own[:-1], "timeouts")
    if timeouts.total and retry.per_try >= timeouts.total and report.is_sound((*place, "total")):
        report.error(key, f"leaves no time for another attempt: timeouts.total is {duration_text(timeouts.total)}; make it shorter")
    elif timeouts.response and retry.per_try > timeouts.response and report.is_sound((*place, "response")):
        report.error(key, f"is never reached: timeouts.response is {duration_text(timeouts.response)}; make it shorter than that")
    if "timeout" not in retry.on and sound(own, report, "on"):
        report.error(key, 'ends an attempt, but nothing follows: `on` has no "timeout"; put it there, or set timeouts.response')


def check_hedge(retry: RetryPolicy, own: KeyPath, report: Report) -> None:
    if not retry.hedge_after or not sound(own, report, "hedge_after"):
        return
    after, _ = parse_hedge(retry.hedge_after)
    if retry.per_try and after >= retry.per_try and sound(own, report, "per_try"):
        report.error((*own, "hedge_after"), f"is never reached: per_try is {duration_text(retry.per_try)}; make it shorter than that")


def check_route_retry(route: RoutePolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    """A route's own deadline and the time that its cluster gives to a try."""
    total = route.timeouts.total
    if total <= 0 or not report.is_sound((*path, "timeouts", "total")):
        return
    for name in (route.cluster, *(name for name, _ in route.clusters)):
        cluster = clusters.get(name)
        if cluster is None or not cluster.retry.attempts or not 0 < total <= cluster.retry.per_try:
            continue
        sentence = f"cluster.{name}.retry.per_try is {duration_text(cluster.retry.per_try)}, which leaves no time for another attempt"
        report.error((*path, "timeouts", "total"), f"{sentence}; make it longer than that")


def sound(own: KeyPath, report: Report, *keys: str) -> bool:
    return all(report.is_sound((*own, key)) for key in keys)
