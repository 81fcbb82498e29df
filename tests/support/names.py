"""A hosts file, and a name server that does not answer, for one daemon alone: in a mount namespace of its own, which takes root."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["can_mount", "mounts"]


def can_mount() -> bool:
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0


def mounts(directory: Path) -> str:
    """What the shell under `unshare -m` does first; directory/hosts is to be rewritten in place, for the mount is of its inode."""
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    return f"mount --bind {directory / 'hosts'} /etc/hosts && mount --bind {directory / 'resolv.conf'} /etc/resolv.conf"
