"""One question over HTTP/2, for health checks: a request, and what of its answer somebody wants to see.

A connection for one stream, so that there is nothing to share and little that can happen: an answer comes, or a reason why none will.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import trio

from lbd.wire.http2 import Http2Codec
from lbd.wire.http2_events import BodyArrived, ConnectionBroken, ResponseArrived, StreamReset, TrailersArrived, WentAway
from lbd.wire.http2_frames import code_name
from lbd.wire.http2_limits import Http2Limits
from lbd.wire.message import Headers

if TYPE_CHECKING:
    from lbd.wire.http2_events import Event
    from lbd.wire.message import RequestHead

__all__ = ["Heard", "Unanswered", "ask"]

CHUNK = 16 * 1024
HEAD_LIMIT = 64 * 1024  # as for proxied responses
WINDOW = 64 * 1024


class Unanswered(Exception):
    """There is no answer, or none that can be read. `result` is as of probe.Outcome."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


class Heard(NamedTuple):
    """An answer, as far as it has come."""

    status: int = 0  # 0: nothing has come
    headers: Headers = Headers()
    body: bytes = b""
    trailers: Headers = Headers()
    is_whole: bool = False


async def ask(stream: trio.abc.Stream, head: RequestHead, body: bytes, most: int) -> Heard:
    """Up to the end of the answer, or to `most` bytes of its body; 0: its head. The deadline is the caller's, and so is closing the
    stream, whose errors go through."""
    window = max(WINDOW, most)
    codec = Http2Codec(is_downstream=False, limits=Http2Limits(head=HEAD_LIMIT, window=window, connection_window=window))
    number = codec.begin_request(head, head.target, head.authority, b"", not body)
    if body:
        codec.send_body(number, body, True)
    heard = Heard()
    while True:
        await stream.send_all(codec.take())
        data = bytes(await stream.receive_some(CHUNK))
        if not data:
            raise Unanswered("closed", "the connection was closed before its answer was whole")
        for event in codec.receive(data, trio.current_time()):
            heard = heard_with(heard, event)
            if heard.is_whole or (heard.status and len(heard.body) >= most):
                return heard


def heard_with(heard: Heard, event: Event) -> Heard:
    """What has been heard, with what an event adds. Unanswered: no more will come."""
    match event:
        case ResponseArrived(head=head, has_ended=has_ended) if head.status >= 200:
            return heard._replace(status=head.status, headers=head.headers, is_whole=has_ended)
        case BodyArrived(data=data, has_ended=has_ended):
            return heard._replace(body=heard.body + data, is_whole=has_ended)
        case TrailersArrived(trailers=trailers):
            return heard._replace(trailers=trailers or Headers(), is_whole=True)
        case StreamReset(_, _, message, True):
            raise Unanswered("protocol", f"its answer is not HTTP: {message}")
        case StreamReset(_, code, _, False):
            raise Unanswered("closed", f"it reset the stream: {code_name(code)}")
        case WentAway(0, code, message):
            raise Unanswered("closed", f"it went away before it looked at the question: {code_name(code)} {message}".rstrip())
        case ConnectionBroken(_, message):
            raise Unanswered("protocol", f"it does not speak HTTP/2: {message}")
    return heard
