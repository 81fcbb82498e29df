"""Requests as the routing and the forwarding see them."""

from __future__ import annotations

from lbd.wire.message import Headers, RequestHead

__all__ = ["make_request"]

PROXY_FIELDS = ("forwarded", "via", "x-real-ip", "x-request-id", "x-request-attempt")


def make_request(
    target: str = "/", host: str = "example.com", method: str = "GET", *fields: tuple[str, str], **rest: object
) -> RequestHead:
    """The head of `METHOD target HTTP/1.1`; more `fields` behind Host, and other attributes by name."""
    names = [name.lower() for name, _ in fields]
    return RequestHead.make(
        method=method.encode(),
        target=target.encode(),
        authority=host.lower().encode(),
        headers=Headers.of((name.encode(), value.encode("latin-1")) for name, value in fields),
        has_proxy_fields=any(name in PROXY_FIELDS or name.startswith("x-forwarded-") for name in names),
        **rest,
    )
