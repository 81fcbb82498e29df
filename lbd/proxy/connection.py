"""A downstream connection: one fiber, from its first byte to its last.

serve() is the one place that catches what goes wrong with a connection. Which protocol is spoken is found out here: what a
listener asks for before the first request comes first, then the protocol's own loop takes over, in the same fiber.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from lbd.core.fiber import Expired, HungUp
from lbd.errors import ProxyError
from lbd.proxy.http1 import Http1Connection
from lbd.proxy.http2 import Http2Connection
from lbd.proxy.proxied import open_proxied
from lbd.proxy.reasons import failure
from lbd.proxy.tcp import maybe_session
from lbd.proxy.tls import open_tls

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from lbd.proxy.listening import Listener
    from lbd.wire.proxy_protocol import ProxyHeader

__all__ = ["Connection"]

log = logging.getLogger("lbd.proxy")


class Connection:
    """`stream` is what the protocol runs on, `transport` what was accepted, below TLS. `scheme` and `port`: how the downstream sees us,
    as the upstream is told.

    `early` is what was read to find out which protocol that is, and belongs to it. `proxied` is the PROXY header that named a source,
    `group` what its address is counted under.
    """

    __slots__ = ("early", "fiber", "group", "identity", "listener", "port", "proxied", "reactor", "scheme", "stream", "transport")

    def __init__(self, listener: Listener, stream: Stream, port: int) -> None:
        self.listener = listener
        self.stream = self.transport = stream
        self.reactor: Reactor = stream.reactor
        self.scheme = b"http"
        self.port = port
        self.early = b""
        self.identity = b""  # lines about the client's certificate
        self.proxied: ProxyHeader | None = None
        self.fiber: Fiber = self.reactor.spawn(self.serve(), stream.peer)
        self.group = listener.crowd.enter(stream.peer)
        listener.entered(self.fiber)

    async def serve(self) -> None:
        """Until either side has enough, or something goes wrong."""
        try:
            await self._speak()
        except (ProxyError, OSError, HungUp, Expired):
            pass  # gone, too slow to be told anything more, or cut short by a drain; the exchange has written down which
        except Exception:
            log.exception("a bug, in a connection of listener %s from %s", self.listener.policy.name, self.stream.peer)
            self.listener.faulted("connection")
        finally:
            self.stream.close()
            self.listener.crowd.leave(self.group)
            self.listener.left(self.fiber)

    def comes_from(self, source: str) -> None:
        """It is another one's than it seemed. ProxyError: who has enough connections already."""
        self.stream.peer = source
        crowd = self.listener.crowd
        is_full = crowd.is_full_for(source)
        crowd.leave(self.group)
        self.group = crowd.enter(source)
        if is_full:
            raise failure("too_many_from_address", f"{source} has {crowd.limit} connections already")

    async def _speak(self) -> None:
        listener = self.listener
        if listener.opens and not await self._open():
            return
        http1 = Http1Connection(self)
        if await http1.serve():
            await Http2Connection(self).serve(http1.downstream.buffer)

    async def _open(self) -> bool:
        """What comes before the first request; False: there will be none."""
        listener, began = self.listener, self.reactor.now
        protocol = ""
        listener.opening.add(self.fiber)
        try:
            if listener.proxied is not None and not await open_proxied(self):
                return False
            session = await maybe_session(self) if listener.hellos.routes else None
            if session is None and listener.termination is not None:
                protocol = await open_tls(self)
        except ProxyError as error:
            listener.turned_away(self.stream.peer, len(self.early), error, self.reactor.now - began, self.reactor.now)
            return False
        finally:
            listener.opening.discard(self.fiber)
        if session is not None:
            await session.run()
        elif protocol == "h2":
            await Http2Connection(self).serve(self.early)
        else:
            return True
        return False
