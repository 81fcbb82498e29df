"""What a regular expression begins with, and which routes a request leaves in question."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from lbd.routing.route import Route, RoutePolicy
from lbd.routing.shortlist import FEW, Shortlist, literal_prefix
from tests.routing.requests import make_request


@pytest.mark.parametrize(
    ("pattern", "prefix"),
    [
        ("/svc7/[a-z]+", b"/svc7/"),
        ("/svc7/", b"/svc7/"),
        ("^/svc7/.*$", b"/svc7/"),
        (r"/v1\.0/x\-y/\d+", b"/v1.0/x-y/"),
        ("/caf\u00e9/.*", "/caf\u00e9/".encode()),
        ("/ab*", b"/a"),
        ("/ab?c", b"/a"),
        ("/ab{2}", b"/a"),
        ("/ab+c", b"/ab"),
        (r"/a\.?b", b"/a"),
        ("/a(b|c)/d", b"/a"),
        ("/a(?:b|c)|d", b""),
        ("/a|/b", b""),
        ("/a[|]b", b"/a"),
        ("/a[]|]b", b"/a"),
        ("/a[^]|]b", b"/a"),
        (r"/a[\]|]b", b"/a"),
        (r"/a\|b", b"/a|b"),
        (r"/a(\(|x)|b", b""),
        ("/a(?P<n>x|y)/b", b"/a"),
        ("/a(?=b|c).*", b"/a"),
        # In doubt, none
        ("(?i)/svc7/x", b""),
        ("/svc7/(?i:x)", b""),
        ("/svc7/(?#[)|/other(?#])", b""),
        ("/svc7/(?x: # [\n)|/other[]]", b""),
        (r"\d/x", b""),
        (".*", b""),
        ("", b""),
        ("(/a)", b""),
        ("/(x)?(?(1)a|b)", b""),
    ],
)
def test_what_an_expression_begins_with(pattern: str, prefix: bytes) -> None:
    re.compile(pattern.encode())
    assert literal_prefix(pattern) == prefix


PIECES = [
    *("/", "a", "b|", "|", "(", ")", "(?:", "(?i:", "(?x:", "(?#", "(?!", "(?=", "[", "]", "[^", "a-", "\u00e9", "#", " ", "\n"),
    *(r"\.", r"\d", r"\]", r"\[", r"\|", r"\(", r"\)", "\\", "?", "+", "*", "{2}", "{,1}", "{", "^", "$", "."),
]


def is_expression(pattern: str) -> bool:
    try:
        re.compile(pattern.encode(), re.DOTALL)
    except (re.error, OverflowError):
        return False
    return True


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@given(
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join).filter(is_expression),
    st.data(),
)
def test_all_that_an_expression_matches_begins_so(pattern: str, data: st.DataObject) -> None:
    prefix = literal_prefix(pattern)
    if prefix:
        compiled = re.compile(pattern.encode(), re.DOTALL)
        text = data.draw(st.from_regex(compiled, fullmatch=True))
        if compiled.fullmatch(text):
            assert text.startswith(prefix)


def shortlist(*policies: RoutePolicy) -> Shortlist:
    return Shortlist([(place, Route(policy, "web")) for place, policy in enumerate(policies)])


def tenant(value: str, *more: tuple[str, str]) -> RoutePolicy:
    return RoutePolicy(value, headers=(("x-tenant", value), *more), cluster="c")


def names(routes: Shortlist, *fields: tuple[str, str]) -> list[str]:
    return [route.name for _, route in routes.of(make_request("/", "a.com", "GET", *fields))]


def test_few_are_all_in_question() -> None:
    few = [tenant(str(number)) for number in range(FEW)]
    assert names(shortlist(*few)) == [policy.name for policy in few]
    assert names(shortlist(*few, tenant("one more"))) == []


def test_who_demands_no_value_is_always_in_question_and_the_order_stays() -> None:
    crowd = [tenant(str(number)) for number in range(20)]
    patterned, anybody = RoutePolicy("patterned", headers=(("x-tenant", "~.*"),), cluster="c"), RoutePolicy("anybody", cluster="c")
    routes = shortlist(*crowd[:5], patterned, *crowd[5:], anybody)
    assert names(routes) == ["patterned", "anybody"]
    assert names(routes, ("X-Tenant", "7"), ("X-Tenant", "3")) == ["3", "patterned", "7", "anybody"]
    assert names(routes, ("X-Tenant", "7"), ("X-Tenant", "7")) == ["patterned", "7", "anybody"]


def test_a_route_lies_under_the_rarest_of_its_values() -> None:
    routes = shortlist(*(tenant(str(number), ("x-env", "prod")) for number in range(20)))
    assert names(routes, ("X-Env", "prod")) == []
    assert names(routes, ("X-Tenant", "7")) == ["7"]  # and it will be asked for the rest
