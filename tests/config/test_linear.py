"""What is said of routes that can only be asked one by one; and that what is checked of thousands of routes takes no longer for each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbd.config.linear_rules import MOST, check_linear
from lbd.config.report import Report
from lbd.config.shadows import check_reach
from lbd.config.text import Document, Place
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.conditions import PRESENT
from lbd.routing.route import RoutePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = ("listener", "web")


def report_of(routes: list[RoutePolicy]) -> tuple[ListenerPolicy, Report]:
    document = Document()
    document.files[Path("lb.toml")] = Place(0, 0, "lb.toml")
    document.places |= {(*PATH, "route", index): Place(0, index + 1, "lb.toml") for index in range(len(routes))}
    return ListenerPolicy("web", ("0.0.0.0:80",), routes=tuple(routes)), Report(document)


def warned(make: Callable[[int], RoutePolicy], count: int) -> list[str]:
    listener, report = report_of([make(number) for number in range(count)])
    check_linear(listener, PATH, report)
    return [str(warning) for warning in report.warnings()]


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda i: RoutePolicy(path_regex=f"/(?:v{i})/x"), '{} expressions begin with "/", and requests try them in turn'),
        (lambda i: RoutePolicy(path_regex=f".*/v{i}", host=("a.com", "b.com")), "{} expressions begin with no certain text, and requests"),
        (lambda i: RoutePolicy(path="/x", headers=(("x-id", f"~{i}.*"),)), "{} routes of this path and host demand no certain value"),
        (lambda i: RoutePolicy(query=((f"p{i}", PRESENT),)), "{} routes of this path and host demand no certain value"),
    ],
)
def test_more_than_so_many_in_one_place_are_a_warning(make: Callable[[int], RoutePolicy], sentence: str) -> None:
    assert warned(make, MOST) == []
    (warning,) = warned(make, MOST + 50)
    assert warning.startswith(f"lb.toml:{MOST + 1}: listener.web.route[{MOST + 1}]: {sentence.format(MOST + 50)}")


@pytest.mark.parametrize(
    "make",
    [
        lambda i: RoutePolicy(path_regex=f"/v{i}/[a-z]+"),
        lambda i: RoutePolicy(path_regex="/[a-z]+", headers=(("x-tenant", f"t{i}"),)),
        lambda i: RoutePolicy(path_regex="/[a-z]+", host=(f"h{i}.example.com",)),
        lambda i: RoutePolicy(path="/x", headers=(("x-tenant", f"t{i}"), ("x-id", "~.*"))),
        lambda i: RoutePolicy(path=f"/x{i}", headers=(("x-id", "~.*"),)),
    ],
)
def test_what_is_found_by_an_index_is_none(make: Callable[[int], RoutePolicy]) -> None:
    assert warned(make, 5 * MOST) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda i: RoutePolicy(path="/x", headers=(("x-tenant", f"t{i}"),)),
        lambda i: RoutePolicy(path="/x", headers=(("x-tenant", f"t{i}"),), query=(("beta", "1"), ("n", str(i)))),
        lambda i: RoutePolicy(path_regex="/[a-z]+", headers=(("x-tenant", f"t{i}"),), host=("a.com",)),
    ],
)
def test_whether_a_route_can_be_reached_takes_no_longer_to_see_among_thousands(make: Callable[[int], RoutePolicy]) -> None:
    def calls(count: int) -> int:
        listener, report = report_of([make(number) for number in range(count)])
        seen = 0

        def saw(_frame: object, event: str, _argument: object) -> None:
            nonlocal seen
            seen += event in ("call", "c_call")

        sys.setprofile(saw)
        try:
            check_reach(listener, PATH, report)
        finally:
            sys.setprofile(None)
        return seen

    assert calls(3000) < 11 * calls(300)
