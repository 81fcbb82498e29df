"""Addresses as text."""

from __future__ import annotations

import pytest

from lbd.discovery.address import host_of, is_literal, join_address, split_address


@pytest.mark.parametrize(
    ("address", "host", "port", "name"),
    [
        ("10.0.0.1:80", "10.0.0.1", 80, ""),
        ("[::1]:8080", "::1", 8080, ""),
        ("[fe80::1%eth0]:80", "fe80::1%eth0", 80, ""),
        ("app.internal:9000", "app.internal", 9000, "app.internal"),
        ("localhost:1", "localhost", 1, "localhost"),
        ("10.0.0:80", "10.0.0", 80, "10.0.0"),  # three numbers are no IPv4 address: a name, for the resolver to judge
    ],
)
def test_addresses_come_apart_and_together(address: str, host: str, port: int, name: str) -> None:
    assert split_address(address) == (host, port)
    assert join_address(host, port) == address
    assert host_of(address) == name
    assert is_literal(address) is not bool(name)


def test_a_unix_socket_is_literal() -> None:
    assert is_literal("unix:/run/app.sock")
    assert host_of("unix:/run/app.sock") == ""


@pytest.mark.parametrize("address", ["", "app", "app:", "app:http", ":"])
def test_what_is_no_address_is_said_in_a_sentence(address: str) -> None:
    with pytest.raises(ValueError, match=r"is not an address: write host:port, \[IPv6\]:port or unix:/path"):
        split_address(address)
