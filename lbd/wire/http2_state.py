"""What a HTTP/2 connection knows of itself, for its receiving and its sending half. Section numbers are RFC 9113's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.hpack_out import EMPTY_TABLE
from lbd.wire.http2_frames import (
    DEFAULT_WINDOW,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    MOST,
    PREFACE,
    Flood,
    settings_frame,
    window_frame,
)
from lbd.wire.http2_limits import IDLE_IN, RESETS_IN, Allowance
from lbd.wire.http2_streams import Http2Stream, Remembered, StreamGone

if TYPE_CHECKING:
    from lbd.wire.http2_events import Event
    from lbd.wire.http2_limits import Http2Limits

__all__ = ["Http2State"]

MEMORY = 512  # ended streams that are remembered, of each kind
UNLIMITED = 1 << 31


class Http2State:
    """See Http2Codec for what of this is public."""

    __slots__ = (
        "_half_connection", "_half_window", "count", "ended", "events", "extended_connect", "highest", "idle_allowance", "in_window",
        "initial_out", "is_acknowledged", "is_broken", "is_downstream", "last_taken", "limits", "max_streams", "must_empty_table",
        "next_stream", "now", "out", "out_window", "pending", "reset_allowance", "resets", "returned", "streams", "went_away", "window",
    )  # fmt: skip

    def __init__(self, is_downstream: bool, limits: Http2Limits) -> None:
        self.is_downstream = is_downstream
        self.limits = limits
        self.streams: dict[int, Http2Stream] = {}
        self.count = 0
        self.highest = 0  # the highest number of a stream that the other side opened
        self.next_stream = 1  # of ours
        self.last_taken = MOST  # streams above it are not looked at, since we said so in a GOAWAY
        self.max_streams = UNLIMITED  # for us to open
        self.extended_connect = False  # the other side takes it
        self.went_away: int | None = None  # the last stream that the other side will look at, once it has said so
        self.is_broken = False
        self.in_window = limits.connection_window
        self.out_window = DEFAULT_WINDOW
        self.out: list[bytes] = []
        self.pending = 0
        self.initial_out = DEFAULT_WINDOW
        self.window = max(limits.window, DEFAULT_WINDOW)  # until the other side has heard of ours, it goes by the default
        self.returned = 0  # bytes taken, and not yet told in a window of the connection
        self.is_acknowledged = False
        self.must_empty_table = False
        self.ended = Remembered(MEMORY)
        self.resets = Remembered(MEMORY)
        self.reset_allowance = Allowance(limits.resets, RESETS_IN)
        self.idle_allowance = Allowance(limits.idle_frames, IDLE_IN)
        self.now = 0.0
        self.events: list[Event] = []
        self._half_window = limits.window // 2
        self._half_connection = min(limits.connection_window, 1 << 20) // 2
        self._greet()

    def _greet(self) -> None:
        limits = self.limits
        settings = {MAX_HEADER_LIST_SIZE: limits.head, INITIAL_WINDOW_SIZE: limits.window}
        if self.is_downstream:
            settings[MAX_CONCURRENT_STREAMS] = limits.streams
            if limits.extended_connect:
                settings[ENABLE_CONNECT_PROTOCOL] = 1
        else:
            settings[ENABLE_PUSH] = 0
            self.put(PREFACE)
        self.put(settings_frame(settings))
        self.in_window = max(DEFAULT_WINDOW, limits.connection_window)
        if self.in_window > DEFAULT_WINDOW:
            self.put(window_frame(0, self.in_window - DEFAULT_WINDOW))

    def put(self, data: bytes) -> None:
        self.out.append(data)
        self.pending += len(data)

    def table_update(self) -> bytes:
        """What a header block has to begin with."""
        if not self.must_empty_table:
            return b""
        self.must_empty_table = False
        return EMPTY_TABLE

    def earned(self, size: int, is_cut: bool) -> None:
        """The other side has to answer what we send, with windows at least: that is not idle.

        What was cut by a window is worth its size only. Else windows opened by a byte would pay for themselves (CVE-2019-9511).
        """
        self.idle_allowance.give(size / 1024 if is_cut else 4 + size / 1024)

    def open(self, number: int) -> Http2Stream:
        stream = self.streams[number] = Http2Stream(number, self.window, self.initial_out)
        self.count += 1
        return stream

    def sendable(self, number: int) -> Http2Stream:
        stream = self.streams.get(number)
        if stream is None or not stream.local_open or self.is_broken:
            raise StreamGone(f"stream {number}")
        return stream

    def local_ended(self, stream: Http2Stream) -> None:
        stream.local_open = False
        if self.is_downstream:
            self.reset_allowance.give(1)  # answered: a client that asks much may change its mind often
        if not stream.remote_open:
            self.drop(stream, False)

    def drop(self, stream: Http2Stream, by_us: bool) -> None:
        """The stream is closed; what nobody took of it counts as taken."""
        del self.streams[stream.number]
        self.count -= 1
        (self.resets if by_us else self.ended).add(stream.number)
        self.give_back(stream.untaken)

    def took(self, stream: Http2Stream, size: int) -> None:
        """So many bytes of this stream's window may be sent again."""
        if stream.remote_open:
            stream.taken += size
            if stream.taken >= self._half_window:
                self.put(window_frame(stream.number, stream.taken))
                stream.in_window += stream.taken
                stream.taken = 0

    def give_back(self, size: int) -> None:
        """So many bytes of the connection's window may be sent again: told when they are many, or more than what is left of it.

        Streams whose bytes nobody takes may hold nearly all of the window; the others live on the rest.
        """
        self.returned += size
        if self.returned >= self._half_connection or (self.returned > 0 and self.returned > self.in_window):
            self.put(window_frame(0, self.returned))
            self.in_window += self.returned
            self.returned = 0

    # Allowances

    def count_reset(self) -> None:
        if not self.reset_allowance.take(self.now):
            raise Flood("resets", f"more than {self.limits.resets} streams reset within {RESETS_IN:g} s")

    def idle(self, count: float = 1.0) -> None:
        """It cost as much as `count` frames that move nothing."""
        if not self.idle_allowance.take(self.now, count):
            raise Flood("frames", f"more than {self.limits.idle_frames} idle frames within {IDLE_IN:g} s")

    def is_idle(self, number: int) -> bool:
        """5.1.1: nobody has opened it yet."""
        ours = (number & 1) != self.is_downstream
        return number >= self.next_stream if ours else number > self.highest
