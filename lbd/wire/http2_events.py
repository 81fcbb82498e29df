"""What a Http2Codec tells of what has come. `stream` is a stream's number."""

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


class RequestArrived(NamedTuple):
    stream: int
    head: RequestHead
    has_ended: bool


class RequestRefused(NamedTuple):
    """Never a request. With `can_answer` the stream waits for a response of error.status, otherwise it has been reset."""

    stream: int
    error: WireError
    can_answer: bool


class ResponseArrived(NamedTuple):
    """Informational ones too: head.status below 200, and more to come."""

    stream: int
    head: ResponseHead
    has_ended: bool


class BodyArrived(NamedTuple):
    """To be acknowledged, len(data) bytes, when somebody has taken it. It may be b"" at the end."""

    stream: int
    data: bytes
    has_ended: bool


class TrailersArrived(NamedTuple):
    """The end of a body. None: no field was left of those that may come last."""

    stream: int
    trailers: Headers | None


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
