"""Endpoint addresses as text: "10.0.0.1:80", "[::1]:80", "app.internal:80", "unix:/run/app.sock"."""

from __future__ import annotations

from ipaddress import ip_address

__all__ = ["UNIX", "host_of", "is_literal", "join_address", "split_address"]

UNIX = "unix:"


def split_address(address: str) -> tuple[str, int]:
    """("10.0.0.1", 80), ("::1", 80), ("app.internal", 80); not for unix sockets."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise ValueError(f'"{address}" is not an address: write host:port, [IPv6]:port or unix:/path')
    return host.removeprefix("[").removesuffix("]"), int(port)


def join_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def host_of(address: str) -> str:
    """The name that must be looked up before the address can be used; "" for a literal one."""
    return "" if is_literal(address) else split_address(address)[0]


def is_literal(address: str) -> bool:
    """Nothing to look up: an IP address or a unix socket."""
    if address.startswith(UNIX):
        return True
    try:
        ip_address(split_address(address)[0].partition("%")[0])
    except ValueError:
        return False
    return True
