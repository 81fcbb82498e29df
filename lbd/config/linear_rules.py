"""Routes that a request can only be held against one by one, where there are many of them.

routing/shortlist.py finds routes by what their expressions begin with and by the values that they demand. What is left is asked in
turn, and each question costs: with a thousand expressions a request takes twenty times as long as with one.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lbd.config.shadows import hosts_of, path_cell
from lbd.routing.conditions import is_plain
from lbd.routing.shortlist import literal_prefix

if TYPE_CHECKING:
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.proxy.listener import ListenerPolicy
    from lbd.routing.route import RoutePolicy

__all__ = ["check_linear"]

MOST = 100  # in one place. 10 to 50 us for a request: as much as all the rest of it


def check_linear(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    """A warning where there are more than MOST, at the first that is too many."""
    counts: Counter[tuple[str, bytes]] = Counter()
    first: dict[tuple[str, bytes], int] = {}
    for index, route in enumerate(listener.routes):
        if report.is_sound((*path, "route", index)) and not demands_value(route):
            cell = f"~{literal_prefix(route.path_regex).decode(errors='replace')}" if route.path_regex else path_cell(route)
            for host in hosts_of(route):
                counts[cell, host] += 1
                if counts[cell, host] == MOST + 1:
                    first[cell, host] = index
    for (cell, host), index in first.items():
        report.warn((*path, "route", index), sentence(cell, counts[cell, host]))


def demands_value(route: RoutePolicy) -> bool:
    return any(is_plain(value) for _, value in (*route.headers, *route.query))


def sentence(cell: str, count: int) -> str:
    if cell.startswith("~"):
        what = f'begin with "{cell[1:]}"' if cell[1:] else "begin with no certain text"
        return f"{count} expressions {what}, and requests try them in turn, which takes long; give them beginnings of their own"
    return f"{count} routes of this path and host demand no certain value, and requests ask them in turn, which takes long"
