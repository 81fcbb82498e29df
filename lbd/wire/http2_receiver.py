"""The receiving half of a Http2Codec: frames in, events out. Section numbers are RFC 9113's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack.exceptions import HPACKError, OversizedHeaderListError

from lbd.wire import http2_control as control
from lbd.wire.hpack_in import FieldDecoder
from lbd.wire.http2_control import rst_stream, window_update
from lbd.wire.http2_events import (
    BodyArrived,
    ConnectionBroken,
    RequestArrived,
    RequestRefused,
    ResponseArrived,
    StreamReset,
    TrailersArrived,
)
from lbd.wire.http2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REFUSED_STREAM,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    ConnectionFault,
    Flood,
    StreamFault,
    goaway_frame,
    reset_frame,
    without_padding,
)
from lbd.wire.http2_heads import CONNECT, refused_head, request_head, response_head, trailers_of
from lbd.wire.http2_limits import LARGE_HEAD
from lbd.wire.http2_state import Http2State
from lbd.wire.refusal import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.wire.http2_events import Event
    from lbd.wire.http2_fields import Field
    from lbd.wire.http2_limits import Http2Limits
    from lbd.wire.http2_streams import Http2Stream

__all__ = ["Http2Receiver"]

MOST_PIECES = 128  # frames of one header block
ON_STREAM = frozenset((DATA, HEADERS, PRIORITY, RST_STREAM, PUSH_PROMISE, CONTINUATION))  # never on stream 0
ON_CONNECTION = frozenset((SETTINGS, PING, GOAWAY))  # on no other
CONTROLS: dict[int, Callable[[Http2State, int, int, bytes], None]] = {
    PRIORITY: control.priority,
    SETTINGS: control.settings,
    PUSH_PROMISE: control.push_promise,
    PING: control.ping,
    GOAWAY: control.goaway,
}


class Http2Receiver(Http2State):
    """What changes a connection's state from outside."""

    __slots__ = (
        "_block", "_block_flags", "_block_size", "_block_stream", "_buffer", "_decoder", "_hardest", "_has_settings", "_most_streams",
        "_preface",
    )  # fmt: skip

    def __init__(self, *, is_downstream: bool, limits: Http2Limits) -> None:
        Http2State.__init__(self, is_downstream, limits)
        self._has_settings = False
        self._preface = PREFACE if is_downstream else b""  # what of it is still to come
        self._buffer = b""
        self._block: list[bytes] = []  # of a header block that is not whole
        self._block_size = 0
        self._block_stream = 0
        self._block_flags = 0
        self._most_streams = limits.streams
        self._hardest = limits.hardest
        self._decoder = FieldDecoder(self._hardest)

    # Frames

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What has come, in order; after ConnectionBroken nothing."""
        if self.is_broken:
            return []
        self.now = now
        events: list[Event] = []
        self.events = events
        try:
            self._split(self._buffer + data if self._buffer else data)
        except ConnectionFault as fault:
            self._break(fault)
        self.events = []
        return events

    def _break(self, fault: ConnectionFault) -> None:
        last = min(self.highest, self.last_taken)
        self.put(goaway_frame(last, fault.code, fault.message[:200].encode("ascii", "replace")))
        self.is_broken = True
        self._buffer = b""
        self.events.append(ConnectionBroken(fault.code, fault.message, fault.kind if isinstance(fault, Flood) else ""))

    def _split(self, data: bytes) -> None:
        at, size = 0, len(data)
        if self._preface:
            come = data[: len(self._preface)]
            if not self._preface.startswith(come):
                raise ConnectionFault(PROTOCOL_ERROR, "not the preface of HTTP/2")
            self._preface = self._preface[len(come) :]
            at = len(come)
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            if length > DEFAULT_FRAME:
                raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of {length} bytes, above {DEFAULT_FRAME}")
            end = at + 9 + length
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            number = (data[at + 5] & 0x7F) << 24 | data[at + 6] << 16 | data[at + 7] << 8 | data[at + 8]
            self._frame(kind, flags, number, data[at + 9 : end])
            at = end
        self._buffer = data[at:]

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if not self._has_settings:
            if kind != SETTINGS or flags & ACK:
                raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")  # 3.4
            self._has_settings = True
        if self._block_stream and (kind != CONTINUATION or number != self._block_stream):
            raise ConnectionFault(PROTOCOL_ERROR, "another frame within a header block")  # 4.3
        if (number == 0 and kind in ON_STREAM) or (number != 0 and kind in ON_CONNECTION):
            raise ConnectionFault(PROTOCOL_ERROR, f"a frame of type {kind} on stream {number}")
        try:
            self._handle(kind, flags, number, payload)
        except StreamFault as fault:
            self._fail(number, fault)

    def _handle(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        if kind == HEADERS:
            self._headers(number, flags, payload)
        elif kind == DATA:
            self._data(number, flags, payload)
        elif kind == WINDOW_UPDATE:
            window_update(self, number, flags, payload)
        elif kind == CONTINUATION:
            self._continuation(number, flags, payload)
        elif kind == RST_STREAM:
            rst_stream(self, number, flags, payload)
        elif kind in CONTROLS:
            CONTROLS[kind](self, number, flags, payload)
        else:
            self.idle()  # 4.1: ignored

    def _fail(self, number: int, fault: StreamFault) -> None:
        """Resets a stream that broke a rule."""
        stream = self.streams.get(number)
        self.put(reset_frame(number, fault.code))
        if stream is not None:
            self.drop(stream, True)
            self.events.append(StreamReset(number, fault.code, fault.message, True))
        else:
            self.resets.add(number)
        self.count_reset()

    # Heads

    def _headers(self, number: int, flags: int, payload: bytes) -> None:
        content = without_padding(payload, flags).data if flags & PADDED else payload
        if flags & PRIORITY_FLAG:
            if len(content) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            content = content[5:]
        self._block_flags = flags
        self._block_stream = number
        self._block = []
        self._block_size = 0
        self._add_to_block(content, flags)

    def _continuation(self, number: int, flags: int, payload: bytes) -> None:
        if not self._block_stream:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without HEADERS")
        self._add_to_block(payload, flags)

    def _add_to_block(self, content: bytes, flags: int) -> None:
        self._block.append(content)
        self._block_size += len(content)
        if len(self._block) > MOST_PIECES or self._block_size > self._hardest:  # CVE-2024-27316 and its family
            raise Flood("head", "a header block in too many pieces")
        if flags & END_HEADERS:
            number = self._block_stream
            block = self._block[0] if len(self._block) == 1 else b"".join(self._block)
            self._block_stream = 0
            self._block = []
            try:
                fields = self._decoder.decode(block)
            except OversizedHeaderListError:
                raise Flood("head", f"a head above {self.limits.hardest} bytes") from None
            except HPACKError as error:
                message = f"a header block that cannot be decoded ({type(error).__name__})"  # hpack's own words may have addresses in them
                raise ConnectionFault(COMPRESSION_ERROR, message) from None
            self._take_fields(number, fields, bool(self._block_flags & END_STREAM))

    def _take_fields(self, number: int, fields: tuple[Field, ...], has_ended: bool) -> None:
        stream = self.streams.get(number)
        if stream is None:
            if self.is_idle(number):
                if not self.is_downstream or not number & 1:
                    raise ConnectionFault(PROTOCOL_ERROR, f"HEADERS on stream {number}, that was not to be opened")
                self._take_request(number, fields, has_ended)
            elif number in self.resets:
                self.idle()
            elif number in self.ended:
                raise ConnectionFault(STREAM_CLOSED, f"HEADERS on stream {number}, which is closed")
            elif number <= self.last_taken:
                raise ConnectionFault(PROTOCOL_ERROR, f"HEADERS on stream {number}, below {self.highest}")
            return
        if not stream.remote_open:
            raise StreamFault(STREAM_CLOSED, "HEADERS behind the end of the stream")
        if stream.has_head:
            self._take_trailers(stream, fields, has_ended)
        else:
            self._take_response(stream, fields, has_ended)

    def _take_request(self, number: int, fields: tuple[Field, ...], has_ended: bool) -> None:
        self.highest = number
        if number > self.last_taken:
            self.resets.add(number)  # it will see our GOAWAY
            self.idle()
            return
        if self.count >= self._most_streams:
            self.put(reset_frame(number, REFUSED_STREAM))
            self.resets.add(number)
            if self.is_acknowledged:  # it knows
                self.count_reset()
            else:
                self.idle()
            return
        stream = self.open(number)
        stream.has_head = True
        try:
            head = request_head(fields, has_ended, self.limits)
        except WireError as error:
            self._refuse(stream, error, fields, has_ended)
            return
        stream.expected = head.content_length
        if has_ended:
            stream.remote_open = False
        self.idle_allowance.give(1)
        self.events.append(RequestArrived(number, head, has_ended))

    def _refuse(self, stream: Http2Stream, error: WireError, fields: tuple[Field, ...], has_ended: bool) -> None:
        can_answer = error.reason != "bad_request"
        if error.reason == "head_too_large":
            self.idle(LARGE_HEAD)
        if can_answer:
            stream.remote_open = not has_ended
        else:  # 8.1.1
            self.put(reset_frame(stream.number, PROTOCOL_ERROR))
            self.drop(stream, True)
        self.events.append(RequestRefused(stream.number, error, can_answer, refused_head(fields)))
        if not can_answer:
            self.count_reset()

    def _take_response(self, stream: Http2Stream, fields: tuple[Field, ...], has_ended: bool) -> None:
        try:
            head = response_head(fields, has_ended, self.limits)
        except WireError as error:
            raise StreamFault(PROTOCOL_ERROR, error.message) from None
        if head.status >= 200:
            stream.has_head = True
            is_bare = stream.method == b"HEAD" or head.status in (204, 304)
            stream.expected = 0 if is_bare else head.content_length
            if stream.method == CONNECT and head.status < 300:
                stream.expected = -1  # a tunnel, whatever it says
            if has_ended and stream.expected > 0:
                raise StreamFault(PROTOCOL_ERROR, f"content-length says {stream.expected}, but there is no body")
            self.idle_allowance.give(1)
        else:
            self.idle()
        self.events.append(ResponseArrived(stream.number, head, has_ended))
        if has_ended:
            self._remote_ended(stream)

    def _take_trailers(self, stream: Http2Stream, fields: tuple[Field, ...], has_ended: bool) -> None:
        if not has_ended:
            raise StreamFault(PROTOCOL_ERROR, "trailers that do not end the stream")  # 8.1
        try:
            trailers = trailers_of(fields, self.limits)
        except WireError as error:
            raise StreamFault(PROTOCOL_ERROR, error.message) from None
        self._check_length(stream)
        self.events.append(TrailersArrived(stream.number, trailers))
        self._remote_ended(stream)

    # Bodies

    def _data(self, number: int, flags: int, payload: bytes) -> None:
        content, padding, size = payload, 0, len(payload)
        if flags & PADDED:
            content, padding = without_padding(payload, flags)
        if self.is_idle(number):
            raise ConnectionFault(PROTOCOL_ERROR, f"DATA on stream {number}, which is idle")
        self.in_window -= size
        if self.in_window < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more than the window of the connection")
        has_ended = bool(flags & END_STREAM)
        if not content and not has_ended:
            self.idle()
        stream = self.streams.get(number)
        if stream is None:
            self.give_back(size)
            if number not in self.resets:
                raise StreamFault(STREAM_CLOSED, "DATA on a stream that is closed")  # 6.1
            self.idle()
            return
        if padding:
            self.give_back(padding)
            stream.in_window -= padding
            self.took(stream, padding)
        stream.untaken += len(content)  # so that it is given back when the stream is reset
        self._take_data(stream, content, has_ended)

    def _take_data(self, stream: Http2Stream, content: bytes, has_ended: bool) -> None:
        stream.in_window -= len(content)
        stream.received += len(content)
        if not stream.remote_open:
            raise StreamFault(STREAM_CLOSED, "DATA behind the end of the stream")
        if stream.in_window < 0:
            raise StreamFault(FLOW_CONTROL_ERROR, "more than the window of the stream")
        if not stream.has_head:
            raise StreamFault(PROTOCOL_ERROR, "DATA before the head")
        if 0 <= stream.expected < stream.received:
            raise StreamFault(PROTOCOL_ERROR, f"a body of more than the {stream.expected} bytes that its head announced")
        if has_ended:
            self._check_length(stream)
        if content or has_ended:
            self.events.append(BodyArrived(stream.number, content, has_ended))
        if has_ended:
            self._remote_ended(stream)

    def _check_length(self, stream: Http2Stream) -> None:
        if stream.expected >= 0 and stream.received != stream.expected and not (stream.method == b"HEAD"):
            raise StreamFault(PROTOCOL_ERROR, f"a body of {stream.received} bytes, whose head announced {stream.expected}")  # 8.1.1

    def _remote_ended(self, stream: Http2Stream) -> None:
        stream.remote_open = False
        if not stream.local_open:
            self.drop(stream, False)
