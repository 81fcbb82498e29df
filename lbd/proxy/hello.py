"""A connection's ClientHello, looked at before anybody answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.proxy.opening import begin_step, receive_early, time_given
from lbd.proxy.reasons import failure
from lbd.wire.client_hello import HelloReader
from lbd.wire.refusal import WireError

if TYPE_CHECKING:
    from lbd.proxy.connection import Connection
    from lbd.wire.client_hello import ClientHello

__all__ = ["peek_hello"]

READ = 16 * 1024


async def peek_hello(connection: Connection) -> ClientHello | None:
    """The hello, which stays in `connection.early`; None: it is no TLS. ProxyError: it is TLS that cannot be read, or has gone."""
    listener, reader = connection.listener, HelloReader()
    begin_step(connection)
    data = connection.early
    try:
        while True:
            if data:
                hello = reader.feed(data)
                if hello is not None or not reader.is_tls:
                    return hello
            connection.early = reader.received
            data = await receive_early(connection, READ)
            if not data and reader.received:
                raise failure("client_hello_invalid", "closed in the middle of a ClientHello")
            if not data:
                return None  # silent to its end; a half-close may be all that it has to say
    except WireError as error:
        if not reader.is_tls:
            return None
        raise failure("client_hello_invalid", error.message) from error
    except Expired:
        if reader.received:
            raise failure("client_hello_timeout", f"{len(reader.received)} bytes within {time_given(listener)}") from None
        if listener.is_draining:
            raise
        return None
    finally:
        connection.early = reader.received
        connection.fiber.disarm()
