"""What goes out on a HTTP/2 connection: fair between streams, bounded, and many frames in one write.

Theory. What goes down passes two narrows: the other side's windows (the codec knows them) and MOST (http2_writer.py), the bytes that
wait for the socket. A stream whose piece does not fit queues up in `waiting`; it is served in turns of QUANTUM, each stream once before
any a second time. A stream whose own window is shut is not in the queue: nobody waits for it. So a reader that is slow with one stream
holds up that stream only, and one that is slow with all of them leaves a piece of each here and MOST in frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.proxy.http2_writer import FrameWriter

if TYPE_CHECKING:
    from lbd.core.stream import Stream
    from lbd.proxy.http2_downstream import Http2Downstream
    from lbd.wire.http2 import Http2Codec

__all__ = ["Outbox"]

QUANTUM = 16 * 1024  # bytes of a stream's turn


class Outbox(FrameWriter):
    """Between a connection's streams and its socket."""

    __slots__ = ("waiting",)

    def __init__(self, codec: Http2Codec, stream: Stream) -> None:
        FrameWriter.__init__(self, codec, stream)
        self.waiting: dict[int, Http2Downstream] = {}  # whose unsent bytes have room in their window; first come, first served

    def offer(self, downstream: Http2Downstream) -> None:
        """It has something to send: now, when nobody was first. OSError: its stream is gone."""
        room = self.room()
        if not downstream.unsent or (not self.waiting and room > 0):
            downstream.push(room)
        if downstream.unsent:
            downstream.stream.may_write = False
            self.window_opened(downstream)

    def window_opened(self, downstream: Http2Downstream) -> None:
        """Its own window is not shut, or no longer."""
        stream = self._codec.streams.get(downstream.number)
        if downstream.unsent and stream is not None and stream.out_window > 0:
            self.waiting.setdefault(downstream.number, downstream)

    def forget(self, number: int) -> None:
        self.waiting.pop(number, None)

    def drop(self) -> None:
        """The other side does not take it."""
        self._codec.take()
        self._unsent = b""

    def flush(self) -> None:
        """As much as the socket takes. OSError: it is gone."""
        while True:
            if self.waiting:
                self._serve()
            if not self.write():
                return

    def _serve(self) -> None:
        """Round after round, as far as the room and the connection's window go."""
        codec, waiting = self._codec, self.waiting
        while waiting:
            for number, downstream in list(waiting.items()):
                room = self.room()
                if room <= 0 or codec.out_window <= 0:
                    return
                del waiting[number]
                try:
                    downstream.push(min(QUANTUM, room))
                except OSError:
                    continue  # it has been reset; its exchange hears of that by itself
                self.window_opened(downstream)
                downstream.pushed()
