"""What a route does with a request: weights, rewrites, redirects."""

from __future__ import annotations

import pytest

from lbd.errors import ProxyError
from lbd.routing.route import RedirectPolicy, RewritePolicy, Route, RoutePolicy, RouteTimeouts, split_authority
from tests.routing.requests import make_request


def route(**settings: object) -> Route:
    return Route(RoutePolicy(name="r", **settings), "web")  # type: ignore[arg-type]


WEIGHTS = [
    ((("a", 95), ("b", 5)), [(0.0, "a"), (0.9499, "a"), (0.95, "b"), (0.999999, "b")]),
    ((("a", 1), ("b", 1), ("c", 2)), [(0.0, "a"), (0.2499, "a"), (0.25, "b"), (0.4999, "b"), (0.5, "c"), (1 - 2**-53, "c")]),
    ((("a", 0), ("b", 3)), [(0.0, "b"), (0.99, "b")]),
    ((("a", 1), ("b", 0), ("c", 1)), [(0.4999, "a"), (0.5, "c")]),
    ((("a", 1), ("b", 1), ("c", 1)), [(1 - 2**-53, "c")]),  # thirds do not add up in floats
]


@pytest.mark.parametrize(("clusters", "choices"), WEIGHTS)
def test_weights(clusters: tuple[tuple[str, int], ...], choices: list[tuple[float, str]]) -> None:
    weighted = route(clusters=clusters)
    assert [weighted.cluster_name(value) for value, _ in choices] == [name for _, name in choices]


def test_weights_are_kept_exactly_over_all_random_values() -> None:
    weighted = route(clusters=(("a", 90), ("b", 7), ("c", 3)))
    names = [weighted.cluster_name(i / 1000) for i in range(1000)]
    assert [names.count(name) for name in ("a", "b", "c")] == [900, 70, 30]


def test_a_route_that_answers_by_itself_has_no_cluster() -> None:
    assert route(redirect=RedirectPolicy(host="x")).cluster_name(0.5) is None


def test_a_route_to_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="every cluster of the route has the weight 0"):
        route(clusters=(("a", 0), ("b", 0)))


PLAIN = [
    ({"cluster": "a"}, True),
    ({"clusters": (("a", 1), ("b", 0))}, True),
    ({"clusters": (("a", 1), ("b", 1))}, False),
    ({"cluster": "a", "rewrite": RewritePolicy()}, True),
    ({"cluster": "a", "rewrite": RewritePolicy(prefix="/")}, False),
    ({"cluster": "a", "rewrite": RewritePolicy(path="/x")}, False),
    ({"cluster": "a", "rewrite": RewritePolicy(host="x")}, False),
    ({"cluster": "a", "timeouts": RouteTimeouts(connect=1.0)}, False),
    ({"cluster": "a", "max_body": 0}, False),
    ({"redirect": RedirectPolicy(host="x")}, False),
]


@pytest.mark.parametrize(("settings", "expected"), PLAIN)
def test_what_is_plain(settings: dict[str, object], expected: bool) -> None:
    assert route(**settings).is_plain is expected


REWRITES = [
    # (route, rewrite, target, target for the upstream)
    ({}, RewritePolicy(), "/a//b/%7e?x=%zz", "/a//b/%7e?x=%zz"),  # byte for byte
    ({"path": "/v1"}, RewritePolicy(prefix="/"), "/v1/x?q=1", "/x?q=1"),
    ({"path": "/v1"}, RewritePolicy(prefix="/"), "/v1", "/"),
    ({"path": "/v1"}, RewritePolicy(prefix="/"), "/v1/", "/"),
    ({"path": "/v1/"}, RewritePolicy(prefix="/api/"), "/v1/x", "/api/x"),
    ({"path": "/v1"}, RewritePolicy(prefix="/api"), "/v1", "/api"),
    ({"path": "/v1"}, RewritePolicy(prefix="/api/"), "/v1/", "/api/"),
    ({"path": "/v1"}, RewritePolicy(prefix="/"), "/v1/../v1/x", "/x"),  # no climbing out: dots are resolved first
    ({"path": "/v1"}, RewritePolicy(prefix="/in"), "//v1///x", "/in/x"),
    ({"path": "/a/b"}, RewritePolicy(prefix="/"), "/a/%62/c%20d%2Fe", "/c%20d%2Fe"),
    ({"path": "/v1"}, RewritePolicy(prefix="/in"), "/v1;x=1/y;z", "/in/y;z"),
    ({}, RewritePolicy(prefix="/app"), "/x/y?q", "/app/x/y?q"),
    ({"path": "/"}, RewritePolicy(prefix="/app"), "/", "/app/"),
    ({"path": "/v1"}, RewritePolicy(path="/new"), "/v1/x?q=1", "/new?q=1"),
    ({"path": "/v1"}, RewritePolicy(path="/new?fixed=1"), "/v1/x?q=1", "/new?fixed=1&q=1"),
    ({"path": "/v1"}, RewritePolicy(path="/new?fixed=1"), "/v1/x", "/new?fixed=1"),
    ({"path_regex": "/u/(\\d+)/(.*)"}, RewritePolicy(path="/users/\\1?rest=\\2"), "/u/7/a%26b?q=1", "/users/7?rest=a%26b&q=1"),
    ({"path_regex": "/u/(.*)"}, RewritePolicy(path="/\\1"), "/u/%2e%2e%3Fx", "/..%3Fx"),
    ({"path_regex": "/u/([^/;]*)"}, RewritePolicy(path="/\\1"), "/u/x;p=1", "/x"),  # matched without its parameters
    ({"path_regex": "/u/(.*)"}, RewritePolicy(path="/fixed"), "/u/x", "/fixed"),
    ({"path_regex": "/u/.*"}, RewritePolicy(prefix="/in"), "/u/x", "/in/u/x"),
    ({}, RewritePolicy(prefix="/app"), "*", "*"),
]


@pytest.mark.parametrize(("settings", "rewrite", "target", "expected"), REWRITES)
def test_rewrites(settings: dict[str, object], rewrite: RewritePolicy, target: str, expected: str) -> None:
    assert route(cluster="c", rewrite=rewrite, **settings).rewritten_target(make_request(target)) == expected.encode()


@pytest.mark.parametrize("target", ["/%zz", "/..", "/a%2F../b"])
def test_what_cannot_be_read_cannot_be_rewritten(target: str) -> None:
    with pytest.raises(ProxyError) as caught:
        route(cluster="c", rewrite=RewritePolicy(prefix="/app")).rewritten_target(make_request(target))
    assert caught.value.status == 400


REDIRECTS = [
    # (redirect, target, host, scheme, location)
    (RedirectPolicy(scheme="https"), "/x?q=1", "a.com", b"http", "https://a.com/x?q=1"),
    (RedirectPolicy(scheme="https"), "/x", "a.com:8080", b"http", "https://a.com/x"),
    (RedirectPolicy(scheme="https", port=8443), "/x", "a.com:8080", b"http", "https://a.com:8443/x"),
    (RedirectPolicy(scheme="https", port=443), "/x", "a.com", b"http", "https://a.com/x"),
    (RedirectPolicy(scheme="http"), "/x", "a.com:8080", b"http", "http://a.com:8080/x"),
    (RedirectPolicy(host="b.com"), "/x", "a.com:8080", b"http", "http://b.com:8080/x"),
    (RedirectPolicy(host="b.com:9000"), "/x", "a.com:8080", b"http", "http://b.com:9000/x"),
    (RedirectPolicy(host="b.com:80"), "/x", "a.com", b"http", "http://b.com/x"),
    (RedirectPolicy(host="b.com"), "/x", "a.com", b"https", "https://b.com/x"),
    (RedirectPolicy(port=80), "/x", "a.com:8080", b"http", "http://a.com/x"),
    (RedirectPolicy(path="/new"), "/x?q=1", "a.com", b"http", "http://a.com/new?q=1"),
    (RedirectPolicy(prefix="/v2"), "/v1/x?q=1", "a.com", b"http", "http://a.com/v2/x?q=1"),
    (RedirectPolicy(location="https://other.com/here"), "/x?q=1", "a.com", b"http", "https://other.com/here"),
    (RedirectPolicy(scheme="https"), "/x", "[::1]:8080", b"http", "https://[::1]/x"),
    (RedirectPolicy(scheme="https"), "/x", "[::1]", b"http", "https://[::1]/x"),
    # Nowhere else, whatever the path looks like.
    (RedirectPolicy(scheme="https"), "//evil.com/x", "a.com", b"http", "https://a.com//evil.com/x"),
    (RedirectPolicy(prefix="/"), "/v1//evil.com", "a.com", b"http", "http://a.com/evil.com"),
    (RedirectPolicy(scheme="https"), "*", "a.com", b"http", "https://a.com/"),
    # HTTP/1.0 without Host: there is only the path.
    (RedirectPolicy(path="/new"), "/x", "", b"http", "/new"),
    (RedirectPolicy(scheme="http"), "//evil.com/x", "", b"http", "/evil.com/x"),
    (RedirectPolicy(scheme="https"), "/\\evil.com/x", "", b"https", "/evil.com/x"),
    (RedirectPolicy(host="b.com"), "//evil.com/x", "", b"http", "http://b.com//evil.com/x"),
]


@pytest.mark.parametrize(("redirect", "target", "host", "scheme", "location"), REDIRECTS)
def test_redirects(redirect: RedirectPolicy, target: str, host: str, scheme: bytes, location: str) -> None:
    found = route(path="/v1" if redirect.prefix else "", redirect=redirect).redirect_location(make_request(target, host, scheme=scheme))
    assert found == location.encode()


@pytest.mark.parametrize(
    ("redirect", "scheme"),
    [(RedirectPolicy(scheme="https"), b"http"), (RedirectPolicy(scheme="http"), b"https"), (RedirectPolicy(port=81), b"http")],
)
def test_a_redirect_that_cannot_say_where_to_does_not_lead_back(redirect: RedirectPolicy, scheme: bytes) -> None:
    """HTTP/1.0 without Host: a path alone would be asked for at the same port again, for ever."""
    with pytest.raises(ProxyError) as caught:
        route(redirect=redirect).redirect_location(make_request("/x", "", scheme=scheme))
    assert (caught.value.status, caught.value.reason) == (400, "bad_host")


def test_a_redirect_takes_groups_of_the_path() -> None:
    redirect = route(path_regex="/old/(.*)", redirect=RedirectPolicy(path="/new/\\1"))
    request = make_request("/old/%0d%0aSet-Cookie:%20a?q", "a.com")
    assert redirect.redirect_location(request) == b"http://a.com/new/%0D%0ASet-Cookie:%20a?q"


def test_a_route_that_redirects_nowhere_says_so() -> None:
    with pytest.raises(ValueError, match="is no redirect"):
        route(cluster="a").redirect_location(make_request())


WRONG = [
    ({"redirect": RedirectPolicy(location="https://a.com/x\r\nSet-Cookie: a")}, "redirect.location"),
    ({"redirect": RedirectPolicy(host="a b")}, "redirect.host"),
    ({"redirect": RedirectPolicy(scheme="h\n")}, "redirect.scheme"),
    ({"cluster": "c", "rewrite": RewritePolicy(host="a\r\nb")}, "rewrite.host"),
    ({"cluster": "c", "rewrite": RewritePolicy(prefix="/a?b")}, "a prefix has no query"),
    ({"cluster": "c", "rewrite": RewritePolicy(prefix="a")}, 'starts with "/"'),
    ({"cluster": "c", "rewrite": RewritePolicy(path="/\\1")}, "no path_regex"),
    ({"cluster": "c", "path_regex": "/(", "rewrite": RewritePolicy()}, "not a regular expression"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG)
def test_wrong_policies(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(**settings)


@pytest.mark.parametrize(
    ("authority", "host", "port"),
    [
        (b"a.com", b"a.com", b""),
        (b"a.com:80", b"a.com", b"80"),
        (b"[::1]", b"[::1]", b""),
        (b"[::1]:80", b"[::1]", b"80"),
        (b"a.com:", b"a.com", b""),
        (b"", b"", b""),
    ],
)
def test_splitting_authorities(authority: bytes, host: bytes, port: bytes) -> None:
    assert split_authority(authority) == (host, port)


def test_repr() -> None:
    assert repr(route(cluster="a")) == "<Route web/r>"
