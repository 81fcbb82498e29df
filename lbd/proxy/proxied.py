"""PROXY headers, in: a connection is another one's, and says so before its first byte; and out: ours says whose it is.

A header is believed from those alone whom `proxy_protocol.trusted` names, and from them it is wanted: a proxy that forgets it would
have all its clients taken for itself. From all others it is refused, not ignored: it would be taken for a request, and in TCP be handed
to an endpoint that may believe it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.stream import addresses_of
from lbd.proxy.forwarding import without_mapping
from lbd.proxy.opening import HANDSHAKE, begin_step, receive_early, time_given
from lbd.proxy.reasons import failure
from lbd.wire.proxy_protocol import BEGINNINGS, LONGEST, VERSIONS, ProxyHeader, encode_proxy_header, parse_proxy_header
from lbd.wire.refusal import WireError

if TYPE_CHECKING:
    from lbd.proxy.connection import Connection

__all__ = ["introduction", "may_become_header", "open_proxied", "refuse_header"]


async def open_proxied(connection: Connection) -> bool:
    """Takes the header off: from here on the connection is its source's. False: it was closed without a word.

    ProxyError: there is no header, or there must not be one.
    """
    listener = connection.listener
    assert listener.proxied is not None
    is_trusted = connection.stream.peer in listener.proxied
    if not is_trusted and listener.policy.protocol == "tcp":
        return True  # the endpoint may be the one to speak first: what comes is looked at when it comes
    begin_step(connection)
    is_known = False
    try:
        while not is_known and await read_more(connection):
            is_known = take_header(connection) if is_trusted else look_for_header(connection.early)
    except Expired:
        check_silence(connection)
        is_known = True
    connection.fiber.disarm()
    return is_known


def check_silence(connection: Connection) -> None:
    """Time is up. Where a header is optional, and the endpoint may be the one to speak first, no byte at all says that there is none.

    ProxyError: it says nothing. Expired: a drain has taken the rest of the time.
    """
    listener = connection.listener
    policy = listener.policy.proxy_protocol
    if listener.is_draining and not connection.early:
        raise Expired(HANDSHAKE)
    if connection.early or policy is None or not policy.optional or listener.policy.protocol != "tcp":
        raise failure("proxy_header_timeout", f"{len(connection.early)} bytes within {time_given(listener)}") from None


def take_header(connection: Connection) -> bool:
    """Whether it is whole, and off; or, where it is optional, none."""
    early, policy = connection.early, connection.listener.policy.proxy_protocol
    if policy is not None and policy.optional and not may_become_header(early):
        return True
    try:
        parsed = parse_proxy_header(early)
    except WireError as error:
        raise failure("proxy_header_invalid", error.message) from error
    if parsed is None:
        return False
    header, end = parsed
    connection.early = early[end:]
    if header.source:
        connection.comes_from(without_mapping(header.source))
        connection.proxied = header
        connection.port = header.destination_port
    return True


def look_for_header(early: bytes) -> bool:
    """Whether it is certain that there is none."""
    refuse_header(early)
    return not may_become_header(early)


def refuse_header(data: bytes) -> None:
    """ProxyError when somebody who is not trusted begins with a header."""
    if data.startswith(BEGINNINGS):
        raise failure("proxy_header_untrusted")


def may_become_header(data: bytes) -> bool:
    return any(data[: len(word)] == word[: len(data)] for word in BEGINNINGS)


async def read_more(connection: Connection) -> bool:
    """At least one more byte, into `early`; False: it was closed before the first one."""
    data = await receive_early(connection, LONGEST)
    if not data and connection.early:
        raise failure("proxy_header_invalid", "it was closed in the middle of the PROXY header")
    connection.early += data
    return bool(data)


def introduction(connection: Connection, version: str) -> bytes:
    """The header that an upstream connection for this one begins with: the one that came, TLVs included, or its own addresses."""
    header = connection.proxied
    if header is None:
        (source, source_port), (destination, destination_port) = addresses_of(connection.transport)
        header = ProxyHeader(without_mapping(source), source_port, without_mapping(destination), destination_port)
    return encode_proxy_header(VERSIONS[version], header)
