"""The process_* metrics of the master and its workers, read from /proc as Prometheus clients do."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.metrics import CPU_SECONDS, MAX_FDS, OPEN_FDS, RESIDENT_MEMORY, START_TIME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from lbd.admin.view import OwnMetric

__all__ = ["process_metrics"]

PROC = Path("/proc")


def process_metrics(pids: Mapping[str, int], proc: Path = PROC) -> Iterable[OwnMetric]:
    """`pids` by the name that becomes the label; a process that has just died is left out."""
    try:
        booted = float(re.findall(r"^btime (\d+)", (proc / "stat").read_text(), re.MULTILINE)[0])
    except (OSError, IndexError):
        return
    for name, pid in pids.items():
        try:
            yield from _metrics_of(proc / str(pid), {"process": name}, booted)
        except (OSError, ValueError, IndexError):  # gone meanwhile, or another user's after the privileges were dropped
            continue


def _metrics_of(directory: Path, labels: dict[str, str], booted: float) -> Iterable[OwnMetric]:
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    # Behind the last bracket: the command's name may hold spaces and brackets. Indices as in proc(5), less 3.
    stat = (directory / "stat").read_text().rpartition(")")[2].split()
    yield CPU_SECONDS.name, labels, (int(stat[11]) + int(stat[12])) / ticks
    yield START_TIME.name, labels, booted + int(stat[19]) / ticks
    yield RESIDENT_MEMORY.name, labels, float(int(stat[21]) * page)
    limit = re.findall(r"^Max open files\s+(\d+)", (directory / "limits").read_text(), re.MULTILINE)
    if limit:  # "unlimited" is no number
        yield MAX_FDS.name, labels, float(limit[0])
    yield OPEN_FDS.name, labels, float(len(os.listdir(directory / "fd")))
