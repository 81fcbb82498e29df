"""What one HTTP/2 connection may ask of us, and how often.

Theory. HTTP/2 lets one side make the other work without a request ever being answered: streams that are reset as soon as they are
opened (CVE-2023-44487), or that we are made to reset (CVE-2025-8671), PING and SETTINGS that want answers, empty frames, windows
opened by a byte, heads that are too large by far. Each such frame is cheap and legal; only their number is wrong. So each kind takes
from an Allowance, which refills with time (and with what was of use: a request answered, a body that moved); when it is empty, the
connection ends with ENHANCE_YOUR_CALM. What a frame takes is what it costs us, in frames.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Allowance", "Http2Limits"]


@dataclass(frozen=True, slots=True)
class Http2Limits:
    """`head`, `target` and `fields` are as HeadLimits has them; a head above `head` is refused with 431 as long as it is not above
    `hardest`, which is where a connection that only wants to fill memory ends."""

    head: int = 64 * 1024
    target: int = 16 * 1024
    fields: int = 100
    streams: int = 100  # at a time, opened by the other side
    window: int = 64 * 1024  # bytes that may come on a stream before somebody takes them
    connection_window: int = 1024 * 1024  # the same of all streams together
    resets: int = 200  # streams reset, by either side, because of the other side; within RESETS_IN seconds, beyond those answered
    idle_frames: int = 10_000  # frames that move nothing, within IDLE_IN seconds
    extended_connect: bool = False  # RFC 8441

    @property
    def hardest(self) -> int:
        """Bytes of a header list, compressed or not, that end the connection: what is not decoded cannot be skipped."""
        return 2 * self.head + 64 * 1024


RESETS_IN = 10.0  # seconds
IDLE_IN = 10.0
PER_STREAM = 0.1  # frames that it costs to look whether a stream has more room, when SETTINGS have come
LARGE_HEAD = 500.0  # frames that a head costs which is refused for its size: 10 ms, if it is made of references (RFC 7541 6.1)


class Allowance:
    """So many within so many seconds, all at once if need be."""

    __slots__ = ("_left", "_most", "_rate", "_seen")

    def __init__(self, most: int, seconds: float) -> None:
        self._most = float(most)
        self._left = self._most
        self._rate = most / seconds
        self._seen = 0.0

    def take(self, now: float, count: float = 1.0) -> bool:
        """False: it is used up."""
        if self._left < self._most:
            self._left = min(self._most, self._left + max(0.0, now - self._seen) * self._rate)
        self._seen = now
        self._left -= count
        return self._left >= 0

    def give(self, count: float) -> None:
        self._left = min(self._most, self._left + count)
