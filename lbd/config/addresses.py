"""Addresses as the configuration writes them: where to listen, where to connect.

    bind        "0.0.0.0:8080", "[::]:8080", "localhost:8080", "unix:/run/lbd.sock", "fd:3", "fd:NAME"
    endpoint    "10.0.0.1:9000", "[::1]:9000", "app.internal:9000", "unix:/run/app.sock"

Both are read into an Address, in normal form, so that two ways to write one place are the same, as far as can be told without
resolving names; what those lead to is compared when it is bound (master/sockets.py). A ValueError is a sentence with a remedy for what
people bring along: "*:80" and ":80" (HAProxy, Caddy), "http://host" (Caddy, Traefik), a bare port (nginx).
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

__all__ = ["Address", "parse_bind", "parse_endpoint"]

PATH_LIMIT = 107  # bytes of a unix socket's path, without the zero at its end: sun_path of unix(7)
LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")
FD = re.compile(r"\d+|[^\s:/]+")  # a number, or a name of LISTEN_FDNAMES
ANY = ("0.0.0.0", "::")


class Address(NamedTuple):
    """`kind` is ipv4, ipv6, name, unix or fd; `host` the rest where there is no port."""

    kind: str
    host: str
    port: int = 0

    def covers(self, other: Address) -> bool:
        """Whether listening here takes what the other would: the same, or every address at the same port."""
        return self == other or ((self.kind, self.port) == (other.kind, other.port) and self.host in ANY)

    @property
    def bound(self) -> Address:
        """Where a bind listens. Names are bound at their first address, IPv4 before IPv6, and of one that is known to everybody."""
        return Address("ipv4", "127.0.0.1", self.port) if (self.kind, self.host) == ("name", "localhost") else self

    @property
    def is_loopback(self) -> bool:
        """Only this machine can connect."""
        if self.kind == "name":
            return self.host == "localhost"
        return self.kind == "unix" or (self.kind in ("ipv4", "ipv6") and ip_address(self.host.partition("%")[0]).is_loopback)


def parse_bind(text: str) -> Address:
    """Where to listen."""
    if text.startswith("fd:"):
        if not FD.fullmatch(text[3:]):
            raise ValueError(f'"{text}": write "fd:3" for a number, or "fd:web" for a name of LISTEN_FDNAMES')
        return Address("fd", str(int(text[3:])) if text[3:].isdecimal() else text[3:])
    if text.isdecimal() or (text[:1] == ":" and text[1:].isdecimal()) or text.startswith("*:"):
        port = text.rpartition(":")[2]
        raise ValueError(
            f'"{text}" has no address; write "0.0.0.0:{port}" for all of IPv4, "[::]:{port}" for all of IPv6, or a list of both'
        )
    address = parse(text, "0.0.0.0:8080")
    if address.kind == "ipv4" and text.startswith("["):  # our IPv6 sockets take IPv6 only
        raise ValueError(f'"{text}" is an IPv4 address; write "{address.host}:{address.port}"')
    return address


def parse_endpoint(text: str) -> Address:
    """Where to connect."""
    if text.startswith("fd:"):
        raise ValueError(f'"{text}": a socket that is passed in is there to listen on; write the address to connect to')
    address = parse(text, "10.0.0.1:9000")
    if address.host in ANY:
        raise ValueError(f'"{text}" is no address to connect to; for this machine write "127.0.0.1:{address.port}"')
    return address


def parse(text: str, example: str) -> Address:
    if text.startswith("unix:"):
        return unix(text)
    if text.startswith("/"):
        raise ValueError(f'"{text}": for a unix socket write "unix:{text}"')
    scheme, mark, rest = text.partition("://")
    if mark:
        rest = rest.rstrip("/")
        written = rest if re.search(r":\d+$", rest) else f"{rest}:{443 if scheme == 'https' else 80}"
        raise ValueError(f'"{text}" is a URL; write "{written}", an address and a port alone')
    if any(character.isspace() for character in text):
        raise ValueError(f'"{text}" has a blank in it; write each address as a string of its own')
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise ValueError(f'"{text}" has no port; write it like "{example}"')
    if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError(f'"{text}": the port must be a number from 1 to 65535')
    return with_port(text, host, int(port))


def with_port(text: str, host: str, port: int) -> Address:
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        if is_bracketed or ":" in host:
            raise ValueError(f'"{text}" is not an address; IPv6 is written "[2001:db8::1]:{port}"') from None
        return Address("name", host_name(text, host), port)
    if isinstance(address, IPv6Address) and not is_bracketed:
        raise ValueError(f'"{text}": IPv6 addresses stand in brackets; write "[{address}]:{port}"')
    if isinstance(address, IPv4Address) and is_bracketed:
        raise ValueError(f'"{text}": only IPv6 addresses stand in brackets; write "{address}:{port}"')
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Address(f"ipv{address.version}", str(address), port)


def host_name(text: str, host: str) -> str:
    labels = host.removesuffix(".").split(".")
    if not all(LABEL.fullmatch(label) for label in labels) or len(host) > 253:
        raise ValueError(f'"{text}": "{host}" is neither an IP address nor a host name')
    if labels[-1].isdecimal():  # no top-level domain is a number: RFC 1123, 2.1
        raise ValueError(f'"{text}": "{host}" is not an IPv4 address')
    return host.removesuffix(".").lower()


def unix(text: str) -> Address:
    path = text[5:]
    if not path.startswith("/"):
        raise ValueError(f'"{text}": the path of a unix socket begins with "/", as in "unix:/run/app.sock"')
    if len(path.encode()) > PATH_LIMIT:
        raise ValueError(f'"{text}": the path is longer than {PATH_LIMIT} bytes, the most that the system takes')
    if "\0" in path:
        raise ValueError(f"{text!r}: the path of a unix socket has no NUL in it")
    return Address("unix", re.sub(r"/(\./|/)+", "/", path))  # but not "..", which is another place behind a symbolic link
