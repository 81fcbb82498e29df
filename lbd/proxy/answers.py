"""Responses that lbd makes itself: errors, fixed answers, redirects. How they are written is each protocol's business."""

from __future__ import annotations

from email.utils import formatdate
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lbd.errors import ProxyError

__all__ = ["Answer", "encode_answer", "error_answer", "reason_phrase"]

CLOSE = b"Connection: close\r\n"
PHRASES = {status.value: status.phrase for status in HTTPStatus} | {413: "Content Too Large"}  # RFC 9110 15.5.14


class Answer(NamedTuple):
    """A whole response. `fields` are ready lines, b"Name: value\\r\\n" each, without those that frame it."""

    status: int
    fields: bytes
    body: bytes
    now: float  # the wall clock's: who answers by itself says when (RFC 9110 6.6.1)
    error: ProxyError | None = None  # what it is the answer to: some protocols have words of their own for it

    @property
    def has_length(self) -> bool:
        """A 204 or 304 has no body and no length."""
        return self.status not in (204, 304)

    def date(self) -> bytes:
        return formatdate(self.now, usegmt=True).encode()


def reason_phrase(status: int) -> str:
    return PHRASES.get(status, "")


def encode_answer(answer: Answer, connection: bytes = CLOSE, is_head: bool = False) -> bytes:
    """As HTTP/1.1; `connection` is a line or b""."""
    status, fields, body = answer.status, answer.fields, answer.body
    start = b"HTTP/1.1 %d %b\r\nDate: %b\r\n" % (status, reason_phrase(status).encode(), answer.date())
    if not answer.has_length:
        return start + fields + connection + b"\r\n"
    return b"%b%bContent-Length: %d\r\n%b\r\n%b" % (start, fields, len(body), connection, b"" if is_head else body)


def error_answer(error: ProxyError, shows_reason: bool, now: float) -> Answer:
    """What a client is told of an error: the status, and the reason where the listener shows it; never addresses.

    no-store: a shared cache must not keep our trouble for us.
    """
    fields = b"Content-Type: text/plain; charset=utf-8\r\nCache-Control: no-store\r\n"
    text = f"{error.status} {reason_phrase(error.status)}\n"
    if error.retry_after > 0:
        fields += f"Retry-After: {ceil(error.retry_after)}\r\n".encode()  # whole seconds (RFC 9110 10.2.3)
    if shows_reason:
        fields += f"x-lbd-reason: {error.reason}\r\n".encode()
        text += f"{error.reason}\n"
    return Answer(error.status, fields, text.encode(), now, error)
