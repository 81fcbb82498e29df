"""How a path is read before it is matched.

Theory. A route that guards /admin is worth nothing if /x/../admin, //admin or /%61dmin slips past it and the upstream then reads
/admin. What an upstream makes of such a path we cannot know: RFC 3986 (section 6.2.2) says that %61 is "a" and that dot segments
resolve; servers differ on empty segments, on %2F, on backslashes, on ";parameters". So:

- Percent-escapes are decoded, all but those of / \\ % and ; (a decoded slash would change the segments). An escape that is none,
  and an escaped NUL, is refused: nginx does the same.
- Runs of slashes count as one (nginx: merge_slashes). The ";parameters" of a segment (";jsessionid=1") do not count, unless a
  route of the listener names a ";".
- Where upstreams honestly differ, a path has several **readings**: dot segments resolved and literal; %2F, %5C and "\\" opaque and
  as separators. The table looks up each, and a request whose readings lead to different routes is refused. Nobody's honest
  request is: browsers and libraries resolve dots before they send, and an escaped slash inside one route stays what it is.
- What mixes these tricks (dots with escaped slashes, with empty segments, with parameters), or climbs above the root, is refused.

The upstream gets the target as it came, byte for byte, unless the route rewrites it; a rewrite starts from `canonical`, in
which dots are resolved, so that no prefix can be climbed out of.
"""

from __future__ import annotations

import re

from lbd.errors import ProxyError, Side

__all__ = ["canonical", "cut_segments", "is_suspect", "pattern_key", "quoted", "readings"]

# "/.well-known" is not suspect: a dot segment is a whole segment.
SUSPECT = re.compile(rb"[%\\;]|//|/\.\.?(?:/|\Z)")
ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
DOTS = re.compile(rb"/\.\.?(?=[/;]|\Z)")
SLASHES = re.compile(rb"//+")
SEPARATORS = re.compile(rb"%2F|%5C")
PARAMETERS = re.compile(rb";[^/]*")
KEPT_ESCAPES = {0x2F: b"%2F", 0x5C: b"%5C", 0x25: b"%25", 0x3B: b"%3B"}
# RFC 3986 pchar, "/" and "%": the latter is there only in KEPT_ESCAPES.
UNQUOTED = re.compile(rb"[^A-Za-z0-9._~!$&'()*+,;=:@/%-]")


def refusal(reason: str, message: str) -> ProxyError:
    return ProxyError(Side.DOWNSTREAM, reason, 400, message)


def is_suspect(path: bytes) -> bool:
    """Whether a path has to be read with care; most have not."""
    return SUSPECT.search(path) is not None


def readings(path: bytes, ignore_parameters: bool) -> tuple[bytes, ...]:
    """Every way in which an upstream may read this path, the canonical one first; raises what is to be refused."""
    if SUSPECT.search(path) is None:
        return (path,)
    text = decoded(path)
    opaque = SEPARATORS.search(text) is not None
    if DOTS.search(text):
        if opaque or b";" in text or b"//" in text:
            raise refusal("ambiguous_path", "dot segments mixed with empty segments, parameters, or escaped slashes")
        return (resolved(text), text)
    merged = SLASHES.sub(b"/", text)
    forms: tuple[bytes, ...] = (merged,)
    if opaque:
        loose = SLASHES.sub(b"/", SEPARATORS.sub(b"/", merged))
        if DOTS.search(loose):
            raise refusal("ambiguous_path", "dot segments between escaped slashes or backslashes")
        forms = (merged, loose)
    if not ignore_parameters or b";" not in text:
        return forms
    return tuple(SLASHES.sub(b"/", PARAMETERS.sub(b"", form)) for form in forms)  # "/;x/a" leaves an empty segment


def canonical(path: bytes) -> bytes:
    """The path in normal form, as a rewrite sends it: dots resolved, slashes merged, parameters kept, escaped where it must be."""
    return quoted(readings(path, False)[0]) if is_suspect(path) else path


def pattern_key(pattern: str) -> bytes:
    """What a path written in the configuration is compared as; ValueError for one that no request could match."""
    if not pattern.startswith("/"):
        raise ValueError(f'"{pattern}": a path starts with "/"')
    try:
        return readings(pattern.encode(), False)[0]
    except ProxyError as error:
        raise ValueError(f'"{pattern}": {error.message}') from None


def cut_segments(path: bytes, count: int) -> bytes:
    """The path without its first `count` segments: b"" or something that starts with a slash."""
    at = 0
    for _ in range(count):
        at = path.find(b"/", at + 1)
        if at < 0:
            return b""
    return path[at:]


def quoted(text: bytes) -> bytes:
    """Decoded text as it may stand in a request target."""
    return UNQUOTED.sub(lambda match: b"%%%02X" % ord(match[0]), text)


def decoded(path: bytes) -> bytes:
    text = ESCAPE.sub(decode_escape, path) if b"%" in path else path
    return text.replace(b"\\", b"%5C")  # it belongs in no path, and where one has it, both ways to write it are the same


def decode_escape(match: re.Match[bytes]) -> bytes:
    digits = match[1]
    if digits is None:
        raise refusal("bad_path", "a percent sign without two hexadecimal digits behind it")
    code = int(digits, 16)
    if code == 0:
        raise refusal("bad_path", "an escaped NUL in the path")
    return KEPT_ESCAPES.get(code) or bytes((code,))


def resolved(text: bytes) -> bytes:
    """RFC 3986, 5.2.4, but a path that climbs above the root is refused instead of clipped."""
    kept: list[bytes] = []
    segments = text.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            if not kept:
                raise refusal("bad_path", "the path climbs above the root")
            kept.pop()
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")  # "/a/." is the directory "/a/"
    return b"/" + b"/".join(kept)
