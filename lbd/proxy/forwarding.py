"""What an upstream is told about the downstream: X-Forwarded-*, Forwarded, Via, x-request-id.

Theory. Anyone can write these fields; only a proxy that we were told to trust is believed. So what an untrusted peer sends is
dropped and ours stand alone; a trusted peer's chain is continued: X-Forwarded-For gets its address, the others stay as it says
(it saw the client, we see only it) and are made only where they are missing. The client is the peer, or behind trusted
proxies the right-most address of the chain that is not one of theirs: everything to the left of that can be forged.

- IPv4 addresses mapped into IPv6 ("::ffff:10.0.0.1", as dual-stack sockets report them) are IPv4 addresses here.
- A peer on a unix socket has no address: it adds nothing to the chain, and is trusted when "unix:" is listed.
- With `x_forwarded = false` lbd adds nothing, but what an untrusted peer made up is dropped all the same. `request_id = false` leaves
  that field alone.
- "X_Forwarded_For" and the like, with any of the hyphens changed, are dropped, whoever sends them: many upstreams take both spellings for
  one name, and we write the right one.
- X-Request-Attempt counts the attempts of one hop at the next, so nobody's is passed on, not a trusted proxy's either.
- Via names us "lbd". A request that bears this name MAX_PASSES times has been going in circles: 508, as RFC 9110, 7.6.3 has it.
- traceparent and tracestate are between the client's tracer and the upstream's; nothing here touches them.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from lbd.proxy.reasons import failure
from lbd.wire.grammar import CLAIMS, LOOKALIKES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ipaddress import IPv4Address

    from lbd.proxy.listener import ForwardedPolicy
    from lbd.wire.message import RequestHead

__all__ = ["ConnectionForwarding", "Forwarding", "parse_network"]

UNIX = "unix:"
PSEUDONYM = b"lbd"
VERSIONS = (b"1.0 ", b"1.1 ", b"2.0 ")  # by a head's `minor`
MAX_PASSES = 10  # a chain of edge, inner and sidecar balancers is 3 deep; a circle passes 10 within milliseconds
MAX_REMEMBERED = 1024  # addresses whose trust is remembered; the chain of a busy proxy has many, each several times
MAPPED = 96  # bits in front of an IPv4 address within an IPv6 one
MAX_ADDRESS = 64  # characters; the longest form, "[...%scope]:65535", is shorter
# What only a trusted proxy is believed. Via is history, not a claim, and x-request-id has a rule of its own.
STRANGERS_LOSE = CLAIMS - {b"via", b"x-request-id"}
NOBODY_KEEPS = LOOKALIKES | {b"x-request-attempt"}
BELIEVED = STRANGERS_LOSE - NOBODY_KEEPS
IDENTITY = frozenset(name for name in CLAIMS if name.replace(b"_", b"-").startswith(b"x-client-cert-"))
SANE_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
# "10.0.0.1:80", "[::1]", "[::1]:80": Azure's gateways and others write ports into X-Forwarded-For.
WITH_PORT = re.compile(r"\[([^\[\]]+)\](?::\d+)?|([^:]+):\d+")


class Forwarding:
    """A listener's ForwardedPolicy, ready for use; ValueError for an entry of trusted_proxies that is no network."""

    __slots__ = ("_remembered", "_trusts_anyone", "_trusts_unix", "count", "id_prefix", "networks", "policy")

    def __init__(self, policy: ForwardedPolicy, random_bytes: Callable[[int], bytes]) -> None:
        self.policy = policy
        self.networks = tuple(parse_network(text) for text in policy.trusted_proxies if text != UNIX)
        self.id_prefix = random_bytes(8).hex().encode()  # 64 bits: two workers, or two starts, share none
        self.count = 0  # of request ids made
        self._trusts_unix = UNIX in policy.trusted_proxies
        self._trusts_anyone = bool(self.networks)
        self._remembered: dict[str, tuple[str, bool]] = {}

    def for_connection(self, peer: str, scheme: bytes, port: int, minor: int = 1, identity: bytes = b"") -> ConnectionForwarding:
        """`peer` is an address without port, or "unix:"; `port` is ours, 0 on a unix socket; `minor` is that of most requests.

        `identity` is lines about the client's certificate, where it was asked for one.
        """
        return ConnectionForwarding(self, peer, scheme, port, minor, identity)

    def judged(self, text: str) -> tuple[str, bool]:
        """An address in normal form ("" for what is none), and whether it is a trusted proxy's."""
        verdict = self._remembered.get(text)
        if verdict is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            verdict = self._remembered[text] = self._judge(text)
        return verdict

    def is_trusted(self, peer: str) -> bool:
        if peer.startswith(UNIX):
            return self._trusts_unix
        return self._trusts_anyone and self.judged(peer)[1]

    def _judge(self, text: str) -> tuple[str, bool]:
        address = maybe_address(text)
        if address is None:
            return "", False
        return str(address), any(address in network for network in self.networks)


class ConnectionForwarding:
    """What the requests of one downstream connection have in common; most need nothing but their host and id put in."""

    __slots__ = (
        "_forwarding",
        "_host_label",
        "_id_label",
        "_identity",
        "_is_trusted",
        "_minor",
        "_ready",
        "_scheme_port",
        "peer",
        "request_id",
        "response_fields",
    )

    def __init__(self, forwarding: Forwarding, peer: str, scheme: bytes, port: int, minor: int, identity: bytes) -> None:
        policy = forwarding.policy
        self._forwarding = forwarding
        self._minor = minor
        self._identity = identity
        self._is_trusted = forwarding.is_trusted(peer)
        self.peer = without_mapping(peer)
        self.request_id = b""  # of the request that fields() saw last
        # By the version in which a response came (RFC 9110 7.6.3), `minor` of its head.
        self.response_fields = tuple([via_line((), version) if policy.via else b"" for version in range(len(VERSIONS))])
        self._scheme_port = (scheme, b"%d" % port if port else b"")
        self._host_label = b"X-Forwarded-Host: " if policy.x_forwarded else b""
        self._id_label = b"X-Request-Id: " if policy.request_id else b""
        made = self._made(b"", set()) if policy.x_forwarded else b""
        self._ready = identity + made + (via_line((), minor) if policy.via else b"")

    def client(self, request: RequestHead) -> str:
        """The client's address; to be asked before fields(), which takes the chain out of the request."""
        if not (self._is_trusted and request.has_proxy_fields):
            return self.peer
        client = self.peer
        for entry in entries_from_right(request):
            address, is_trusted = self._forwarding.judged(entry)
            if not address:
                break  # "unknown", an obfuscated name: whoever wrote it is the last one we can name
            client = address
            if not is_trusted:
                break
        return client

    def fields(self, request: RequestHead) -> bytes:
        """Lines to append to the request; takes out of its headers what they replace. ProxyError 508: a loop."""
        if request.has_proxy_fields or request.minor != self._minor:
            return self._fields_with_care(request)
        text = self._ready
        if self._host_label and request.authority:
            text += self._host_label + request.authority + b"\r\n"
        if self._id_label:
            self.request_id = self._next_id()
            text += self._id_label + self.request_id + b"\r\n"
        return text

    def _fields_with_care(self, request: RequestHead) -> bytes:
        policy = self._forwarding.policy
        headers = request.headers
        claimed: set[bytes] = set()
        if not self._is_trusted:
            headers.remove_all(STRANGERS_LOSE)
        else:
            headers.remove_all(NOBODY_KEEPS)
            claimed = {name for name in BELIEVED if headers.get(name) is not None}
        text = self._identity
        if text:
            headers.remove_all(IDENTITY)
        if policy.x_forwarded:
            chain = headers.get_all(b"x-forwarded-for")
            headers.remove(b"x-forwarded-for")
            text += self._made(b", ".join(value for value in chain if value), claimed)
            if request.authority and b"x-forwarded-host" not in claimed:
                text += self._host_label + request.authority + b"\r\n"
        if policy.via:
            passed = headers.get_all(b"via")
            check_loop(passed)
            headers.remove(b"via")
            text += via_line(passed, request.minor)
        return text + self._id_line(request)

    def _made(self, chain: bytes, present: set[bytes]) -> bytes:
        """X-Forwarded-For, -Proto and -Port: the first continues `chain`, the others give way to those present."""
        own = b"" if self.peer.startswith(UNIX) else self.peer.encode()
        chain = chain + b", " + own if chain and own else chain or own
        scheme, port = self._scheme_port
        lines = [b"X-Forwarded-For: %b\r\n" % chain] if chain else []
        if b"x-forwarded-proto" not in present:
            lines.append(b"X-Forwarded-Proto: %b\r\n" % scheme)
        if port and b"x-forwarded-port" not in present:
            lines.append(b"X-Forwarded-Port: %b\r\n" % port)
        return b"".join(lines)

    def _id_line(self, request: RequestHead) -> bytes:
        received = request.headers.get(b"x-request-id") or b""
        sane = received if self._is_trusted and SANE_REQUEST_ID.fullmatch(received) else b""
        if not self._id_label:
            self.request_id = sane
            return b""
        request.headers.remove(b"x-request-id")
        self.request_id = sane or self._next_id()
        return self._id_label + self.request_id + b"\r\n"

    def _next_id(self) -> bytes:
        """Unique, not secret: a random half and a counted half, 32 hexadecimal digits as a trace id has."""
        forwarding = self._forwarding
        forwarding.count += 1
        return b"%b%016x" % (forwarding.id_prefix, forwarding.count)


def entries_from_right(request: RequestHead) -> Iterator[str]:
    """X-Forwarded-For's addresses, the nearest first; repeated fields are one list (RFC 9110, 5.3)."""
    for value in reversed(request.headers.get_all(b"x-forwarded-for")):
        for entry in reversed(value.split(b",")):
            yield entry.strip().decode("latin-1")


def check_loop(passed: list[bytes]) -> None:
    hops = sum(1 for value in passed for hop in value.split(b",") if hop.split()[1:2] == [PSEUDONYM])
    if hops >= MAX_PASSES:
        raise failure("proxy_loop", f"the request has passed a balancer named lbd {hops} times already (Via)")


def via_line(passed: tuple[bytes, ...] | list[bytes], minor: int) -> bytes:
    own = VERSIONS[minor] + PSEUDONYM  # the version in which the request came
    return b"Via: " + b", ".join((*filter(None, passed), own)) + b"\r\n"


def maybe_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that stands in an X-Forwarded-For entry or is a peer's; IPv4 when it is mapped."""
    if len(text) > MAX_ADDRESS:
        return None
    if match := WITH_PORT.fullmatch(text):
        text = match[1] or match[2]
    try:
        address = ip_address(text.partition("%")[0])  # "fe80::1%eth0": a scope is this machine's own business
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def without_mapping(peer: str) -> str:
    return peer[7:] if peer.startswith("::ffff:") and "." in peer else peer


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """IPv4 when it is mapped, for so are the addresses that are looked for in it."""
    try:
        network = ip_network(text)
        mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
        if mapped is None or network.prefixlen < MAPPED:
            return network
        return IPv4Network((mapped, network.prefixlen - MAPPED))
    except ValueError as error:
        remedy = 'write an address ("10.0.0.1"), a network ("10.0.0.0/8") or "unix:"'
        raise ValueError(f'"{text}" is not a network: {error}; {remedy}') from None
