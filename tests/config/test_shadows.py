"""Routes that cannot be reached, against the routing table itself: what is called out of reach never matches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lbd.config.report import Report
from lbd.config.shadows import check_reach
from lbd.config.text import Document, Place
from lbd.errors import ConfigErrors
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.routing.table import RoutingTable
from tests.routing.requests import make_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.wire.message import RequestHead

HOSTS = ("a.example.com", "b.example.com", "example.com", "c.org")
PATHS = ("/", "/v1", "/v1/x", "/v2")
METHODS = ("GET", "POST")


def unreachable(routes: tuple[RoutePolicy, ...], cluster: str = "") -> set[int]:
    """Places of the routes that are reported; -1 for the listener's cluster."""
    document = Document()
    document.files[Path("lb.toml")] = Place(0, 0, "lb.toml")
    # A line of its own for each, to be recognised by.
    document.places |= {("listener", "web", "route", index): Place(0, index + 1, "lb.toml") for index in range(len(routes))}
    document.places["listener", "web", "cluster"] = Place(0, 0, "lb.toml")
    report = Report(document)
    check_reach(ListenerPolicy("web", ("0.0.0.0:80",), cluster=cluster, routes=routes), ("listener", "web"), report)
    try:
        report.raise_errors()
    except ConfigErrors as errors:
        return {error.line - 1 for error in errors.errors}
    return set()


def requests() -> Iterator[RequestHead]:
    """One of each sort that the routes below can tell apart."""
    for host in HOSTS:
        for path in PATHS:
            for method in METHODS:
                for fields in ((), (("x", "1"),), (("x", "2"),)):
                    for query in ("", "?q=1"):
                        yield make_request(path + query, host, method, *fields)


REQUESTS = list(requests())
WAYS: list[dict[str, str]] = [
    {},
    {"path": "/"},
    {"path": "/v1"},
    {"path": "/v1/"},
    {"path_exact": "/v1"},
    {"path_regex": "/v1.*"},
    {"path_regex": "/.*"},
]
DOMAINS = [("*",), ("a.example.com",), ("*.example.com",), ("a.example.com", "b.example.com"), ("c.org", "*.example.com")]
ROUTES = st.builds(
    lambda way, rest: RoutePolicy(**way, **rest, respond=RespondPolicy()),
    st.sampled_from(WAYS),
    st.fixed_dictionaries(
        {
            "host": st.sampled_from([(), *DOMAINS]),
            "methods": st.sampled_from([(), (), ("GET",), ("GET", "POST"), ("POST", "GET")]),
            "headers": st.sampled_from([(), (), (("x", "1"),), (("x", "\x00present"),)]),
            "query": st.sampled_from([(), (), (("q", "1"),)]),
        }
    ),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(ROUTES, min_size=1, max_size=5))
def test_what_is_called_out_of_reach_is_out_of_reach(routes: list[RoutePolicy]) -> None:
    found = unreachable(tuple(routes))
    table = RoutingTable.build(routes, "web")
    matched = {table.routes.index(route) for request in REQUESTS if (route := table.match(request)) is not None}
    assert not found & matched


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"path": "/"}, {}),
        ({"path": "/v1"}, {"path": "/v1/"}),
        ({"path": "/%61"}, {"path": "/a"}),
        ({"host": ("*",)}, {}),
        ({"host": ("A.example.com",)}, {"host": ("a.EXAMPLE.com.",)}),
        ({"host": ("a.org", "b.org")}, {"host": ("b.org",)}),
        ({"methods": ("GET", "POST")}, {"methods": ("POST",)}),
        ({"headers": (("x", "1"),)}, {"headers": (("x", "1"),)}),
        ({"path_regex": "/a.*"}, {"path_regex": "/a.*", "methods": ("GET",)}),
        ({"path_regex": "/a.*"}, {"path_regex": "/a.*", "host": ("a.org",)}),
    ],
)
def test_what_hides_what(first: dict[str, object], second: dict[str, object]) -> None:
    routes = tuple(RoutePolicy(**keys) for keys in (first, second))  # type: ignore[arg-type]
    assert unreachable(routes) == {1}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {"path": "/v1"}),
        ({}, {"host": ("a.org",)}),
        ({}, {"methods": ("GET",)}),
        ({"host": ("a.org",)}, {"host": ("a.org", "b.org")}),
        ({"host": ("*.org",)}, {"host": ("a.org",)}),
        ({"methods": ("GET",)}, {"methods": ("GET", "POST")}),
        ({"methods": ("GET",)}, {"headers": (("x", "1"),)}),
        ({"headers": (("x", "1"),)}, {"headers": (("x", "\x00present"),)}),
        ({"path": "/v1"}, {"path_exact": "/v1"}),
        ({"path_regex": "/a.*", "methods": ("GET",)}, {"path_regex": "/a.*"}),
    ],
)
def test_what_does_not(first: dict[str, object], second: dict[str, object]) -> None:
    routes = tuple(RoutePolicy(**keys) for keys in (first, second))  # type: ignore[arg-type]
    assert unreachable(routes) == set()


@pytest.mark.parametrize(
    ("routes", "found"),
    [
        ((RoutePolicy(path="/"),), {-1}),
        ((RoutePolicy(host=("*",)),), {-1}),
        ((RoutePolicy(methods=("GET",)),), set()),
        ((RoutePolicy(path="/v1"),), set()),
        ((), set()),
    ],
)
def test_the_listeners_own_cluster(routes: tuple[RoutePolicy, ...], found: set[int]) -> None:
    assert unreachable(routes, cluster="web") == found
