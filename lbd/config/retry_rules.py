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
    check_budget(retry, own, report)
    if retry.backoff > retry.max_backoff and sound(own, report, "backoff", "max_backoff"):
        report.error(
            (*own, "backoff"), f"is above max_backoff, {duration_text(retry.max_backoff)}, up to which it grows; make one of the two fit"
        )
    total = cluster.timeouts.total
    if report.has((*own, "backoff")) and 0 < total <= retry.backoff and sound(own, report, "backoff", "max_backoff"):
        report.error((*own, "backoff"), f"is longer than a request has time: timeouts.total is {duration_text(total)}; make it shorter")
    check_per_try(cluster, own, report)
    check_hedge(cluster, own, report)


def check_budget(retry: RetryPolicy, own: KeyPath, report: Report) -> None:
    """A share of nothing. With `budget_min` written beside it, it is a rate, and meant; what `budget_min` is by itself nobody has in mind
    who writes budget = 0."""
    if retry.budget or not sound(own, report, "budget", "budget_min", "attempts"):
        return
    if not retry.budget_min:
        report.error((*own, "budget"), "allows no retry at all, with budget_min = 0; write attempts = 0 for that, or a share like 0.2")
    elif not report.has((*own, "budget_min")):
        sentence = f"allows {retry.budget_min} retries a second (budget_min), not none: to have none write attempts = 0"
        report.error((*own, "budget"), f"{sentence}; for a fixed rate write budget_min beside it; else a share like 0.2")


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


def check_hedge(cluster: ClusterPolicy, own: KeyPath, report: Report) -> None:
    """A second attempt that would begin when the first one has been ended already."""
    retry, timeouts, place = cluster.retry, cluster.timeouts, (*own[:-1], "timeouts")
    if not retry.hedge_after or not sound(own, report, "hedge_after"):
        return
    after, _ = parse_hedge(retry.hedge_after)
    for name, most, where in (
        ("per_try", retry.per_try, (*own, "per_try")),
        ("timeouts.response", timeouts.response, (*place, "response")),
        ("timeouts.total", timeouts.total, (*place, "total")),
    ):
        if 0 < most <= after and report.is_sound(where):
            report.error((*own, "hedge_after"), f"is never reached: {name} is {duration_text(most)}; make it shorter than that")
            return


def check_route_retry(route: RoutePolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    """A route's own deadlines and the time that its cluster gives to a try."""
    path = (*path, "timeouts")
    for name in (route.cluster, *(name for name, _ in route.clusters)):
        cluster = clusters.get(name)
        if cluster is None or not cluster.retry.attempts or not report.is_sound(("cluster", name, "retry")):
            continue
        per_try, place = cluster.retry.per_try, f"cluster.{name}.retry"
        total, response = route.timeouts.total, route.timeouts.response
        if 0 < total <= per_try and report.is_sound((*path, "total")):
            sentence = f"{place}.per_try is {duration_text(per_try)}, which leaves no time for another attempt"
            report.error((*path, "total"), f"{sentence}; make it longer than that")
        elif 0 < response < per_try and report.is_sound((*path, "response")):
            sentence = f"{place}.per_try is {duration_text(per_try)}, which is never reached then"
            report.error((*path, "response"), f"{sentence}; make it that long, or give the route a cluster with a shorter one")
        after, _ = parse_hedge(cluster.retry.hedge_after) if cluster.retry.hedge_after else (0.0, 0.0)
        for key, most in (("response", response), ("total", total)):
            if 0 < most <= after and report.is_sound((*path, key)):  # it hedges for other routes: nothing is wrong with that
                report.warn((*path, key), f"is over before {place}.hedge_after, {duration_text(after)}: nothing is hedged on this route")
                break


def sound(own: KeyPath, report: Report, *keys: str) -> bool:
    return all(report.is_sound((*own, key)) for key in keys)
