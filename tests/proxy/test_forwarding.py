"""What an upstream is told about the downstream."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from lbd.errors import ProxyError
from lbd.proxy.forwarding import ConnectionForwarding, Forwarding
from lbd.proxy.listener import ForwardedPolicy
from lbd.wire import grammar as wire_grammar
from lbd.wire.http1 import HeadLimits, parse_request
from tests.routing.requests import make_request

Fields = tuple[tuple[str, str], ...]
TRUSTED = ("10.0.0.0/8", "2001:db8::/32", "unix:")


def zeros(count: int) -> bytes:
    return bytes(count)


def forwarding(peer: str = "192.0.2.1", **settings: object) -> ConnectionForwarding:
    policy = ForwardedPolicy(**{"trusted_proxies": TRUSTED, **settings})  # type: ignore[arg-type]
    return Forwarding(policy, zeros).for_connection(peer, b"http", 0 if peer == "unix:" else 80)


def fields_of(connection: ConnectionForwarding, *fields: tuple[str, str], host: str = "example.com", minor: int = 1) -> Fields:
    """What the upstream gets: what is left of `fields`, then what was added."""
    request = make_request("/", host, "GET", *fields, minor=minor)
    added = connection.fields(request)
    assert not added or added.endswith(b"\r\n")
    left = [(name.decode(), value.decode("latin-1")) for name, value in request.headers.items()]
    lines = [line.split(": ", 1) for line in added.decode("latin-1").split("\r\n")[:-1]]
    return (*left, *((name, value) for name, value in lines))


ID = ("X-Request-Id", "0" * 31 + "1")
VIA = ("Via", "1.1 lbd")


def test_the_usual_request() -> None:
    assert fields_of(forwarding()) == (
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", "80"),
        VIA,
        ("X-Forwarded-Host", "example.com"),
        ID,
    )


def test_scheme_and_port_are_those_of_our_listener() -> None:
    fields = by_name(fields_of(Forwarding(ForwardedPolicy(), zeros).for_connection("192.0.2.1", b"https", 8443)))
    assert (fields["x-forwarded-proto"], fields["x-forwarded-port"]) == ("https", "8443")


def test_other_fields_stay() -> None:
    kept = (("User-Agent", "x"), ("traceparent", "00-1"), ("X-Forward", "1"), ("tracestate", "a=b"))
    assert fields_of(forwarding(), *kept)[:4] == kept
    with_claims = fields_of(forwarding(), *kept, ("Forwarded", "for=1.1.1.1"))
    assert with_claims[:4] == kept


CLAIMS = (
    ("X-Forwarded-For", "1.1.1.1"),
    ("x-forwarded-for", "2.2.2.2"),
    ("X-FORWARDED-PROTO", "https"),
    ("X-Forwarded-Host", "evil.com"),
    ("X-Forwarded-Port", "443"),
    ("Forwarded", "for=1.1.1.1;proto=https"),
    ("X-Real-IP", "1.1.1.1"),
    ("X-Request-Id", "mine"),
    ("X-Request-Attempt", "7"),
)
OURS = {
    "x-forwarded-for": "192.0.2.1",
    "x-forwarded-proto": "http",
    "x-forwarded-port": "80",
    "x-forwarded-host": "example.com",
    "x-request-id": "0" * 31 + "1",
    "via": "1.1 lbd",
}


def by_name(fields: Fields) -> dict[str, str]:
    names = [name.lower() for name, _ in fields]
    assert len(set(names)) == len(names), "a field twice"
    return {name.lower(): value for name, value in fields}


def test_nothing_of_what_a_stranger_claims_gets_through() -> None:
    assert by_name(fields_of(forwarding(), *CLAIMS)) == OURS


@pytest.mark.parametrize("name", sorted(wire_grammar.CLAIMS))
def test_one_claim_alone_is_seen_by_the_parser(name: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: example.com\r\n" + name.title() + b": 1.1 evil\r\n\r\n"
    request = parse_request(head, 0, len(head), HeadLimits(4096, 4096, 100))
    added = forwarding().fields(request)
    sent = request.headers.encode() + added
    assert sent.lower().count(name + b":") == (1 if name.decode() in OURS else 0)
    assert b"1.1 evil" not in sent or name == b"via"


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.9"])
@pytest.mark.parametrize(
    "name",
    [
        "X_Forwarded_For", "x-forwarded_proto", "X_Real-IP", "X_Client_Cert_Verify", "X-Client-Cert_San", "X_REQUEST_ID",
        "Content_Length", "TRANSFER_encoding", "X-Request-Attempt", "X_Request-Attempt",
    ],
)  # fmt: skip
def test_a_name_that_is_a_claims_to_some_upstreams_is_dropped_whoever_sends_it(peer: str, name: str) -> None:
    head = f"GET / HTTP/1.1\r\nHost: example.com\r\n{name}: evil\r\nX_Other: kept\r\n\r\n".encode()
    request = parse_request(head, 0, len(head), HeadLimits(4096, 4096, 100))
    added = forwarding(peer).fields(request)
    assert request.headers.encode() == b"X_Other: kept\r\n"
    assert b"evil" not in added


@given(st.lists(st.sampled_from(CLAIMS)))
def test_no_combination_of_claims_gets_through(claims: list[tuple[str, str]]) -> None:
    assert by_name(fields_of(forwarding(), *claims)) == OURS


def test_a_trusted_proxy_is_believed() -> None:
    assert by_name(fields_of(forwarding("10.0.0.9"), *CLAIMS)) == {
        "x-forwarded-for": "1.1.1.1, 2.2.2.2, 10.0.0.9",
        "x-forwarded-proto": "https",
        "x-forwarded-host": "evil.com",
        "x-forwarded-port": "443",
        "forwarded": "for=1.1.1.1;proto=https",
        "x-real-ip": "1.1.1.1",
        "x-request-id": "mine",
        "via": "1.1 lbd",
    }


def test_what_a_trusted_proxy_does_not_say_is_made() -> None:
    fields = fields_of(forwarding("10.0.0.9"), ("X-Forwarded-Proto", "https"))
    assert by_name(fields) == {**OURS, "x-forwarded-for": "10.0.0.9", "x-forwarded-proto": "https"}


def test_an_empty_chain_is_begun_anew() -> None:
    assert by_name(fields_of(forwarding("10.0.0.9"), ("X-Forwarded-For", "")))["x-forwarded-for"] == "10.0.0.9"


@pytest.mark.parametrize(
    ("peer", "address"),
    [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db9::1", "2001:db9::1"), ("::1", "::1"), ("fe80::1%eth0", "fe80::1%eth0")],
)
def test_addresses_of_peers(peer: str, address: str) -> None:
    connection = forwarding(peer)
    assert connection.peer == connection.client(make_request()) == address
    assert by_name(fields_of(connection))["x-forwarded-for"] == address


def test_a_unix_peer_adds_no_address_and_no_port() -> None:
    connection = forwarding("unix:")
    assert fields_of(connection, host="")[:2] == (("X-Forwarded-Proto", "http"), VIA)
    chained = by_name(fields_of(connection, ("X-Forwarded-For", "1.1.1.1")))
    assert chained["x-forwarded-for"] == "1.1.1.1"
    assert "x-forwarded-port" not in chained
    untrusted = by_name(fields_of(forwarding("unix:", trusted_proxies=()), ("X-Forwarded-For", "1.1.1.1")))
    assert "x-forwarded-for" not in untrusted


CLIENTS = [
    # (peer, X-Forwarded-For lines, the client)
    ("192.0.2.1", ("1.1.1.1",), "192.0.2.1"),
    ("10.0.0.1", (), "10.0.0.1"),
    ("10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
    ("10.0.0.1", ("6.6.6.6, 1.1.1.1",), "1.1.1.1"),  # whatever stands left of it may be forged
    ("10.0.0.1", ("6.6.6.6", "1.1.1.1, 10.0.0.3"), "1.1.1.1"),
    ("10.0.0.1", ("10.0.0.2, 10.0.0.3",), "10.0.0.2"),
    ("10.0.0.1", ("1.1.1.1, unknown, 10.0.0.3",), "10.0.0.3"),
    ("10.0.0.1", ("unknown",), "10.0.0.1"),
    ("10.0.0.1", ("",), "10.0.0.1"),
    ("10.0.0.1", ("1.1.1.1,",), "10.0.0.1"),
    ("10.0.0.1", ("1.1.1.1:5000",), "1.1.1.1"),
    ("10.0.0.1", ("[2001:db9::1]:5000",), "2001:db9::1"),
    ("10.0.0.1", ("[2001:db9::1]",), "2001:db9::1"),
    ("10.0.0.1", ("2001:db9:0:0::1, 2001:db8::7",), "2001:db9::1"),
    ("10.0.0.1", ("::ffff:1.1.1.1, ::ffff:10.0.0.2",), "1.1.1.1"),
    ("10.0.0.1", ("fe80::1%evil",), "fe80::1"),
    ("10.0.0.1", ("1.1.1.1" + " " * 80,), "1.1.1.1"),
    ("10.0.0.1", ("1" * 80,), "10.0.0.1"),
    ("10.0.0.1", ("\xff",), "10.0.0.1"),
    ("::ffff:10.0.0.1", ("1.1.1.1",), "1.1.1.1"),
    ("2001:db8::1", ("1.1.1.1",), "1.1.1.1"),
    ("2001:db8::1%eth0", ("1.1.1.1",), "1.1.1.1"),
    ("unix:", ("1.1.1.1",), "1.1.1.1"),
    ("unix:", (), "unix:"),
]


@pytest.mark.parametrize(("peer", "chain", "client"), CLIENTS)
def test_clients(peer: str, chain: tuple[str, ...], client: str) -> None:
    connection = forwarding(peer)
    request = make_request("/", "a", "GET", *(("X-Forwarded-For", line) for line in chain))
    assert connection.client(request) == client
    assert connection.client(request) == client, "remembered"


def test_more_addresses_than_are_remembered() -> None:
    connection = forwarding("10.0.0.1")
    for i in range(3000):
        address = f"1.1.{i // 250}.{i % 250}"
        assert connection.client(make_request("/", "a", "GET", ("X-Forwarded-For", address))) == address
    assert len(connection._forwarding._remembered) <= 1024


@given(st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_categories=["Cc"]), max_size=80))
def test_any_chain_names_some_address(chain: str) -> None:
    client = forwarding("10.0.0.1").client(make_request("/", "a", "GET", ("X-Forwarded-For", chain)))
    assert re.fullmatch(r"[0-9a-f:.]+", client)


VIAS = [
    ((), 1, "1.1 lbd"),
    ((), 0, "1.0 lbd"),
    (("1.0 fred",), 1, "1.0 fred, 1.1 lbd"),
    (("1.0 fred, 2 cdn (x)", "1.1 y"), 1, "1.0 fred, 2 cdn (x), 1.1 y, 1.1 lbd"),
    (("1.1 lbd",) * 9, 1, ", ".join(["1.1 lbd"] * 10)),
    (("1.1 lbdx, 1.1 x.lbd, lbd",) * 9, 1, ", ".join(["1.1 lbdx, 1.1 x.lbd, lbd"] * 9 + ["1.1 lbd"])),
]


@pytest.mark.parametrize(("passed", "minor", "via"), VIAS)
def test_via(passed: tuple[str, ...], minor: int, via: str) -> None:
    fields = fields_of(forwarding(), *(("Via", value) for value in passed), minor=minor)
    assert [value for name, value in fields if name.lower() == "via"] == [via]


@pytest.mark.parametrize("passed", [("1.1 lbd",) * 10, (", ".join(["1.1 lbd (x)"] * 10),)])
def test_a_loop_is_broken(passed: tuple[str, ...]) -> None:
    with pytest.raises(ProxyError) as caught:
        fields_of(forwarding(), *(("Via", value) for value in passed))
    assert (caught.value.reason, caught.value.status) == ("proxy_loop", 508)


def test_our_answers_name_us_too() -> None:
    assert forwarding().response_fields == (b"Via: 1.0 lbd\r\n", b"Via: 1.1 lbd\r\n", b"Via: 2.0 lbd\r\n")
    assert forwarding(via=False).response_fields == (b"", b"", b"")


IDS = [
    # (peer, x-request-id, what the upstream gets; "": a new one)
    ("192.0.2.1", "abc", ""),
    ("10.0.0.1", "abc", "abc"),
    ("10.0.0.1", "0af7651916cd43dd8448eb211c80319c", "0af7651916cd43dd8448eb211c80319c"),
    ("10.0.0.1", "a" * 128, "a" * 128),
    ("10.0.0.1", "a" * 129, ""),
    ("10.0.0.1", "a b", ""),
    ("10.0.0.1", "", ""),
    ("10.0.0.1", "\xe9", ""),
    ("unix:", "abc", "abc"),
]


@pytest.mark.parametrize(("peer", "received", "sent"), IDS)
def test_request_ids(peer: str, received: str, sent: str) -> None:
    connection = forwarding(peer)
    fields = by_name(fields_of(connection, ("X-Request-ID", received)))
    assert fields["x-request-id"] == (sent or "0" * 31 + "1")
    assert connection.request_id.decode() == fields["x-request-id"]


def test_ids_made_are_never_the_same() -> None:
    shared = Forwarding(ForwardedPolicy(), lambda count: b"\xab" * count)
    connections = [shared.for_connection("192.0.2.1", b"http", 80) for _ in range(3)]
    seen = set()
    for connection in connections * 5:
        connection.fields(make_request())
        seen.add(connection.request_id)
    assert len(seen) == 15
    assert all(re.fullmatch(b"(ab){8}[0-9a-f]{16}", made) for made in seen)


OFF = [
    (
        {"x_forwarded": False},
        "192.0.2.1",
        {"via": "1.1 lbd", "x-request-id": "0" * 31 + "1"},  # a stranger's claims are dropped all the same
    ),
    (
        {"x_forwarded": False},
        "10.0.0.1",
        {name.lower(): value for name, value in CLAIMS if name not in ("x-forwarded-for", "X-Request-Attempt")}
        | {"via": "1.1 lbd", "x-forwarded-for": "2.2.2.2"},
    ),
    ({"x_forwarded": False, "via": False, "request_id": False}, "192.0.2.1", {"x-request-id": "mine"}),
]


@pytest.mark.parametrize(("settings", "peer", "expected"), OFF)
def test_what_is_switched_off_is_not_made(settings: dict[str, object], peer: str, expected: dict[str, str]) -> None:
    fields = fields_of(forwarding(peer, **settings), *CLAIMS)
    assert {name.lower(): value for name, value in fields} == expected


def test_all_off_adds_nothing() -> None:
    connection = forwarding(x_forwarded=False, via=False, request_id=False)
    assert fields_of(connection) == ()
    assert connection.request_id == b""
    assert fields_of(connection, ("Via", "1.1 x")) == (("Via", "1.1 x"),)


def test_via_alone() -> None:
    assert fields_of(forwarding(x_forwarded=False, request_id=False)) == (VIA,)


@pytest.mark.parametrize(
    ("entry", "peer", "is_trusted"),
    [
        ("::ffff:10.0.0.0/104", "::ffff:10.9.9.9", True),
        ("::ffff:10.0.0.0/104", "10.9.9.9", True),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:a00:1", True),
        ("::/64", "10.0.0.1", False),
    ],
)
def test_a_mapped_network_is_one_of_ipv4(entry: str, peer: str, is_trusted: bool) -> None:
    assert Forwarding(ForwardedPolicy(trusted_proxies=(entry,)), zeros).is_trusted(peer) is is_trusted


@pytest.mark.parametrize(
    ("entry", "message"),
    [("10.0.0.1/8", "has host bits set"), ("nonsense", "is not a network"), ("10.0.0.0/33", "is not a network"), ("", "is not a network")],
)
def test_trusted_proxies_are_checked(entry: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Forwarding(ForwardedPolicy(trusted_proxies=(entry,)), zeros)


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.1.1.1", "unix:"], ids=["stranger", "trusted", "trusted unix"])
@pytest.mark.parametrize("name", ["X-Client-Cert-Subject", "x-client-cert-verify", "X_Client_Cert_Subject", "X-Client-Cert-Fingerprint"])
def test_where_clients_show_certificates_nobody_else_speaks_of_them(peer: str, name: str) -> None:
    """Not a trusted proxy either: the connection's own certificate is the one that has been verified."""
    own = b"X-Client-Cert-Verify: SUCCESS\r\nX-Client-Cert-Subject: CN=ann\r\n"
    forwarding = Forwarding(ForwardedPolicy(trusted_proxies=TRUSTED), zeros)
    fields = fields_of(forwarding.for_connection(peer, b"https", 443, 1, own), (name, "CN=admin"), ("X-Forwarded-Proto", "http"))
    told = [(field, value) for field, value in fields if "client" in field.lower()]
    assert told == [("X-Client-Cert-Verify", "SUCCESS"), ("X-Client-Cert-Subject", "CN=ann")]
