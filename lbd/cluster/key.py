"""What of a request the hashing balances go by: `hash_key`.

Parsed once, when the configuration is applied; of() is one call of the function that the parse has found. What a request does not
have is the empty key, which the hashes spread over all endpoints (hashed.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.wire.message import RequestHead

    Extract = Callable[[RequestHead, str], bytes]

__all__ = ["HashKey"]

FORMS = "client-ip, path, uri, host, header:NAME, cookie:NAME or query:NAME"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2; a cookie's name is one too (RFC 6265 4.1.1)


class HashKey:
    """ValueError says what is wrong with `text`."""

    __slots__ = ("_extract", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self._extract = _parse(text)

    def __repr__(self) -> str:
        return f"HashKey({self.text!r})"

    def of(self, request: RequestHead, client: str) -> bytes:
        """The key of a request from that client address."""
        return self._extract(request, client)


def _parse(text: str) -> Extract:
    whole: dict[str, Extract] = {
        "client-ip": lambda _request, client: client.encode(),
        "path": lambda request, _client: request.path,
        "uri": lambda request, _client: request.target,
        "host": lambda request, _client: _host(request.authority),
    }
    if text in whole:
        return whole[text]
    kind, colon, name = text.partition(":")
    if kind not in ("header", "cookie", "query") or not colon:
        raise ValueError(f'"{text}" is not something to hash by: write {FORMS}')
    if not name or (kind != "query" and not TOKEN.fullmatch(name)):
        raise ValueError(f'"{text}" names no {kind}: write {kind}:NAME, such as {kind}:user')
    return _named(kind, name)


def _named(kind: str, name: str) -> Extract:
    if kind == "header":
        field = name.lower().encode()
        return lambda request, _client: request.headers.get(field) or b""
    wanted = name.encode() + b"="
    if kind == "cookie":
        return lambda request, _client: _find(b";".join(request.headers.get_all(b"cookie")), b";", wanted)
    return lambda request, _client: _find(request.query, b"&", wanted)


def _host(authority: bytes) -> bytes:
    """Without the port: "[::1]:80" is the same host as "[::1]:81"."""
    host, colon, port = authority.rpartition(b":")
    return host if colon and (port.isdigit() or not port) else authority


def _find(text: bytes, separator: bytes, wanted: bytes) -> bytes:
    """The value of the first pair with that name, as it stands there."""
    if wanted in text:
        for pair in text.split(separator):
            stripped = pair.strip()
            if stripped.startswith(wanted):
                return stripped[len(wanted) :]
    return b""
