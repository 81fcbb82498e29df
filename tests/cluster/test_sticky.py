"""Cookies of sticky sessions: who can read, forge or outlive one."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.sticky import Sticky, StickyPolicy
from lbd.wire.message import Headers
from tests.cluster.cookie_promises import COOKIES, check_cookies
from tests.cluster.fakes import Facts, filled_cluster, make_endpoint

POLICY = StickyPolicy(secret="s" * 32)
A, B = make_endpoint("10.0.0.1:80"), make_endpoint("10.0.0.2:80")
BOTH = (A, B)


def value(sticky: Sticky, address: str = "10.0.0.1:80") -> bytes:
    line = sticky.line(make_endpoint(address), False)
    found = re.match(rb"[^=]+=([^;]*)", line)
    assert found is not None
    return found[1]


def request(*cookies: bytes) -> Headers:
    return Headers.of([(b"Host", b"a"), *((b"Cookie", cookie) for cookie in cookies), (b"Accept", b"*/*")])


def test_a_cookie_leads_back() -> None:
    sticky = Sticky("web", POLICY)
    cookie = b"lbd-web=" + value(sticky)
    for same in (sticky, Sticky("web", POLICY)):  # another worker, another lbd
        assert same.claim(request(cookie), BOTH) == (A, "moved")
    assert sticky.claim(request(b"lbd-web=" + value(sticky, "10.0.0.2:80")), BOTH) == (B, "moved")
    assert sticky.claim(request(), BOTH) == (None, "new")
    assert sticky.claim(request(b"a=1; b=2"), BOTH) == (None, "new")


def test_nothing_can_be_read_from_it() -> None:
    cookie = value(Sticky("web", POLICY))
    assert re.fullmatch(rb"[A-Za-z0-9_-]{12}\.[A-Za-z0-9_-]{24}", cookie)
    assert value(Sticky("web", replace(POLICY, secret="t" * 32))).partition(b".")[0] != cookie.partition(b".")[0]
    assert value(Sticky("api", POLICY)).partition(b".")[0] != cookie.partition(b".")[0]


def test_an_endpoint_that_has_left_is_told_from_a_forgery() -> None:
    sticky = Sticky("web", POLICY)
    cookie = b"lbd-web=" + value(sticky)
    assert sticky.claim(request(cookie), (B,)) == (None, "moved")
    assert sticky.claim(request(cookie), BOTH) == (A, "moved")


GOOD = value(Sticky("web", POLICY))
NAME, _, SIGNATURE = GOOD.partition(b".")
OTHER = value(Sticky("web", POLICY), "10.0.0.2:80")


@pytest.mark.parametrize(
    "forged",
    [
        b"",
        b".",
        NAME,
        NAME + b".",
        b"." + SIGNATURE,
        NAME + b"." + SIGNATURE[:-1],
        NAME + b"." + SIGNATURE + b"A",
        NAME + b"." + SIGNATURE.swapcase(),
        SIGNATURE + b"." + NAME,
        NAME + b"." + OTHER.partition(b".")[2],
        OTHER.partition(b".")[0] + b"." + SIGNATURE,
        value(Sticky("api", POLICY)),
        value(Sticky("web", StickyPolicy(secret="t" * 32))),
        b"10.0.0.1:80",
        GOOD + b"." + GOOD,
        b'"' + GOOD + b'"',
        b"\xff\xfe",
        b"A" * 60_000,
    ],
)
def test_what_is_forged_counts_for_nothing(forged: bytes) -> None:
    headers = request(b"lbd-web=" + forged + b"; x=1")
    assert Sticky("web", POLICY).claim(headers, BOTH) == (None, "invalid")
    assert headers.get_all(b"cookie") == [b"x=1"]


@pytest.mark.parametrize(
    ("cookies", "left"),
    [
        ([b"lbd-web=%b"], []),
        ([b"a=1; lbd-web=%b; b=2"], [b"a=1; b=2"]),
        ([b"a=1;lbd-web=%b;b=2"], [b"a=1; b=2"]),
        ([b"lbd-web=%b; lbd-web=other"], []),
        ([b"a=1", b"lbd-web=%b", b"b=2"], [b"a=1; b=2"]),  # HTTP/2 may split them (RFC 9113, 8.2.3)
        ([b"xlbd-web=1; lbd-web=%b; lbd-web2=3"], [b"xlbd-web=1; lbd-web2=3"]),
        ([b"a=lbd-web=; lbd-web=%b"], [b"a=lbd-web="]),
        ([b" ; ;lbd-web=%b; ;"], []),
        ([b'a="x; y"; lbd-web=%b'], [b'a="x; y"']),
    ],
)
def test_it_is_found_among_others_and_taken_out(cookies: list[bytes], left: list[bytes]) -> None:
    sent = [cookie.replace(b"%b", GOOD) for cookie in cookies]
    headers = request(*sent)
    assert Sticky("web", POLICY).claim(headers, BOTH).endpoint is A
    assert headers.get_all(b"cookie") == left
    assert headers.get(b"host") == b"a"
    assert headers.get(b"accept") == b"*/*"
    headers = request(*sent)
    assert Sticky("web", replace(POLICY, strip=False)).claim(headers, BOTH).endpoint is A
    assert headers.get_all(b"cookie") == [cookie.strip(b" ") for cookie in sent]


@pytest.mark.parametrize("cookie", [b"LBD-WEB=1", b"lbd-web", b"xlbd-web=1", b"a=lbd-web=1", b"; ;;=; ="])
def test_what_is_another_cookie_is_left_as_it_is(cookie: bytes) -> None:
    headers = request(cookie)
    before = headers.encode()
    assert Sticky("web", POLICY).claim(headers, BOTH) == (None, "new")
    assert headers.encode() == before


def test_a_huge_field_is_read_once() -> None:
    """Twice as much takes about twice as long: counted in pairs, not in seconds."""
    sticky = Sticky("web", POLICY)
    headers = request(b"; ".join([b"a=b"] * 12_000 + [b"lbd-web=" + GOOD]))
    assert sticky.claim(headers, BOTH).endpoint is A
    assert headers.get(b"cookie") == b"; ".join([b"a=b"] * 12_000)


@settings(deadline=None)
@given(st.lists(st.sampled_from([*COOKIES, b"; ", b"\n", b"a=b", b"lbd-web="]) | st.binary(max_size=20), max_size=6))
def test_whatever_cookies_come(pieces: list[bytes]) -> None:
    check_cookies(b"".join(pieces))


@pytest.mark.parametrize(
    ("changes", "is_secure", "attributes"),
    [
        ({}, False, b"Path=/; HttpOnly; SameSite=Lax"),
        ({}, True, b"Path=/; HttpOnly; SameSite=Lax; Secure"),
        ({"secure": "never"}, True, b"Path=/; HttpOnly; SameSite=Lax"),
        ({"secure": "always", "same_site": "none"}, False, b"Path=/; HttpOnly; SameSite=None; Secure"),
        ({"ttl": 3600.0, "path": "/app", "http_only": False}, False, b"Path=/app; Max-Age=3600; SameSite=Lax"),
        ({"ttl": 0.25, "same_site": "strict"}, False, b"Path=/; Max-Age=1; HttpOnly; SameSite=Strict"),
    ],
)
def test_attributes(changes: dict[str, object], is_secure: bool, attributes: bytes) -> None:
    sticky = Sticky("web", replace(POLICY, **changes))  # type: ignore[arg-type]
    assert sticky.line(A, is_secure) == b"lbd-web=" + GOOD + b"; " + attributes


def test_a_name_of_ones_own() -> None:
    sticky = Sticky("web", replace(POLICY, cookie="SESSION"))
    assert sticky.line(A, False).startswith(b"SESSION=" + GOOD)
    assert sticky.claim(request(b"SESSION=" + GOOD), BOTH).endpoint is A
    assert sticky.claim(request(b"lbd-web=" + GOOD), BOTH) == (None, "new")


def test_a_cluster_keeps_what_does_not_change() -> None:
    cluster = filled_cluster([Facts("a:1")], Random(1))
    assert cluster.sticky is None
    policy = ClusterPolicy("web", (), sticky=POLICY)
    cluster.apply_policy(policy)
    sticky = cluster.sticky
    cluster.apply_policy(replace(policy, panic=0.1))
    assert cluster.sticky is sticky
    cluster.apply_policy(replace(policy, sticky=replace(POLICY, cookie="x")))
    assert cluster.sticky is not sticky
    cluster.apply_policy(replace(policy, sticky=None))
    assert cluster.sticky is None
