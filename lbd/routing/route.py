"""A route: what a request must look like, and what happens to it. RoutePolicy says it, Route does it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from lbd.errors import ProxyError, Side
from lbd.policy import Choice, Count, Duration, Size
from lbd.routing.conditions import build_conditions, compile_pattern
from lbd.routing.edits import Edits, HeaderEdits, encoded_fields
from lbd.routing.path import canonical, cut_segments, pattern_key, readings
from lbd.routing.template import Template

if TYPE_CHECKING:
    from lbd.cluster.cluster import Cluster
    from lbd.wire.message import RequestHead

__all__ = [
    "PRIORITIES",
    "Edits",
    "FixedResponse",
    "HeaderEdits",
    "RedirectPolicy",
    "RespondPolicy",
    "RewritePolicy",
    "Route",
    "RoutePolicy",
    "RouteTimeouts",
    "split_authority",
]

VISIBLE = re.compile(r"[!-~]*")
PRIORITIES = ("low", "normal", "high", "critical")  # from the first to be dropped to the last
DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


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
    """`[[listener.NAME.route]]`. Exactly one of cluster, clusters, respond, redirect; with protocol = "tcp", of the first two."""

    name: str = ""  # "" becomes route-1, route-2, ... in file order
    host: tuple[str, ...] = ()  # exact or "*.example.com"; TOML: one string or a list; () is any
    path: str = ""  # prefix at a segment boundary
    path_exact: str = ""
    path_regex: str = ""  # must match the whole path (re.fullmatch)
    methods: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()  # (lower-case name, "value" | "~regex" | True as "\x00present")
    query: tuple[tuple[str, str], ...] = ()
    sni: tuple[str, ...] = ()  # of a listener for tcp: exact or "*.example.com", read in the ClientHello; () is any, and what is no TLS
    alpn: tuple[str, ...] = ()  # likewise: one of these is offered
    cluster: str = ""
    clusters: tuple[tuple[str, int], ...] = ()
    subset: tuple[tuple[str, str], ...] = ()  # of the endpoints those that have all of this in their metadata
    subset_fallback: Annotated[str, Choice(("none", "any"))] = "none"  # where none of them can be used
    respond: RespondPolicy | None = None
    redirect: RedirectPolicy | None = None
    rewrite: RewritePolicy | None = None
    timeouts: RouteTimeouts = field(default_factory=RouteTimeouts)
    max_body: Annotated[int, Size()] = -1  # -1 keeps the listener's (not writable as such)
    # Who goes first where requests wait, and stays longest when lbd has more to do than it can; what is critical always stays.
    priority: Annotated[str, Choice(PRIORITIES)] = "normal"


class FixedResponse:
    """An answer without an upstream. `fields` are ready lines, without those of framing."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, policy: RespondPolicy) -> None:
        has_type = any(name.lower() == "content-type" for name, _ in policy.headers)
        own = (("Content-Type", policy.content_type),) if policy.body and not has_type else ()
        self.status = policy.status
        self.fields = b"".join(b"%b: %b\r\n" % field for field in encoded_fields(own + policy.headers))
        self.body = policy.body.encode()


class Route:
    """A route as the exchange uses it: everything that can be computed once is.

    `cells` and `sticky` belong to the proxy: its targets of this route, and those of its clusters to which clients are led back.
    """

    __slots__ = (
        "_prefix",
        "_prefix_depth",
        "_template",
        "_thresholds",
        "cells",
        "conditions",
        "is_plain",
        "listener_name",
        "name",
        "policy",
        "rank",
        "redirect",
        "regex",
        "request_edits",
        "response",
        "response_edits",
        "rewritten_host",
        "single",
        "sticky",
    )  # fmt: skip

    def __init__(self, policy: RoutePolicy, listener_name: str) -> None:
        rewrite = policy.rewrite or RewritePolicy()
        self.policy = policy
        self.name = policy.name
        self.listener_name = listener_name
        self.rank = PRIORITIES.index(policy.priority)
        self.conditions = build_conditions(policy)
        self.regex = compile_pattern(policy.path_regex) if policy.path_regex else None
        self.request_edits = Edits(rewrite.request_headers)
        self.response_edits = Edits(rewrite.response_headers)
        self.rewritten_host = visible(rewrite.host, "rewrite.host")  # b"" keeps the client's
        self.response = FixedResponse(policy.respond) if policy.respond else None
        self.redirect = policy.redirect
        if policy.redirect is not None:
            for key in ("scheme", "host", "location"):
                visible(getattr(policy.redirect, key), f"redirect.{key}")
        moved = policy.redirect or rewrite  # a redirect moves the path as a rewrite does
        self._template = Template(moved.path, self.regex) if moved.path else None
        self._prefix = maybe_prefix(moved.prefix)
        self._prefix_depth = pattern_key(policy.path).rstrip(b"/").count(b"/") if policy.path else 0
        self._thresholds = build_thresholds(policy.clusters)
        self.single = policy.cluster or (self._thresholds[0][1] if len(self._thresholds) == 1 else "")
        # The hot path takes a plain route: one cluster, the request as it came, no limit of its own.
        self.is_plain = bool(self.single) and not (
            self.request_edits or self.response_edits or self.rewritten_host or self._template or self._prefix is not None
        )
        self.is_plain = self.is_plain and policy.timeouts == RouteTimeouts() and policy.max_body == -1
        self.cells: dict[object, object] = {}
        self.sticky: tuple[Cluster, ...] = ()

    def __repr__(self) -> str:
        return f"<Route {self.listener_name}/{self.name}>"

    def cluster_name(self, random_value: float) -> str | None:
        """Where a request goes; random_value in [0, 1) chooses among weighted clusters. None: the route answers by itself."""
        if self.single:
            return self.single
        for threshold, name in self._thresholds:
            if random_value < threshold:
                return name
        return None

    def rewritten_target(self, request: RequestHead) -> bytes:
        """The target for the upstream; the one that came when nothing is to be rewritten. ProxyError 400: a path that cannot be read."""
        if self._template is None and self._prefix is None:
            return request.target
        if not request.path.startswith(b"/"):
            return request.target  # OPTIONS *
        path, own_query = self._moved(self._template, request.path)
        query = b"&".join(part for part in (own_query, request.query) if part)
        return path + b"?" + query if query else path

    def redirect_location(self, request: RequestHead) -> bytes:
        """The Location of a redirect: an absolute URL, so that a path of //host/ cannot lead elsewhere.

        ProxyError 400: it would be another port, and nobody knows of which host.
        """
        redirect = self.redirect
        if redirect is None:
            raise ValueError(f"{self!r} is no redirect")
        if redirect.location:
            return redirect.location.encode()
        target = self.rewritten_target(request)
        authority = redirect_authority(redirect, request)
        if not authority:  # HTTP/1.0 without Host; browsers read "/\\" as "//"
            if redirect.port or redirect.scheme.encode() not in (b"", request.scheme):
                raise ProxyError(
                    Side.DOWNSTREAM, "bad_host", 400, "it is sent to another port, but does not say of which host (no Host field)"
                )
            return b"/" + target.lstrip(b"/\\*")
        return (redirect.scheme.encode() or request.scheme) + b"://" + authority + (target if target.startswith(b"/") else b"/")

    def _moved(self, template: Template | None, path: bytes) -> tuple[bytes, bytes]:
        """The new path, and what query it brings along."""
        if template is None:
            return (self._prefix or b"") + cut_segments(canonical(path), self._prefix_depth) or b"/", b""
        if template.is_fixed or self.regex is None:
            return template.filled(None)
        forms = (readings(path, ignore_parameters)[0] for ignore_parameters in (False, True))
        return template.filled(next(filter(None, map(self.regex.fullmatch, forms)), None))


def maybe_prefix(text: str) -> bytes | None:
    """Without the slash at its end, which the rest of the path brings along: b"" takes the matched prefix away."""
    if not text:
        return None
    if "?" in text:
        raise ValueError(f'"{text}": a prefix has no query')
    return Template(text, None).filled(None)[0].rstrip(b"/")


def visible(text: str, key: str) -> bytes:
    """Something that goes into a header field as it stands."""
    if not VISIBLE.fullmatch(text):
        raise ValueError(f'{key} "{text}" has spaces, control characters or non-ASCII letters; write them as a URL does')
    return text.encode()


def build_thresholds(clusters: tuple[tuple[str, int], ...]) -> tuple[tuple[float, str], ...]:
    """Cumulative shares in [0, 1]; a cluster of weight 0 is left out."""
    weighted = [(name, weight) for name, weight in clusters if weight > 0]
    if clusters and not weighted:
        raise ValueError("every cluster of the route has the weight 0; give at least one a greater one")
    total = sum(weight for _, weight in weighted)
    running = 0
    thresholds = []
    for name, weight in weighted:
        running += weight
        thresholds.append((running / total, name))
    return tuple(thresholds)


def redirect_authority(redirect: RedirectPolicy, request: RequestHead) -> bytes:
    """Host and port: the client's port stays while its scheme does (8080 means nothing to https), default ports are left out."""
    host, port = split_authority(request.authority)
    if redirect.scheme and redirect.scheme.encode() != request.scheme:
        port = b""
    if redirect.host:
        host, own_port = split_authority(redirect.host.encode())
        port = own_port or port
    if redirect.port:
        port = b"%d" % redirect.port
    if port == DEFAULT_PORTS.get(redirect.scheme.encode() or request.scheme):
        port = b""
    return host + b":" + port if host and port else host


def split_authority(authority: bytes) -> tuple[bytes, bytes]:
    """b"[::1]:80" -> (b"[::1]", b"80"); b"example.com" -> (b"example.com", b"")."""
    if authority.endswith(b"]") or b":" not in authority:
        return authority, b""
    host, _, port = authority.rpartition(b":")
    return host, port
