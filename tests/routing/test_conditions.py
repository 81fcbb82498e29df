"""Methods, header fields and query parameters."""

from __future__ import annotations

import pytest

from lbd.routing.conditions import PRESENT, build_conditions, parse_query
from lbd.routing.route import RoutePolicy
from tests.routing.requests import make_request

Fields = tuple[tuple[str, str], ...]


def holds(policy: RoutePolicy, target: str = "/", method: str = "GET", *fields: tuple[str, str]) -> bool:
    conditions = build_conditions(policy)
    assert conditions is not None
    return conditions.holds(make_request(target, "example.com", method, *fields))


def test_a_route_without_conditions_has_none() -> None:
    assert build_conditions(RoutePolicy(host=("a",), path="/x", cluster="c")) is None


@pytest.mark.parametrize(("method", "expected"), [("GET", True), ("POST", True), ("HEAD", False), ("get", False)])
def test_methods(method: str, expected: bool) -> None:
    assert holds(RoutePolicy(methods=("GET", "POST")), "/", method) is expected


HEADERS = [
    ("1", (("X-Canary", "1"),), True),
    ("1", (("x-canary", "11"),), False),
    ("1", (), False),
    # CVE-2026-26308 of Envoy: values of repeated lines are compared one by one, never joined.
    ("1", (("X-Canary", "0"), ("x-canary", "1")), True),
    ("0,1", (("X-Canary", "0"), ("X-Canary", "1")), False),
    ("~a.*z", (("X-Canary", "a"), ("X-Canary", "z")), False),
    ("~[a-z]+", (("X-Canary", "abc"),), True),
    ("~[a-z]+", (("X-Canary", "abc1"),), False),  # all of it, or nothing
    ("~[a-z]+", (("X-Canary", "1"), ("X-Canary", "a")), True),
    (PRESENT, (("X-Canary", ""),), True),
    (PRESENT, (), False),
    ("", (("X-Canary", ""),), True),
    ("", (("X-Canary", "a"),), False),
]


@pytest.mark.parametrize(("expected", "fields", "answer"), HEADERS)
def test_headers(expected: str, fields: Fields, answer: bool) -> None:
    assert holds(RoutePolicy(headers=(("x-canary", expected),)), "/", "GET", *fields) is answer


def test_every_condition_must_hold() -> None:
    policy = RoutePolicy(methods=("GET",), headers=(("a", "1"), ("b", PRESENT)), query=(("q", "1"),))
    conditions = build_conditions(policy)
    assert conditions is not None
    assert conditions.count == 4
    everything = (("A", "1"), ("B", "2"))
    assert holds(policy, "/?q=1", "GET", *everything)
    assert not holds(policy, "/?q=1", "PUT", *everything)
    assert not holds(policy, "/?q=2", "GET", *everything)
    assert not holds(policy, "/?q=1", "GET", everything[0])


QUERIES = [
    ("1", "q=1", True),
    ("1", "p=0&q=1", True),
    ("1", "q=0&q=1", True),
    ("1", "q=0", False),
    ("1", "Q=1", False),
    ("1", "xq=1", False),
    ("", "q", True),
    ("", "q=", True),
    (PRESENT, "q", True),
    (PRESENT, "q=5&x", True),
    (PRESENT, "", False),
    (PRESENT, "x=q", False),
    ("a b", "q=a+b", True),
    ("a b", "q=a%20b", True),
    ("a+b", "q=a%2Bb", True),
    ("a&b", "q=a%26b", True),
    ("a=b", "q=a=b", True),
    ("~[0-9]+", "q=12", True),
    ("~[0-9]+", "q=12x", False),
    ("\u00e9", "q=%C3%A9", True),
    ("1", "%71=1", True),
    ("%zz", "q=%zz", True),  # forms are lenient
]


@pytest.mark.parametrize(("expected", "query", "answer"), QUERIES)
def test_queries(expected: str, query: str, answer: bool) -> None:
    assert holds(RoutePolicy(query=(("q", expected),)), f"/?{query}") is answer


def test_a_query_is_parsed_in_order() -> None:
    assert parse_query(b"a=1&&b&a=2&=x") == {b"a": [b"1", b"2"], b"b": [b""], b"": [b"x"]}


@pytest.mark.parametrize("policy", [RoutePolicy(headers=(("x", "~["),)), RoutePolicy(query=(("x", "~(?P<"),))])
def test_a_broken_regular_expression_is_named(policy: RoutePolicy) -> None:
    with pytest.raises(ValueError, match="is not a regular expression"):
        build_conditions(policy)
