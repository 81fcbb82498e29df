"""Routes that no request can reach, because an earlier one takes all of theirs.

The most specific route wins (routing/table.py), so file order decides only among routes of the same path and the same host: there, more
conditions come first, and regular expressions strictly in file order. A route is out of reach when, for each of its hosts, an
earlier route of that path and host is asked before it and demands nothing that it does not demand too. What overlaps in
cleverer ways (two regular expressions) is not found; what is found is certain.

A table may have thousands of routes that differ in one demand, so a route is not compared with all of them: those that demand no more than
it lie under a part of its own demands.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from lbd.routing.path import pattern_key
from lbd.routing.table import host_key, prefix_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.proxy.listener import ListenerPolicy
    from lbd.routing.route import RoutePolicy

    Demands = frozenset[tuple[str, str, str]]  # (header or query, name, value)
    Earlier = dict[Demands, list[int]]  # routes that have been looked at

__all__ = ["check_reach"]

ANYWHERE = b"*"
# What a route does; all its other keys say what it takes.
ACTS = {"name", "cluster", "clusters", "respond", "redirect", "rewrite", "timeouts", "max_body", "priority", "subset", "subset_fallback"}


def check_reach(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    """Reports each route that is out of reach, with the place of what takes its requests."""
    asked: dict[tuple[str, bytes], Earlier] = {}  # by path and host
    for index, route in enumerate(listener.routes):
        own = (*path, "route", index)
        if report.is_broken_but_for(own, ACTS):
            continue
        cell = path_cell(route)
        hosts = hosts_of(route)
        shadows = [shadow_of(listener, asked_before(asked, cell, host), route) for host in hosts]
        if all(shadow is not None for shadow in shadows):
            found = sorted(shadow for shadow in shadows if shadow is not None)
            places = dict.fromkeys(report.place_of((*path, "route", shadow)) for shadow in found)
            report.error(own, f"no request can reach this route: {subject(list(places))} all of its requests first; {remedy(route)}")
        for host in hosts:
            asked.setdefault((cell, host), {}).setdefault(demands(route), []).append(index)
    if listener.cluster and (takers := asked.get(("", ANYWHERE))):
        for index in takers.get(frozenset(), ()):
            if demands_nothing(listener.routes[index]):
                place = report.place_of((*path, "route", index))
                report.error((*path, "cluster"), f"no request can get here: the route at {place} takes everything; keep one of the two")
                break


def path_cell(route: RoutePolicy) -> str:
    """Routes of equal cells compete by order; "" is every path."""
    if route.path_exact:
        return "=" + pattern_key(route.path_exact).decode()
    if route.path_regex:
        return "~" + route.path_regex
    return prefix_key(route.path).decode()


def hosts_of(route: RoutePolicy) -> list[bytes]:
    return list(dict.fromkeys(host_key(host) for host in route.host)) or [ANYWHERE]


def asked_before(asked: dict[tuple[str, bytes], Earlier], cell: str, host: bytes) -> list[Earlier]:
    """Those that may be asked before: of the same host, and of any host where only the order counts."""
    hosts = (host, ANYWHERE) if cell.startswith("~") and host != ANYWHERE else (host,)
    return [asked[cell, each] for each in hosts if (cell, each) in asked]


def shadow_of(listener: ListenerPolicy, groups: list[Earlier], route: RoutePolicy) -> int | None:
    own = demands(route)
    for earlier in groups:
        others = sorted(other for less in no_more_than(own, earlier) for other in earlier[less])
        for other in others:
            before = listener.routes[other]
            if comes_first(before, route) and takes_methods(before, route):
                return other
    return None


def no_more_than(own: Demands, earlier: Earlier) -> list[Demands]:
    """What is demanded in `earlier` and by this route, too."""
    if 2 ** len(own) > len(earlier):
        return [less for less in earlier if less <= own]
    parts = (frozenset(part) for size in range(len(own) + 1) for part in combinations(own, size))
    return [part for part in parts if part in earlier]


def comes_first(earlier: RoutePolicy, later: RoutePolicy) -> bool:
    """Given that it stands earlier in the file."""
    return bool(earlier.path_regex) or count(earlier) >= count(later)


def count(route: RoutePolicy) -> int:
    return bool(route.methods) + len(route.headers) + len(route.query)


def demands(route: RoutePolicy) -> Demands:
    return frozenset(conditions(route))


def conditions(route: RoutePolicy) -> Iterator[tuple[str, str, str]]:
    yield from (("header", name, value) for name, value in route.headers)
    yield from (("query", name, value) for name, value in route.query)


def takes_methods(earlier: RoutePolicy, later: RoutePolicy) -> bool:
    return not earlier.methods or (bool(later.methods) and set(earlier.methods) >= set(later.methods))


def demands_nothing(route: RoutePolicy) -> bool:
    return not count(route)


def subject(places: list[str]) -> str:
    return f"the route at {places[0]} takes" if len(places) == 1 else f"the routes at {', '.join(places[:-1])} and {places[-1]} take"


def remedy(route: RoutePolicy) -> str:
    return "take it out, move it up, or give it conditions of its own" if count(route) == 0 else "take it out or move it up"
