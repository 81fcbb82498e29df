"""The downstream side of an exchange over HTTP/2: one stream of a connection that others share.

Its `stream` has no descriptor: the connection's fiber says through the reactor when something has come or gone, and exchanges wait
for it as they wait for a socket. Of a body that has come at most a window lies here, for the other side may send more only when we
acknowledge, and we do that when the piece before has been taken; of one that goes down at most one piece waits here for its turn.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from select import EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLRDHUP
from typing import TYPE_CHECKING

from lbd.core.reactor import Pollable
from lbd.core.timers import NEVER
from lbd.errors import Side
from lbd.proxy.answers import Answer, error_answer, reason_phrase
from lbd.proxy.downstream import Downstream
from lbd.proxy.extended_connect import begin_offer, check_no_success, open_established
from lbd.proxy.grpc import NOT_GRPC, UNTOLD, GrpcStatus, grpc_fields, is_grpc, maybe_timeout, status_among, trailers_for
from lbd.proxy.pieces import gather
from lbd.proxy.reasons import failure
from lbd.wire.body import NO_BODY
from lbd.wire.http2 import StreamGone
from lbd.wire.http2_frames import INTERNAL_ERROR, NO_ERROR
from lbd.wire.message import Headers, RequestHead, ResponseHead

if TYPE_CHECKING:
    from lbd.errors import ProxyError
    from lbd.proxy.http2 import Http2Connection
    from lbd.proxy.target import Target

__all__ = ["Http2Downstream"]


WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


class Http2Downstream(Downstream):
    """One request and its response."""

    __slots__ = (
        "_chunks", "_has_come", "_is_bare", "_is_connect", "_is_last", "_key", "_last_trailers", "_taken", "_trailers", "connection",
        "is_gone", "number",
    )  # fmt: skip

    def __init__(self, connection: Http2Connection, number: int, has_ended: bool) -> None:
        Downstream.__init__(self, connection.listener, Pollable(connection.reactor, -1), connection.forwarding)
        self.connection = connection
        self.source = connection.source
        self.number = number
        self.is_gone = False  # reset by the other side, or its connection is gone
        self.body_ended = has_ended
        self._chunks: deque[bytes] = deque()  # of the body, come and not yet taken
        self._has_come = has_ended  # all of the body, and what is behind it
        self._trailers: Headers | None = None
        self._taken = 0  # bytes given out by maybe_body(), and not yet acknowledged
        self._is_last = False  # what is unsent ends the response
        self._last_trailers: Headers | None = None
        self._is_bare = False  # a response that ends with its head, whatever its upstream still owes
        self._is_connect = False  # an extended one
        self._key = b""  # that went along with its offer

    # From the connection

    def arrived(self, data: bytes, has_ended: bool) -> None:
        if data:
            gather(self._chunks, data)
            self.bytes_in += len(data)
        if has_ended:
            self._has_come = True
        self._announce(EPOLLIN)

    def trailers_arrived(self, trailers: Headers | None) -> None:
        self._trailers = trailers
        self._has_come = True
        self._announce(EPOLLIN)

    def went_away(self) -> None:
        """No more comes, and nothing can be sent."""
        self.is_gone = True
        self._chunks.clear()
        self._announce(EPOLLHUP | EPOLLRDHUP | EPOLLIN | EPOLLOUT)

    def _announce(self, events: int) -> None:
        self.stream.reactor.announce(self.stream, events)

    # The request's body

    def settle(self, request: RequestHead) -> None:
        """A body that has come as a whole has a length, whether that was announced or not: it can be sent again. A CONNECT has none."""
        if is_grpc(request) and not request.upgrade:
            self.grpc_status = UNTOLD
            timeout = maybe_timeout(request)
            self.deadline = NEVER if timeout is None else self.stream.reactor.now + timeout
        if request.upgrade:
            self._is_connect = self.body_ended = True
            self._key = begin_offer(request, self.listener.random)
        elif self.body_ended:
            if request.content_length < 0 and request.method in WITH_BODY:
                request.content_length = 0  # what HTTP/1 says when there might be one (RFC 9110 8.6)
        elif self._has_come and request.chunked and self._trailers is None:
            request.content_length = sum(map(len, self._chunks))
            request.chunked = False
            self.body_ended = request.content_length == 0

    def whole_body(self, request: RequestHead) -> bytes | None:
        if not self._has_come or request.content_length < 0 or self._trailers is not None or self.body_received:
            return None
        body = b"".join(self._chunks)
        self._chunks.clear()
        self.body_received = len(body)
        self.body_ended = True
        self.connection.acknowledge(self.number, len(body))
        return body

    def begin_body(self, request: RequestHead) -> None:
        pass

    def maybe_body(self, limit: int) -> bytes | None:
        if self._taken:
            self.connection.acknowledge(self.number, self._taken)
            self._taken = 0
        if self.is_gone:
            raise failure("downstream_closed", "the stream was reset in the middle of a request body")
        data = b""
        if self._chunks:
            data = self._chunks.popleft()
            if len(data) > limit:
                self._chunks.appendleft(data[limit:])
                data = data[:limit]
            self._taken = len(data)
            self.body_received += len(data)
        elif not self._has_come:
            self.stream.may_read = False
            return None
        if self._has_come and not self._chunks:
            self.body_ended = True
            self.trailers = self._trailers
            self.connection.acknowledge(self.number, self._taken)  # nobody will ask again
            self._taken = 0
        return data

    # The response

    def send_informational(self, head: ResponseHead) -> None:
        codec = self.connection.codec
        before = codec.pending
        try:
            codec.send_informational(self.number, head)
        except StreamGone:
            raise self.gone() from None
        self.bytes_out += codec.pending - before
        self.connection.touched()

    def send_response(self, request: RequestHead, head: ResponseHead, framing: int, extra: bytes, body: bytes, has_ended: bool) -> None:
        if self._is_connect:
            check_no_success(head.status, is_ours=False)
        self.head_sent = True
        self._is_bare = framing == NO_BODY
        self._send_head(head, extra, self._is_bare or (has_ended and not body))
        if self.grpc_status != NOT_GRPC and has_ended:
            self.grpc_status = status_among(head.headers)
        if body:
            self.send_body(body, has_ended, None)

    def _send_head(self, head: ResponseHead, extra: bytes, has_ended: bool) -> None:
        codec = self.connection.codec
        before = codec.pending
        try:
            codec.send_response(self.number, head, extra, has_ended)
        except StreamGone:
            raise self.gone() from None
        self.bytes_out += codec.pending - before
        self.connection.touched()

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        if self._is_bare:
            return
        self.unsent = bytes(self.unsent) + body if self.unsent else body
        self._is_last = has_ended
        self._last_trailers = trailers
        if self.grpc_status != NOT_GRPC and trailers is not None:
            self.grpc_status = status_among(trailers)
        if body or has_ended:
            self.connection.offer(self)

    def switch(self, request: RequestHead, head: ResponseHead, extra: bytes, said: bytes) -> int:
        established = open_established(head, self._key)
        self.head_sent = True
        self._send_head(established, extra, False)
        self.body_ended = self._has_come and not self._chunks
        if said:
            self.send_body(said, False, None)
        return established.status

    def send_eof(self) -> None:
        self.send_body(b"", True, None)

    def answer(self, request: RequestHead, answer: Answer) -> None:
        if self._is_connect:
            check_no_success(answer.status, is_ours=True)
        self.head_sent = True
        told = grpc_fields(answer, self.listener.shows_reason) if self.grpc_status != NOT_GRPC else None
        if told is not None:
            self.grpc_status, fields = told
            self._send_head(ResponseHead.make(headers=fields), b"date: " + answer.date() + b"\r\n", True)
            return
        has_body = bool(answer.body) and answer.has_length and request.method != b"HEAD"
        head = ResponseHead.make(status=answer.status, reason=reason_phrase(answer.status).encode(), headers=Headers(answer.fields))
        head.content_length = len(answer.body) if answer.has_length else -1
        self._send_head(head, b"date: " + answer.date() + b"\r\n", not has_body)
        if has_body:
            self.send_body(answer.body, True, None)

    def refuse(self, head: RequestHead, refusal: ProxyError) -> None:
        """The answer to what never became an exchange."""
        self.settle(head)  # it may be a call, which is told in words of its own
        try:
            self.answer(head, error_answer(refusal, self.listener.shows_reason, self.listener.wall_clock()))
        except OSError:
            return  # what came behind it has ended the stream, or all of them
        self.count_call(self.listener.unrouted)
        if not self.unsent:  # else the window is shut, by one who sends nonsense
            self.finish()
        else:
            self.cut()

    def push(self, limit: int) -> None:
        """Puts what is unsent into frames, as far as `limit` and the windows allow. OSError: the stream is gone."""
        codec, number = self.connection.codec, self.number
        data = self.unsent
        piece = memoryview(data)[:limit] if len(data) > limit else data
        before = codec.pending
        is_last = self._is_last and len(piece) == len(data)
        try:
            sent = codec.send_body(number, piece, is_last and self._last_trailers is None)
            self.unsent = memoryview(data)[sent:] if sent < len(data) else b""
            if is_last and sent == len(data) and self._last_trailers is not None:
                codec.send_trailers(number, self._last_trailers)
        except StreamGone:
            raise self.gone() from None
        self.bytes_out += codec.pending - before

    def pushed(self) -> None:
        """Some of it has gone: for who waits."""
        self._announce(EPOLLOUT)

    def send_more(self) -> None:
        if self.is_gone:
            raise self.gone()
        if self.unsent:
            self.stream.may_write = False  # the connection goes on when it can, and says so

    def cut(self) -> None:
        self.unsent = b""
        if self.grpc_status == UNTOLD:
            self.grpc_status = GrpcStatus.CANCELLED
        self.connection.reset(self.number, INTERNAL_ERROR)

    def fail(self, error: ProxyError) -> None:
        """A call is told even now: by the trailers that its server owes, or by them alone."""
        is_theirs = error.status == 0 and error.side is Side.DOWNSTREAM
        if self.grpc_status == NOT_GRPC or is_theirs or self.is_gone:
            self.cut()
            return
        self.unsent = b""
        self.connection.outbox.forget(self.number)
        try:
            if self.head_sent:
                self.grpc_status, fields = trailers_for(error, self.listener.shows_reason)
                self.connection.codec.send_trailers(self.number, fields)
                self.connection.touched()
            else:
                self.answer(RequestHead.make(), Answer(503, b"", b"", self.listener.wall_clock(), error))
        except (StreamGone, OSError):
            self.cut()

    def count_call(self, target: Target) -> None:
        if self.grpc_status != NOT_GRPC:
            target.call_ended(self.grpc_status)

    def finish(self) -> None:
        """The exchange is over. A request that was not wanted to its end is told so (RFC 9113 8.1)."""
        self.unsent = b""
        self._chunks.clear()
        stream = self.connection.codec.streams.get(self.number)
        if stream is not None:
            self.connection.reset(self.number, INTERNAL_ERROR if stream.local_open else NO_ERROR)

    def gone(self) -> OSError:
        return BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
