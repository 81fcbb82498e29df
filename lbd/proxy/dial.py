"""Connections to endpoints, and how they are made."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, NamedTuple

from lbd.cluster.shared import SharedPool
from lbd.core.fiber import Expired, Signal
from lbd.core.tls import TlsStream
from lbd.errors import ProxyError, Retry
from lbd.proxy.endings import CONNECT
from lbd.proxy.http1_upstream import Http1Upstream
from lbd.proxy.http2_upstream_connection import Http2UpstreamConnection
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.pool import Pool
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream
    from lbd.proxy.upstream import Upstream

    Connect = Callable[[Reactor, int, tuple[str, int] | str, str], Awaitable[Stream]]  # as core.stream.connect

__all__ = ["open_stream", "open_upstream", "prefers_own", "socket_address"]


def socket_address(address: str) -> tuple[int, tuple[str, int] | str]:
    """An endpoint's literal address: "10.0.0.1:80", "[::1]:80", "unix:/run/app.sock" -> family and socket address."""
    if address.startswith("unix:"):
        return socket.AF_UNIX, address[5:]
    host, _, port = address.rpartition(":")
    if host.startswith("["):
        return socket.AF_INET6, (host[1:-1], int(port))
    return socket.AF_INET, (host, int(port))


async def open_stream(reactor: Reactor, endpoint: Endpoint, connect: Connect) -> Stream:
    """A connection to an endpoint, which counts there until its owner says disconnected(). ProxyError: there is none, and nothing was
    sent. The deadline is the calling fiber's."""
    address = endpoint.address
    family, target = socket_address(address)
    endpoint.connected()
    try:
        return await connect(reactor, family, target, address)
    except OSError as error:
        endpoint.disconnected()
        reason = "connect_refused" if isinstance(error, ConnectionRefusedError) else "connect_failed"
        if error.errno in (errno.EMFILE, errno.ENFILE):  # it is we who have none left; another endpoint may have an idle connection
            reason = "no_descriptors"
        raise failure(reason, f"connecting to {address} failed: {error.strerror}", Retry.UNSENT) from error
    except BaseException:
        endpoint.disconnected()
        raise


async def open_upstream(
    reactor: Reactor, endpoint: Endpoint, connect: Connect, timeout: float, opening: bytes, *, may_switch: bool
) -> Upstream:
    """As open_stream(), ready for a request. `timeout` is for a connection that others wait for too, when it is begun here; one of our
    own begins with `opening`, a PROXY header. One that `may_switch` to another protocol is its own where that can be."""
    pool = endpoint.pool
    is_single = may_switch or (isinstance(pool, SharedPool) and pool.is_single(reactor.now))
    if isinstance(pool, SharedPool) and not (is_single and prefers_own(pool)):
        return await open_shared(Dialling(reactor, endpoint, pool, connect, timeout))
    stream = await open_stream(reactor, endpoint, connect)
    try:
        if opening:
            await introduce(stream, opening)
        if endpoint.origination is not None:
            stream = await (endpoint.origination.for_upgrades if is_single else endpoint.origination).secure(stream, endpoint)
    except BaseException:
        endpoint.disconnected()
        raise
    upstream = Http1Upstream(stream, reactor.now, endpoint)
    upstream.bytes_out = len(opening)
    endpoint.opened()
    return upstream


def prefers_own(pool: Pool) -> bool:
    """Whether a request that may switch to another protocol gets a connection of HTTP/1 where others might share one of HTTP/2."""
    return isinstance(pool, SharedPool) and pool.can_be_single


async def introduce(stream: Stream, opening: bytes) -> None:
    """Before all else, TLS included. ProxyError: nothing of a request was sent."""
    try:
        await stream.send_all(opening)
    except OSError as error:
        stream.close()
        raise failure("connect_failed", f"sending the PROXY header failed: {error.strerror}", Retry.UNSENT) from error
    except BaseException:
        stream.close()
        raise


# Connections that many requests share


class Dialling(NamedTuple):
    """Everything that it takes."""

    reactor: Reactor
    endpoint: Endpoint
    pool: SharedPool
    connect: Connect
    timeout: float


class Waiter:
    """A Place in the queue of a SharedPool, for a fiber."""

    __slots__ = ("_dialling", "error", "served", "upstream")

    def __init__(self, dialling: Dialling) -> None:
        self._dialling = dialling
        self.served = Signal(dialling.reactor)
        self.upstream: Upstream | None = None
        self.error: Exception | None = None

    def dial(self) -> None:
        # A fiber of its own: whoever made it begin may be gone before it ends.
        self._dialling.reactor.spawn(dial(self._dialling), f"dial {self._dialling.endpoint.address}")

    def grant(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.served.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.served.set()


async def open_shared(dialling: Dialling) -> Upstream:
    """A stream of a connection that has room by now, or will have; the deadline is the calling fiber's."""
    endpoint, pool = dialling.endpoint, dialling.pool
    upstream: Upstream | None = pool.take_again(dialling.reactor.now)
    if upstream is None:
        waiter = Waiter(dialling)
        pool.enter(waiter)
        try:
            await waiter.served.wait()
        except BaseException:
            pool.leave(waiter)
            if waiter.upstream is not None:
                waiter.upstream.close()
            raise
        upstream = waiter.upstream
        if upstream is None:
            raise again(waiter.error)
    if upstream.requests > 1:
        endpoint.reused()
    return upstream


def again(error: Exception | None) -> ProxyError:
    """One of its own for each who waited: an error that is raised collects frames."""
    assert isinstance(error, ProxyError)
    return ProxyError(error.side, error.reason, error.status, error.message, error.retry, error.retry_after)


async def dial(dialling: Dialling) -> None:
    """A fiber of its own, that makes a connection for whoever waits."""
    reactor, endpoint, pool, _, timeout = dialling
    reactor.running().arm(timeout, CONNECT)
    try:
        stream = await open_agreed(dialling)
        if speaks_http2(stream):
            connection = Http2UpstreamConnection(stream, pool, endpoint.disconnected)
            await connection.wait_ready()
        else:
            endpoint.opened()
            pool.dialled_single(Http1Upstream(stream, reactor.now, endpoint), reactor.now)
            return
    except ProxyError as error:
        pool.dial_failed(error)
    except Expired:
        pool.dial_failed(failure("connect_timeout", f"no HTTP/2 connection within {timeout:g} s", Retry.UNSENT))
    except BaseException:
        pool.dial_failed(failure("connect_failed", "given up", Retry.UNSENT))
        raise
    else:
        endpoint.opened()
        pool.dialled(connection, reactor.now)


async def open_agreed(dialling: Dialling) -> Stream:
    """As open_stream(); ProxyError also where HTTP/1 is spoken and must not be."""
    reactor, endpoint, pool, connect, _ = dialling
    stream = await open_stream(reactor, endpoint, connect)
    try:
        if endpoint.origination is not None:
            stream = await endpoint.origination.secure(stream, endpoint)
        if not (pool.can_be_single or speaks_http2(stream)):
            stream.close()
            raise failure("connect_failed", "no HTTP/2 connection: it did not choose h2 by ALPN", Retry.UNSENT)
    except BaseException:
        endpoint.disconnected()
        raise
    return stream


def speaks_http2(stream: Stream) -> bool:
    """What was agreed upon with TLS; without it nothing was, and HTTP/2 is known to be spoken."""
    return not isinstance(stream, TlsStream) or stream.ssl.selected_alpn_protocol() == "h2"
