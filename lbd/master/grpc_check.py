"""A health check as gRPC has it: grpc.health.v1.Health/Check, asked over a stream of HTTP/2.

Question and answer are messages of one field each (a string, an enum), so that what there is of protobuf here is a page and not a
package. SERVING is good; everything else is a reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from lbd.master.http2_question import Unanswered
from lbd.proxy.grpc import UNTOLD, GrpcStatus, status_among

if TYPE_CHECKING:
    from lbd.master.http2_question import Heard
    from lbd.wire.message import Headers

__all__ = ["MOST", "PATH", "decode_answer", "encode_question", "judge"]

PATH = "/grpc.health.v1.Health/Check"
MOST = 4096  # bytes of an answer that is looked at; it has two
MOST_WORDS = 200  # of what a server says of an error
NAMES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
SERVING = 1
VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5  # kinds of fields


def judge(heard: Heard, service: str) -> tuple[str, str]:
    """What an answer means: result and reason, as of probe.Outcome. Unanswered: it is none."""
    if heard.status != 200:
        return "status", f"status {heard.status}, where gRPC has 200"
    fields = heard.trailers if status_among(heard.trailers) != UNTOLD else heard.headers
    code = status_among(fields)
    if code == UNTOLD:
        raise Unanswered("protocol", "its answer has no grpc-status: it is not gRPC")
    if code != GrpcStatus.OK:
        return "status", f"grpc-status {code} {name_of(code)}{what_it_means(code, service)}{words_of(fields)}"
    try:
        standing = decode_answer(heard.body)
    except ValueError as error:
        raise Unanswered("protocol", f"its answer is no HealthCheckResponse: {error}") from error
    return "ok" if standing == SERVING else "status", NAMES[standing] if standing < len(NAMES) else str(standing)


def name_of(code: int) -> str:
    return GrpcStatus(code).name if code <= max(GrpcStatus) else "of no known name"


def what_it_means(code: int, service: str) -> str:
    if code == GrpcStatus.UNIMPLEMENTED:
        return ": it has no service grpc.health.v1.Health"
    if code == GrpcStatus.NOT_FOUND:
        return f': its health service does not know "{service}"'
    return ""


def words_of(fields: Headers) -> str:
    words = unquote_to_bytes(fields.get(b"grpc-message") or b"").decode(errors="replace")[:MOST_WORDS]
    return f': "{"".join(c if c.isprintable() else " " for c in words)}"' if words else ""


# Messages


def encode_question(service: str) -> bytes:
    """HealthCheckRequest { string service = 1; }, framed."""
    name = service.encode()
    message = b"\x0a" + encode_varint(len(name)) + name if name else b""
    return b"\0" + len(message).to_bytes(4, "big") + message


def decode_answer(body: bytes) -> int:
    """HealthCheckResponse { ServingStatus status = 1; }, framed. ValueError: it is none."""
    if len(body) < 5 or int.from_bytes(body[1:5], "big") != len(body) - 5:
        raise ValueError(f"not one message, in {len(body)} bytes")
    if body[0]:
        raise ValueError("it is compressed, which we have not asked for")
    status, at = 0, 5
    while at < len(body):
        key, at = decode_varint(body, at)
        value, at = decode_field(body, at, key & 7)
        if key == 1 << 3 | VARINT:
            status = value
    return status


def decode_field(body: bytes, at: int, kind: int) -> tuple[int, int]:
    """Its value, where it is a number, and where the next one begins."""
    value = 0
    if kind == VARINT:
        return decode_varint(body, at)
    if kind == BYTES:
        size, at = decode_varint(body, at)
        at += size
    elif kind in (EIGHT, FOUR):
        at += 8 if kind == EIGHT else 4
    else:
        raise ValueError(f"a field of the unknown kind {kind}")
    if at > len(body):
        raise ValueError("a field that is longer than the message")
    return value, at


def encode_varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 128:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes((*digits, value))


def decode_varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at == len(body):
            raise ValueError("it ends in the middle of a number")
        value |= (body[at] & 127) << shift
        at += 1
        if body[at - 1] < 128:
            return value, at
    raise ValueError("a number that does not end")
