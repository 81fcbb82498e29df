"""Who may ask the admin listener: pure decisions over one request's fields.

With a token: everything but /healthz and /readyz needs `Authorization: Bearer TOKEN`; orchestrators' probes cannot carry one.

Without a token the listener is on loopback or a unix socket (the configuration sees to that). Who may open a unix socket is told by
its file's mode, and may do everything. On loopback every user of the machine may ask, and every program there that can be made to send
a request to a place of a stranger's choice; so nothing is changed there, but that the configuration may be read again, which
brings nothing in force that its owner has not written.

A browser on this machine can connect too, on behalf of any page it shows:
- a page of evil.example whose name was re-bound to 127.0.0.1 reads answers as its own: its requests carry that name in Host, so
  Host must be an IP address or localhost, which no DNS answer can be bound to;
- a page of another site cannot read answers but can send a POST: browsers put Origin (or Sec-Fetch-Site) on it, programs do not.
"""

from __future__ import annotations

import hmac
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OPEN_PATHS", "Refusal", "check_access"]

OPEN_PATHS = ("/healthz", "/readyz")
SAFE_METHODS = ("GET", "HEAD")


class Refusal(NamedTuple):
    status: int
    sentence: str


def check_access(
    method: str, path: str, fields: Mapping[str, str], token: str, *, is_unix: bool = False, is_command: bool = False
) -> Refusal | None:
    """`fields` by lower-case name; `is_command`: it changes what is in force. None: may ask."""
    if path in OPEN_PATHS:
        return None
    if token:
        return _check_token(fields.get("authorization", ""), token)
    if is_unix:  # a matter of file permissions; no browser opens one
        return None
    if "host" in fields and not _is_local(fields["host"]):
        return Refusal(403, f'Host is "{fields["host"]}": without [admin] token only an IP address or localhost may be asked')
    if method not in SAFE_METHODS and ("origin" in fields or fields.get("sec-fetch-site", "none") != "none"):
        return Refusal(403, "a web page may not change anything: set [admin] token, or send the request without Origin")
    if is_command:
        where = "`lbd status` says where it is; without one, set [admin] control"
        return Refusal(403, f"changes are taken by the control socket ({where}), or with a token: set [admin] token")
    return None


def _check_token(authorization: str, token: str) -> Refusal | None:
    scheme, _, given = authorization.partition(" ")
    # Bytes: compare_digest takes only ASCII text. Its time depends on the length given, not on where the two differ.
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode()):
        return None
    return Refusal(401, "send the header Authorization: Bearer TOKEN, with the token of [admin] in the configuration")


def _is_local(authority: str) -> bool:
    """No name but localhost can be trusted: RFC 6761 section 6.3 keeps it out of DNS."""
    try:
        host = urlsplit(f"//{authority}").hostname or ""
        if host == "localhost" or host.endswith(".localhost"):
            return True
        ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
