"""A listener: where connections come from and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.policy import Choice, Count, Duration, Size
from lbd.routing.route import RoutePolicy

__all__ = ["ForwardedPolicy", "ListenerLimits", "ListenerPolicy", "ListenerTimeouts"]


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`[listener.NAME.limits]`; safe on the open internet."""

    head: Annotated[int, Size(256, 1 << 24)] = 64 * 1024  # bytes of a request's line and fields together: 431
    target: Annotated[int, Size(16, 1 << 20)] = 16 * 1024  # bytes of the request target: 414
    fields: Annotated[int, Count(1, 10_000)] = 100  # 431
    body: Annotated[int, Size(zero="no limit")] = 0  # 413; 0 because uploads are an application's business
    connections: Annotated[int, Count(zero="no limit")] = 100_000  # of this listener, per worker
    requests: Annotated[int, Count(zero="no limit")] = 0  # of one connection
    window: Annotated[int, Size(4096, 1 << 24)] = 64 * 1024  # bytes held for a slow reader, per direction


@dataclass(frozen=True, slots=True)
class ListenerTimeouts:
    """`[listener.NAME.timeouts]`."""

    head: Annotated[float, Duration(0.01)] = 10.0  # a whole request head, not each read of it: 408
    keepalive: Annotated[float, Duration(0.0, zero="no keep-alive")] = 75.0  # between requests
    body: Annotated[float, Duration(0.01)] = 60.0  # no byte of a request body moved: 408; none of a response: closed
    linger: Annotated[float, Duration(0.0)] = 2.0  # after an answer that closes: read on, so that the answer is not lost to a reset


@dataclass(frozen=True, slots=True)
class ForwardedPolicy:
    """`[listener.NAME.forwarded]`: what the upstream is told about the client."""

    trusted_proxies: tuple[str, ...] = ()  # addresses or networks whose X-Forwarded-* fields and x-request-id are believed
    x_forwarded: bool = True  # X-Forwarded-For, -Proto, -Host
    via: bool = True
    request_id: bool = True  # x-request-id: kept from trusted proxies, else made


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """`[listener.NAME]`."""

    name: str
    bind: tuple[str, ...]
    protocol: Annotated[str, Choice(("http",))] = "http"
    cluster: str = ""  # shorthand for one catch-all route
    routes: tuple[RoutePolicy, ...] = ()  # TOML: [[listener.NAME.route]]
    backlog: Annotated[int, Count(1, 65535)] = 4096
    mode: str = "0660"  # of a unix socket's file
    reason_header: bool = False  # x-lbd-reason on every answer that lbd itself makes
    half_close: Annotated[str, Choice(("abort", "allow"))] = "abort"  # a client that shuts down its sending side mid-exchange
    limits: ListenerLimits = field(default_factory=ListenerLimits)
    timeouts: ListenerTimeouts = field(default_factory=ListenerTimeouts)
    forwarded: ForwardedPolicy = field(default_factory=ForwardedPolicy)
