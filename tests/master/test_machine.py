"""What the machine gives, with directories in place of the kernel's."""

from __future__ import annotations

import os
import pwd
import resource
from typing import TYPE_CHECKING

import pytest

from lbd.errors import EnvironmentFault
from lbd.master.machine import Identity, raise_file_limit, resolve_identity, usable_cpus

if TYPE_CHECKING:
    from pathlib import Path

ALL = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({}, ALL),
        ({"a/b": "max 100000"}, ALL),
        ({"a/b": "100000 100000"}, 1),
        ({"a/b": "50000 100000"}, 1),
        ({"a/b": "150000 100000"}, min(ALL, 2)),
        ({"a": "100000 100000", "a/b": "max 100000"}, 1),  # the parent's quota holds too
        ({"a/b": "nonsense"}, ALL),
        ({"": "100000 100000"}, 1),
    ],
)
def test_a_containers_quota_counts(tmp_path: Path, quotas: dict[str, str], expected: int) -> None:
    own = tmp_path / "own"
    own.write_text("12:cpu:/old\n0::/a/b\n")
    root = tmp_path / "cgroup"
    (root / "a/b").mkdir(parents=True)
    for place, text in quotas.items():
        (root / place / "cpu.max").write_text(text + "\n")
    assert usable_cpus(root, own) == expected


def test_a_machine_without_cgroups(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path, tmp_path / "none") == ALL


def test_only_root_becomes_somebody_else() -> None:
    nobody = pwd.getpwnam("nobody")
    assert resolve_identity("nobody", "", is_root=False) == Identity()
    assert resolve_identity("", "", is_root=True) == Identity()
    identity = resolve_identity("nobody", "", is_root=True)
    assert (identity.uid, identity.gid) == (nobody.pw_uid, nobody.pw_gid)
    assert nobody.pw_gid in identity.groups
    assert resolve_identity("nobody", "root", is_root=True).gid == 0
    assert resolve_identity("", "root", is_root=True) == Identity(-1, 0, (0,))


@pytest.mark.parametrize(
    ("user", "group", "sentence"),
    [
        ("no-such-user", "", 'there is no user "no-such-user" on this machine; create it, or name another'),
        ("nobody", "no-such-group", 'there is no group "no-such-group" on this machine; create it, or name another'),
    ],
)
def test_who_does_not_exist_is_named(user: str, group: str, sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        resolve_identity(user, group, is_root=True)
    assert str(caught.value) == sentence


def test_the_file_limit_is_raised_to_the_hard_one() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        assert raise_file_limit() == hard
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
