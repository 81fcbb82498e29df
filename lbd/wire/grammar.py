"""The grammar of HTTP/1 messages as regular expressions, and what names mean.

Stricter than RFC 9112 where old leniency has served request smuggling: lines end in CRLF only, no control byte anywhere, no
fragment in a target. Possessive quantifiers keep matching linear whatever is sent.
"""

from __future__ import annotations

import re
from itertools import product

__all__ = [
    "ABSOLUTE",
    "AUTHORITY",
    "CHUNK_LINE",
    "CHUNK_START",
    "CLAIMS",
    "FIELDS",
    "FIELD_LINE",
    "HOP_BY_HOP",
    "HOP_BY_HOP_LINES",
    "LINE_START",
    "LOOKALIKES",
    "NOT_TEXT",
    "NOT_TRAILERS",
    "NOT_TRAILERS_LINES",
    "OF_PROXIES",
    "REQUEST",
    "REQUEST_LINE",
    "RESPONSE",
    "STATUS_LINE",
    "TOKENS",
]

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"
TEXT = rb"[\t\x20-\x7e\x80-\xff]"
FIELD = TOKEN + rb"++:" + TEXT + rb"*+\r\n"

# Heads, whole. A target has no "#": a fragment is the user agent's business, and those who cut it off and those who do not
# see different paths (CVE-2023-45539).
METHOD_TARGET = rb"(" + TOKEN + rb"{1,32}) ([!\"$-~]++) "
REQUEST = re.compile(METHOD_TARGET + rb"HTTP/1\.([01])\r\n((?:" + FIELD + rb")*+)\r\n")
# Real origins leave out the reason phrase, and the space before it too.
RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: (" + TEXT + rb"*+))?\r(\n(?:" + FIELD + rb")*+)\r\n")
TOKENS = re.compile(TOKEN + rb"++")
FIELD_LINE = re.compile(FIELD)
FIELDS = re.compile(rb"(?:" + FIELD + rb")*+")

# Heads in pieces, to refuse what cannot become one
REQUEST_LINE = re.compile(METHOD_TARGET + rb"HTTP/(?P<version>[0-9]\.[0-9])")
STATUS_LINE = re.compile(rb"HTTP/(?P<version>[0-9]\.[0-9]) [1-9][0-9]{2}(?: " + TEXT + rb"*+)?")
LINE_START = re.compile(TOKEN + rb"{1,32}(?: [!\"$-~]*+(?: [HTP/0-9.]*+\r?)?)?|HTTP/[0-9.]*+(?: " + TEXT + rb"*+\r?)?")
NOT_TEXT = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?!\n|\Z)")

ABSOLUTE = re.compile(rb"(?i:http(s?))://([^/?]*+)([/?].*)?")
# RFC 3986, 3.2: reg-name, IPv4 or an IPv6 literal; no userinfo, no empty host, no empty port.
AUTHORITY = re.compile(rb"((?:[A-Za-z0-9._~!$&'()*+,;=-]++|%[0-9A-Fa-f]{2})++|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")

# A chunk's first line, and what may become one. Fifteen digits are 2**60; nobody sends white space before an extension.
CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;" + TEXT + rb"*+)?")
CHUNK_START = re.compile(rb"[0-9A-Fa-f]{1,15}(?:;" + TEXT + rb"*+)?\r?|")

# What a client and its own proxy, which we are not, tell each other (RFC 9110, 11.7): credentials above all, no upstream's to read.
OF_PROXIES = frozenset((b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization"))
# RFC 9110, 7.6.1, and what old agents send; these never cross.
HOP_BY_HOP = OF_PROXIES | {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"content-length"}
# What proxies write about those before them. CGI, WSGI and their kin take "X_Real_IP" for the same name.
WRITTEN = (
    b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
    b"x-request-id", b"x-request-attempt", b"x-client-cert-verify", b"x-client-cert-subject", b"x-client-cert-san",
    b"x-client-cert-fingerprint",
)  # fmt: skip
LOOKALIKES = frozenset(  # and those that would frame a request, to them and to nobody else
    spelled
    for name in (*WRITTEN, b"content-length", b"transfer-encoding")
    for marks in product((b"-", b"_"), repeat=name.count(b"-"))
    if (spelled := b"".join(word + mark for word, mark in zip(name.split(b"-"), (*marks, b""), strict=True))) != name
)
CLAIMS = frozenset(WRITTEN) | LOOKALIKES
# RFC 9110, 6.5.1: no framing, routing, authentication, modifiers, controls or content format behind the content. Whoever merges
# trailers into the head would otherwise take them from somebody who was checked without them.
NOT_TRAILERS = HOP_BY_HOP | CLAIMS | frozenset((
    b"age", b"authorization", b"cache-control", b"content-encoding", b"content-range", b"content-type", b"cookie", b"date", b"expect",
    b"expires", b"host", b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since", b"location",
    b"max-forwards", b"pragma", b"range", b"retry-after", b"set-cookie", b"trailer", b"vary", b"warning", b"www-authenticate",
))  # fmt: skip


def lines_of(names: frozenset[bytes]) -> re.Pattern[bytes]:
    """Finds fields of these names, (name)(value), in a block of lines that has been checked and begins with a line feed."""
    initials = b"".join(sorted({letter for name in names for letter in (name[:1], name[:1].upper())}))
    return re.compile(rb"\n(?=[" + initials + rb"])((?i:" + b"|".join(map(re.escape, sorted(names))) + rb")):([^\r]*+)\r")


HOP_BY_HOP_LINES = lines_of(HOP_BY_HOP)
NOT_TRAILERS_LINES = lines_of(NOT_TRAILERS)
