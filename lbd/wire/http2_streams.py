"""A stream's state (RFC 9113, 5.1): which side may still send, and how much. Idle streams are numbers, closed ones nothing."""

from __future__ import annotations

__all__ = ["Http2Stream", "Remembered", "StreamGone"]


class StreamGone(Exception):
    """The stream is closed, or its sending side is."""


class Http2Stream:
    """`remote_open` and `local_open`: open is both, half-closed one."""

    __slots__ = (
        "expected", "has_head", "in_window", "local_open", "method", "number", "out_window", "received", "remote_open", "taken", "untaken",
    )  # fmt: skip

    def __init__(self, number: int, in_window: int, out_window: int) -> None:
        self.number = number
        self.remote_open = True
        self.local_open = True
        self.in_window = in_window  # bytes that the other side may still send
        self.out_window = out_window  # that we may; below 0 when the other side has thought better of it
        self.taken = 0  # acknowledged, and not yet told the other side
        self.untaken = 0  # received, and not yet acknowledged
        self.method = b""  # of the request that we sent
        self.has_head = False  # the head has come, the final one; what comes now is a body, or trailers
        self.expected = -1  # bytes of the body, as its head said
        self.received = 0


class Remembered:
    """The numbers that came last; the oldest is forgotten first."""

    __slots__ = ("_most", "_numbers")

    def __init__(self, most: int) -> None:
        self._most = most
        self._numbers: dict[int, None] = {}

    def add(self, number: int) -> None:
        if len(self._numbers) >= self._most:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[number] = None

    def __contains__(self, number: int) -> bool:
        return number in self._numbers
