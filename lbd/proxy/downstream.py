"""What an exchange sees of the side that asks, whatever protocol it speaks there.

Everything here either works now or says "not now"; the exchange waits, on `stream`: a connection's Stream for HTTP/1, for one of
HTTP/2's streams something that is waited on in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.timers import NEVER
from lbd.proxy.grpc import NOT_GRPC

if TYPE_CHECKING:
    from lbd.core.reactor import Pollable
    from lbd.errors import ProxyError
    from lbd.proxy.answers import Answer
    from lbd.proxy.connection import Connection
    from lbd.proxy.forwarding import ConnectionForwarding
    from lbd.proxy.listening import Listener
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Downstream"]


class Downstream:
    """One request after the other, or just one.

    `keep_alive` says whether another request may follow; an exchange that leaves a body unread clears it. `unsent` is true while
    something waits for the downstream to take it: send_more() once `stream` is writable. OSError from whatever sends: it is gone.
    """

    __slots__ = (
        "body_ended", "body_received", "bytes_in", "bytes_out", "deadline", "forwarding", "grpc_status", "head_sent", "keep_alive",
        "listener", "source", "stream", "trailers", "unsent",
    )  # fmt: skip

    def __init__(self, listener: Listener, stream: Pollable, forwarding: ConnectionForwarding) -> None:
        self.listener = listener
        self.stream = stream
        self.source: Connection = None  # type: ignore[assignment]  # what it came by; its protocol's loop knows
        self.forwarding = forwarding
        self.unsent: bytes | memoryview = b""
        self.keep_alive = True
        self.head_sent = False
        self.body_ended = True
        self.body_received = 0  # bytes of this request's body
        self.bytes_in = 0  # since an exchange counted them
        self.bytes_out = 0
        self.trailers: Headers | None = None
        self.deadline = NEVER  # until when the client waits, where it has said so
        self.grpc_status = NOT_GRPC  # how the call ended, if it is one (proxy/grpc.py)

    # The request's body

    def whole_body(self, request: RequestHead) -> bytes | None:
        """The body, when its length was given and all of it has come already."""
        raise NotImplementedError

    def begin_body(self, request: RequestHead) -> None:
        """It will be read with maybe_body()."""
        raise NotImplementedError

    def maybe_body(self, limit: int) -> bytes | None:
        """More of it (see `body_ended`); None when nothing is there yet. ProxyError: not a body."""
        raise NotImplementedError

    def body_remaining(self) -> int:
        """Bytes of a body of known length that are still to be read from the stream, where they may be spliced; else 0."""
        return 0

    def body_spliced(self, count: int) -> None:
        """So many bytes of the body went past us, by splice."""
        raise NotImplementedError

    # The response

    def send_informational(self, head: ResponseHead) -> None:
        raise NotImplementedError

    def send_response(self, request: RequestHead, head: ResponseHead, framing: int, extra: bytes, body: bytes, has_ended: bool) -> None:
        """The head, and in the same write what there is of the body. `extra` is ready lines behind the head's own fields."""
        raise NotImplementedError

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        raise NotImplementedError

    def answer(self, request: RequestHead, answer: Answer) -> None:
        """A whole response of our own."""
        raise NotImplementedError

    def switch(self, request: RequestHead, head: ResponseHead, extra: bytes, said: bytes) -> int:
        """The upstream has agreed to another protocol: hands on its 101, and what it has `said` behind it. From here on bodies are raw
        bytes, until body_ended in one direction and send_eof() in the other. The status as it is sent."""
        raise NotImplementedError

    def send_eof(self) -> None:
        """No more raw bytes will follow. Not while something is unsent."""
        raise NotImplementedError

    def is_spliceable(self) -> bool:
        """Whether body bytes may go to the stream as they come in, past us."""
        return False

    def send_more(self) -> None:
        raise NotImplementedError

    def untaken(self) -> int:
        """How many of `bytes_out` have not arrived at the other side yet, as far as that can be known. OSError: it is gone."""
        return 0

    def cut(self) -> None:
        """Ends a response in the middle, so that the client can tell."""
        raise NotImplementedError

    def fail(self, error: ProxyError) -> None:
        """As cut(), where the protocol cannot tell of an error that comes so late."""
        self.cut()
