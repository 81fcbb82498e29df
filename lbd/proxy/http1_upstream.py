"""One HTTP/1.1 connection to an endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.proxy.reasons import failure
from lbd.proxy.upgrades import upgrade_lines
from lbd.proxy.upstream import Upstream
from lbd.wire.body import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, BodyReader
from lbd.wire.encode import encode_chunk, encode_last_chunk, encode_request
from lbd.wire.head import find_head_end, parse_response
from lbd.wire.refusal import HeadLimits, WireError

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.core.stream import Stream
    from lbd.errors import ProxyError
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Http1Upstream"]

TAKES_TRAILERS = b"Connection: TE\r\nTE: trailers\r\n"  # RFC 9110 10.1.4; whatever else the client's TE said was for us
HEAD_READ = 16 * 1024  # most answers, head and body, fit; core/syscalls.pyx copies those instead of resizing
RESPONSE_LIMITS = HeadLimits(64 * 1024, 16 * 1024, 256)  # what nginx, haproxy and Envoy take, or more


JOIN = 16 * 1024  # below this a body is joined to its head: cheaper than a gathered write


class Http1Upstream(Upstream):
    """A connection, for one request after the other."""

    __slots__ = ("_bytes", "_endpoint", "_framing", "_reader", "_request_framing", "_searched", "buffer")

    def __init__(self, stream: Stream, now: float, endpoint: Endpoint) -> None:
        """The connection counts at `endpoint` until it is closed."""
        Upstream.__init__(self, stream, now)
        self._endpoint: Endpoint | None = endpoint
        self._bytes = stream
        self.buffer = b""
        self._reader: BodyReader | None = None
        self._framing = NO_BODY  # of the response
        self._request_framing = NO_BODY
        self._searched = 0

    # Sending

    def send_request(self, request: RequestHead, target: bytes, host: bytes, framing: int, extra: bytes, body: bytes | None) -> None:
        self.requests += 1
        self.interim = 0
        self.body_ended = False
        self.trailers = None
        self._reader = None
        self.has_answered = False
        self._request_framing = framing
        if request.upgrade:
            extra += upgrade_lines(request.upgrade)
        elif request.te_trailers:
            extra += TAKES_TRAILERS
        head = encode_request(request, target, host, framing, extra)
        if not body:
            self._send(head)
        elif len(body) < JOIN:
            self._send(head + body)
        else:
            self._send_parts([head, body])

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        if self._request_framing == CHUNKED:
            body = encode_chunk(body) if body else b""
            if has_ended:
                body += encode_last_chunk(trailers)
        if body:
            self._send(body)

    def is_spliceable(self) -> bool:
        return self._request_framing == LENGTH and not self.unsent

    def _send(self, data: bytes) -> None:
        """Sends what the socket takes; the rest is in `unsent`, for send_more() once the stream is writable."""
        self.bytes_out += len(data)
        try:
            sent = self._bytes.send(data)
        except OSError as error:
            raise self.broken("upstream_reset", f"sending failed: {error.strerror}") from error
        if sent < len(data):
            self.unsent = memoryview(data)[sent:]

    def _send_parts(self, parts: list[bytes]) -> None:
        """As _send(), of several pieces in one call."""
        size = sum(map(len, parts))
        self.bytes_out += size
        try:
            sent = self._bytes.send_gathered(parts)
        except OSError as error:
            raise self.broken("upstream_reset", f"sending failed: {error.strerror}") from error
        if sent < size:
            self.unsent = memoryview(b"".join(parts))[sent:]

    def send_more(self) -> None:
        try:
            self.unsent = self.unsent[self._bytes.send(self.unsent) :] or b""
        except OSError as error:
            raise self.broken("upstream_reset", f"sending failed: {error.strerror}") from error

    # Receiving

    def maybe_head(self) -> ResponseHead | None:
        while True:
            if self.buffer:
                try:
                    end = find_head_end(self.buffer, self._searched, RESPONSE_LIMITS)
                    if end >= 0:
                        head = parse_response(self.buffer, 0, end, RESPONSE_LIMITS)
                        self.buffer = self.buffer[end:]
                        self._searched = 0
                        self.has_answered = True
                        return head
                except WireError as error:
                    raise failure("bad_response", f"its response is not HTTP: {error.message}") from error
                self._searched = max(0, len(self.buffer) - 3)
            if not self._bytes.may_read:  # as it is when the request has just been sent
                return None
            data = self.recv(HEAD_READ)
            if data is None:
                return None
            if not data:
                raise self.broken("upstream_closed", "it closed the connection before its response was whole")
            self.buffer = self.buffer + data if self.buffer else data

    def recv(self, limit: int) -> bytes | None:
        try:
            data = self._bytes.recv(limit)
        except OSError as error:
            raise self.broken("upstream_reset", f"it reset the connection: {error.strerror}") from error
        if data is not None:
            self.bytes_in += len(data)
        return data

    def begin_body(self, framing: int, length: int) -> bytes:
        data = self.buffer
        self._framing = framing
        if framing == NO_BODY or (framing == LENGTH and len(data) == length):  # most responses: no reader is needed
            self.body_ended = True
            if framing == LENGTH:
                self.buffer = b""
                return data
            return b""
        self._reader = BodyReader(framing, length, RESPONSE_LIMITS)
        self.buffer = b""
        return self._feed(data) if data else b""

    def maybe_body(self, limit: int) -> bytes | None:
        data = self.recv(limit)
        if data is None:
            return None
        if data:
            return self._feed(data)
        assert self._reader is not None
        try:
            self._reader.feed_eof()
        except WireError as error:
            raise failure("upstream_truncated", f"its response ended early: {error.message}") from error
        if self._request_framing != UNTIL_CLOSE and not self._bytes.ended_whole():  # RFC 9112 9.8
            raise failure("upstream_truncated", "it ended the connection without the close_notify of TLS: its response may not be whole")
        self.body_ended = True
        return b""

    def _feed(self, data: bytes) -> bytes:
        reader = self._reader
        assert reader is not None
        try:
            payload = reader.feed(data)
        except WireError as error:
            raise failure("bad_response", f"its response's framing is wrong: {error.message}") from error
        if reader.done:
            self.buffer = reader.leftover
            self.trailers = reader.trailers
            self.body_ended = True
        return payload

    def body_remaining(self) -> int:
        return 0 if self._framing != LENGTH or self._reader is None else self._reader.remaining

    def body_spliced(self, count: int) -> None:
        reader = self._reader
        assert reader is not None
        reader.remaining -= count
        self.bytes_in += count
        self.body_ended = reader.remaining == 0

    def switch(self) -> bytes:
        self._request_framing = UNTIL_CLOSE
        return self.begin_body(UNTIL_CLOSE, -1)

    def send_eof(self) -> None:
        self._bytes.send_eof()

    # Life

    def is_clean(self) -> bool:
        """Nothing is left over in either direction: another request may follow."""
        return self.body_ended and self._framing != UNTIL_CLOSE and not self.buffer and not self.unsent

    def is_fresh(self) -> bool:
        """For the pool: silent and open, as far as the last poll told; where a read did not come to an end, the kernel."""
        return self._bytes.is_fresh() or self._bytes.is_fresh_now()

    def is_fresh_now(self) -> bool:
        return self._bytes.is_fresh_now()

    def close(self) -> None:
        self._bytes.close()
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            endpoint.disconnected()

    def broken(self, reason: str, message: str) -> ProxyError:
        self.has_answered = self.has_answered or bool(self.buffer)  # some of an answer is one
        return Upstream.broken(self, reason, message)
