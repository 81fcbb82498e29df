"""Whether what is said of levels and zones fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.select import HASHES

if TYPE_CHECKING:
    from lbd.cluster.cluster import ClusterPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["check_spread"]


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
