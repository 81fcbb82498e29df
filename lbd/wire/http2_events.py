"""What a Http2Codec tells of what has come. `stream` is a stream's number.

Those that every request brings are classes of their own, which compile; the others are tuples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lbd.wire.message import Headers, RequestHead, ResponseHead
    from lbd.wire.refusal import WireError

__all__ = [
    "BodyArrived",
    "ConnectionBroken",
    "Event",
    "PingAnswered",
    "RequestArrived",
    "RequestRefused",
    "ResponseArrived",
    "SettingsChanged",
    "StreamReset",
    "TrailersArrived",
    "WentAway",
    "WindowOpened",
]


class RequestArrived:
    __slots__ = ("has_ended", "head", "stream")

    def __init__(self, stream: int, head: RequestHead, has_ended: bool) -> None:
        self.stream = stream
        self.head = head
        self.has_ended = has_ended

    def __repr__(self) -> str:
        return f"RequestArrived({self.stream}, {self.head!r}, {self.has_ended})"


class ResponseArrived:
    """Informational ones too: head.status below 200, and more to come."""

    __slots__ = ("has_ended", "head", "stream")

    def __init__(self, stream: int, head: ResponseHead, has_ended: bool) -> None:
        self.stream = stream
        self.head = head
        self.has_ended = has_ended

    def __repr__(self) -> str:
        return f"ResponseArrived({self.stream}, {self.head!r}, {self.has_ended})"


class BodyArrived:
    """To be acknowledged, len(data) bytes, when somebody has taken it. It may be b"" at the end."""

    __slots__ = ("data", "has_ended", "stream")

    def __init__(self, stream: int, data: bytes, has_ended: bool) -> None:
        self.stream = stream
        self.data = data
        self.has_ended = has_ended

    def __repr__(self) -> str:
        return f"BodyArrived({self.stream}, {self.data!r}, {self.has_ended})"


class TrailersArrived:
    """The end of a body. None: no field was left of those that may come last."""

    __slots__ = ("stream", "trailers")

    def __init__(self, stream: int, trailers: Headers | None) -> None:
        self.stream = stream
        self.trailers = trailers

    def __repr__(self) -> str:
        return f"TrailersArrived({self.stream}, {self.trailers!r})"


class RequestRefused(NamedTuple):
    """Never a request. With `can_answer` the stream waits for a response of error.status, otherwise it has been reset.

    `head` has what the form of that response depends on: the method, and the content-type.
    """

    stream: int
    error: WireError
    can_answer: bool
    head: RequestHead


class StreamReset(NamedTuple):
    """The stream is no more: the other side said so, or it broke a rule and we did (`is_ours`)."""

    stream: int
    code: int
    message: str
    is_ours: bool


class WindowOpened(NamedTuple):
    """room() may be more than it was, of this stream, or (0) of all."""

    stream: int


class SettingsChanged(NamedTuple):
    """The other side's: codec.max_streams may be another."""


class WentAway(NamedTuple):
    """GOAWAY: streams of ours above `last` have not been looked at, and never will be."""

    last: int
    code: int
    message: str


class PingAnswered(NamedTuple):
    data: bytes


class ConnectionBroken(NamedTuple):
    """The other side broke a rule of the connection. take() has the GOAWAY; nothing else may be sent or received.

    `flood`: what it did too often (http2_frames.Flood.kind), or "".
    """

    code: int
    message: str
    flood: str = ""


Event = (
    RequestArrived
    | RequestRefused
    | ResponseArrived
    | BodyArrived
    | TrailersArrived
    | StreamReset
    | WindowOpened
    | SettingsChanged
    | WentAway
    | PingAnswered
    | ConnectionBroken
)
