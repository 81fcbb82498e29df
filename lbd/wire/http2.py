"""HTTP/2 without I/O: one connection, seen from either side (RFC 9113).

Theory. receive() takes bytes as they come and gives events; the methods that send put frames into a buffer that take() empties.
Nothing here waits, and nothing is kept for anybody: a body goes out as far as windows allow (room()), and the other side may send
more of one only after acknowledge() has said that somebody took what came. That is the backpressure, stream by stream.

Faults have two sizes. What breaks a rule of one stream (a malformed head, a body of another length) resets that stream and nothing
else; what leaves us unable to read on (a frame of the wrong size, a header block that cannot be decoded) ends the connection: the
last event is ConnectionBroken, and take() has the GOAWAY that says why. In doubt it is a stream's fault.

Frames of a stream that we have reset may still be under way: they are counted and dropped (5.1). For that the codec remembers the
last streams that ended. `now` is the caller's clock; http2_limits.py has what it is needed for.

The rules are carried out here and not by the h2 package, because h2 ends the connection where a stream is at fault, and because it
takes GOAWAY, in either direction, for the end, where a balancer wants to see off the streams that are there. tests/wire hold the codec
to h2 as the other side, and to frames made by hyperframe; its decoder of header blocks to hpack's.

http2_receiver   frames in, events out      http2_state    of the connection          http2_frames   frames and numbers
http2_control    SETTINGS, GOAWAY and such  http2_streams  of a stream                http2_heads    fields and heads
http2_events     what receive() gives       http2_limits   how much, how often        http2_fields   what is known of a field
hpack_in, hpack_out, huffman   fields in bytes          frame_bytes    a frame in bytes
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.frame_bytes import frame
from lbd.wire.hpack_out import LineEncoder, encoded_fields, encoded_status
from lbd.wire.http2_frames import (
    DATA,
    DEFAULT_FRAME,
    END_STREAM,
    MOST,
    NO_ERROR,
    PING,
    goaway_frame,
    head_frames,
    reset_frame,
)
from lbd.wire.http2_heads import CONNECT, request_fields, request_lines
from lbd.wire.http2_receiver import Http2Receiver
from lbd.wire.http2_streams import StreamGone

if TYPE_CHECKING:
    from lbd.wire.http2_limits import Http2Limits
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Http2Codec", "StreamGone"]


class Http2Codec(Http2Receiver):
    """A connection: `is_downstream` is the side that answers requests. StreamGone: the stream that is sent on is no more.

    receive(data, now) -> events; take() -> bytes to send; `pending`: how many wait for take(). `is_broken`: nothing more is to be
    sent or received. `count`: streams that are open. `max_streams`: how many the other side lets us open.
    """

    __slots__ = ("_lines",)

    def __init__(self, *, is_downstream: bool, limits: Http2Limits) -> None:
        Http2Receiver.__init__(self, is_downstream=is_downstream, limits=limits)
        self._lines = LineEncoder()

    # Heads

    def can_open(self) -> bool:
        """Whether begin_request() may be called now; later perhaps, unless is_going()."""
        return not self.is_going() and self.count < self.max_streams

    def is_going(self) -> bool:
        """No stream can be opened on this connection any more."""
        return self.is_broken or self.went_away is not None or self.next_stream > MOST

    def begin_request(self, head: RequestHead, target: bytes, authority: bytes, extra: bytes, has_ended: bool) -> int:
        """A new stream. `target` and `authority` stand in place of the head's own; the scheme is head.scheme."""
        assert self.can_open()
        number = self.next_stream
        self.next_stream += 2
        stream = self.open(number)
        stream.method = CONNECT if head.upgrade else head.method
        block = encoded_fields(request_fields(head, target, authority)) + self._lines.encode(request_lines(head) + extra)
        self.put(head_frames(number, self.table_update() + block, has_ended))
        if has_ended:
            self.local_ended(stream)
        return number

    def send_informational(self, number: int, head: ResponseHead) -> None:
        self.sendable(number)
        self._put_response(number, head, b"", False, -1)

    def send_response(self, number: int, head: ResponseHead, extra: bytes, has_ended: bool) -> None:
        """`extra` is lines as of HTTP/1 behind the head's fields; the length is head.content_length."""
        stream = self.sendable(number)
        self._put_response(number, head, extra, has_ended, -1 if head.status == 204 else head.content_length)
        if has_ended:
            self.local_ended(stream)

    def _put_response(self, number: int, head: ResponseHead, extra: bytes, has_ended: bool, length: int) -> None:
        block = encoded_status(head.status) + self._lines.encode(head.headers.encode() + extra)
        if length >= 0:
            block += encoded_fields(((b"content-length", b"%d" % length),))
        self.put(head_frames(number, self.table_update() + block, has_ended))

    # Bodies

    def room(self, number: int) -> int:
        """Bytes of a body that may be sent on this stream now; 0 on one that is gone."""
        stream = self.streams.get(number)
        if stream is None or not stream.local_open:
            return 0
        return max(0, min(stream.out_window, self.out_window))

    def send_body(self, number: int, data: bytes | memoryview, has_ended: bool) -> int:
        """Sends what there is room for, and says how much; the stream has ended with it if that was all."""
        stream = self.sendable(number)
        size = max(0, min(len(data), stream.out_window, self.out_window))  # an end without a byte needs no window (6.9.1)
        is_cut = size < len(data)
        if is_cut:
            has_ended = False
            if size == 0:
                return 0
        if size == len(data) <= DEFAULT_FRAME:
            if size or has_ended:
                self.put(frame(DATA, END_STREAM if has_ended else 0, number, bytes(data)))
        else:
            for at in range(0, size, DEFAULT_FRAME):
                piece = bytes(data[at : min(at + DEFAULT_FRAME, size)])
                is_last = has_ended and at + DEFAULT_FRAME >= size
                self.put(frame(DATA, END_STREAM if is_last else 0, number, piece))
        stream.out_window -= size
        self.out_window -= size
        self.earned(size, is_cut)
        if has_ended:
            self.local_ended(stream)
        return size

    def send_trailers(self, number: int, trailers: Headers | None) -> None:
        """Ends the stream."""
        stream = self.sendable(number)
        block = self._lines.encode(trailers.encode()) if trailers is not None else b""
        if block:
            self.put(head_frames(number, self.table_update() + block, True))
        else:
            self.put(frame(DATA, END_STREAM, number, b""))
        self.local_ended(stream)

    def acknowledge(self, number: int, size: int) -> None:
        """Somebody has taken so many bytes of what came on this stream. Nothing happens when it is gone: they were given back then."""
        stream = self.streams.get(number)
        if stream is None or size <= 0:
            return
        stream.untaken -= size
        self.give_back(size)
        self.took(stream, size)

    # Ends

    def reset(self, number: int, code: int) -> None:
        """Ends a stream in both directions. Nothing happens when it is gone."""
        stream = self.streams.get(number)
        if stream is not None:
            self.put(reset_frame(number, code))
            self.drop(stream, True)

    def goaway(self, code: int = NO_ERROR, *, is_final: bool = True, message: bytes = b"") -> None:
        """No new streams, please. What is not final takes those that are already under way; what is, no others than those that are here."""
        if is_final and self.last_taken == MOST:
            self.last_taken = self.highest
        self.put(goaway_frame(self.last_taken, code, message))

    def ping(self, data: bytes) -> None:
        """Eight bytes, that PingAnswered will have."""
        self.put(frame(PING, 0, 0, data))

    def take(self) -> bytes:
        """Everything that is to be sent, in order."""
        out, self.out = self.out, []
        self.pending = 0
        return out[0] if len(out) == 1 else b"".join(out)
