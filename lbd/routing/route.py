"""A route: what a request must look like, and what happens to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.policy import Count, Duration, Size

__all__ = ["HeaderEdits", "RedirectPolicy", "RespondPolicy", "RewritePolicy", "RoutePolicy", "RouteTimeouts"]


@dataclass(frozen=True, slots=True)
class RespondPolicy:
    """`respond = { status, body, headers }`: a fixed answer."""

    status: Annotated[int, Count(200, 599)] = 200
    body: str = ""
    content_type: str = "text/plain; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RedirectPolicy:
    """`redirect = { ... }`: parts not named stay as the client sent them."""

    status: Annotated[int, Count(300, 399)] = 308
    scheme: str = ""
    host: str = ""
    port: Annotated[int, Count(0, 65535)] = 0
    path: str = ""  # replaces the whole path
    prefix: str = ""  # replaces the matched prefix
    location: str = ""  # a whole URL; excludes the others


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """`{ set = {..}, add = {..}, remove = [..] }`."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RewritePolicy:
    """`rewrite = { ... }`: what changes on the way."""

    path: str = ""  # replaces the whole path; with path_regex, \\1 ... are its groups
    prefix: str = ""  # replaces the matched prefix (`path`)
    host: str = ""  # the Host field sent upstream; "" keeps the client's
    request_headers: HeaderEdits = field(default_factory=HeaderEdits)
    response_headers: HeaderEdits = field(default_factory=HeaderEdits)


@dataclass(frozen=True, slots=True)
class RouteTimeouts:
    """A route's override of its cluster's timeouts; -1 keeps the cluster's (not writable as such)."""

    connect: Annotated[float, Duration(0.001)] = -1.0
    response: Annotated[float, Duration()] = -1.0
    idle: Annotated[float, Duration()] = -1.0
    total: Annotated[float, Duration()] = -1.0


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    """`[[listener.NAME.route]]`. Exactly one of cluster, clusters, respond, redirect."""

    name: str = ""  # "" becomes route-1, route-2, ... in file order
    host: tuple[str, ...] = ()  # exact or "*.example.com"; TOML: one string or a list; () is any
    path: str = ""  # prefix at a segment boundary
    path_exact: str = ""
    path_regex: str = ""  # must match the whole path (re.fullmatch)
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # (lower-case name, "value" | "~regex" | True as "\x00present")
    query: tuple[tuple[str, str], ...] = ()
    cluster: str = ""
    clusters: tuple[tuple[str, int], ...] = ()
    respond: RespondPolicy | None = None
    redirect: RedirectPolicy | None = None
    rewrite: RewritePolicy | None = None
    timeouts: RouteTimeouts = field(default_factory=RouteTimeouts)
    max_body: Annotated[int, Size()] = -1  # -1 keeps the listener's (not writable as such)
