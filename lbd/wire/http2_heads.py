"""HTTP/2's fields as heads, and heads as fields (RFC 9113, 8).

What comes in is held to a grammar as strict as HTTP/1's: a request that means one thing here and another in HTTP/1 behind us is how
smuggling begins. Names and values are each checked in one go: joined by line feeds, which none of them may have, and counted.

A request that has no length but a body is `chunked` here, which is what it becomes on HTTP/1; `minor` is 2.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from lbd.wire.grammar import CLAIMS, HOP_BY_HOP, NOT_TRAILERS
from lbd.wire.message import Headers, RequestHead, ResponseHead
from lbd.wire.refusal import WireError
from lbd.wire.strict import checked_authority, checked_length, listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lbd.wire.http2_limits import Http2Limits

__all__ = ["HTTP2", "request_fields", "request_head", "request_lines", "response_head", "trailers_of"]

CONNECT = b"CONNECT"
HTTP2 = 2  # a head's `minor`, when it came by HTTP/2

NAMES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9a-z-]++\n)*+")
NOT_VALUES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\n[ \t]|[ \t]\n")
METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
TARGET = re.compile(rb"[!\"$-~]++")  # as grammar.REQUEST has it: no fragment, no space
# 8.2.2. `te` may say "trailers", and that only.
CONNECTION_FIELDS = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
REQUEST_NOTED = HOP_BY_HOP | CLAIMS | {b"host", b"expect", b"cookie"}
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}

Fields = list[tuple[bytes, bytes]]
Noted = dict[bytes, list[bytes]]


def malformed(message: str) -> WireError:
    return WireError("bad_request", 400, message)


def request_head(fields: Sequence[tuple[bytes, bytes]], has_ended: bool, limits: Http2Limits) -> RequestHead:
    """WireError: bad_request is what must be a reset (8.1.1), anything else may be answered."""
    pseudo, rest = parted(fields)
    method, scheme, target, authority, protocol = named_of_request(pseudo)
    check_fields(rest)
    if header_list_size(fields) > limits.head or len(rest) > limits.fields:
        raise WireError("head_too_large", 431, f"the head is above {limits.head} bytes or {limits.fields} fields")
    noted: Noted = {}
    head = RequestHead()
    head.headers = sorted_out(rest, REQUEST_NOTED, noted)
    if len(target) > limits.target:
        raise WireError("target_too_long", 414, f"the target is above {limits.target} bytes")
    head.method = method
    head.minor = HTTP2
    head.upgrade = b""
    if method == CONNECT:
        if not protocol:
            raise WireError("unsupported", 501, "CONNECT is not served here")
        if not limits.extended_connect:
            raise malformed(":protocol was not offered")
        head.upgrade = protocol
    elif protocol:
        raise malformed(":protocol without CONNECT")
    set_target(head, target, scheme, authority, noted.get(b"host"))
    set_length(head, noted, has_ended)
    if method == CONNECT:
        head.content_length = -1  # what comes is no content (RFC 9110 9.3.6)
    head.keep_alive = True
    head.expect_continue = b"expect" in noted and b"100-continue" in listed(noted[b"expect"])
    head.te_trailers = b"te" in noted
    head.has_proxy_fields = not CLAIMS.isdisjoint(noted)
    return head


def response_head(fields: Sequence[tuple[bytes, bytes]], has_ended: bool, limits: Http2Limits) -> ResponseHead:
    """WireError: malformed, or too much of it."""
    pseudo, rest = parted(fields)
    status = pseudo.pop(b":status", b"")
    if pseudo:
        raise malformed(f"a pseudo-header of no response: {next(iter(pseudo))[:100]!r}")
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise malformed(f"not a :status: {status[:100]!r}")
    check_fields(rest)
    if header_list_size(fields) > limits.head or len(rest) > limits.fields:
        raise WireError("head_too_large", 431, f"the head is above {limits.head} bytes or {limits.fields} fields")
    noted: Noted = {}
    head = ResponseHead()
    head.headers = sorted_out(rest, HOP_BY_HOP, noted)
    head.status = int(status)
    if head.status == 101:
        raise malformed("101 Switching Protocols")  # 8.6
    if head.status < 200 and has_ended:
        raise malformed("an informational response that ends the stream")
    head.reason = PHRASES.get(head.status, b"")
    head.minor = HTTP2
    lengths = noted.get(b"content-length")
    head.content_length = -1 if lengths is None else checked_length(lengths)
    head.chunked = lengths is None
    head.keep_alive = True
    head.upgrade = b""
    return head


def trailers_of(fields: Sequence[tuple[bytes, bytes]], limits: Http2Limits) -> Headers | None:
    """Without those that must not come last; None when none is left."""
    pseudo, rest = parted(fields)
    if pseudo:
        raise malformed("a pseudo-header among the trailers")
    check_fields(rest)
    if header_list_size(fields) > limits.head or len(rest) > limits.fields:
        raise malformed(f"the trailers are above {limits.head} bytes or {limits.fields} fields")
    kept = [b"%b: %b\r\n" % (name, value) for name, value in rest if name not in NOT_TRAILERS]
    return Headers(b"".join(kept)) if kept else None


def request_fields(head: RequestHead, target: bytes, authority: bytes) -> Fields:
    """What stands in front of the lines when they go upstream: `target` and `authority` in place of the head's own."""
    fields: Fields = [(b":method", CONNECT if head.upgrade else head.method), (b":scheme", head.scheme), (b":path", target)]
    if authority:
        fields.append((b":authority", authority))
    if head.upgrade:  # RFC 8441
        return [*fields, (b":protocol", head.upgrade.partition(b",")[0])]
    if head.content_length >= 0:
        fields.append((b"content-length", b"%d" % head.content_length))
    if head.te_trailers:
        fields.append((b"te", b"trailers"))
    return fields


def request_lines(head: RequestHead) -> bytes:
    """The fields behind those, as lines of HTTP/1. An offer over HTTP/2 has no key (RFC 8441, 5.1)."""
    if not head.upgrade:
        return head.headers.encode()
    headers = Headers(head.headers.encode())
    headers.remove(b"sec-websocket-key")
    return headers.encode()


def parted(fields: Sequence[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], Sequence[tuple[bytes, bytes]]]:
    """Pseudo-headers, which come first and once each (8.3), and the others."""
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name in pseudo:
            raise malformed(f"{name[:100]!r} twice")
        pseudo[name] = value
        count += 1
    return pseudo, fields[count:]


def named_of_request(pseudo: dict[bytes, bytes]) -> tuple[bytes, bytes, bytes, bytes | None, bytes]:
    """Method, scheme, path, authority, protocol (8.3.1, 8.5)."""
    method = pseudo.pop(b":method", b"")
    scheme = pseudo.pop(b":scheme", b"")
    path = pseudo.pop(b":path", b"")
    authority = pseudo.pop(b":authority", None)
    protocol = pseudo.pop(b":protocol", b"")
    if pseudo:
        raise malformed(f"a pseudo-header of no request: {next(iter(pseudo))[:100]!r}")
    if not METHOD.fullmatch(method):
        raise malformed(f"not a :method: {method[:100]!r}")
    if method == CONNECT and not protocol:
        if scheme or path:
            raise malformed("CONNECT with :scheme or :path")
        return method, b"", b"*", authority, b""
    if scheme not in DEFAULT_PORTS:
        raise malformed(f"not a :scheme that is served here: {scheme[:100]!r}")
    if not TARGET.fullmatch(path) or not (path.startswith(b"/") or (path == b"*" and method == b"OPTIONS")):
        raise malformed(f"not a :path: {path[:100]!r}")
    return method, scheme, path, authority, protocol


def check_fields(fields: Sequence[tuple[bytes, bytes]]) -> None:
    """Names and values as 8.2.1 wants them, and nothing of 8.2.2."""
    names = b"\n".join([name for name, _ in fields])
    values = b"\n".join([value for _, value in fields])
    if not fields:
        return
    between = len(fields) - 1
    if not NAMES.fullmatch(names + b"\n") or names.count(b"\n") != between:
        bad = next((name for name, _ in fields if not NAMES.fullmatch(name + b"\n")), names)
        raise malformed(f"not the name of a field: {bad[:100]!r}")
    if NOT_VALUES.search(b"\n%b\n" % values) or values.count(b"\n") != between:
        raise malformed("a value with control bytes, or with white space around it")
    for name, value in fields:
        if name in CONNECTION_FIELDS or (name == b"te" and value.lower() != b"trailers"):
            raise malformed(f"a field that speaks of the connection: {name!r}")


def header_list_size(fields: Sequence[tuple[bytes, bytes]]) -> int:
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts (6.5.2)."""
    return sum([len(name) + len(value) + 32 for name, value in fields])


def sorted_out(fields: Sequence[tuple[bytes, bytes]], names: frozenset[bytes], noted: Noted) -> Headers:
    """The fields to hand on; those of `names` go to `noted`, and of these only claims, Expect and the joined cookie are handed on."""
    lines: list[bytes] = []
    for name, value in fields:
        if name in names:
            noted.setdefault(name, []).append(value)
            if name not in CLAIMS and name != b"expect":
                continue
        lines.append(b"%b: %b\r\n" % (name, value))
    cookies = noted.get(b"cookie")
    if cookies is not None:
        lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))  # 8.2.3
    return Headers(b"".join(lines))


def set_target(head: RequestHead, target: bytes, scheme: bytes, authority: bytes | None, hosts: list[bytes] | None) -> None:
    """8.3.1: Host may come in place of :authority, or say the same."""
    if hosts is not None and len(hosts) > 1:
        raise WireError("bad_host", 400, "several Host fields")
    if authority is None:
        if hosts is None:
            raise WireError("bad_host", 400, "neither :authority nor Host")
        authority = hosts[0]
    authority = checked_authority(authority)
    if hosts is not None:
        default = DEFAULT_PORTS.get(scheme, b":443")
        if checked_authority(hosts[0]).removesuffix(default) != authority.removesuffix(default):
            raise WireError("bad_host", 400, f":authority says {authority!r}, Host says {hosts[0]!r}")
    head.scheme = scheme
    head.target = target
    head.authority = authority
    head.path, _, head.query = target.partition(b"?")


def set_length(head: RequestHead, noted: Noted, has_ended: bool) -> None:
    lengths = noted.get(b"content-length")
    head.content_length = -1 if lengths is None else checked_length(lengths)
    head.chunked = lengths is None and not has_ended
    if has_ended and head.content_length > 0:
        raise malformed(f"content-length says {head.content_length}, but there is no body")
