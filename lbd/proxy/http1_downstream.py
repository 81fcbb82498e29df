"""The downstream side of an exchange over HTTP/1: what has come, what is still to be sent.

Requests that arrive early wait in `buffer`, and in the kernel once there is a window's worth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Side
from lbd.proxy.answers import encode_answer
from lbd.proxy.downstream import Downstream
from lbd.proxy.reasons import failure
from lbd.proxy.upgrades import upgrade_lines
from lbd.wire.body import CHUNKED, LENGTH, NO_BODY, UNTIL_CLOSE, BodyReader
from lbd.wire.encode import encode_chunk, encode_informational, encode_last_chunk, encode_response
from lbd.wire.head import find_head_end, parse_request
from lbd.wire.refusal import WireError

if TYPE_CHECKING:
    from lbd.core.stream import Stream
    from lbd.proxy.answers import Answer
    from lbd.proxy.listening import Listener
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Http1Downstream"]

HEAD_READ = 16 * 1024
JOIN = 16 * 1024  # below this a body is joined to its head: cheaper than a gathered write
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"


class Http1Downstream(Downstream):
    """One connection. `keep_alive` says whether another request may follow the one at hand."""

    __slots__ = (
        "_body_framing", "_bytes", "_forwarding", "_framing", "_identity", "_is_raw", "_port", "_reader", "_scheme", "_searched",
        "buffer", "requests",
    )  # fmt: skip

    def __init__(self, listener: Listener, stream: Stream, scheme: bytes, port: int, identity: bytes = b"") -> None:
        """`scheme` and `port` are what the upstream is told of how the downstream came here."""
        Downstream.__init__(self, listener, stream, listener.forwarding.for_connection(stream.peer, scheme, port, 1, identity))
        self._bytes = stream
        self._scheme = scheme
        self._port = port
        self._identity = identity
        self._forwarding = listener.forwarding
        self.buffer = b""
        self.requests = 0
        self._reader: BodyReader | None = None
        self._framing = NO_BODY  # of the response
        self._body_framing = NO_BODY  # of the request
        self._searched = 0
        self._is_raw = False  # it has switched to another protocol

    # Requests

    def receive(self) -> int:
        """Takes what is there into `buffer`: bytes read, 0 at the end of the stream, -1 when there is nothing yet."""
        data = self._bytes.recv(HEAD_READ)
        if data is None:
            return -1
        self.bytes_in += len(data)
        self.buffer = self.buffer + data if self.buffer else data
        return len(data)

    def maybe_request(self) -> RequestHead | None:
        """The next request's head, once it is whole. ProxyError: not a request."""
        limits = self.listener.head_limits
        try:
            end = find_head_end(self.buffer, self._searched, limits)
            if end < 0:
                self._searched = max(0, len(self.buffer) - 3)
                return None
            request = parse_request(self.buffer, 0, end, limits)
        except WireError as error:
            raise ProxyError(Side.DOWNSTREAM, error.reason, error.status, error.message) from error
        if self._forwarding is not self.listener.forwarding:  # a reload: whom we trust may have changed
            self._forwarding = self.listener.forwarding
            self.forwarding = self._forwarding.for_connection(self._bytes.peer, self._scheme, self._port, 1, self._identity)
        self._searched = 0
        self.buffer = self.buffer[end:]
        self.requests += 1
        self.head_sent = False
        self.body_received = 0
        self.trailers = None
        self._reader = None
        self.body_ended = not request.chunked and request.content_length <= 0
        limit = self.listener.max_requests
        self.keep_alive = (
            request.keep_alive
            and not self.listener.is_draining
            and self.listener.keepalive_timeout > 0
            and (limit == 0 or self.requests < limit)
        )
        return request

    def whole_body(self, request: RequestHead) -> bytes | None:
        length = request.content_length
        if len(self.buffer) < length <= self.listener.window and self._bytes.may_read:
            # The rest is mostly there, beyond what one read for a head takes: then the request goes up in one write.
            data = self._bytes.recv(length - len(self.buffer))
            if data:
                self.bytes_in += len(data)
                self.buffer += data
        if length < 0 or len(self.buffer) < length:
            return None
        body = self.buffer[:length]
        self.buffer = self.buffer[length:]
        self.body_received = length
        self.body_ended = True
        return body

    def begin_body(self, request: RequestHead) -> None:
        self._body_framing = CHUNKED if request.chunked else LENGTH
        self._reader = BodyReader(self._body_framing, request.content_length, self.listener.head_limits)

    def maybe_body(self, limit: int) -> bytes | None:
        reader = self._reader
        assert reader is not None
        if self.buffer:
            data, self.buffer = self.buffer, b""
        else:
            received = self._bytes.recv(limit)
            if received is None:
                return None
            if not received:
                if self._is_raw:
                    self.body_ended = True
                    return received
                raise failure("downstream_closed", "closed in the middle of a request body")
            data = received
            self.bytes_in += len(data)
        try:
            payload = reader.feed(data)
        except WireError as error:
            raise ProxyError(Side.DOWNSTREAM, error.reason, error.status, error.message) from error
        self.body_received += len(payload)
        if reader.done:
            self.buffer = reader.leftover
            self.trailers = reader.trailers
            self.body_ended = True
        return payload

    def body_remaining(self) -> int:
        reader = self._reader
        return 0 if reader is None or self._body_framing != LENGTH or self.buffer else reader.remaining

    def body_spliced(self, count: int) -> None:
        reader = self._reader
        assert reader is not None
        reader.remaining -= count
        self.body_received += count
        self.bytes_in += count
        self.body_ended = reader.remaining == 0

    # Responses

    def send_informational(self, head: ResponseHead) -> None:
        self.send(encode_informational(head))

    def send_response(self, request: RequestHead, head: ResponseHead, framing: int, extra: bytes, body: bytes, has_ended: bool) -> None:
        if framing == UNTIL_CLOSE or (framing == CHUNKED and request.minor == 0):
            # RFC 9112 7.1: HTTP/1.0 knows no chunks; the end of the connection is the end of the body.
            framing = CHUNKED if request.minor > 0 else UNTIL_CLOSE
            if framing == UNTIL_CLOSE:
                self.keep_alive = False
        self._framing = framing
        self.head_sent = True
        encoded = encode_response(head, framing, request.minor, self._connection_field(request), extra)
        if framing == CHUNKED:
            if body:
                encoded += encode_chunk(body)
            if has_ended:
                encoded += encode_last_chunk(None)
            self.send(encoded)
        elif len(body) < JOIN:
            self.send(encoded + body if body else encoded)
        else:
            self._send_parts([encoded, body])

    def switch(self, request: RequestHead, head: ResponseHead, extra: bytes, said: bytes) -> int:
        self._is_raw = True
        self.keep_alive = False
        self.head_sent = True
        self.body_ended = False
        self._framing = NO_BODY  # none of ours
        self._body_framing = UNTIL_CLOSE
        self._reader = BodyReader(UNTIL_CLOSE, -1, self.listener.head_limits)
        self.send(encode_response(head, NO_BODY, request.minor, upgrade_lines(head.upgrade), extra) + said)
        return head.status

    def send_eof(self) -> None:
        self._bytes.send_eof()

    def answer(self, request: RequestHead, answer: Answer) -> None:
        self.head_sent = True
        self.send(encode_answer(answer, self._connection_field(request), request.method == b"HEAD"))

    def _connection_field(self, request: RequestHead) -> bytes:
        """The Connection line of a response, b"" where none is needed; a drain may have begun since the request came."""
        if not self.keep_alive or self.listener.is_draining:
            self.keep_alive = False
            return CLOSE
        return KEEP_ALIVE if request.minor == 0 else b""

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        if self._framing == CHUNKED:
            if body:
                body = encode_chunk(body)
            if has_ended:
                body += encode_last_chunk(trailers)
        if body:
            self.send(body)

    def is_spliceable(self) -> bool:
        return self._framing != CHUNKED and not self.unsent

    def send(self, data: bytes) -> None:
        """Sends what the socket takes; the rest is in `unsent`, for send_more() once the stream is writable. OSError: it is gone."""
        self.bytes_out += len(data)
        if self.unsent:
            self.unsent = bytes(self.unsent) + data
            return
        sent = self._bytes.send(data)
        if sent < len(data):
            self.unsent = memoryview(data)[sent:]

    def _send_parts(self, parts: list[bytes]) -> None:
        if self.unsent:
            self.send(b"".join(parts))
            return
        size = len(parts[0]) + len(parts[1])
        sent = self._bytes.send_gathered(parts)
        self.bytes_out += size
        if sent < size:
            self.unsent = memoryview(b"".join(parts))[sent:]

    def send_more(self) -> None:
        self.unsent = self.unsent[self._bytes.send(self.unsent) :] or b""

    def untaken(self) -> int:
        return len(self.unsent) + self._bytes.untaken()

    def cut(self) -> None:
        """Ends a response in the middle, so that the client can tell: a reset where only the end of the stream says "whole"."""
        self.keep_alive = False
        if self._framing == UNTIL_CLOSE:
            self._bytes.reset()
        else:
            self._bytes.close()
