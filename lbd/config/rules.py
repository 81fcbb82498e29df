"""What no single key can tell: whether the parts of a configuration fit together.

Each function looks at one thing and reports; none believes what is already known to be broken (Report.is_sound), so that one slip makes
one message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.select import HASHES
from lbd.cluster.shared import Http2UpstreamPolicy
from lbd.config.addresses import Address, parse_bind, parse_endpoint
from lbd.config.daemon_rules import check_daemon
from lbd.config.health_rules import check_health
from lbd.config.limit_rules import check_limits
from lbd.config.linear_rules import check_linear
from lbd.config.outlier_rules import check_outlier
from lbd.config.queue_rules import check_queue, check_route_queue
from lbd.config.retry_rules import check_retry, check_route_retry
from lbd.config.selection_rules import check_spread, check_sticky, check_subset
from lbd.config.shadows import check_reach
from lbd.config.suggest import unknown_name
from lbd.config.tcp_rules import check_http_listener, check_proxy_protocol, check_send_proxy, check_tcp_listener
from lbd.config.tls_rules import check_tls, check_upstream_tls
from lbd.routing.conditions import compile_pattern
from lbd.routing.route import Route
from lbd.routing.template import Template

if TYPE_CHECKING:
    import re
    from collections.abc import Collection, Iterator, Mapping

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.config.schema import Config
    from lbd.proxy.listener import ListenerPolicy
    from lbd.routing.route import RedirectPolicy, RoutePolicy

__all__ = ["check"]

BODILESS = (204, 205, 304)  # RFC 9110, 15.3.5, 15.3.6 and 15.4.5
ACTIONS = ("cluster", "clusters", "respond", "redirect")
PATHS = ("path", "path_exact", "path_regex")


def check(config: Config, report: Report) -> None:
    """Everything there is to check once all policies are filled."""
    check_user(config, report)
    check_daemon(config.lbd, report)
    clusters = {cluster.name: cluster for cluster in config.clusters}
    for listener in config.listeners:
        check_listener(listener, clusters, report)
    for cluster in config.clusters:
        check_cluster(cluster, report)
    check_binds(config, report)
    check_admin(config, report)
    check_use(config, report)


def check_user(config: Config, report: Report) -> None:
    if config.lbd.user == "root":
        sentence = 'whoever breaks into a worker has the whole machine; take it out for "nobody", or name a user made for lbd'
        report.warn(("lbd", "user"), sentence)


# Listeners and routes


def check_listener(listener: ListenerPolicy, clusters: Mapping[str, ClusterPolicy], report: Report) -> None:
    path = ("listener", listener.name)
    if listener.cluster:
        check_reference(listener.cluster, clusters, (*path, "cluster"), report)
    elif (
        not listener.routes and not listener.redirect_to_https and report.is_sound((*path, "route")) and report.is_sound((*path, "cluster"))
    ):
        report.error(path, f'the listener leads nowhere; write cluster = "NAME", or a [[{path[0]}.{path[1]}.route]]')
    for index, route in enumerate(listener.routes):
        check_route(route, clusters, (*path, "route", index), report)
        check_route_retry(route, clusters, (*path, "route", index), report)
        check_route_queue(route, clusters, (*path, "route", index), report)
    check_tls(listener, path, report)
    check_route_names(listener, path, report)
    check_proxy_protocol(listener, path, report)
    check_limits(listener, (*path, "limits"), report)
    if listener.protocol == "tcp":
        check_tcp_listener(listener, clusters, path, report)
    else:
        check_http_listener(listener, clusters, path, report)
        check_reach(listener, path, report)
        check_linear(listener, path, report)


def check_reference(name: str, clusters: Collection[str], path: KeyPath, report: Report) -> None:
    if report.is_sound(path) and name not in clusters:
        report.error(path, unknown_name(name, clusters, "cluster"))


def check_route_names(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    """Names label metrics and log lines; two routes of one name would be one there."""
    seen: dict[str, KeyPath] = {}
    for index, route in enumerate(listener.routes):
        own = (*path, "route", index, "name")
        if route.name in seen:
            report.error(own, f'the route at {report.place_of(seen[route.name])} is named "{route.name}" already')
        elif route.name == "default" and listener.cluster:
            report.error(own, f'"default" is the name of the route that {path[0]}.{path[1]}.cluster stands for; choose another one')
        seen.setdefault(route.name, own)


def check_route(route: RoutePolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    actions = [key for key in ACTIONS if getattr(route, key) or (*path, key) in report.broken]
    if not actions and report.is_sound(path):
        report.error(path, f"the route does not say what to do; write one of {', '.join(ACTIONS)}")
    if len(actions) > 1:
        report.error((*path, actions[1]), f"a route does one thing, and {actions[0]} is given already; keep one of the two")
    given = [key for key in PATHS if getattr(route, key)]
    if len(given) > 1:
        report.error((*path, given[1]), f"a route has one path, and {given[0]} is given already; make it two routes")
    if route.cluster:
        check_reference(route.cluster, clusters, (*path, "cluster"), report)
    for name, _ in route.clusters:
        check_reference(name, clusters, (*path, "clusters", name), report)
    if route.clusters and not any(weight for _, weight in route.clusters):
        report.error((*path, "clusters"), "all weights are 0, so that no request would go anywhere; give at least one a greater one")
    if route.rewrite is not None and (route.respond or route.redirect) and report.is_sound((*path, "rewrite")):
        report.error((*path, "rewrite"), "nothing is sent upstream by this route, so that there is nothing to rewrite; take it out")
    if route.respond is not None and route.respond.status in BODILESS and route.respond.body:
        report.error(
            (*path, "respond", "body"), f"an answer with status {route.respond.status} has no body; take it out, or choose another status"
        )
    check_subset(route, clusters, path, report)
    check_moves(route, path, report)
    if report.is_sound(path):
        check_as_built(route, path, report)


def check_moves(route: RoutePolicy, path: KeyPath, report: Report) -> None:
    """Where a rewrite or a redirect leads; its template may refer to groups of path_regex."""
    regex = maybe_regex(route, path, report)
    for key in ("rewrite", "redirect"):
        policy = getattr(route, key)
        if policy is None:
            continue
        if policy.path and report.is_sound((*path, key, "path")) and (regex is not None or not route.path_regex):
            try:
                Template(policy.path, regex)
            except ValueError as error:
                report.error((*path, key, "path"), str(error))
        if policy.path and policy.prefix:
            report.error((*path, key, "prefix"), "path is given already, which replaces the whole path; keep one of the two")
        if policy.prefix and not route.path:
            report.error((*path, key, "prefix"), "takes the place of the prefix that the route matches, but the route has no `path`")
    if route.redirect is not None:
        check_redirect(route.redirect, (*path, "redirect"), report)


def maybe_regex(route: RoutePolicy, path: KeyPath, report: Report) -> re.Pattern[bytes] | None:
    return compile_pattern(route.path_regex) if route.path_regex and report.is_sound((*path, "path_regex")) else None


def check_redirect(redirect: RedirectPolicy, path: KeyPath, report: Report) -> None:
    parts = [key for key in ("scheme", "host", "port", "path", "prefix") if getattr(redirect, key)]
    if redirect.location and parts:
        report.error((*path, parts[0]), "location is given already, which is the whole URL; keep one of the two")
    if not redirect.location and not parts and report.is_sound(path):
        report.error(path, "leads back to where it comes from; write at least one of scheme, host, port, path, prefix, location")


def check_as_built(route: RoutePolicy, path: KeyPath, report: Report) -> None:
    """The last word is the module's that will obey: what passes here, the worker takes."""
    try:
        Route(route, str(path[1]))
    except ValueError as error:
        report.error(path, str(error))


# Clusters


def check_cluster(cluster: ClusterPolicy, report: Report) -> None:
    path = ("cluster", cluster.name)
    if not cluster.endpoints and report.is_sound((*path, "endpoints")):
        report.error((*path, "endpoints"), 'the list is empty; write at least one address, like "10.0.0.1:9000"')
    if report.is_sound((*path, "endpoints")):
        check_endpoints(cluster, (*path, "endpoints"), report)
    if (
        cluster.protocol == "auto"
        and not all(map(cluster.speaks_tls, cluster.endpoints))
        and report.is_sound((*path, "protocol"))
        and report.is_sound((*path, "tls"))
    ):
        report.error((*path, "protocol"), '"auto" finds out by ALPN, which is a part of TLS; write "h2" or "http1", or tls = true')
    if cluster.protocol == "http1" and cluster.http2 != Http2UpstreamPolicy():
        report.warn((*path, "http2"), 'has no effect with protocol = "http1"; write protocol = "h2"')
    if cluster.balance not in HASHES:
        for key, default in (("hash_key", "client-ip"), ("bound", 0.0)):
            if report.has((*path, key)) and getattr(cluster, key) != default:
                report.warn((*path, key), f'has no effect with balance = "{cluster.balance}"; it is for {" and ".join(HASHES)}')
    if 0.0 < cluster.bound < 1.0:
        report.error((*path, "bound"), "is below the mean, which cannot be; write 1.25 for a quarter above it, or 0 for no bound")
    check_spread(cluster, path, report)
    check_sticky(cluster, path, report)
    check_send_proxy(cluster, path, report)
    check_upstream_tls(cluster, path, report)
    check_health(cluster, path, report)
    check_queue(cluster, path, report)
    check_outlier(cluster, path, report)
    check_retry(cluster, path, report)


def check_endpoints(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    seen: dict[Address, int] = {}
    for index, endpoint in enumerate(cluster.endpoints):
        address = parse_endpoint(endpoint.address)
        if address in seen:
            first = report.place_of((*path, seen[address]))
            report.error((*path, index), f'"{endpoint.address}" is at {first} already; to send it more requests, give it a weight')
        seen.setdefault(address, index)
    if all(endpoint.backup for endpoint in cluster.endpoints) and cluster.endpoints:
        report.warn(path, "every endpoint is a backup, so that they are used as if none were")


def check_use(config: Config, report: Report) -> None:
    used = {listener.cluster for listener in config.listeners}
    for listener in config.listeners:
        for route in listener.routes:
            used |= {route.cluster, *(name for name, _ in route.clusters)}
        used |= {passthrough.cluster for passthrough in listener.passthrough}
    for cluster in config.clusters:
        if cluster.name not in used:
            report.warn(("cluster", cluster.name), "no route leads to this cluster")
    if not config.listeners and report.is_sound(("listener",)):
        report.warn((), "there is no listener, so that nothing is served")


# Addresses to listen on


def binds_of(config: Config, report: Report) -> Iterator[tuple[Address, str, KeyPath]]:
    """(address, text, path) of everything that is listened on, as far as it can be read."""
    for listener in config.listeners:
        path = ("listener", listener.name, "bind")
        if report.is_sound(path):
            for index, text in enumerate(listener.bind):
                yield parse_bind(text), text, (*path, index)
    if config.admin.bind != "off" and report.is_sound(("admin", "bind")):
        yield parse_bind(config.admin.bind), config.admin.bind, ("admin", "bind")
    if config.admin.control not in ("auto", "off") and report.is_sound(("admin", "control")):
        yield parse_bind(config.admin.control), config.admin.control, ("admin", "control")


def check_binds(config: Config, report: Report) -> None:
    """No two may want the same connections: the same address, or the same port of an address and of all."""
    seen: dict[tuple[str, int], list[tuple[Address, str, KeyPath]]] = {}
    for written, text, path in binds_of(config, report):
        address = written.bound
        group = seen.setdefault((address.kind, address.port), [])
        for other, other_text, other_path in group:
            place = report.place_of(other_path)
            if address == other:
                report.error(path, f'"{text}" is bound at {place} already; take one of the two out, or change a port')
                break
            if address.covers(other) or other.covers(address):
                report.error(path, f'"{text}" and "{other_text}" at {place} want the same port; keep one, or change a port')
                break
        group.append((address, text, path))
    for listener in config.listeners:
        path = ("listener", listener.name, "bind")
        if not listener.bind and report.is_sound(path):
            report.error(path, 'the list is empty; write at least one address, like "0.0.0.0:8080"')


def check_admin(config: Config, report: Report) -> None:
    """Whoever reaches it may reload, and read which addresses there are."""
    path = ("admin", "bind")
    if config.admin.bind == "off" or not report.is_sound(path) or not report.is_sound(("admin", "token")):
        return
    address = parse_bind(config.admin.bind)
    if not address.is_loopback and not config.admin.token:
        what = "a socket that others open, perhaps for other machines" if address.kind == "fd" else "reachable from other machines"
        report.error(path, f'"{config.admin.bind}" is {what}; set token = "...", or bind to "127.0.0.1:{address.port or 9901}"')
