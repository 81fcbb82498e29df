"""One request to an endpoint that speaks HTTP/2: a stream of a connection that others use too (http2_upstream_connection.py).

What the exchange waits on is a Pollable without a descriptor, for which the connection announces events. What has come of a response is
acknowledged as the exchange takes it; of a request's body goes out what windows and the connection's backlog have room for, and the rest
is `unsent`. Whoever ends early resets the stream, never the connection.

What has come can be read, whatever happened afterwards: a response that was whole before its stream was reset is a response
(RFC 9113 8.1).
"""

from __future__ import annotations

from collections import deque
from select import EPOLLHUP, EPOLLIN, EPOLLOUT
from typing import TYPE_CHECKING

from lbd.core.reactor import Pollable
from lbd.errors import ProxyError, Retry
from lbd.proxy.extended_connect import end_offer, maybe_switched
from lbd.proxy.pieces import gather
from lbd.proxy.reasons import failure
from lbd.proxy.upstream import Upstream
from lbd.wire.body import UNTIL_CLOSE
from lbd.wire.http2 import StreamGone
from lbd.wire.http2_frames import HTTP_1_1_REQUIRED, NO_ERROR, REFUSED_STREAM, code_name

if TYPE_CHECKING:
    from lbd.proxy.http2_upstream_connection import Http2UpstreamConnection
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Http2Upstream"]

FIRST = 64 * 1024  # of a response's body, along with its head
MOST_HEADS = 32  # that wait to be read
SILENCE = 1.0  # seconds without a byte, after which a request that is given up makes us doubt the connection


class Http2Upstream(Upstream):
    """One request, and its response. `requests` is the how manieth of the connection it is."""

    __slots__ = (
        "_chunks", "_error", "_has_ended", "_heads", "_is_last", "_is_reused", "_is_whole", "_last_trailers", "_offer", "_protocol",
        "_trailers", "began_at", "connection", "number", "was_refused",
    )  # fmt: skip

    def __init__(self, connection: Http2UpstreamConnection, is_reused: bool) -> None:
        Upstream.__init__(self, Pollable(connection.reactor, -1), connection.reactor.now)
        self.stream.may_read = False
        self.connection = connection
        self.requests = connection.requests
        self.number = 0  # of its stream; 0 until the request is sent
        self.began_at = connection.reactor.now
        self._is_reused = is_reused  # the connection was there before the request
        self._heads: deque[ResponseHead] = deque()
        self._chunks: deque[bytes] = deque()
        self._has_ended = False  # nothing more will come
        self._trailers: Headers | None = None  # that came
        self._error: ProxyError | None = None  # what has ended it
        self._is_last = False  # `unsent` is the end of the body
        self._last_trailers: Headers | None = None  # that follow it
        self._is_whole = False  # the body came with the head
        self.was_refused = False
        self._offer: RequestHead | None = None  # to switch to that protocol
        self._protocol = b""

    # The request

    def send_request(self, request: RequestHead, target: bytes, host: bytes, framing: int, extra: bytes, body: bytes | None) -> None:
        connection = self.connection
        codec = connection.codec
        if self._error is not None or not codec.can_open():
            raise self._error or self.unlooked("the connection takes no more requests")
        if request.upgrade:
            self._protocol = end_offer(request, is_supported=codec.extended_connect, has_body=body != b"")
            self._offer = request
        before = codec.pending
        request.scheme = connection.scheme  # that of the connection, which some insist on: who asked how stands in X-Forwarded-Proto
        self.began_at = connection.reactor.now
        self.number = codec.begin_request(request, target, host, extra, body == b"" and not request.upgrade)
        connection.upstreams[self.number] = self
        self.bytes_out += codec.pending - before
        if body:
            self._is_whole = True
            self.send_body(body, True, None)
        connection.call()

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        self._is_last = has_ended
        self._last_trailers = trailers
        self.unsent = body
        self.send_more()

    def send_more(self) -> None:
        connection = self.connection
        codec, has_ended, trailers = connection.codec, self._is_last, self._last_trailers
        before = codec.pending
        data = self.unsent
        try:
            if self._error is not None:
                raise StreamGone
            if data:
                size = connection.share(self, len(data))
                is_last = has_ended and trailers is None and size == len(data)
                piece = data if size == len(data) else memoryview(data)[:size]
                sent = codec.send_body(self.number, piece, is_last) if size else 0
                self.unsent = memoryview(data)[sent:] if sent < len(data) else b""
            if has_ended and not self.unsent and (trailers is not None or not data):
                codec.send_trailers(self.number, trailers)
        except StreamGone:
            self._stop_sending()
        self.bytes_out += codec.pending - before
        if self.unsent:
            self.stream.may_write = False
            connection.blocked[self] = None
        connection.call()

    def _stop_sending(self) -> None:
        """The endpoint takes no more. That is an error unless it has answered; who brings up a body in pieces is told in any case."""
        self.unsent = b""
        if not self._is_whole or not (self._heads or self._has_ended):
            raise self._error or self.broken("upstream_reset", "it takes no more of the request") from None

    # The response

    def maybe_head(self) -> ResponseHead | None:
        if self._heads:
            head = self._heads.popleft()
            return head if self._offer is None else maybe_switched(self._offer, self._protocol, head)
        self._wait()
        return None

    def begin_body(self, framing: int, length: int) -> bytes:
        data = self._taken(FIRST)
        self._note_end()
        return data

    def maybe_body(self, limit: int) -> bytes | None:
        if not self._chunks and not self._has_ended:
            self._wait()
            return None
        data = self._taken(limit)
        self._note_end()
        return data

    def _note_end(self) -> None:
        if self._has_ended and not self._chunks:
            self.body_ended = True
            self.trailers = self._trailers

    def switch(self) -> bytes:
        return self.begin_body(UNTIL_CLOSE, -1)

    def send_eof(self) -> None:
        if not self._has_ended or self.number in self.connection.codec.streams:  # else it has reset what was left of the stream
            self.send_body(b"", True, None)

    def _wait(self) -> None:
        """There is nothing yet, or never will be."""
        if self._error is not None:
            raise self._error
        self.stream.may_read = False

    def _taken(self, limit: int) -> bytes:
        """What has come of the body, up to a limit; more may come then."""
        chunks = self._chunks
        if not chunks:
            return b""
        size, pieces = 0, []
        while chunks and (size == 0 or size + len(chunks[0]) <= limit):
            pieces.append(chunks.popleft())
            size += len(pieces[-1])
        if size > limit:
            chunks.appendleft(pieces[0][limit:])
            pieces[0] = pieces[0][:limit]
            size = limit
        codec = self.connection.codec
        codec.acknowledge(self.number, size)
        if codec.pending:
            self.connection.call()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # What the connection tells

    def headed(self, head: ResponseHead, has_ended: bool) -> None:
        self.has_answered = True
        self.bytes_in += len(head.headers.encode())
        if len(self._heads) == MOST_HEADS:  # no window holds them back
            self.failed(failure("bad_response", f"more than {MOST_HEADS} interim responses at a time"))
            return
        self._heads.append(head)
        self.ended(None, has_ended)

    def came(self, data: bytes, has_ended: bool) -> None:
        self.bytes_in += len(data)
        if data:
            gather(self._chunks, data)
        self.ended(None, has_ended)

    def ended(self, trailers: Headers | None, has_ended: bool) -> None:
        self._trailers = trailers
        self._has_ended = has_ended
        self.connection.reactor.announce(self.stream, EPOLLIN)

    def failed(self, error: ProxyError) -> None:
        """Nothing more will come, nor go; what has come still can be read."""
        if self._error is None:
            self._error = error
            self.connection.reactor.announce(self.stream, EPOLLIN | EPOLLOUT)

    def was_reset(self, code: int, message: str, is_ours: bool) -> None:
        if code == REFUSED_STREAM and not self.has_answered and not is_ours:
            self.was_refused = True
            self.failed(self.unlooked("it refused the stream"))
        elif code == HTTP_1_1_REQUIRED and not self.has_answered and not is_ours:
            pool = self.connection.pool
            pool.wants_single(self.connection.reactor.now)
            retry = Retry.UNSENT_HERE if pool.can_be_single else Retry.NEVER
            self.failed(failure("upstream_refused", "it wants HTTP/1.1 for this request", retry))
        elif is_ours:
            self.failed(failure("bad_response", f"its response is not HTTP: {message}"))
        else:
            retry = Retry.NEVER if self.has_answered else Retry.UNANSWERED
            self.failed(failure("upstream_reset", f"it reset the stream: {code_name(code)}", retry))
            if self._has_ended and code != NO_ERROR:  # a tunnel, whose other direction may be silent for long: who watches hears of it now
                self.connection.reactor.announce(self.stream, EPOLLHUP)

    # Life

    def is_clean(self) -> bool:
        """It is not the stream that goes back to the pool, and the connection has never left it: close() is all there is to do."""
        return False

    def close(self) -> None:
        if not self.stream.is_closed:
            self.stream.close()
            self.connection.left(self)

    def is_silent(self, now: float) -> bool:
        """It has waited in vain for so long that the connection may be dead."""
        return not self._has_ended and self._error is None and now - max(self.connection.received_at, self.began_at) >= SILENCE

    def broken(self, reason: str, message: str) -> ProxyError:
        if self.has_answered:
            retry = Retry.NEVER
        else:
            retry = Retry.REUSED_ONLY if self._is_reused else Retry.UNANSWERED
        return failure(reason, message, retry)

    def unlooked(self, message: str) -> ProxyError:
        """The endpoint has seen nothing of the request, or says that it will not look at it."""
        serves = self._is_reused or self.connection.has_served
        return failure("upstream_refused", message, Retry.UNSENT_HERE if serves else Retry.UNSENT)
