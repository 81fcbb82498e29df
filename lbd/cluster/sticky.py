"""Sticky sessions: a cookie that says at which endpoint a client began.

    Set-Cookie: lbd-web=4kYzTqp2A0bM.s1gn4tur3...; Path=/; HttpOnly; SameSite=Lax

Its value is an id and a signature. The id is an HMAC of the endpoint's address, so that no address is in the clear and none can be found
by trying; the signature is one of the id, so that nobody gets to an endpoint that lbd has not chosen for him. Both are SHA-256 with
the cluster's key, cut to what is more than enough here (RFC 2104, 5), in base64url (RFC 4648, 5), every byte of which a cookie may
have (RFC 6265, 4.1.1). All workers have the same key, and so has the next lbd, where the configuration or the state directory has it.

An endpoint is its address here, not its name: what a session lives in is the process that answers there.

A cookie is no credential and cannot be an error: what is forged, malformed, or of an endpoint that has left counts as if there was none.
Reading costs O(n) in the size of the Cookie field.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from lbd.policy import Choice, Duration

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbd.cluster.endpoint import Endpoint
    from lbd.wire.message import Headers

__all__ = ["Claim", "Sticky", "StickyPolicy"]

ID, SIGNATURE = 9, 18  # bytes: 72 bits tell endpoints apart, 144 cannot be guessed; multiples of 3, so that base64 needs no padding


@dataclass(frozen=True, slots=True)
class StickyPolicy:
    """`[cluster.NAME.sticky]`."""

    cookie: str = ""  # its name; "" is lbd- and the cluster's: two clusters behind one host must not overwrite each other's
    ttl: Annotated[float, Duration(0.0, zero="until the browser ends")] = 0.0
    path: str = "/"
    secure: Annotated[str, Choice(("auto", "always", "never"))] = "auto"  # auto: for requests that came by TLS
    http_only: bool = True  # no script needs it
    same_site: Annotated[str, Choice(("lax", "strict", "none"))] = "lax"  # what browsers take where nothing is said
    strip: bool = True  # endpoints do not see it: it is none of theirs, and some log or cache by cookies
    secret: str = ""  # "" is one of the state directory's, or of this run where there is none


class Claim(NamedTuple):
    """What a request's cookie says. `outcome` is what it comes to if another endpoint answers, or none: new, invalid or moved."""

    endpoint: Endpoint | None
    outcome: str


class Sticky:
    """The cookies of one cluster. `policy.secret` is filled in."""

    def __init__(self, cluster: str, policy: StickyPolicy) -> None:
        self.policy = policy
        self._cluster = cluster.encode()
        self._key = policy.secret.encode()
        self.name = (policy.cookie or f"lbd-{cluster}").encode()
        self._wanted = self.name + b"="
        self._attributes = attributes_of(policy)
        self._endpoints: Sequence[Endpoint] = ()  # of whom the ids are known
        self._values: dict[str, bytes] = {}  # by address
        self._by_id: dict[bytes, Endpoint] = {}

    def claim(self, headers: Headers, endpoints: Sequence[Endpoint]) -> Claim:
        """What the request says, whose cookie is taken out of its fields; `endpoints` are the cluster's today."""
        value, others = self._found(headers)
        if value is None:
            return Claim(None, "new")
        if self.policy.strip:
            rest = b"; ".join([pair for pair in others if pair])
            if rest:
                headers.set(b"Cookie", rest)
            else:
                headers.remove(b"cookie")
        if not self._is_signed(value):
            return Claim(None, "invalid")
        if endpoints is not self._endpoints:
            self._settle(endpoints)
        return Claim(self._by_id.get(value.partition(b".")[0]), "moved")

    def has_been_here(self, headers: Headers) -> bool:
        """Whether the request has a cookie of this cluster, whichever endpoint it names. It is left where it is."""
        value, _ = self._found(headers)
        return value is not None and self._is_signed(value)

    def line(self, endpoint: Endpoint, is_secure: bool) -> bytes:
        """The value of a Set-Cookie that leads to this endpoint; `is_secure`: the request came by TLS."""
        is_marked = self.policy.secure == "always" or (is_secure and self.policy.secure == "auto")
        return self._wanted + self._value(endpoint.address) + self._attributes + (b"; Secure" if is_marked else b"")

    def _found(self, headers: Headers) -> tuple[bytes | None, list[bytes]]:
        """Its value, and all other pairs. None: there is no cookie of ours."""
        fields = headers.get_all(b"cookie")
        if not any(self._wanted in field for field in fields):
            return None, []
        found: bytes | None = None
        others = []
        for pair in b";".join(fields).split(b";"):
            name, sign, value = pair.strip(b" \t").partition(b"=")
            if name != self.name or not sign:
                others.append(pair.strip(b" \t"))
            elif found is None:  # of several the first: browsers put the longest path first (RFC 6265, 5.4)
                found = value
        return found, others

    def _is_signed(self, value: bytes) -> bool:
        name, _, signature = value.partition(b".")
        return hmac.compare_digest(signature, self._digest(b"signature", name, SIGNATURE))

    def _settle(self, endpoints: Sequence[Endpoint]) -> None:
        """Those that stay keep what has been worked out: ten thousand ids take 50 ms."""
        known = self._values
        self._values = {}
        for endpoint in endpoints:
            self._values[endpoint.address] = known.get(endpoint.address) or self._value(endpoint.address)
        self._by_id = {self._values[endpoint.address].partition(b".")[0]: endpoint for endpoint in endpoints}
        self._endpoints = endpoints

    def _value(self, address: str) -> bytes:
        value = self._values.get(address)
        if value is None:
            name = self._digest(b"endpoint", address.encode(), ID)
            value = name + b"." + self._digest(b"signature", name, SIGNATURE)
        return value

    def _digest(self, purpose: bytes, text: bytes, size: int) -> bytes:
        """Of this cluster and for this purpose: no digest can stand in the place of another one."""
        whole = hmac.digest(self._key, b"%b\0%b\0%b" % (purpose, self._cluster, text), "sha256")
        return urlsafe_b64encode(whole[:size])


def attributes_of(policy: StickyPolicy) -> bytes:
    """In the order of RFC 6265, 4.1.1."""
    age = f"; Max-Age={max(1, round(policy.ttl))}" if policy.ttl else ""
    mark = "; HttpOnly" if policy.http_only else ""
    return f"; Path={policy.path}{age}{mark}; SameSite={policy.same_site.capitalize()}".encode()
