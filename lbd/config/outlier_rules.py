"""Whether what is said of ejections fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.select import HASHES

if TYPE_CHECKING:
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["check_outlier"]

DETECTORS = ("failures", "errors", "success_rate", "latency")


def check_outlier(cluster: ClusterPolicy, path: KeyPath, report: Report) -> None:
    if cluster.balance in HASHES and report.has((*path, "slow_start")) and cluster.slow_start != ClusterPolicy("", ()).slow_start:
        report.warn((*path, "slow_start"), f'has no effect with balance = "{cluster.balance}": keys come back at once')
    outlier, path = cluster.outlier, (*path, "outlier")
    if not outlier.enabled or not report.is_sound(path):
        return
    if not any(getattr(outlier, key) for key in DETECTORS):
        report.error(
            path, f"{', '.join(DETECTORS)} are all 0, so that nothing would ever be ejected; write enabled = false, if that is meant"
        )
    elif not outlier.max_ejected:
        report.error(
            (*path, "max_ejected"), "0 ejects nobody, whatever is noticed; write enabled = false, if that is meant, or a share like 0.5"
        )
    if outlier.ejection_max < outlier.ejection:
        key = "ejection_max" if report.has((*path, "ejection_max")) else "ejection"
        least, most = f"{outlier.ejection:g} s of ejection", f"{outlier.ejection_max:g} s of ejection_max"
        report.error((*path, key), f"the first ejection, {least}, would be longer than the {most}; raise ejection_max")
    if 0.0 < outlier.latency <= 1.0:
        report.error((*path, "latency"), "every second endpoint is above the median; write 3.0 for three times it, or 0 to not look at it")
    for key in ("success_rate", "latency"):
        if cluster.balance in HASHES and report.has((*path, key)) and getattr(outlier, key) != getattr(OutlierPolicy(), key):
            report.warn((*path, key), f'has no effect with balance = "{cluster.balance}": keys differ, and so do those who get them')
    if cluster.panic and outlier.max_ejected > 1.0 - cluster.panic:
        key_path = (*path, "max_ejected") if report.has((*path, "max_ejected")) else (*path[:-1], "panic")
        sentence = f"max_ejected = {outlier.max_ejected:g} can leave a smaller share than panic = {cluster.panic:g}"
        report.warn(key_path, f"{sentence}, and then ejections are ignored; the two together should be 1 at most")
