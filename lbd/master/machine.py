"""What the machine gives: CPUs, descriptors, users."""

from __future__ import annotations

import grp
import math
import os
import pwd
import resource
from pathlib import Path
from typing import NamedTuple

from lbd.errors import EnvironmentFault
from lbd.master.faults import Faults

__all__ = ["Identity", "raise_file_limit", "resolve_identity", "usable_cpus"]


class Identity(NamedTuple):
    """Who the workers become; -1 is who we are."""

    uid: int = -1
    gid: int = -1
    groups: tuple[int, ...] = ()


def resolve_identity(user: str, group: str, *, is_root: bool) -> Identity:
    """Only root can become somebody else; for anybody else the names in the configuration have no effect."""
    if not is_root or (user, group) in (("", ""), ("root", "")):  # to stay must need no right, not even that to change
        return Identity()
    account, gid = None, -1
    faults = Faults()
    with faults.gather():
        account = _account(user) if user else None
    with faults.gather():
        gid = _number(group) if group else account.pw_gid if account else -1
    faults.raise_all()
    groups = set(os.getgrouplist(account.pw_name, gid)) if account else {gid}
    return Identity(account.pw_uid if account else -1, gid, tuple(sorted(groups)))


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise EnvironmentFault(f'there is no user "{user}" on this machine; create it, or name another', ("lbd", "user")) from None


def _number(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise EnvironmentFault(f'there is no group "{group}" on this machine; create it, or name another', ("lbd", "group")) from None


def raise_file_limit() -> int:
    """Takes all descriptors that the hard limit allows, for us and the workers: a proxied connection needs two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def usable_cpus(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs that we may run on: those of our affinity, or fewer when a container's quota (cgroup v2 cpu.max) pays for fewer.

    More workers than the quota pays for would be stopped together in the middle of each period, with all their requests.
    """
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), _quota(cgroups, own))))


def _quota(cgroups: Path, own: Path) -> float:
    """The smallest quota on the way from our cgroup up to the root."""
    try:
        inside = next(line.removeprefix("0::").lstrip("/") for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return math.inf
    place = cgroups / inside
    return min(
        (_quota_of(directory / "cpu.max") for directory in (place, *place.parents) if directory.is_relative_to(cgroups)), default=math.inf
    )


def _quota_of(file: Path) -> float:
    try:
        quota, period = file.read_text().split()
        return math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf
