"""What a listener may be told: where connections come from and what they may do. proxy/listening.py obeys it.

A file of its own, because the master needs the policies but none of what serves connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.policy import Choice, Count, Duration, Size
from lbd.proxy.tls_policy import ListenerTlsPolicy
from lbd.routing.hello import PassthroughPolicy
from lbd.routing.route import RoutePolicy
from lbd.wire.http2_limits import Http2Limits

__all__ = ["ForwardedPolicy", "Http2Policy", "ListenerLimits", "ListenerPolicy", "ListenerTimeouts", "ProxyProtocolPolicy", "http2_limits"]


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`[listener.NAME.limits]`; safe on the open internet."""

    head: Annotated[int, Size(256, 1 << 24)] = 64 * 1024  # bytes of a request's line and fields together: 431
    target: Annotated[int, Size(16, 1 << 20)] = 16 * 1024  # bytes of the request target: 414
    fields: Annotated[int, Count(1, 10_000)] = 100  # 431
    body: Annotated[int, Size(zero="no limit")] = 0  # 413; 0 because uploads are an application's business
    connections: Annotated[int, Count(zero="no limit")] = 100_000  # of this listener, per worker
    # Of one address (IPv6: of its /64), per worker; trusted proxies and this machine have no limit. A large office is one address.
    connections_per_address: Annotated[int, Count(zero="no limit")] = 1000
    requests: Annotated[int, Count(zero="no limit")] = 0  # of one connection
    # Bytes a second, while everything waits for the client (proxy/pace.py): what a modem of 2,400 baud has; nobody works with less.
    min_upload_rate: Annotated[int, Size(0, 1 << 30, zero="no limit")] = 240  # of a request's body: 408
    min_download_rate: Annotated[int, Size(0, 1 << 30, zero="no limit")] = 240  # of a response: closed
    rate_grace: Annotated[float, Duration()] = 20.0  # seconds of waiting in which less may come, or go
    window: Annotated[int, Size(4096, 1 << 24)] = 64 * 1024  # bytes held for a slow reader, per direction


@dataclass(frozen=True, slots=True)
class ListenerTimeouts:
    """`[listener.NAME.timeouts]`."""

    handshake: Annotated[float, Duration(0.01)] = 10.0  # each of what comes before the first request: PROXY header, ClientHello, TLS
    head: Annotated[float, Duration(0.01)] = 10.0  # a whole request head, not each read of it: 408
    keepalive: Annotated[float, Duration(0.0, zero="no keep-alive")] = 75.0  # between requests
    body: Annotated[float, Duration(0.01)] = 60.0  # no byte of a request body moved: 408; none of a response: closed
    linger: Annotated[float, Duration(0.0)] = 2.0  # after an answer that closes: read on, so that the answer is not lost to a reset
    # No byte either way after an upgrade. Long, for who cares pings; a short one (nginx: a minute) cuts conversations in their pauses.
    tunnel_idle: Annotated[float, Duration(0.0, zero="no limit")] = 3600.0
    tunnel_lifetime: Annotated[float, Duration(0.0, zero="no limit")] = 0.0  # of an upgraded connection, however busy


@dataclass(frozen=True, slots=True)
class ProxyProtocolPolicy:
    """`[listener.NAME.proxy_protocol]`: who may say, by a PROXY header, for whom it connects. proxy/proxied.py obeys it."""

    trusted: tuple[str, ...] = ()  # addresses, networks, "unix:"; from others a header is refused
    optional: bool = False  # trusted ones may come without a header


@dataclass(frozen=True, slots=True)
class ForwardedPolicy:
    """`[listener.NAME.forwarded]`: what the upstream is told about the client."""

    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* fields and x-request-id are believed
    x_forwarded: bool = True  # X-Forwarded-For, -Proto, -Host
    via: bool = True
    request_id: bool = True  # x-request-id: kept from trusted proxies, else made


MOST_WINDOW = 1 << 30  # bytes of a connection; HTTP/2 knows no window of 2 GiB (RFC 9113 6.9.1)


@dataclass(frozen=True, slots=True)
class Http2Policy:
    """`[listener.NAME.http2]`."""

    enabled: bool = True  # by ALPN, and in plain text for clients that know (RFC 9113 3.3)
    max_streams: Annotated[int, Count(1, 65_535)] = 100  # of one connection at a time
    # Bytes of request bodies held, of all streams of a connection together. With less than max_streams windows, as many stuck uploads as it
    # has windows hold up all others; and behind another proxy those are other people's. -1: so many (nginx, and lbd upstream).
    connection_window: Annotated[int, Size(65_535, MOST_WINDOW)] = -1
    max_age: Annotated[float, Duration(zero="no limit")] = 3600.0  # of a connection; then a GOAWAY, so that clients spread anew
    max_resets: Annotated[int, Count(1)] = 200  # streams reset because of the client, within 10 s: two times max_streams (CVE-2023-44487)


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """`[listener.NAME]`."""

    name: str
    bind: tuple[str, ...]
    protocol: Annotated[str, Choice(("http", "tcp"))] = "http"
    tls: ListenerTlsPolicy | None = None
    redirect_to_https: bool = False  # every request is answered with 308 to the same URL with https
    cluster: str = ""  # shorthand for one catch-all route
    routes: tuple[RoutePolicy, ...] = ()  # TOML: [[listener.NAME.route]]
    passthrough: tuple[PassthroughPolicy, ...] = ()  # TOML: [[listener.NAME.passthrough]]
    proxy_protocol: ProxyProtocolPolicy | None = None
    backlog: Annotated[int, Count(1, 65535)] = 4096
    mode: str = "0660"  # of a unix socket's file
    reason_header: bool = False  # x-lbd-reason on every answer that lbd itself makes
    upgrades: tuple[str, ...] = ("websocket",)  # protocols that a client may change to; bytes of others pass no proxy that cares
    half_close: Annotated[str, Choice(("abort", "allow"))] = "abort"  # a client that shuts down its sending side mid-exchange
    limits: ListenerLimits = field(default_factory=ListenerLimits)
    timeouts: ListenerTimeouts = field(default_factory=ListenerTimeouts)
    forwarded: ForwardedPolicy = field(default_factory=ForwardedPolicy)
    http2: Http2Policy = field(default_factory=Http2Policy)


def http2_limits(policy: ListenerPolicy) -> Http2Limits:
    """What of it a connection of HTTP/2 has to obey."""
    limits, http2 = policy.limits, policy.http2
    for_all = min(limits.window * http2.max_streams, MOST_WINDOW)
    return Http2Limits(
        head=limits.head,
        target=limits.target,
        fields=limits.fields,
        streams=http2.max_streams,
        window=limits.window,
        connection_window=for_all if http2.connection_window < 0 else http2.connection_window,
        resets=http2.max_resets,
        extended_connect=bool(policy.upgrades),
    )
