"""Upgrades over HTTP/2: extended CONNECT (RFC 8441), translated to and from the upgrade of HTTP/1 that it stands for.

Between the two sides of an exchange there is one form of it: a GET that offers, a 101 that agrees. Who speaks HTTP/2 translates at its own
end, so that any mix of the two is a tunnel like any other.

                   GET + Upgrade                                    101
    downstream   <- CONNECT + :protocol, a key is made up           -> 200, when the answer to the key is right
    upstream     -> CONNECT + :protocol, the key is kept here       <- 2xx, the answer is made up

A 2xx says "bytes from here on" to a CONNECT. So no other success may reach who has sent one: a page where a tunnel should be is an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Retry, Side
from lbd.proxy.reasons import failure
from lbd.wire.message import Headers, ResponseHead
from lbd.wire.websocket import accept_of, handshake_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.wire.message import RequestHead

__all__ = ["begin_offer", "check_no_success", "end_offer", "maybe_switched", "open_established"]

WEBSOCKET = b"websocket"


def begin_offer(request: RequestHead, random: Callable[[], float]) -> bytes:
    """Downstream: makes the upgrade of a CONNECT. The key that goes along, b"" for other protocols than WebSocket."""
    request.method = b"GET"
    request.content_length = -1
    request.chunked = False
    if request.upgrade.lower() != WEBSOCKET:
        return b""
    key = handshake_key(b"".join(int(random() * (1 << 64)).to_bytes(8, "big") for _ in range(2)))
    request.headers.set(b"sec-websocket-key", key)
    return key


def open_established(head: ResponseHead, key: bytes) -> ResponseHead:
    """Downstream: the 200 for a 101. ProxyError: it answers another key."""
    if key and head.headers.get(b"sec-websocket-accept") != accept_of(key):
        raise failure("bad_response", "it switches, but its Sec-WebSocket-Accept does not answer the key that was sent")
    head.headers.remove(b"sec-websocket-accept")
    return ResponseHead.make(status=200, reason=b"OK", headers=head.headers)


def check_no_success(status: int, *, is_ours: bool) -> None:
    """Downstream: ProxyError for an answer, ours or the upstream's, that would be taken for an open tunnel."""
    if 200 <= status < 300:
        if is_ours:
            raise ProxyError(Side.DOWNSTREAM, "unsupported", 501, "CONNECT to a route that has no upstream")
        raise failure("bad_response", f"{status} instead of 101 to an offer to switch protocols: over HTTP/2 that would be a tunnel")


def end_offer(request: RequestHead, *, is_supported: bool, has_body: bool) -> bytes:
    """Upstream: the protocol to name in the CONNECT of a request that offers. ProxyError: that cannot be."""
    if not is_supported:
        message = "the endpoint takes no WebSockets over HTTP/2 (it sent no SETTINGS_ENABLE_CONNECT_PROTOCOL)"
        raise failure("no_upgrade", message, Retry.UNSENT)
    if has_body:
        raise failure("no_upgrade", "over HTTP/2 a request that offers another protocol has no body")
    return request.upgrade.partition(b",")[0]


def maybe_switched(request: RequestHead, protocol: bytes, head: ResponseHead) -> ResponseHead:
    """Upstream: the 101 that a success stands for; any other head as it is."""
    if not 200 <= head.status < 300:
        return head
    headers = Headers(head.headers.encode())
    key = request.headers.get(b"sec-websocket-key")
    if key is not None:
        headers.set(b"Sec-WebSocket-Accept", accept_of(key))
    return ResponseHead.make(status=101, reason=b"Switching Protocols", headers=headers, upgrade=protocol)
