"""One probe: does this endpoint answer as its health check wants?

Each probe has a connection of its own: a kept-alive one would prove that yesterday's connection lives, not that the endpoint
accepts. One deadline covers everything, from connecting to the last byte looked at. The outcome is a word for the metric and a
sentence for a person; whether it flips the endpoint is lbd/cluster/health.py's to decide, and when to probe again is
probes.py's.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import h11
import trio

from lbd import __version__
from lbd.cluster.health import SecuredCheck, parse_statuses
from lbd.discovery.address import UNIX, join_address, split_address
from lbd.master import grpc_check
from lbd.master.http2_question import Unanswered, ask
from lbd.routing.edits import encoded_fields
from lbd.wire.message import Headers, RequestHead
from lbd.wire.proxy_protocol import LOCAL, VERSIONS, encode_proxy_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.cluster.health import HealthPolicy

__all__ = ["Outcome", "Probe", "connect"]

HEAD_LIMIT = 64 * 1024  # of a response's head, as for proxied responses
CHUNK = 16 * 1024
HTTP2 = ("h2", "grpc")  # protocols over it

Fields = list[tuple[bytes, bytes]]


class Outcome(NamedTuple):
    """What one probe found."""

    result: str  # ok | connect | timeout | tls | closed | protocol | status | body | fault: for lbd_health_checks_total{result}
    reason: str  # in words: "status 503, expected 200-399"

    @property
    def ok(self) -> bool:
        return self.result == "ok"


class _Failed(Exception):
    """The endpoint did not answer as it should."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = Outcome(result, reason)


async def connect(address: str) -> trio.abc.Stream:
    """A stream to a literal address; raises the system's own error (trio.open_tcp_stream would wrap it)."""
    family, target = _socket_address(address)
    sock = trio.socket.socket(family)
    try:
        await sock.connect(target)
        # Linux connects a socket to itself when nobody listens and the outgoing port happens to be the wanted one: at a probe every
        # other second to a dead port of the ephemeral range that is about once a day, and would count as a success.
        if family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return trio.SocketStream(sock)
    except BaseException:
        sock.close()
        raise


def _socket_address(address: str) -> tuple[int, tuple[str, int] | str]:
    if address.startswith(UNIX):
        return socket.AF_UNIX, address.removeprefix(UNIX)
    host, port = split_address(address)
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, port)


class Probe:
    """A check policy made ready for one endpoint; `run` as often as you like."""

    def __init__(
        self,
        policy: HealthPolicy,
        address: str,
        connect: Callable[[str], Awaitable[trio.abc.Stream]] = connect,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        secured: Callable[[SecuredCheck, str], tuple[ssl.SSLContext, str] | None] | None = None,
    ) -> None:
        """`secured` has the context and the name for an endpoint of a cluster with TLS, `tls` the context for others."""
        self._policy = policy
        self._connect = connect
        self._tls = tls
        self._secured = secured(policy, address) if secured is not None and isinstance(policy, SecuredCheck) else None
        self.address = address  # with the policy's port
        if policy.port and not address.startswith(UNIX):
            self.address = join_address(split_address(address)[0], policy.port)
        # It is we ourselves who connect, and nobody stands behind us.
        version = VERSIONS.get(policy.send_proxy)
        self._opening = encode_proxy_header(version, LOCAL) if version else b""
        self._given = tuple((name.lower(), value) for name, value in encoded_fields(policy.headers))
        self._is_expected = parse_statuses(policy.expect_status)
        self._body = re.compile(policy.expect_body) if policy.expect_body else None

    def __repr__(self) -> str:
        path = {"tcp": "", "grpc": f"/{self._policy.service}"}.get(self._policy.protocol, self._policy.path)
        return f"<Probe {self._policy.protocol}://{self.address}{path}>"

    async def run(self) -> Outcome:
        """Never raises for what the endpoint does."""
        try:
            with trio.fail_after(self._policy.timeout):
                return await self._probe()
        except trio.TooSlowError:
            return Outcome("timeout", f"no answer within {self._policy.timeout:g} s")
        except _Failed as failed:
            return failed.outcome

    async def _probe(self) -> Outcome:
        try:
            stream = await self._connect(self.address)
        except OSError as error:
            raise _Failed("connect", f"connecting failed: {os.strerror(error.errno) if error.errno else error}") from error
        try:
            if self._opening:
                await stream.send_all(self._opening)
            if self._policy.protocol == "tcp":
                return Outcome("ok", "connected")
            if self._policy.protocol == "https" or self._secured is not None:
                stream = await self._handshake(stream)
            if self._policy.protocol == "grpc":
                return await self._ask_grpc(stream)
            if self._policy.protocol == "h2":
                return await self._ask_http2(stream)
            return await self._ask(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise _Failed("closed", "the connection broke before its answer was whole") from error
        except h11.RemoteProtocolError as error:
            raise _Failed("protocol", f"its answer is not HTTP/1.1: {error}") from error
        except Unanswered as error:
            raise _Failed(error.result, error.reason) from error
        finally:
            await trio.aclose_forcefully(stream)  # at once: no farewell of TLS, and the deadline may have passed

    async def _handshake(self, stream: trio.abc.Stream) -> trio.SSLStream[trio.abc.Stream]:
        if self._secured is not None:
            context, name = self._secured
        else:
            context, name = self._tls(), urlsplit(f"//{self._host()}").hostname or ""
        secured = trio.SSLStream(stream, context, server_hostname=name, https_compatible=True)
        try:
            await secured.do_handshake()
        except trio.BrokenResourceError as error:
            cause = error.__cause__
            words = getattr(cause, "verify_message", "") or getattr(cause, "reason", "") or cause or "the connection broke"
            raise _Failed("tls", f"TLS handshake failed: {words}") from error
        if self._policy.protocol in HTTP2 and secured.selected_alpn_protocol() != "h2":
            raise _Failed("tls", "it does not take h2 (ALPN)")
        return secured

    def _host(self) -> str:
        """The Host field; a unix socket has no name of its own."""
        return self._policy.host or ("localhost" if self.address.startswith(UNIX) else self.address)

    def _fields(self, **own: str) -> Fields:
        """As they go on the wire, in UTF-8. The policy's win, and one that it has several times goes several times."""
        ours = [(name.encode(), value.encode()) for name, value in {"user-agent": f"lbd-health/{__version__}", **own}.items()]
        given = {name for name, _ in self._given}
        return [*(field for field in ours if field[0] not in given), *self._given]

    def _head(self, method: str, target: str, fields: Fields) -> RequestHead:
        """For HTTP/2."""
        headers = Headers.of(fields)
        scheme = b"https" if self._secured is not None else b"http"
        return RequestHead.make(
            method=method.encode(), target=target.encode(), authority=self._host().encode(), scheme=scheme, headers=headers
        )

    async def _ask_grpc(self, stream: trio.abc.Stream) -> Outcome:
        service = self._policy.service
        fields = [field for field in self._fields() if field[0] != b"content-type"]
        head = self._head("POST", grpc_check.PATH, [*fields, (b"content-type", b"application/grpc")])
        head.te_trailers = True
        heard = await ask(stream, head, grpc_check.encode_question(service), grpc_check.MOST)
        return Outcome(*grpc_check.judge(heard, service))

    async def _ask_http2(self, stream: trio.abc.Stream) -> Outcome:
        head = self._head(self._policy.method, self._policy.path, self._fields(accept="*/*"))
        limit = self._policy.body_limit if self._body is not None else 0
        heard = await ask(stream, head, b"", limit)
        return self._judge(heard.status, heard.body[:limit])

    def _judge(self, status: int, body: bytes) -> Outcome:
        if not self._is_expected(status):
            return Outcome("status", f"status {status}, expected {', '.join(self._policy.expect_status)}")
        if self._body is not None and not self._body.search(text := body.decode(errors="replace")):
            return Outcome("body", f'nothing in the first {len(text)} characters of the body matches "{self._policy.expect_body}"')
        return Outcome("ok", f"status {status}")

    async def _ask(self, stream: trio.abc.Stream) -> Outcome:
        fields = self._fields(host=self._host(), accept="*/*", connection="close")
        codec = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)
        request = h11.Request(method=self._policy.method, target=self._policy.path, headers=fields)
        await stream.send_all((codec.send(request) or b"") + (codec.send(h11.EndOfMessage()) or b""))
        response = await self._next(stream, codec)
        while isinstance(response, h11.InformationalResponse):
            response = await self._next(stream, codec)
        assert isinstance(response, h11.Response)
        wants_body = self._body is not None and self._is_expected(response.status_code)
        return self._judge(response.status_code, await self._read_body(stream, codec) if wants_body else b"")

    async def _read_body(self, stream: trio.abc.Stream, codec: h11.Connection) -> bytes:
        """The first `body_limit` bytes; the rest stays unread."""
        body = bytearray()
        while len(body) < self._policy.body_limit and isinstance(event := await self._next(stream, codec), h11.Data):
            body += event.data
        return bytes(body[: self._policy.body_limit])

    async def _next(self, stream: trio.abc.Stream, codec: h11.Connection) -> h11.Event:
        data = b"-"
        try:
            while (event := codec.next_event()) is h11.NEED_DATA:
                data = bytes(await stream.receive_some(CHUNK))
                codec.receive_data(data)
        except h11.RemoteProtocolError:
            if data:
                raise
            event = h11.ConnectionClosed()  # in the middle of its answer
        if isinstance(event, h11.ConnectionClosed):
            raise _Failed("closed", "the connection was closed before its answer was whole")
        assert isinstance(event, h11.Event)  # never PAUSED: the cycle ends with the first response
        return event
