"""Who may ask: tokens, DNS rebinding, other sites' pages."""

from __future__ import annotations

import pytest

from lbd.admin.guard import check_access

LOCAL = {"host": "127.0.0.1:9901"}
REBOUND = {"host": "evil.example:9901"}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("token", ["", "secret"])
def test_probes_are_always_answered(path: str, token: str) -> None:
    assert check_access("GET", path, REBOUND, token) is None


@pytest.mark.parametrize(
    ("authorization", "allowed"),
    [
        ("Bearer secret", True),
        ("bearer secret", True),
        ("Bearer  secret ", True),
        ("Bearer secre", False),
        ("Bearer secrets", False),
        ("Bearer ", False),
        ("Bearer", False),
        ("Basic secret", False),
        ("secret", False),
        ("", False),
        ("Bearer s\xe9cret", False),  # not ASCII: refused, not a crash
    ],
)
def test_a_token_is_needed_where_one_is_set(authorization: str, allowed: bool) -> None:
    refusal = check_access("GET", "/metrics", {"authorization": authorization}, "secret")
    assert (refusal is None) is allowed
    assert refusal is None or (refusal.status == 401 and "secret" not in refusal.sentence)


def test_a_token_may_hold_any_characters() -> None:
    assert check_access("GET", "/metrics", {"authorization": "Bearer p\xe4ss"}, "p\xe4ss") is None


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:9901", True),
        ("127.0.0.1", True),
        ("localhost:9901", True),
        ("LOCALHOST", True),
        ("lbd.localhost:9901", True),
        ("[::1]:9901", True),
        ("192.0.2.7:9901", True),  # an IP address cannot be re-bound
        ("evil.example:9901", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example@127.0.0.1:9901", True),  # what counts is the host; no browser sends user information
        ("127.0.0.1@evil.example", False),
        ("", False),
        ("[::1", False),
        (":9901", False),
    ],
)
def test_names_that_dns_can_bind_are_refused(host: str, allowed: bool) -> None:
    refusal = check_access("GET", "/metrics", {"host": host}, "")
    assert (refusal is None) is allowed
    assert refusal is None or refusal.status == 403


def test_http_1_0_needs_no_host() -> None:
    assert check_access("GET", "/metrics", {}, "") is None


@pytest.mark.parametrize(
    ("method", "fields", "allowed"),
    [
        ("POST", {}, True),
        ("POST", {"origin": "https://evil.example"}, False),
        ("POST", {"origin": "null"}, False),
        ("POST", {"sec-fetch-site": "cross-site"}, False),
        ("POST", {"sec-fetch-site": "none"}, True),  # the operator typed it
        ("GET", {"origin": "https://evil.example"}, True),  # the page cannot read the answer
    ],
)
def test_pages_of_other_sites_change_nothing(method: str, fields: dict[str, str], allowed: bool) -> None:
    refusal = check_access(method, "/api/v1/reload", LOCAL | fields, "")
    assert (refusal is None) is allowed


def test_a_unix_socket_is_guarded_by_its_permissions() -> None:
    assert check_access("POST", "/api/v1/reload", REBOUND, "", is_unix=True) is None
    assert check_access("GET", "/metrics", REBOUND, "secret", is_unix=True) is not None, "a token that is set holds everywhere"


@pytest.mark.parametrize(
    ("token", "fields", "is_unix", "status"),
    [
        ("", LOCAL, True, 0),
        ("", {"host": "any.name"}, True, 0),
        ("", LOCAL, False, 403),
        ("secret", LOCAL, False, 401),
        ("secret", {**LOCAL, "authorization": "Bearer wrong"}, False, 401),
        ("secret", {**LOCAL, "authorization": "Bearer secret"}, False, 0),
        ("secret", LOCAL, True, 401),  # a unix socket with a token of its own may have a proxy before it
    ],
)
def test_a_command_comes_by_a_unix_socket_or_with_the_token(token: str, fields: dict[str, str], is_unix: bool, status: int) -> None:
    path = "/api/v1/clusters/web/endpoints/10.0.0.1:80/drain"
    refusal = check_access("POST", path, fields, token, is_unix=is_unix, is_command=True)
    assert (refusal.status if refusal else 0) == status
    assert check_access("POST", "/api/v1/reload", LOCAL, "") is None, "which brings nothing that is not in the file"
