"""Which other protocols a connection may change to: what a client offers, what of it goes upstream, and what an upstream may agree to.

Theory. An upgrade is a way around everything that a proxy checks: after the 101 bytes pass that nobody reads. So only protocols that
the listener names are offered upstream at all, from everything else the offer is taken away and a plain request is left, which
any server may answer (RFC 9110 7.8). What an upstream agrees to must have been offered to it. And not one byte goes past the
framing before it has agreed: a proxy that trusts the offer alone hands an attacker a way to put requests into the
upstream's connection that it never looks at (CVE-2026-2833).

h2c is HTTP/2 by another way in. It would carry requests past every route, and is never offered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Side
from lbd.proxy.reasons import failure
from lbd.wire.http2_heads import HTTP2

if TYPE_CHECKING:
    from collections.abc import Collection

    from lbd.wire.message import RequestHead, ResponseHead

__all__ = ["agreed", "offered", "parse_protocol", "upgrade_lines"]

# RFC 9110 7.8: protocol-name ["/" protocol-version], both of them tokens.
PROTOCOL = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?")


def parse_protocol(text: str) -> str:
    """A protocol that a listener lets through; ValueError for what cannot be one."""
    if not PROTOCOL.fullmatch(text):
        raise ValueError(f'"{text}" is not the name of a protocol; write it as it stands in the Upgrade field, like "websocket"')
    if text.lower().partition("/")[0] == "h2c":
        raise ValueError('"h2c" would carry requests past all routes; take it out: clients that know lbd speaks HTTP/2 need no upgrade')
    return text.lower()


def offered(request: RequestHead, allowed: Collection[bytes]) -> bytes:
    """What of a request's offer goes upstream: a list as it stands in the field, b"" for nothing. ProxyError: then there is no request."""
    if request.minor == 0:
        return b""  # RFC 9110 7.8: an Upgrade in HTTP/1.0 must be ignored
    offer = b", ".join(protocol for protocol in members(request.upgrade) if protocol.lower() in allowed)
    if not offer and request.minor == HTTP2:  # an offer is all that a CONNECT is
        raise ProxyError(Side.DOWNSTREAM, "unsupported", 501, f"CONNECT to {request.upgrade[:100]!r} is not served here")
    return offer


def agreed(head: ResponseHead, offer: bytes) -> bytes:
    """What the upstream's 101 changes to. ProxyError: nobody has asked for that."""
    chosen = members(head.upgrade)
    if not offer:
        raise failure("bad_response", "101 Switching Protocols, but nobody asked to switch")
    if not chosen:
        raise failure("bad_response", "101 Switching Protocols, but it does not say to which (Upgrade, and Connection: upgrade)")
    known = {protocol.lower() for protocol in members(offer)}
    for protocol in chosen:
        if protocol.lower() not in known:
            raise failure("bad_response", f"it switches to {protocol[:100]!r}, which nobody offered; offered was {offer[:100]!r}")
    return b", ".join(chosen)


def upgrade_lines(protocols: bytes) -> bytes:
    """The two fields that say so, in a request or in a 101."""
    return b"Connection: upgrade\r\nUpgrade: %b\r\n" % protocols


def members(value: bytes) -> list[bytes]:
    return [member for part in value.split(b",") if (member := part.strip(b" \t"))]
