"""HTTP/1 heads, parsed strictly: one regular expression says whether, the fields that frame or route say how.

This is the grammar's reference, the whole parser where nothing is compiled, and the only place that refuses: the compiled
scanner (head.pyx) takes the plain cases and leaves everything else to the functions here.

Accepted on purpose: underscores in names (an upstream that maps "-" to "_" must know what it does; grammar.LOOKALIKES are its help),
bytes 0x80-0xff in values, Content-Length repeated with the very same digits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.grammar import (
    ABSOLUTE,
    AUTHORITY,
    CLAIMS,
    FIELDS,
    HOP_BY_HOP,
    HOP_BY_HOP_LINES,
    LINE_START,
    NOT_TEXT,
    NOT_TRAILERS_LINES,
    REQUEST,
    REQUEST_LINE,
    RESPONSE,
    STATUS_LINE,
)
from lbd.wire.message import Headers, RequestHead, ResponseHead
from lbd.wire.refusal import WireError, explained, field_error, first_line_error, malformed, target_error

if TYPE_CHECKING:
    import re

    from lbd.wire.refusal import HeadLimits

__all__ = ["find_head_end", "parse_request", "parse_response", "parse_trailers"]

REQUEST_NOTED = HOP_BY_HOP | CLAIMS | {b"host", b"expect"}
KEEP_ALIVE = [b"keep-alive"]
NEVER_NAMED = HOP_BY_HOP | {b"close"}  # options of their own, or not among the fields anyhow
EARLY = 64  # bytes within which the beginning of a first line is looked at more than once
LONGEST_METHOD = 32
LEAST_FIELD = 4  # bytes: "a:" and its line end
LONGEST_LENGTH = 18  # digits; one more would not fit 63 bits

Noted = dict[bytes, list[bytes]]


def find_head_end(buffer: bytes, searched: int, limits: HeadLimits) -> int:
    """The index after the empty line, -1 when it has not come; nothing before `searched` needs to be looked at again.

    WireError: it is too long, or cannot be HTTP whatever follows.
    """
    end = buffer.find(b"\r\n\r\n", searched) + 4
    if 4 <= end <= limits.head:
        return end
    if buffer:
        check_beginning(buffer, searched, end >= 4, limits)
    return -1


def check_beginning(buffer: bytes, searched: int, is_whole: bool, limits: HeadLimits) -> None:
    """WireError for a head that is too long, or not whole and already wrong."""
    line_end = buffer.find(b"\r\n")
    line = buffer if line_end < 0 else buffer[:line_end]
    is_request = not line.startswith(b"HTTP/")
    target = line.partition(b" ")[2].partition(b" ")[0]
    if is_request and len(target) > limits.target:
        raise target_error(limits)
    if is_whole or len(buffer) >= limits.head:
        raise WireError("head_too_large", 431, f"the head is above {limits.head} bytes")
    if line_end < 0:
        is_right = searched > EARLY or LINE_START.fullmatch(line) is not None
    else:
        is_right = line_end + 1 < searched or bool(REQUEST_LINE.fullmatch(line) or STATUS_LINE.fullmatch(line))
    if not is_right:
        raise explained(first_line_error(line), buffer, is_request)
    if NOT_TEXT.search(buffer, max(0, searched - 1)):
        raise explained(field_error(buffer[line_end + 2 :]), buffer, is_request)


def parse_request(buffer: bytes, start: int, end: int, limits: HeadLimits) -> RequestHead:
    """The head that find_head_end found."""
    match = REQUEST.fullmatch(buffer, start, end)
    try:
        if match is None:
            raise malformed(buffer[start:end], REQUEST_LINE)
        method, target, minor, block = match.groups()
        if len(target) > limits.target:
            raise target_error(limits)
        noted: Noted = {}
        head = RequestHead()
        head.method = method
        head.minor = 1 if minor == b"1" else 0
        head.headers = sorted_out(block, noted, limits)
        set_target(head, target, noted.pop(b"host", None))
        if noted:
            set_framing(head, noted)
            set_connection(head, noted)
            set_wishes(head, noted)
        else:  # nothing but Host
            head.content_length = -1
            head.keep_alive = head.minor > 0
            head.upgrade = b""
            head.chunked = head.has_proxy_fields = head.te_trailers = head.expect_continue = False
    except WireError as error:
        if error.status in (400, 501):
            raise explained(error, buffer[start:end], True) from None
        raise
    return head


def parse_response(buffer: bytes, start: int, end: int, limits: HeadLimits) -> ResponseHead:
    """As parse_request; a 1xx is one too."""
    match = RESPONSE.fullmatch(buffer, start, end)
    try:
        if match is None:
            raise malformed(buffer[start:end], STATUS_LINE)
        minor, status, reason, block = match.groups()
        noted: Noted = {}
        head = ResponseHead()
        head.status = int(status)
        head.reason = reason or b""
        head.minor = 1 if minor == b"1" else 0
        head.headers = without(HOP_BY_HOP_LINES, block, noted, limits)
        set_framing(head, noted)
        set_connection(head, noted)
    except WireError as error:
        if error.status in (400, 501):
            raise explained(error, buffer[start:end], False) from None
        raise
    return head


def parse_trailers(block: bytes, limits: HeadLimits) -> Headers | None:
    """A block of field lines, without those that must not come last; None when none is left."""
    if not FIELDS.fullmatch(block):
        raise field_error(block, "bad_trailers")
    noted: Noted = {}
    try:
        headers = without(NOT_TRAILERS_LINES, b"\n" + block, noted, limits)
        set_framing(ResponseHead.make(), noted)  # not obeyed, but refused where it would be refused in a head
    except WireError as error:
        raise WireError("bad_trailers", 431 if error.status == 431 else 400, error.message) from None
    return headers if len(headers) else None


def sorted_out(block: bytes, noted: Noted, limits: HeadLimits) -> Headers:
    """A request's fields to hand on; REQUEST_NOTED go to `noted` (and of these only claims, and Expect, are handed on)."""
    kept: list[bytes] = []
    keep = kept.append
    lines = block.split(b"\r\n")
    if len(lines) > limits.fields + 1:  # nothing follows the last line end
        raise too_many_fields(limits)
    for line in lines:
        name, _, value = line.partition(b":")
        key = name.lower()
        if key in REQUEST_NOTED:
            noted.setdefault(key, []).append(value.strip(b" \t"))
            if key not in CLAIMS and key != b"expect":
                continue
        keep(line)
    return Headers(b"\r\n".join(kept))


def without(lines: re.Pattern[bytes], block: bytes, noted: Noted, limits: HeadLimits) -> Headers:
    """The fields but for those that `lines` finds, which go to `noted`. A response has more fields than a request and fewer that matter:
    one search takes two thirds of the time that a look at each line does. `block` has a line feed in front."""
    if len(block) > LEAST_FIELD * limits.fields and block.count(b"\n") > limits.fields + 1:
        raise too_many_fields(limits)
    pieces = lines.split(block)
    if len(pieces) == 1:
        return Headers(block[1:])
    for i in range(1, len(pieces), 3):
        noted.setdefault(pieces[i].lower(), []).append(pieces[i + 1].strip(b" \t"))
    return Headers(b"".join(pieces[::3])[1:])


def too_many_fields(limits: HeadLimits) -> WireError:
    return WireError("head_too_large", 431, f"more than {limits.fields} fields")


def set_target(head: RequestHead, target: bytes, hosts: list[bytes] | None) -> None:
    """Target and authority, whatever form they came in (RFC 9112, 3.2)."""
    if head.method == b"CONNECT":
        raise WireError("unsupported", 501, "CONNECT is not served here")
    if hosts is None:
        if head.minor > 0:
            raise WireError("bad_host", 400, "no Host field")
        authority = b""
    else:
        authority = checked_authority(hosts[0])
        if len(hosts) > 1:
            raise WireError("bad_host", 400, "several Host fields")
    if not target.startswith(b"/") and (target != b"*" or head.method != b"OPTIONS"):
        target, authority = origin_form(head.method, target, authority)
    head.scheme = b"http"
    head.target = target
    head.authority = authority
    head.path, _, head.query = target.partition(b"?")


def set_wishes(head: RequestHead, noted: Noted) -> None:
    """Who has passed it on, and what its sender would like."""
    head.has_proxy_fields = not CLAIMS.isdisjoint(noted)
    # HTTP/1.0 has no chunks that trailers could come behind.
    head.te_trailers = b"te" in noted and head.minor > 0 and b"trailers" in listed(noted[b"te"])
    head.expect_continue = b"expect" in noted and head.minor > 0 and b"100-continue" in listed(noted[b"expect"])
    if head.minor == 0:
        head.headers.remove(b"expect")  # HTTP/1.0 does not know it (RFC 9110, 10.1.1), and upstream we speak HTTP/1.1


def origin_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Target and authority of an absolute-form. With Host it must agree: proxies before us may have routed by either."""
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        raise WireError("bad_request", 400, f"not a target: {target[:100]!r}")
    authority = checked_authority(match[2])
    default = b":443" if match[1] else b":80"
    if host and authority.removesuffix(default) != host.removesuffix(default):
        raise WireError("bad_host", 400, f"the target says {authority!r}, Host says {host!r}")
    rest = match[3]
    if rest is None:
        return (b"*" if method == b"OPTIONS" else b"/"), authority
    return (b"/" + rest if rest.startswith(b"?") else rest), authority


def checked_authority(text: bytes) -> bytes:
    if not AUTHORITY.fullmatch(text):
        raise WireError("bad_host", 400, f"not a host: {text[:100]!r}" if text else "an empty Host")
    return text.lower()


def set_framing(head: RequestHead | ResponseHead, noted: Noted) -> None:
    """Where the body ends (RFC 9112, 6.3), as announced. Anything that two readers could see differently is refused."""
    lengths = noted.get(b"content-length")
    head.content_length = -1 if lengths is None else checked_length(lengths)
    codings = noted.get(b"transfer-encoding")
    head.chunked = codings is not None
    if codings is not None:
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise WireError("unsupported", 501, f"a transfer coding that is not chunked: {b', '.join(codings)[:100]!r}")
        if lengths is not None:
            raise WireError("bad_framing", 400, "both Content-Length and Transfer-Encoding")
        if head.minor == 0:
            raise WireError("bad_framing", 400, "Transfer-Encoding in HTTP/1.0")


def checked_length(values: list[bytes]) -> int:
    if len(values) == 1 and values[0].isdigit() and len(values[0]) <= LONGEST_LENGTH:  # as good as always
        return int(values[0])
    digits = {part.strip(b" \t") for value in values for part in value.split(b",")}
    if len(digits) > 1:
        raise WireError("bad_framing", 400, "Content-Length fields that differ")
    length = digits.pop()
    if not length.isdigit() or len(length) > LONGEST_LENGTH:
        raise WireError("bad_framing", 400, f"not a Content-Length: {length[:100]!r}")
    return int(length)


def set_connection(head: RequestHead | ResponseHead, noted: Noted) -> None:
    """What Connection says: to close, to upgrade, and which fields are not for us to hand on (RFC 9110, 7.6.1)."""
    head.upgrade = b""
    values = noted.get(b"connection")
    if values is None:
        head.keep_alive = head.minor > 0
        return
    if values == KEEP_ALIVE:  # as good as always
        head.keep_alive = True
        return
    options = listed(values)
    head.keep_alive = b"close" not in options and (head.minor > 0 or b"keep-alive" in options)
    if b"upgrade" in options and b"upgrade" in noted:
        head.upgrade = b", ".join(noted[b"upgrade"])
    named = frozenset(options) - NEVER_NAMED
    if named:
        head.headers.remove_all(named)


def listed(values: list[bytes]) -> list[bytes]:
    """The members of a list in lower case; a repeated field is one list."""
    return [member for value in values for part in value.lower().split(b",") if (member := part.strip(b" \t"))]
