"""Whether what is said of levels, zones, subsets and sticky sessions fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.select import HASHES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.routing.route import RoutePolicy

__all__ = ["check_spread", "check_sticky", "check_subset"]


MOST_SHOWN = 8  # of what endpoints have: more nobody reads


def check_spread(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    if report.is_sound((*path, "endpoints")):
        check_priorities(cluster, (*path, "endpoints"), report)
        check_zones(cluster, path, report)


def check_priorities(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    """A level that is missing is a slip of the pen, or one that was forgotten: which of the two, lbd cannot know."""
    present = {endpoint.priority for endpoint in cluster.endpoints if not endpoint.backup}
    for index, endpoint in enumerate(cluster.endpoints):
        own = (*path, index, "priority")
        if endpoint.backup and endpoint.priority:
            report.error(own, "a backup comes after all priorities; take one of the two out")
        elif endpoint.priority and not endpoint.backup and endpoint.priority - 1 not in present:
            missing = next(number for number in range(endpoint.priority) if number not in present)
            report.error(own, f"there is no endpoint with priority = {missing}; number them 0, 1, 2, ... without a hole")


def check_zones(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    zones = {endpoint.zone for endpoint in cluster.endpoints}
    for key, default in (("zone_aware", "prefer-local"), ("zone_minimum", 0)):
        if getattr(cluster, key) != default and cluster.balance in HASHES:
            report.warn((*path, key), f'has no effect with balance = "{cluster.balance}": where a key goes must not depend on the zone')
        elif getattr(cluster, key) != default and zones == {""}:
            report.warn((*path, key), 'has no effect where no endpoint has a `zone`; write { address = "...", zone = "a" }')
    if cluster.zone_aware == "off" or cluster.balance in HASHES or zones <= {""}:
        return
    first = next(index for index, endpoint in enumerate(cluster.endpoints) if endpoint.zone)
    if not cluster.zone:
        report.warn((*path, "endpoints", first, "zone"), 'has no effect while lbd does not know where it is; write zone = "NAME" in [lbd]')
    elif cluster.zone not in zones:
        names = ", ".join(sorted(zones - {""}))
        report.warn((*path, "endpoints"), f'no endpoint is in zone "{cluster.zone}" of [lbd]; there are {names}')
    elif "" in zones:
        index = next(index for index, endpoint in enumerate(cluster.endpoints) if not endpoint.zone)
        report.warn((*path, "endpoints", index), "has no `zone`, and so counts as far away; say where it is")


def check_subset(route: RoutePolicy, clusters: Mapping[str, ClusterPolicy], path: KeyPath, report: Report) -> None:
    """Somebody must have what a route asks for; the rest is for the endpoints' health to say."""
    if route.subset_fallback != "none" and not route.subset and report.is_sound((*path, "subset")):
        report.warn((*path, "subset_fallback"), "has no effect without `subset`")
    if not route.subset or not report.is_sound((*path, "subset")):
        return
    if route.respond is not None or route.redirect is not None:
        report.error((*path, "subset"), "nothing is sent upstream by this route, so that there is nothing to choose from; take it out")
    for name in filter(None, (route.cluster, *(name for name, _ in route.clusters))):
        cluster = clusters.get(name)
        if cluster is None or not report.is_sound(("cluster", name, "endpoints")):
            continue
        there = [frozenset(endpoint.metadata) for endpoint in cluster.endpoints]
        if not any(metadata.issuperset(route.subset) for metadata in there):
            report.error((*path, "subset"), f'no endpoint of cluster "{name}" has all of this; {what_there_is(there)}')


def what_there_is(there: list[frozenset[tuple[str, str]]]) -> str:
    written = sorted({", ".join(f'{name} = "{value}"' for name, value in sorted(metadata)) for metadata in there if metadata})
    if not written:
        return 'none has any `metadata`; write { address = "...", metadata = { version = "2" } }'
    return f"there are {'; '.join(written[:MOST_SHOWN])}" + ("; ..." if len(written) > MOST_SHOWN else "")


def check_sticky(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    """What browsers would drop without a word."""
    sticky, own = cluster.sticky, (*path, "sticky")
    if sticky is None or not report.is_sound(own):
        return
    if sticky.same_site == "none" and sticky.secure != "always":
        report.error((*own, "same_site"), 'browsers drop such a cookie unless it is marked Secure; write secure = "always"')
    for prefix in ("__Secure-", "__Host-"):
        if sticky.cookie.startswith(prefix) and sticky.secure != "always":
            report.error((*own, "cookie"), f'browsers drop a cookie named {prefix}... unless it is marked Secure; write secure = "always"')
    if sticky.cookie.startswith("__Host-") and sticky.path != "/":
        report.error((*own, "path"), 'browsers drop a cookie named __Host-... unless its path is "/"')
