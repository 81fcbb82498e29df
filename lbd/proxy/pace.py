"""How slow a client may be.

A timeout that begins anew with each byte stops nobody who sends a byte a minute, and a whole-body timeout stops honest people with thin
lines. So a rate is asked for, and only of the time in which it is the client that everything waits for: while we wait for bytes of its
request's body, or have bytes of the response for it that it does not take. A service that has nothing to say (events, long polls)
or takes nothing costs its client no time.

Each client has a patience, in seconds, `rate_grace` at first. Waiting uses it up, and every byte gives back as much as it may take at
the least rate. Who is faster than that may rest again for as long as any silence is allowed; in the long run nobody is slower.
Apache's mod_reqtimeout reckons alike.

What the kernel has taken for a slow reader is not taken yet: there may be megabytes of it, and then a socket becomes writable again once in
minutes. So what counts is what the other side has acknowledged.

Calls of gRPC are conversations, each with its own rhythm, and have deadlines of their own; and a request whose response has begun is
one too, so that its body may come as slowly as it likes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.core.fiber import Expired
from lbd.core.timers import SOON
from lbd.proxy.endings import SEND
from lbd.proxy.grpc import NOT_GRPC
from lbd.proxy.reasons import failure

if TYPE_CHECKING:
    from lbd.core.fiber import Fiber
    from lbd.proxy.attempt import Attempting
    from lbd.proxy.downstream import Downstream

__all__ = ["BODY", "SLOW", "Patience", "UploadPace", "wait_for_reader"]

BODY, SLOW = 20, 22  # kinds of deadlines: the downstream sends no more of its body; or too little


class Patience:
    """`left`: for so many seconds the client may still be waited for. `rate` is bytes a second, `most` what `left` grows to."""

    __slots__ = ("_most", "_rate", "_seen", "left")

    def __init__(self, rate: int, grace: float, most: float, seen: int) -> None:
        self._rate = rate
        self._most = max(grace, most)
        self._seen = seen
        self.left = grace

    def note(self, seconds: float, total: int) -> None:
        """So long it was waited for, and so many bytes it has sent, or taken, in all."""
        self.left = min(self._most, self.left - seconds + (total - self._seen) / self._rate)
        self._seen = total


async def wait_for_reader(exchange: Attempting) -> None:
    """Until the downstream may take more of what is unsent. ProxyError: it takes nothing, or too little.

    Expired: another deadline of the exchange.
    """
    downstream, listener, reactor = exchange.downstream, exchange.listener, exchange.reactor
    limits, longest = listener.policy.limits, listener.body_timeout
    before = taken(downstream)
    if exchange.patience is None and limits.min_download_rate and downstream.grpc_status == NOT_GRPC:
        exchange.patience = Patience(limits.min_download_rate, limits.rate_grace, longest, before)
    patience = exchange.patience
    silent_since = reactor.now
    while True:
        began = reactor.now
        seconds = silent_since + longest - began
        if patience is not None:
            patience.note(0.0, before)
            seconds = min(seconds, patience.left)
        exchange.arm(max(seconds, SOON), SEND)
        try:
            await downstream.stream.writable
        except Expired as expired:
            if expired.kind != SEND:
                raise
        else:
            if patience is not None:
                patience.note(reactor.now - began, before)
            return
        now, total = reactor.now, taken(downstream)
        if total > before:
            silent_since = now
        elif now - silent_since >= longest:
            raise failure("downstream_stalled")
        if patience is not None:
            patience.note(now - began, total)
            if patience.left <= 0:
                raise failure(
                    "download_too_slow",
                    f"below {limits.min_download_rate} bytes a second, and {limits.rate_grace:g} s of grace are used up",
                )
        before = total


def taken(downstream: Downstream) -> int:
    """Bytes that have arrived at the other side; only its growth means something."""
    return downstream.bytes_out - downstream.untaken()


class UploadPace:
    """The waits for a request's body, each between begin() and end(). `fiber` is the upload's.

    Expired(BODY): nothing came. Expired(SLOW): too little, unless is_excused().
    """

    __slots__ = ("_began", "_exchange", "_fiber", "_patience", "_timeout")

    def __init__(self, exchange: Attempting, fiber: Fiber) -> None:
        limits, downstream = exchange.listener.policy.limits, exchange.downstream
        self._exchange = exchange
        self._fiber = fiber
        self._timeout = exchange.listener.body_timeout
        self._patience: Patience | None = None
        self._began = -1.0
        if limits.min_upload_rate and downstream.grpc_status == NOT_GRPC:
            self._patience = Patience(limits.min_upload_rate, limits.rate_grace, self._timeout, downstream.body_received)

    def begin(self) -> None:
        """From now on it is the client that is waited for."""
        patience, seconds, kind = self._patience, self._timeout, BODY
        if patience is not None and not self.is_excused():
            patience.note(0.0, self._exchange.downstream.body_received)
            if patience.left < seconds:
                seconds, kind = max(patience.left, SOON), SLOW
        self._began = self._exchange.reactor.now
        self._fiber.arm(seconds, kind)

    def end(self) -> None:
        """Something has come, or it is somebody else's turn."""
        if self._began >= 0 and self._patience is not None:
            self._patience.note(self._exchange.reactor.now - self._began, self._exchange.downstream.body_received)
        self._began = -1.0

    def is_excused(self) -> bool:
        """Whether it may be slow: the response has begun."""
        return self._exchange.first_byte_seconds >= 0
