"""What an exchange sees of the side that answers: one request's way to an endpoint and back, whatever protocol it takes.

Everything here either works now or says "not now"; the exchange decides what to wait for on `stream`, and for how long. What goes
wrong is the upstream's fault and becomes a ProxyError that says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.errors import Retry
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.core.reactor import Pollable
    from lbd.errors import ProxyError
    from lbd.wire.message import Headers, RequestHead, ResponseHead

__all__ = ["Upstream"]


class Upstream:
    """A connection for HTTP/1, one stream of a shared connection for HTTP/2.

    `requests` counts those it has carried; the first one's death tells more about the endpoint than a later one's. `unsent` is true
    while something waits for the upstream to take it.
    """

    __slots__ = (
        "body_ended", "bytes_in", "bytes_out", "has_answered", "idle_since", "interim", "opened_at", "requests", "stream", "trailers",
        "unsent",
    )  # fmt: skip

    def __init__(self, stream: Pollable, now: float) -> None:
        self.stream = stream
        self.opened_at = now
        self.idle_since = now
        self.requests = 0
        self.interim = 0  # 1xx responses to this request
        self.bytes_in = 0  # since somebody counted them
        self.bytes_out = 0
        self.unsent: bytes | memoryview = b""
        self.body_ended = False
        self.has_answered = False
        self.trailers: Headers | None = None

    # The request

    def send_request(self, request: RequestHead, target: bytes, host: bytes, framing: int, extra: bytes, body: bytes | None) -> None:
        """The head with `target` and `host` in place of its own, `extra` lines behind its fields, and the body: all of it, b"" when there
        is none, None when it follows by send_body()."""
        raise NotImplementedError

    def send_body(self, body: bytes, has_ended: bool, trailers: Headers | None) -> None:
        raise NotImplementedError

    def is_spliceable(self) -> bool:
        """Whether bytes of the request's body may go to the stream as they come in, past us."""
        return False

    def send_more(self) -> None:
        raise NotImplementedError

    # The response

    def maybe_head(self) -> ResponseHead | None:
        """The next head, an informational one included; None when it is not whole yet."""
        raise NotImplementedError

    def begin_body(self, framing: int, length: int) -> bytes:
        """Starts to read a body; what had come along with the head is returned decoded."""
        raise NotImplementedError

    def maybe_body(self, limit: int) -> bytes | None:
        """More of the body; b"" when nothing came that is body (see `body_ended`); None when nothing is there yet."""
        raise NotImplementedError

    def body_remaining(self) -> int:
        """Bytes of a body of known length that are still to be read from the stream, where they may be spliced; else 0."""
        return 0

    def body_spliced(self, count: int) -> None:
        """So many bytes of the response's body went past us."""
        raise NotImplementedError

    def switch(self) -> bytes:
        """It has agreed to another protocol: what it has said behind its 101. From here on bodies are raw bytes, as for a Downstream."""
        raise NotImplementedError

    def send_eof(self) -> None:
        """No more raw bytes will follow. Not while something is unsent."""
        raise NotImplementedError

    # Life

    def is_clean(self) -> bool:
        """Nothing is left over in either direction: it may go back to the pool."""
        raise NotImplementedError

    def is_fresh(self) -> bool:
        """For the pool: silent and open, as far as the last poll told."""
        raise NotImplementedError

    def is_fresh_now(self) -> bool:
        """As is_fresh(), asking the kernel."""
        raise NotImplementedError

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        raise NotImplementedError

    def broken(self, reason: str, message: str) -> ProxyError:
        """When nothing of an answer has come, a reused connection was probably closed while our request was on its way."""
        if self.has_answered:
            retry = Retry.NEVER
        else:
            retry = Retry.REUSED_ONLY if self.requests > 1 else Retry.UNANSWERED
        return failure(reason, message, retry)
