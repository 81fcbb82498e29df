"""A connection's ClientHello, looked at before anybody answers it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.proxy.opening import begin_step, time_given
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
    listener, stream, reader = connection.listener, connection.stream, HelloReader()
    begin_step(connection)
    data: bytes | None = connection.early
    try:
        while True:
            if data:
                hello = reader.feed(data)
                if hello is not None or not reader.is_tls:
                    return hello
            elif data == b"" and reader.received:
                raise failure("client_hello_invalid", "closed in the middle of a ClientHello")
            if not reader.received:
                listener.idle[connection.fiber] = False  # nothing is lost when a drain ends it
            while (data := stream.recv(READ)) is None:
                await stream.readable
            listener.idle.pop(connection.fiber, None)
            if not data and not reader.received:
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
        listener.idle.pop(connection.fiber, None)
        connection.early = reader.received
        connection.fiber.disarm()
