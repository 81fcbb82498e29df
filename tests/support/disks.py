"""A disk without much room, which takes root."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["fill", "tiny_disk"]


@contextmanager
def tiny_disk(directory: Path) -> Iterator[None]:
    """64 KiB, where this may be mounted."""
    directory.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("needs root, to mount a disk")
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", str(directory)], check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Until there is no room left on its disk; remove the file that is returned to make some."""
    ballast = directory / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1024))
    return ballast
