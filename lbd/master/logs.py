"""The files behind the log and the access log. The master opens them and hands descriptors on: workers need no right to the
directory, and a file reopened after rotation is reopened once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault
from lbd.master.faults import Faults

if TYPE_CHECKING:
    from lbd.worker.log import LogPolicy

__all__ = ["LogFiles"]

STANDARD = {"stdout": 1, "stderr": 2}
MODE = 0o640  # an access log tells who asked for what


class LogFiles:
    """Open descriptors, ours to close. EnvironmentFault: one of the files cannot be written, or both."""

    def __init__(self, policy: LogPolicy) -> None:
        self.policy = policy
        self.log = self.access = -1
        faults = Faults()
        with faults.gather():
            self.log = _open("file", policy.file)
        with faults.gather():
            self.access = -1 if policy.access == "off" else _open("access", policy.access)
        if faults.found:
            self.close()
            faults.raise_all()

    @property
    def has_access(self) -> bool:
        return self.access >= 0

    @property
    def fds(self) -> list[int]:
        return [fd for fd in (self.log, self.access) if fd >= 0]

    def is_for(self, policy: LogPolicy) -> bool:
        """These are the files that this policy names."""
        return (policy.file, policy.access) == (self.policy.file, self.policy.access)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def _open(key: str, path: str) -> int:
    try:
        if path in STANDARD:
            return os.dup(STANDARD[path])
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_CLOEXEC, MODE)
    except OSError as error:
        remedy = (
            "it is closed; choose a file" if path in STANDARD else f"{error.strerror}; see to its directory and rights, or choose another"
        )
        raise EnvironmentFault(f"cannot write to {path}: {remedy}", ("log", key)) from None
