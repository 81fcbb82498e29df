"""What must outlive the daemon: small files in a directory of its own.

    [lbd] state_directory = "/var/lib/lbd"      or what systemd gives (StateDirectory=, in $STATE_DIRECTORY), or none

Rules:
- A file is written whole or not at all: into a new file beside it, fsync, rename, fsync of the directory. Whoever is killed at any
  moment of that, or loses power, leaves the old file or the new one.
- Two daemons that share a directory would undo each other's work. So there is a lock, flock(2) on the file `lock`; it goes with the
  descriptor, so that a successor (upgrade.py) inherits it and a killed daemon leaves none behind.
- Trouble that comes by itself, a full or a failing disk, never ends or stops the daemon, not even its start: it goes on without
  keeping anything, says so, and counts. Trouble that somebody has configured (no such place, no right to it, another daemon's) does
  end the start, for nobody would look for it later.
- A file that cannot be read as what it should be is set aside as NAME.bad, for whoever wants to know.

Reading and writing block; fsync may take long. What is not done at the start belongs in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RETRY", "StateDirectory", "state_path"]

RETRY = 30.0  # seconds to the next try of a write that failed

VARIABLE = "STATE_DIRECTORY"  # systemd.exec(5); of several the first
KEY = ("lbd", "state_directory")
LOCK = "lock"
NEW = ".new"  # how a file ends that is being written
MODE = 0o700
FILE_MODE = 0o600  # the sticky key is a secret
READ_LIMIT = 16 << 20  # bytes; what is larger is none of ours
# The disk's trouble, not the operator's.
DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

log = logging.getLogger("lbd.master")


def state_path(configured: str, environ: Mapping[str, str]) -> Path | None:
    """Where it is; None where there is none."""
    text = configured or environ.get(VARIABLE, "").partition(":")[0]
    return Path(text) if text else None


class StateDirectory:
    """`path` is None for a daemon that keeps nothing: then nothing is there, and writes come to nothing. `lock` is a predecessor's."""

    def __init__(self, path: Path | None, lock: int = -1) -> None:
        self.path = path
        self.failures = 0  # writes that came to nothing
        self._lock = -1
        self._reported: dict[str, str] = {}  # file, or "" -> the last sentence that was logged: a full disk is told of once
        try:
            if path is not None:
                self._lock = self._open(path, lock)
        finally:
            if lock not in (-1, self._lock):  # of the directory that the predecessor had
                os.close(lock)

    @classmethod
    def find(cls, configured: str, environ: Mapping[str, str], lock: int = -1) -> StateDirectory:
        """EnvironmentFault: it cannot be used, and waiting will not mend that."""
        try:
            return cls(state_path(configured, environ), lock)
        except EnvironmentFault as fault:
            raise fault if configured else EnvironmentFault(f"${VARIABLE}: {fault}") from None

    def __repr__(self) -> str:
        return f"<StateDirectory {self.path or 'none'}>"

    @property
    def lock(self) -> int:
        """Its descriptor, for a successor; -1 where there is none."""
        return self._lock

    # Opening

    def _open(self, path: Path, handed: int) -> int:
        """Its lock."""
        try:
            with suppress(FileExistsError):
                path.mkdir(MODE)
            status = path.stat()
            if not stat.S_ISDIR(status.st_mode):
                raise EnvironmentFault(f"{path} is not a directory; remove it, or name another place", KEY)
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise EnvironmentFault(f"others may write in {path}, and could give lbd orders there; chmod 0700 {path}", KEY)
            if status.st_uid not in (0, os.geteuid()):
                raise EnvironmentFault(
                    f"{path} belongs to uid {status.st_uid}, who could give lbd orders there; chown it to uid {os.geteuid()}", KEY
                )
            # For reading: that works on a read-only file system too, where the file is there from better days.
            own = os.open(path / LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
        except OSError as error:
            if error.errno in DISK_TROUBLE:
                self._complain("", f"{path}: {error.strerror}; until that is mended, what is changed at run time ends with the daemon")
                return -1
            raise EnvironmentFault(f"{path} cannot be used: {_why(error, path)}", KEY) from error
        if handed >= 0 and os.path.sameopenfile(handed, own):
            os.close(own)
            return handed
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(own)
            why = (
                "is another lbd's, which runs; give each its own" if error.errno == errno.EWOULDBLOCK else f"has no lock: {error.strerror}"
            )
            raise EnvironmentFault(f"{path} {why}", KEY) from None
        with suppress(OSError):
            for left in path.glob(f".*{NEW}"):  # by one that was killed
                left.unlink()
        return own

    def close(self) -> None:
        """Lets go of the lock, unless a successor has it. Idempotent."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Files

    def read(self, name: str) -> bytes | None:
        """None: there is none, or it cannot be read, which is logged."""
        if self.path is None:
            return None
        try:
            with (self.path / name).open("rb") as file:
                return file.read(READ_LIMIT)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("%s cannot be read: %s; going on without it", self.path / name, error.strerror)
            return None

    def write(self, name: str, content: bytes) -> bool:
        """Whether it is on the disk now. What is wrong is logged and counted; the old file stays then."""
        if self.path is None:
            return False
        try:
            self._write(self.path, name, content)
        except OSError as error:
            self.failures += 1
            hint = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "until that is mended a restart forgets it"
            self._complain(name, f"{self.path / name} cannot be written: {error.strerror}; {hint}")
            return False
        if any([self._reported.pop(name, ""), self._reported.pop("", "")]):
            log.info("%s can be written again", self.path / name)
        return True

    def _write(self, path: Path, name: str, content: bytes) -> None:
        new = path / f".{name}.{os.getpid()}{NEW}"  # of our own: a predecessor may still be at it
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
        try:
            with open(fd, "wb") as file:
                os.fchmod(fd, FILE_MODE)
                file.write(content)
                file.flush()
                os.fsync(fd)
            os.replace(new, path / name)
        except BaseException:
            with suppress(OSError):  # it would take room where there is none
                new.unlink()
            raise
        _sync_directory(path)

    def set_aside(self, name: str, why: str) -> None:
        """A file that is not what it should be: NAME.bad from now on, in the place of an older one."""
        if self.path is None:
            return
        place = self.path / name
        try:
            os.replace(place, self.path / f"{name}.bad")
        except OSError as error:
            log.warning("%s is no use (%s) and cannot be renamed: %s; going on without it", place, why, error.strerror)
            return
        log.warning("%s is no use (%s): it is %s.bad now; going on without it", place, why, name)

    def _complain(self, name: str, sentence: str) -> None:
        if sentence != self._reported.get(name):
            log.error("%s", sentence)
            self._reported[name] = sentence


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _why(error: OSError, path: Path) -> str:
    if error.errno == errno.ENOENT:
        return f"there is no {path.parent}; create it"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"no right to it; chown it to the user that starts lbd (uid {os.geteuid()}), mode 0700"
    return f"{error.strerror}"
