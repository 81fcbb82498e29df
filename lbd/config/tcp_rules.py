"""Connections that are carried as they are: what a listener for TCP, a passthrough and PROXY headers may and may not say.

A key that stands where it can do nothing is an error here, not a warning: who writes `path` on a TCP route means that some requests
go elsewhere, and they would not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.select import HASHES
from lbd.config.fields import fields_of
from lbd.config.suggest import unknown_name
from lbd.routing.route import RoutePolicy
from lbd.routing.table import host_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.proxy.listener import ListenerPolicy
    from lbd.routing.hello import PassthroughPolicy

__all__ = ["check_http_listener", "check_proxy_protocol", "check_send_proxy", "check_tcp_listener"]

OF_REQUESTS = ("host", "path", "path_exact", "path_regex", "methods", "headers", "query", "respond", "redirect", "rewrite", "max_body")
OF_HTTP = ("reason_header", "half_close", "upgrades", "redirect_to_https", "forwarded", "http2", "passthrough")
LIMITS_OF_HTTP = ("head", "target", "fields", "body", "requests", "min_upload_rate", "min_download_rate", "rate_grace")
TIMEOUTS_OF_HTTP = ("head", "keepalive", "body", "linger")
TIMEOUTS_OF_REQUESTS = ("response", "idle", "total")
EVERYWHERE = ("0.0.0.0/0", "::/0")
ANY_NAME = "*"
NO_ROUTE = RoutePolicy()


def check_tcp_listener(listener: ListenerPolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    """`protocol = "tcp"`."""
    for key in changed(listener, OF_HTTP):
        report.error((*path, key), 'is for HTTP; a listener with protocol = "tcp" carries bytes as they are. Take it out')
    for key in changed(listener.limits, LIMITS_OF_HTTP):
        report.error((*path, "limits", key), 'is for HTTP, and does nothing with protocol = "tcp"; take it out')
    for key in changed(listener.timeouts, TIMEOUTS_OF_HTTP):
        report.error((*path, "timeouts", key), 'is for HTTP, and does nothing with protocol = "tcp"; take it out')
    for index, route in enumerate(listener.routes):
        check_tcp_route(route, (*path, "route", index), report)
    hellos = [(route.sni, route.alpn) for route in listener.routes]
    check_hellos(hellos, (*path, "route"), "route", report)
    if listener.cluster and (taker := takes_all(hellos)) >= 0 and report.is_sound((*path, "route", taker)):
        place = report.place_of((*path, "route", taker))
        report.error((*path, "cluster"), f"nothing can get here: the route at {place} takes everything; keep one of the two")
    named = [((*path, "cluster"), listener.cluster)]
    for index, route in enumerate(listener.routes):
        named.append(((*path, "route", index, "cluster"), route.cluster))
        named += [((*path, "route", index, "clusters", name), name) for name, _ in route.clusters]
    check_clusters(named, clusters, report)


def changed(policy: object, keys: Sequence[str]) -> list[str]:
    """Those that do not have their default: `lbd config` writes all keys, and what it writes must load."""
    kind: type = type(policy)
    return [field.key for field in fields_of(kind) if field.key in keys and getattr(policy, field.name) != field.default]


def check_tcp_route(route: RoutePolicy, path: KeyPath, report: Report) -> None:
    for key in OF_REQUESTS:
        if getattr(route, key) != getattr(NO_ROUTE, key) or (*path, key) in report.broken:
            remedy = "names of TLS are `sni`" if key == "host" else "a connection has `sni` and `alpn` to go by, of its TLS ClientHello"
            report.error((*path, key), f'is for HTTP requests, which a listener with protocol = "tcp" does not see; {remedy}')
    for key in TIMEOUTS_OF_REQUESTS:
        if getattr(route.timeouts, key) >= 0:
            report.error(
                (*path, "timeouts", key), "is for HTTP requests; of a connection there are the listener's tunnel_idle and tunnel_lifetime"
            )


def check_http_listener(listener: ListenerPolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    for index, route in enumerate(listener.routes):
        for key in ("sni", "alpn"):
            if getattr(route, key):
                report.error(
                    (*path, "route", index, key),
                    'is for protocol = "tcp"; requests go by `host`. To hand TLS connections on unopened, write '
                    f"[[listener.{listener.name}.passthrough]]",
                )
    for index, passthrough in enumerate(listener.passthrough):
        check_passthrough(passthrough, clusters, (*path, "passthrough", index), report)
    check_hellos([(each.sni, each.alpn) for each in listener.passthrough], (*path, "passthrough"), "passthrough", report)
    check_clusters(
        [((*path, "passthrough", index, "cluster"), each.cluster) for index, each in enumerate(listener.passthrough)], clusters, report
    )
    taken = {route.name for route in listener.routes} | ({"default"} if listener.cluster else set())
    for index, passthrough in enumerate(listener.passthrough):
        if passthrough.name in taken:
            report.error((*path, "passthrough", index, "name"), f'"{passthrough.name}" is the name of a route already; choose another one')
        taken.add(passthrough.name)


def check_passthrough(passthrough: PassthroughPolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    if not passthrough.cluster:
        if report.is_sound((*path, "cluster")):
            report.error(path, 'does not say where to; write cluster = "NAME"')
    elif passthrough.cluster not in clusters and report.is_sound((*path, "cluster")):
        report.error((*path, "cluster"), unknown_name(passthrough.cluster, clusters, "cluster"))
    if not passthrough.sni and not passthrough.alpn and report.is_sound(path):
        report.error(
            path, 'takes everything that comes; write which names, as in sni = ["a.example"], or make the listener protocol = "tcp"'
        )


def check_hellos(hellos: Sequence[tuple[Sequence[str], Sequence[str]]], path: KeyPath, what: str, report: Report) -> None:
    """Who takes all that another one, further down, waits for."""
    taken: dict[tuple[bytes, str], int] = {}  # (name, protocol) -> who has it; "" is any protocol
    for index, (names, protocols) in enumerate(hellos):
        if not report.is_sound((*path, index)):
            continue
        keys = [(host_key(name), protocol) for name in names or (ANY_NAME,) for protocol in protocols or ("",)]
        if all(key in taken for key in keys):
            place = report.place_of((*path, taken[keys[0]]))
            report.error(
                (*path, index), f"no connection can come here: the {what} at {place} takes the same names; take one of the two out"
            )
        for key in keys:
            taken.setdefault(key, index)


def takes_all(hellos: Sequence[tuple[Sequence[str], Sequence[str]]]) -> int:
    """The first that asks for nothing; -1: none does."""
    return next((index for index, (names, protocols) in enumerate(hellos) if not protocols and (not names or ANY_NAME in names)), -1)


def check_clusters(named: Sequence[tuple[KeyPath, str]], clusters: Mapping[str, ClusterPolicy], report: Report) -> None:
    """That they can take connections as they are."""
    for path, name in named:
        cluster = clusters.get(name)
        if cluster is not None and cluster.originates() is not None and report.is_sound(path):
            report.error(
                path, f'the cluster "{name}" has `tls`, which is for HTTP: connections are carried as they are. Use a cluster without it'
            )
        if cluster is not None and cluster.sticky is not None and report.is_sound(path):
            report.error(path, f'the cluster "{name}" has `sticky`, which is a cookie: connections have none. Use a cluster without it')
        if cluster is not None and cluster.adaptive.enabled and report.is_sound(path):
            report.error(path, f'the cluster "{name}" has `adaptive`, which goes by how fast answers come: connections have none')
        if cluster is not None and cluster.balance in HASHES and cluster.hash_key != "client-ip" and report.is_sound(path):
            report.error(
                path,
                f'the cluster "{name}" hashes by "{cluster.hash_key}", which a connection does not have; it needs hash_key = "client-ip"',
            )


# PROXY headers


def check_proxy_protocol(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    policy, own = listener.proxy_protocol, (*path, "proxy_protocol", "trusted")
    if policy is None or not report.is_sound(own):
        return
    if not policy.trusted:
        report.error(
            own[:-1], 'names nobody who may send a PROXY header; write trusted = ["10.0.0.0/8"] with the addresses of your proxies'
        )
    for index, text in enumerate(policy.trusted):
        if text in EVERYWHERE:
            report.warn((*own, index), f'"{text}" is everybody: whoever connects may then claim any address')


def check_send_proxy(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    if cluster.send_proxy and cluster.protocol != "http1" and report.is_sound((*path, "send_proxy")):
        report.error(
            (*path, "send_proxy"),
            f'does not go with protocol = "{cluster.protocol}": one HTTP/2 connection has the requests of many clients, and a PROXY header '
            "names one. Take it out; X-Forwarded-For tells who each is",
        )
