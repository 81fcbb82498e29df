"""Which route takes a request."""

from __future__ import annotations

import gc
import re
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st

from lbd.errors import ProxyError
from lbd.routing.conditions import PRESENT, build_conditions
from lbd.routing.path import pattern_key
from lbd.routing.route import RoutePolicy
from lbd.routing.shortlist import FEW
from lbd.routing.table import RoutingTable, bare_host, host_key
from tests.routing.requests import make_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.wire.message import RequestHead


def table(*policies: RoutePolicy) -> RoutingTable:
    return RoutingTable.build([replace(policy, cluster="c") for policy in policies], "web")


def matched(routes: RoutingTable, request: RequestHead) -> str | None:
    route = routes.match(request)
    return route.name if route is not None else None


def named(name: str, path: str = "", *host: str) -> RoutePolicy:
    return RoutePolicy(name=name, path=path, host=host)


# Paths

PATHS = table(
    named("any"),
    named("v1", "/v1"),
    named("v1-x", "/v1/x"),
    RoutePolicy(name="exact", path_exact="/v1/x"),
    RoutePolicy(name="digits", path_regex="/[0-9]+"),
    RoutePolicy(name="all-digits", path_regex="/.*[0-9]"),
    RoutePolicy(name="deep-exact", path_exact="/v1/y/z/"),
    named("cafe", "/caf\u00e9"),
)


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/", "any"),
        ("/v1", "v1"),
        ("/v1/", "v1"),
        ("/v1?x=/y", "v1"),
        ("/v12", "all-digits"),  # a prefix ends at a segment's end
        ("/v1x", "any"),
        ("/V1/z", "any"),
        ("/v1/x", "exact"),  # exact before prefix
        ("/v1/x/", "v1-x"),
        ("/v1/x/y/z/a/b/c", "v1-x"),  # the longest prefix
        ("/v1/xy", "v1"),
        ("/v1/y/z/", "deep-exact"),
        ("/v1/y/z", "v1"),
        ("/v1/7", "v1"),  # prefix before regular expression
        ("/7", "digits"),  # regular expressions in file order
        ("/a7", "all-digits"),
        ("/7a", "any"),  # all of the path, not a part of it
        ("/a%0A7", "all-digits"),
        ("*", "any"),
        # The same paths in other words
        ("/%76%31/%78", "exact"),
        ("//v1///x", "exact"),
        ("/v1/x;p=1", "exact"),
        ("/v1;a/x;b/y;c", "v1-x"),
        ("/caf%C3%A9/au%20lait", "cafe"),
        ("/caf%c3%a9", "cafe"),
    ],
)
def test_paths(target: str, name: str) -> None:
    assert matched(PATHS, make_request(target)) == name


def test_a_slash_at_the_end_of_a_prefix_means_nothing() -> None:
    routes = table(named("any", "/"), named("v1", "/v1/"))
    assert [matched(routes, make_request(target)) for target in ("/", "/v1", "/v1/x", "/v12")] == ["any", "v1", "v1", "any"]


def test_no_route_is_none() -> None:
    routes = table(named("v1", "/v1"), RoutePolicy(name="nine", path_regex="/9"))
    assert matched(routes, make_request("/")) is None
    assert matched(RoutingTable(()), make_request("/")) is None


# Paths that upstreams read in different ways

GUARDED = table(named("any"), named("admin", "/admin"), named("static", "/static"))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/x/../admin", None),
        ("/admin/../x", None),
        ("/admin/..", None),
        ("/static/%2e%2e/admin", None),
        ("/x%2F..%2Fadmin", None),
        ("/x/..;/admin", None),
        ("/x\\..\\admin", None),
        ("/admin%2Fx", None),  # "/admin%2Fx" is a name in "/" to the one, a path in "/admin" to the other
        ("/admin\\x", None),
        ("/%5Cadmin", None),
        ("/..%2fadmin", None),
        ("/admin/%", None),
        ("/admin%00", None),
        ("/./admin", None),
        # Every reading is the same route's
        ("/admin/a/../b", "admin"),
        ("/admin/a%2Fb", "admin"),
        ("/static/./x", "static"),
        ("/x/a%2Fb", "any"),
        ("/%61dmin", "admin"),
        ("//admin", "admin"),
        ("/;x/admin", "admin"),
        ("/admin;x=/y", "admin"),
        ("/%2561dmin", "any"),
    ],
)
def test_ambiguous_paths_are_refused_across_routes(target: str, name: str | None) -> None:
    if name is not None:
        assert matched(GUARDED, make_request(target)) == name
        return
    with pytest.raises(ProxyError) as caught:
        GUARDED.match(make_request(target))
    assert caught.value.status == 400
    assert caught.value.reason in ("ambiguous_path", "bad_path")


def test_parameters_count_where_a_route_names_one() -> None:
    routes = table(named("any"), named("matrix", "/a;x"), named("a", "/a"))
    assert [matched(routes, make_request(target)) for target in ("/a;x/b", "/a;y", "/a")] == ["matrix", "any", "a"]


def test_a_single_catch_all_takes_everything_unread() -> None:
    routes = table(named("any", "/", "*"))
    assert routes.only is routes.routes[0]
    assert matched(routes, make_request("/%zz/../..")) == "any"
    assert table(named("x", "/x")).only is None
    assert table(named("x", "", "x.com")).only is None
    assert table(RoutePolicy(name="x", methods=("GET",))).only is None
    assert table(named("x"), named("y")).only is None


# Hosts

HOSTS = table(
    named("any"),
    named("exact", "", "api.example.com", "xn--bcher-kva.example"),
    named("wild", "", "*.example.com"),
    named("deep", "", "*.deep.example.com"),
    named("six", "", "[2001:db8::1]"),
    named("four", "", "10.0.0.1"),
    named("inner", "", "my_service"),
)


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "exact"),
        ("API.Example.COM", "exact"),
        ("api.example.com:8080", "exact"),
        ("api.example.com.", "exact"),
        ("api.example.com.:8080", "exact"),
        ("api.example.com:", "exact"),
        ("xn--bcher-kva.example", "exact"),
        ("www.example.com", "wild"),
        ("www.example.com.:1", "wild"),
        ("a.b.example.com", "wild"),
        ("x.deep.example.com", "deep"),  # the longest wildcard
        ("x.y.deep.example.com", "deep"),
        ("deep.example.com", "wild"),
        ("example.com", "any"),  # "*." is at least one label
        (".example.com", "any"),
        ("xexample.com", "any"),
        ("api.example.com.evil.org", "any"),
        ("[2001:db8::1]", "six"),
        ("[2001:DB8::1]:443", "six"),
        ("[2001:db8::2]", "any"),
        ("10.0.0.1:80", "four"),
        ("my_service:8000", "inner"),
        ("", "any"),
    ],
)
def test_hosts(host: str, name: str) -> None:
    assert matched(HOSTS, make_request("/", host)) == name


def test_http_1_0_without_host_finds_only_routes_for_any_host() -> None:
    routes = table(named("com", "", "*.com"), named("a", "", "a.com"))
    assert matched(routes, make_request("/", "", minor=0)) is None


def test_a_route_has_many_hosts() -> None:
    routes = table(named("many", "", "a.com", "*.b.com", "c.com:8080"), named("rest"))
    assert [matched(routes, make_request("/", host)) for host in ("a.com", "x.b.com", "b.com", "c.com")] == ["many", "many", "rest", "many"]


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("*", b"*"),
        ("Example.COM", b"example.com"),
        ("example.com.", b"example.com"),
        ("example.com:80", b"example.com"),
        ("*.Example.com", b"*.example.com"),
        ("b\u00fccher.example", b"xn--bcher-kva.example"),
        ("*.B\u00dcCHER.example", b"*.xn--bcher-kva.example"),
        ("[::1]", b"[::1]"),
        ("[2001:DB8::1]:80", b"[2001:db8::1]"),
    ],
)
def test_hosts_of_the_configuration(pattern: str, key: bytes) -> None:
    assert host_key(pattern) == key


@pytest.mark.parametrize(
    "pattern",
    ["", "*.", "**", "*example.com", "a.*.com", "*.*.com", "a b", "a/b", "::1", "*.[::1]", "a..b", ".a", "http://a", "\u2603" * 80],
)
def test_what_is_no_host(pattern: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        host_key(pattern)


@pytest.mark.parametrize(
    ("authority", "host"), [(b"a.com", b"a.com"), (b"a.com.", b"a.com"), (b"[::1]:80", b"[::1]"), (b"", b""), (b".", b"")]
)
def test_bare_hosts(authority: bytes, host: bytes) -> None:
    assert bare_host(authority) == host


# One against another


@pytest.mark.parametrize(
    ("target", "host", "name"),
    [
        ("/v1", "a.com", "path-and-host"),
        ("/v1", "x.a.com", "path-and-wildcard"),
        ("/v1", "b.com", "path"),
        ("/v1/x", "a.com", "longer-path"),  # the path comes before the host
        ("/z", "a.com", "host"),
        ("/z", "x.a.com", "wildcard"),
        ("/z", "b.com", "neither"),
        ("/7", "a.com", "regex"),
    ],
)
def test_path_before_host(target: str, host: str, name: str) -> None:
    routes = table(
        named("neither"),
        named("wildcard", "", "*.a.com"),
        named("host", "", "a.com"),
        named("path", "/v1"),
        named("path-and-wildcard", "/v1", "*.a.com"),
        named("path-and-host", "/v1", "a.com"),
        named("longer-path", "/v1/x"),
        RoutePolicy(name="regex", path_regex="/[0-9]"),
    )
    assert matched(routes, make_request(target, host)) == name


def test_more_conditions_win_and_order_breaks_ties() -> None:
    get, beta = ("GET",), (("beta", "1"),)
    routes = table(
        named("plain", "/x"),
        named("also-plain", "/x"),
        RoutePolicy(name="one", path="/x", methods=get),
        RoutePolicy(name="two", path="/x", methods=get, query=beta),
        RoutePolicy(name="other-one", path="/x", query=beta),
    )
    assert matched(routes, make_request("/x?beta=1")) == "two"
    assert matched(routes, make_request("/x?beta=1", method="PUT")) == "other-one"
    assert matched(routes, make_request("/x")) == "one"
    assert matched(routes, make_request("/x", method="PUT")) == "plain"


def test_a_route_whose_conditions_fail_leaves_the_request_to_the_next_best() -> None:
    routes = table(
        named("any"),
        named("host", "/a/b", "*.x.com"),
        RoutePolicy(name="post", path_exact="/a/b/c", methods=("POST",)),
        RoutePolicy(name="canary", path="/a/b", host=("h.x.com",), headers=(("x-canary", "1"),)),
    )
    assert matched(routes, make_request("/a/b/c", "h.x.com", "POST")) == "post"
    assert matched(routes, make_request("/a/b/c", "h.x.com", "GET", ("X-Canary", "1"))) == "canary"
    assert matched(routes, make_request("/a/b/c", "h.x.com")) == "host"
    assert matched(routes, make_request("/a/b/c", "y.com")) == "any"


def test_regular_expressions_keep_the_files_order_whatever_their_hosts_and_conditions() -> None:
    routes = table(
        RoutePolicy(name="first", path_regex="/a.*"),
        RoutePolicy(name="second", path_regex="/ab.*", host=("a.com",), methods=("GET",)),
        RoutePolicy(name="third", path_regex="/b.*", host=("a.com",)),
        RoutePolicy(name="fourth", path_regex="/b.*"),
    )
    assert matched(routes, make_request("/abc", "a.com")) == "first"
    assert matched(routes, make_request("/bc", "a.com")) == "third"
    assert matched(routes, make_request("/bc", "b.com")) == "fourth"


@pytest.mark.parametrize("policy", [named("x", "x"), named("x", "", "a b"), RoutePolicy(path_regex="["), RoutePolicy(path_exact="/%zz")])
def test_what_cannot_be_is_said_when_the_table_is_built(policy: RoutePolicy) -> None:
    with pytest.raises(ValueError, match=r"is not|starts with|percent sign"):
        table(policy)


# Against a model that tries every route


def naive_host_rank(pattern: str, host: str) -> int:
    """-1: another host; else the more the better."""
    if pattern == "*":
        return 0
    if pattern.startswith("*."):
        return len(pattern) if host.endswith(pattern[1:]) and len(host) > len(pattern) - 1 else -1
    return 1000 if pattern == host else -1


def naive_match(policies: list[RoutePolicy], request: RequestHead) -> str | None:
    path, host = request.path.decode(), request.authority.decode()
    best: tuple[tuple[int, int, int, int, int], str] | None = None
    for position, policy in enumerate(policies):
        rank = max(naive_host_rank(pattern, host) for pattern in policy.host or ("*",))
        conditions = build_conditions(policy)
        if rank < 0 or (conditions is not None and not conditions.holds(request)):
            continue
        count = conditions.count if conditions else 0
        prefix = policy.path.rstrip("/")
        if policy.path_exact:
            if path != policy.path_exact:
                continue
            key = (3, 0, rank, count, -position)
        elif policy.path_regex:
            if not re.fullmatch(policy.path_regex, path):
                continue
            key = (1, 0, 0, 0, -position)
        elif prefix:
            if not (path == prefix or path.startswith(prefix + "/")):
                continue
            key = (2, len(prefix), rank, count, -position)
        else:
            key = (0, 0, rank, count, -position)
        if best is None or key > best[0]:
            best = (key, policy.name)
    return best[1] if best else None


WORDS = st.sampled_from(["a", "b", "r", "ab"])
PLAIN_PATHS = st.lists(WORDS, max_size=3).map(lambda words: "/" + "/".join(words))
HOST_NAMES = st.sampled_from(["x.com", "a.x.com", "b.a.x.com", "y.org"])
HOST_PATTERNS = st.sampled_from(["*", "x.com", "a.x.com", "*.x.com", "*.a.x.com", "*.com"])
POLICIES = st.builds(
    RoutePolicy,
    host=st.lists(HOST_PATTERNS, max_size=2).map(tuple),
    methods=st.sampled_from([(), ("GET",), ("PUT",)]),
    query=st.sampled_from([(), (("q", "1"),)]),
    cluster=st.just("c"),
).flatmap(
    lambda policy: st.one_of(
        st.just(policy),
        PLAIN_PATHS.map(lambda path: replace(policy, path=path)),
        PLAIN_PATHS.map(lambda path: replace(policy, path_exact=path)),
        st.just(replace(policy, path_regex="/r.*")),
    )
)
REQUESTS = st.builds(
    make_request, st.builds(str.__add__, PLAIN_PATHS, st.sampled_from(["", "?q=1"])), HOST_NAMES, st.sampled_from(["GET", "PUT"])
)


@settings(max_examples=300)
@given(st.lists(POLICIES, max_size=12), st.lists(REQUESTS, min_size=1, max_size=5))
def test_the_index_finds_what_a_search_finds(policies: list[RoutePolicy], requests: list[RequestHead]) -> None:
    policies = [replace(policy, name=str(position)) for position, policy in enumerate(policies)]
    routes = RoutingTable.build(policies, "web")
    for request in requests:
        assert matched(routes, request) == naive_match(policies, request)


# Many routes in one place, that differ in what they demand and in what their expressions begin with.
VALUES = st.sampled_from(["1", "2", "3", "~[12]", "~3|4", PRESENT])
DEMANDS = st.lists(st.tuples(st.sampled_from(["x-tenant", "x-env"]), VALUES), max_size=2, unique_by=lambda pair: pair[0]).map(tuple)
REGEXES = [
    "/a.*",
    "/ab?/.*",
    "/a/b+",
    "/(a|b)/.*",
    "/b|/a",
    "/b/[ab|]",
    "^/b/.*",
    "(?i)/A",
    r"/ab/\w",
    "/ab/a.*",
    "/ab/a{2}",
    ".*",
    "/b/.*|/r",
]
CROWD = st.builds(
    RoutePolicy,
    host=st.sampled_from([(), (), ("x.com",), ("*.com",), ("x.com", "*.com")]),
    methods=st.sampled_from([(), (), (), ("GET",)]),
    headers=DEMANDS,
    query=st.one_of(st.just(()), st.tuples(st.tuples(st.just("q"), VALUES))),
    path=st.just(""),
    path_regex=st.sampled_from(["", *REGEXES]),
    cluster=st.just("c"),
)
QUERIES = st.lists(st.sampled_from(["q=1", "q=2", "q=%33", "q", "p=1", "q=4"]), max_size=3).map("&".join)
FIELDS = st.lists(st.tuples(st.sampled_from(["X-Tenant", "x-env", "X-Other"]), st.sampled_from(["1", "2", "3", "4", "5"])), max_size=4)
CROWDS_REQUESTS = st.builds(
    lambda path, query, host, method, fields: make_request(f"{path}?{query}", host, method, *fields),
    PLAIN_PATHS, QUERIES, HOST_NAMES, st.sampled_from(["GET", "PUT"]), FIELDS,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.lists(CROWD, min_size=FEW + 1, max_size=40), st.lists(CROWDS_REQUESTS, min_size=1, max_size=8))
def test_the_index_of_a_crowd_finds_what_a_search_finds(policies: list[RoutePolicy], requests: list[RequestHead]) -> None:
    policies = [replace(policy, name=str(position)) for position, policy in enumerate(policies)]
    routes = RoutingTable.build(policies, "web")
    for request in requests:
        assert matched(routes, request) == naive_match(policies, request)


DISGUISES = [
    lambda path: path.replace(b"a", b"%61"),
    lambda path: path.replace(b"/", b"//"),
    lambda path: path + b";x=1",
    lambda path: path.replace(b"/", b"/;y/"),
]


@given(st.lists(POLICIES, min_size=1, max_size=8), REQUESTS, st.sampled_from(DISGUISES))
def test_a_disguised_path_is_the_same_path(policies: list[RoutePolicy], request: RequestHead, disguise: Callable[[bytes], bytes]) -> None:
    routes = RoutingTable.build(policies, "web")
    expected = routes.match(request)
    if routes.only is None and not any(policy.path_regex for policy in policies):
        request.path = disguise(request.path)
        assert routes.match(request) is expected


# The cost


def calls_of(action: Callable[[], object]) -> int:
    """How many functions run, of Python and of C."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


def with_any(policy: Callable[[int], RoutePolicy], count: int) -> RoutingTable:
    """So many, and one that takes the rest. Nothing of it is garbage, and looking for some would take longest."""
    gc.disable()
    try:
        return RoutingTable.build([*map(policy, range(count)), RoutePolicy("any", cluster="c")], "web")
    finally:
        gc.enable()


def many_routes(count: int) -> RoutingTable:
    """Of a hundred hosts."""
    hosts = [(f"h{i}.example.com", "*.example.org") for i in range(100)]
    return with_any(lambda i: RoutePolicy(f"r{i}", hosts[i % 100], f"/s{i % 7}/v{i}", cluster="c"), count)


# What each of `count` routes looks like, and a request of the last one's.
KINDS: dict[str, tuple[Callable[[int], RoutePolicy], Callable[[int], RequestHead]]] = {
    "exact path": (
        lambda i: RoutePolicy(f"r{i}", path_exact=f"/e/{i}/x", cluster="c"),
        lambda i: make_request(f"/e/{i}/x"),
    ),
    "host": (
        lambda i: RoutePolicy(f"r{i}", (f"h{i}.example.com",), cluster="c"),
        lambda i: make_request("/", f"h{i}.example.com"),
    ),
    "wildcard": (
        lambda i: RoutePolicy(f"r{i}", (f"*.h{i}.example.com",), cluster="c"),
        lambda i: make_request("/", f"www.h{i}.example.com"),
    ),
    "expression": (
        lambda i: RoutePolicy(f"r{i}", path_regex=f"/svc{i:06}/[a-z]+/[0-9]+", cluster="c"),
        lambda i: make_request(f"/svc{i:06}/abc/12"),
    ),
    "header": (
        lambda i: RoutePolicy(f"r{i}", path="/api", headers=(("x-tenant", f"t{i}"),), cluster="c"),
        lambda i: make_request("/api/x", "a.com", "GET", ("X-Tenant", f"t{i}")),
    ),
    "header, and one that all have": (
        lambda i: RoutePolicy(f"r{i}", path="/api", headers=(("x-env", "prod"), ("x-tenant", f"t{i}")), cluster="c"),
        lambda i: make_request("/api/x", "a.com", "GET", ("X-Env", "prod"), ("X-Tenant", f"t{i}")),
    ),
    "parameter": (
        lambda i: RoutePolicy(f"r{i}", path="/api", query=(("tenant", f"t{i}"),), methods=("GET",), cluster="c"),
        lambda i: make_request(f"/api/x?tenant=t{i}"),
    ),
    "expression and header": (
        lambda i: RoutePolicy(f"r{i}", path_regex="/api/[a-z]+", headers=(("x-tenant", f"t{i}"),), cluster="c"),
        lambda i: make_request("/api/x", "a.com", "GET", ("X-Tenant", f"t{i}")),
    ),
}  # fmt: skip


def test_a_hundred_thousand_routes_cost_what_ten_cost() -> None:
    few, many = many_routes(10), many_routes(100_000)
    hit = make_request("/s3/v3/x/y/z", "h3.example.com:8080")
    miss = make_request("/s9/v99/x/y/z", "a.b.c.d.example.net")
    assert matched(few, hit) == matched(many, hit) == "r3"
    assert matched(few, miss) == matched(many, miss) == "any"
    for request in (hit, miss):
        assert calls_of(lambda: few.match(request)) == calls_of(lambda: many.match(request)) < 40  # noqa: B023


@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_routes_of_every_kind_cost_what_ten_cost(kind: str) -> None:
    policy, request = KINDS[kind]
    calls = []
    for count in (10, 5000):
        routes = with_any(policy, count)
        hit, miss = request(count - 1), make_request("/nothing/here", "www.example.net")
        assert matched(routes, hit) == f"r{count - 1}"
        assert matched(routes, miss) == "any"
        calls.append((calls_of(lambda: routes.match(hit)), calls_of(lambda: routes.match(miss))))  # noqa: B023
    assert calls[1] == calls[0]
    assert max(calls[0]) < 80


def test_a_long_path_costs_no_more_than_the_longest_prefix() -> None:
    routes = many_routes(10)
    short, long = make_request("/x/y/z", "a.com"), make_request("/x" * 5000, ".".join(["a"] * 5000))
    assert calls_of(lambda: routes.match(long)) <= calls_of(lambda: routes.match(short)) + 4


def test_pattern_keys_and_prefixes_agree() -> None:
    assert pattern_key("/v1//x") == b"/v1/x"
    assert matched(table(named("x", "/v1//x"), named("any")), make_request("/v1/x/y")) == "x"
