"""HTTP/2's fields as heads, and heads as fields (RFC 9113, 8).

What comes in is held to a grammar as strict as HTTP/1's: a request that means one thing here and another in HTTP/1 behind us is how
smuggling begins. Names and values that nobody has checked yet are each checked in one go: joined by line feeds, which none of them may
have, and counted.

A request that has no length but a body is `chunked` here, which is what it becomes on HTTP/1; `minor` is 2.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from lbd.wire.grammar import CLAIMS
from lbd.wire.http2_fields import (
    AUTHORITY,
    FORBIDDEN,
    HANDED_ON,
    METHOD,
    NOT_TRAILER,
    PATH,
    PROTOCOL,
    REQUEST_NOTED,
    RESPONSE_NOTED,
    SCHEME,
    STATUS,
    UNKNOWN,
)
from lbd.wire.message import Headers, RequestHead, ResponseHead
from lbd.wire.refusal import WireError
from lbd.wire.strict import checked_authority, checked_length, listed

if TYPE_CHECKING:
    from lbd.wire.http2_fields import Field
    from lbd.wire.http2_limits import Http2Limits

__all__ = ["HTTP2", "refused_head", "request_fields", "request_head", "request_lines", "response_head", "trailers_of"]

CONNECT = b"CONNECT"
PLACES = UNKNOWN + 1
HTTP2 = 2  # a head's `minor`, when it came by HTTP/2

NAMES = re.compile(rb"(?:[!#$%&'*+.^_`|~0-9a-z-]++\n)*+")
NOT_VALUES = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]|\n[ \t]|[ \t]\n")
METHODS = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")
TARGETS = re.compile(rb"[!\"$-~]++")  # as grammar.REQUEST has it: no fragment, no space
PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}
DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}

Fields = list[tuple[bytes, bytes]]
Noted = dict[bytes, list[bytes]]


def malformed(message: str) -> WireError:
    return WireError("bad_request", 400, message)


def request_head(fields: tuple[Field, ...], has_ended: bool, limits: Http2Limits) -> RequestHead:
    """WireError: bad_request is what must be a reset (8.1.1), anything else may be answered."""
    places: list[Field | None] = [None] * PLACES
    rest = parted(fields, places)
    head = RequestHead()
    check_request(head, places)
    check_fields(rest)
    if header_list_size(fields) > limits.head or len(rest) > limits.fields:
        raise WireError("head_too_large", 431, f"the head is above {limits.head} bytes or {limits.fields} fields")
    noted: Noted = {}
    head.headers = sorted_out(rest, REQUEST_NOTED, noted)
    if len(head.target) > limits.target:
        raise WireError("target_too_long", 414, f"the target is above {limits.target} bytes")
    if head.method == CONNECT:
        if not head.upgrade:
            raise WireError("unsupported", 501, "CONNECT is not served here")
        if not limits.extended_connect:
            raise malformed(":protocol was not offered")
    elif head.upgrade:
        raise malformed(":protocol without CONNECT")
    set_authority(head, places[AUTHORITY], noted.get(b"host"))
    set_length(head, noted, has_ended)
    if head.method == CONNECT:
        head.content_length = -1  # what comes is no content (RFC 9110 9.3.6)
    head.minor = HTTP2
    head.keep_alive = True
    head.expect_continue = b"expect" in noted and b"100-continue" in listed(noted[b"expect"])
    head.te_trailers = b"te" in noted
    head.has_proxy_fields = bool(noted) and not CLAIMS.isdisjoint(noted)
    return head


def refused_head(fields: tuple[Field, ...]) -> RequestHead:
    """What an answer must know of a request that was refused: method and content-type, as far as they can be told."""
    head = RequestHead.make()
    for field in fields:
        if field.place == METHOD:
            head.method = field.value
        elif field.name == b"content-type" and field.is_checked:
            head.headers = Headers(field.as_line())
    return head


def response_head(fields: tuple[Field, ...], has_ended: bool, limits: Http2Limits) -> ResponseHead:
    """WireError: malformed, or too much of it."""
    places: list[Field | None] = [None] * PLACES
    rest = parted(fields, places)
    named = places[STATUS]
    if named is None or len(fields) - len(rest) > 1:
        raise malformed("not the pseudo-headers of a response")
    status = named.value
    if len(status) != 3 or not status.isdigit() or status < b"100":
        raise malformed(f"not a :status: {status[:100]!r}")
    check_fields(rest)
    if header_list_size(fields) > limits.head or len(rest) > limits.fields:
        raise WireError("head_too_large", 431, f"the head is above {limits.head} bytes or {limits.fields} fields")
    noted: Noted = {}
    head = ResponseHead()
    head.headers = sorted_out(rest, RESPONSE_NOTED, noted)
    head.status = int(status)
    if head.status == 101:
        raise malformed("101 Switching Protocols")  # 8.6
    if head.status < 200 and has_ended:
        raise malformed("an informational response that ends the stream")
    head.reason = PHRASES.get(head.status, b"")
    head.minor = HTTP2
    head.content_length = announced(noted)
    head.chunked = head.content_length < 0
    head.keep_alive = True
    head.upgrade = b""
    return head


def trailers_of(fields: tuple[Field, ...], limits: Http2Limits) -> Headers | None:
    """Without those that must not come last; None when none is left."""
    for field in fields:
        if field.place:
            raise malformed("a pseudo-header among the trailers")
    check_fields(fields)
    if header_list_size(fields) > limits.head or len(fields) > limits.fields:
        raise malformed(f"the trailers are above {limits.head} bytes or {limits.fields} fields")
    kept = [field.as_line() for field in fields if not field.marks & NOT_TRAILER]
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


def parted(fields: tuple[Field, ...], places: list[Field | None]) -> tuple[Field, ...]:
    """Puts pseudo-headers, which come first and once each (8.3), into their places; the others."""
    count = 0
    for field in fields:
        if not field.place:
            break
        if places[field.place] is not None:
            raise malformed(f"{field.name[:100]!r} twice")
        places[field.place] = field
        count += 1
    if places[UNKNOWN] is not None:
        raise malformed("a pseudo-header that nobody knows")
    return fields[count:]


def value_of(field: Field | None) -> bytes:
    return b"" if field is None else field.value


def check_request(head: RequestHead, places: list[Field | None]) -> None:
    """Method, scheme, path, protocol (8.3.1, 8.5)."""
    method, path = places[METHOD], places[PATH]
    if places[STATUS] is not None:
        raise malformed("a request with a :status")
    if method is None or not (method.is_checked or METHODS.fullmatch(method.value)):
        raise malformed(f"not a :method: {value_of(method)[:100]!r}")
    method.is_checked = True
    head.method = method.value
    head.scheme = value_of(places[SCHEME])
    head.target = value_of(path)
    head.upgrade = value_of(places[PROTOCOL])
    if head.method == CONNECT and not head.upgrade:
        if head.scheme or head.target:
            raise malformed("CONNECT with :scheme or :path")
        head.target = head.path = b"*"
        head.query = b""
        return
    if head.scheme not in DEFAULT_PORTS:
        raise malformed(f"not a :scheme that is served here: {head.scheme[:100]!r}")
    if path is None or not (path.is_checked or TARGETS.fullmatch(path.value)):
        raise malformed(f"not a :path: {head.target[:100]!r}")
    path.is_checked = True
    if not head.target.startswith(b"/") and not (head.target == b"*" and head.method == b"OPTIONS"):
        raise malformed(f"not a :path: {head.target[:100]!r}")
    head.path, _, head.query = head.target.partition(b"?")


def check_fields(fields: tuple[Field, ...]) -> None:
    """Names and values as 8.2.1 wants them, and nothing of 8.2.2."""
    fresh = [field for field in fields if not field.is_checked or field.place]
    if fresh:
        check_bytes(fresh)
    for field in fields:
        if field.marks & FORBIDDEN and not (field.name == b"te" and field.value.lower() == b"trailers"):
            raise malformed(f"a field that speaks of the connection: {field.name!r}")


def check_bytes(fields: list[Field]) -> None:
    names = b"\n".join([field.name for field in fields])
    values = b"\n".join([field.value for field in fields])
    between = len(fields) - 1
    if not NAMES.fullmatch(names + b"\n") or names.count(b"\n") != between:
        bad = [field.name for field in fields if not NAMES.fullmatch(field.name + b"\n")]
        raise malformed(f"not the name of a field: {(bad[0] if bad else names)[:100]!r}")
    if NOT_VALUES.search(b"\n%b\n" % values) or values.count(b"\n") != between:
        raise malformed("a value with control bytes, or with white space around it")
    for field in fields:
        field.is_checked = True


def header_list_size(fields: tuple[Field, ...]) -> int:
    """As SETTINGS_MAX_HEADER_LIST_SIZE counts (6.5.2)."""
    size = 0
    for field in fields:
        size += field.size
    return size


def sorted_out(fields: tuple[Field, ...], mark: int, noted: Noted) -> Headers:
    """The fields to hand on; those of this mark go to `noted`, and of these only claims, Expect and the joined cookie are handed on."""
    lines: list[bytes] = []
    for field in fields:
        if field.marks & mark:
            noted.setdefault(field.name, []).append(field.value)
            if not field.marks & HANDED_ON:
                continue
        lines.append(field.line or field.as_line())
    cookies = noted.get(b"cookie")
    if cookies is not None:
        lines.append(b"cookie: %b\r\n" % b"; ".join(cookies))  # 8.2.3
    return Headers(b"".join(lines))


def set_authority(head: RequestHead, named: Field | None, hosts: list[bytes] | None) -> None:
    """8.3.1: Host may come in place of :authority, or say the same."""
    if hosts is not None and len(hosts) > 1:
        raise WireError("bad_host", 400, "several Host fields")
    if named is not None:
        if not named.is_checked:
            named.line = checked_authority(named.value)
            named.is_checked = True
        head.authority = named.line
    elif hosts is None:
        raise WireError("bad_host", 400, "neither :authority nor Host")
    else:
        head.authority = checked_authority(hosts[0])
        return
    if hosts is not None:
        default = DEFAULT_PORTS.get(head.scheme, b":443")
        if checked_authority(hosts[0]).removesuffix(default) != head.authority.removesuffix(default):
            raise WireError("bad_host", 400, f":authority says {head.authority!r}, Host says {hosts[0]!r}")


def set_length(head: RequestHead, noted: Noted, has_ended: bool) -> None:
    head.content_length = announced(noted)
    head.chunked = head.content_length < 0 and not has_ended
    if has_ended and head.content_length > 0:
        raise malformed(f"content-length says {head.content_length}, but there is no body")


def announced(noted: Noted) -> int:
    """What Content-Length says; -1 for none."""
    lengths = noted.get(b"content-length")
    return -1 if lengths is None else checked_length(lengths)
