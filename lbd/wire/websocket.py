"""The one thing about WebSockets that HTTP has to know: how the answer to a handshake's key is made (RFC 6455, 4.2.2).

Over HTTP/2 there are no keys (RFC 8441, 5.1). Who translates between the two makes them up on the one side, and checks or gives the
answer in place of the other.
"""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha1

__all__ = ["accept_of", "handshake_key"]

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def handshake_key(nonce: bytes) -> bytes:
    """Sec-WebSocket-Key of 16 random bytes."""
    return b64encode(nonce)


def accept_of(key: bytes) -> bytes:
    """Sec-WebSocket-Accept: proves that who answers knows what it was asked, no more."""
    return b64encode(sha1(key + MAGIC, usedforsecurity=False).digest())
