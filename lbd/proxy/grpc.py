"""gRPC, as far as a proxy must know it: how a call is recognised, how long it may take, and how it is told of an error.

A call is an HTTP/2 stream like any other, and what client and server say to each other is nobody else's business. But how it ended
stands in fields behind the response, `grpc-status` and `grpc-message`: an error page with status 503 is no answer to it. So an error of
our own is what the specification calls Trailers-Only, one HEADERS frame with `:status 200` that ends the stream; and a response that
breaks off in the middle gets the trailers that its server owes, so that the client learns that it may try again, where a reset stream
would only say INTERNAL. Which status stands for which is gRPC's own table (doc/http-grpc-status-mapping.md), but for those of ours that
it knows nothing of.

In the access log, and in the numbers, these answers keep the HTTP status that they stand for.
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import TYPE_CHECKING

from lbd.errors import Side
from lbd.proxy.answers import reason_phrase
from lbd.proxy.reasons import REASONS
from lbd.wire.message import Headers

if TYPE_CHECKING:
    from lbd.errors import ProxyError
    from lbd.proxy.answers import Answer
    from lbd.wire.message import RequestHead

__all__ = ["NOT_GRPC", "UNTOLD", "GrpcStatus", "grpc_fields", "is_grpc", "maybe_timeout", "status_among", "status_of", "trailers_for"]

NOT_GRPC, UNTOLD = -2, -1  # in place of a status: there is no call; nobody has said how it ended

CONTENT_TYPE = b"application/grpc"
TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
PLAIN = bytes(code for code in range(0x20, 0x7F) if code != 0x25)  # what a grpc-message may have as it is
MOST_MESSAGE = 1024  # bytes of a fixed answer's body, before it is escaped


class GrpcStatus(IntEnum):
    """How a call can end (doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


BY_HTTP_STATUS = {
    400: GrpcStatus.INTERNAL,
    401: GrpcStatus.UNAUTHENTICATED,
    403: GrpcStatus.PERMISSION_DENIED,
    404: GrpcStatus.UNIMPLEMENTED,
    413: GrpcStatus.RESOURCE_EXHAUSTED,
    414: GrpcStatus.RESOURCE_EXHAUSTED,
    429: GrpcStatus.UNAVAILABLE,
    431: GrpcStatus.RESOURCE_EXHAUSTED,  # as servers of gRPC say where there is too much metadata
    500: GrpcStatus.INTERNAL,
    501: GrpcStatus.UNIMPLEMENTED,
    502: GrpcStatus.UNAVAILABLE,
    503: GrpcStatus.UNAVAILABLE,
    504: GrpcStatus.UNAVAILABLE,
}
BY_REASON = {
    "deadline_exceeded": GrpcStatus.DEADLINE_EXCEEDED,
    "total_timeout": GrpcStatus.DEADLINE_EXCEEDED,
    "body_timeout": GrpcStatus.CANCELLED,
}


# The request


def is_grpc(request: RequestHead) -> bool:
    """Not gRPC-Web, which is another protocol of nearly the same name."""
    if request.method != b"POST":
        return False
    kind = request.headers.get(b"content-type") or b""
    return kind[:16].lower() == CONTENT_TYPE and kind[16:17] in (b"", b"+", b";", b" ")


def maybe_timeout(request: RequestHead) -> float | None:
    """Seconds that the client gives the call. What cannot be read is the server's to refuse: Go's does, C's takes it for none."""
    value = request.headers.get(b"grpc-timeout")
    match = TIMEOUT.fullmatch(value) if value is not None else None
    return int(match[1]) * SECONDS[match[2]] if match else None


# The answer


def status_of(error: ProxyError) -> GrpcStatus:
    """How a call ends with this error."""
    known = BY_REASON.get(error.reason) or BY_HTTP_STATUS.get(error.status)
    if known is not None:
        return known
    if error.status:
        return GrpcStatus.UNKNOWN
    return GrpcStatus.CANCELLED if error.side is Side.DOWNSTREAM else GrpcStatus.UNAVAILABLE


def grpc_fields(answer: Answer, shows_reason: bool) -> tuple[GrpcStatus, Headers] | None:
    """An answer of ours as Trailers-Only; None: it is one that the client reads as it is."""
    error = answer.error
    if error is None and answer.status < 400:
        return None
    if error is not None:
        status, message = status_of(error), sentence(error, shows_reason)
    else:
        status = BY_HTTP_STATUS.get(answer.status, GrpcStatus.UNKNOWN)
        message = answer.body[:MOST_MESSAGE].strip() or reason_phrase(answer.status).encode()
    fields = Headers(b"content-type: application/grpc\r\n" + told(status, message))
    pairs = Headers(answer.fields).items()  # in a loop's head Cython would take them for a dict's
    for name, value in pairs:
        if name.lower() != b"content-type":
            fields.add(name, value)
    if error is not None and error.retry_after > 0:  # clients that try again by themselves look for this (gRFC A6)
        fields.add(b"grpc-retry-pushback-ms", b"%d" % (error.retry_after * 1000))
    return status, fields


def trailers_for(error: ProxyError, shows_reason: bool) -> tuple[GrpcStatus, Headers]:
    """What ends a response that cannot go on."""
    status = status_of(error)
    return status, Headers(told(status, sentence(error, shows_reason)))


def told(status: GrpcStatus, message: bytes) -> bytes:
    return b"grpc-status: %d\r\ngrpc-message: %b\r\n" % (status, escaped(message))


def sentence(error: ProxyError, shows_reason: bool) -> bytes:
    """For whoever reads the client's log. Never error.message, which has addresses."""
    known = REASONS.get(error.reason)
    if not shows_reason:
        return (reason_phrase(error.status) or "the call was ended").encode()
    return f"{error.reason}: {known.meaning}".encode() if known is not None else error.reason.encode()


def escaped(message: bytes) -> bytes:
    """Percent-encoded, as grpc-message is."""
    return b"".join(b"%c" % code if code in PLAIN else b"%%%02X" % code for code in message)


def status_among(fields: Headers) -> int:
    """What a response's fields, or its trailers, say of how the call ended; UNTOLD when they do not."""
    value = fields.get(b"grpc-status")
    return int(value) if value is not None and len(value) < 4 and value.isdigit() else UNTOLD
