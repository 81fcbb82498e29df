"""The files behind the log and the access log. The master opens them and hands descriptors on: workers need no right to the
directory, and a file reopened after rotation is reopened once.

- A FIFO is opened for writing only while somebody reads it: to open(2) one that nobody reads is to wait, for ever perhaps. It stays
  non-blocking, so that a reader that sleeps costs lines, not the log (worker/log_file.py). The descriptor is ours alone, and our workers'.
- A file may be on a file system that hangs, where no flag helps. So once the daemon serves, a thread opens, and is left behind when it
  takes longer than PATIENCE: a rotation or a reload may fail for it, the master has other things to do.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from lbd.errors import EnvironmentFault
from lbd.master.bugs import Bugs
from lbd.master.faults import Faults
from lbd.worker.log import LineBuffer, LogPolicy, setup_logging
from lbd.worker.log_file import LogFile
from lbd.worker.messages import ReopenLogs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lbd.config.schema import Config

__all__ = ["LogFiles", "Logs", "open_logs"]

STANDARD = {"stdout": 1, "stderr": 2}
MODE = 0o640  # an access log tells who asked for what
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
PATIENCE = 5.0  # seconds

log = logging.getLogger("lbd.master")


class LogFiles:
    """Open descriptors, ours to close."""

    def __init__(self, policy: LogPolicy, log: int, access: int) -> None:
        """`access`: -1 when it is off."""
        self.policy = policy
        self.log = log
        self.access = access

    @classmethod
    def open(cls, policy: LogPolicy) -> LogFiles:
        """However long it takes. EnvironmentFault: one of the files cannot be written, or both."""
        faults = Faults()
        files = cls(policy, -1, -1)
        with faults.gather():
            files.log = _open("file", policy.file)
        with faults.gather():
            files.access = -1 if policy.access == "off" else _open("access", policy.access)
        if faults.found:
            files.close()
            faults.raise_all()
        return files

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


async def open_logs(policy: LogPolicy) -> LogFiles:
    """LogFiles.open() for a loop that must not stand still; EnvironmentFault, too, when it takes too long."""
    faults = Faults()
    files = LogFiles(policy, -1, -1)
    try:
        with faults.gather():
            files.log = await _open_in_time("file", policy.file)
        with faults.gather():
            files.access = -1 if policy.access == "off" else await _open_in_time("access", policy.access)
        faults.raise_all()
    except BaseException:
        files.close()
        raise
    return files


async def _open_in_time(key: str, path: str) -> int:
    handover = threading.Lock()
    opened = -1
    is_late = False

    def work() -> None:
        nonlocal opened
        fd = _open(key, path)
        with handover:
            if is_late:
                os.close(fd)
            else:
                opened = fd

    try:
        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(work, abandon_on_cancel=True)
    except BaseException as error:
        with handover:
            is_late = True
            if opened >= 0:
                os.close(opened)
        if isinstance(error, trio.TooSlowError):
            sentence = f"cannot write to {path}: it is not open after {PATIENCE:g} s; see to its disk, or choose another"
            raise EnvironmentFault(sentence, ("log", key)) from None
        raise
    return opened


def _open(key: str, path: str) -> int:
    try:
        if path in STANDARD:
            if getattr(sys, path) is None:  # it was closed when we began, and its number may be another file's by now
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            return os.dup(STANDARD[path])
        return os.open(path, FLAGS, MODE)
    except OSError as error:
        raise EnvironmentFault(f"cannot write to {path}: {_remedy(error, path)}", ("log", key)) from None


def _remedy(error: OSError, path: str) -> str:
    if path in STANDARD:
        return "it is closed; choose a file"
    if error.errno == errno.ENXIO:
        with suppress(OSError):
            if stat.S_ISFIFO(os.stat(path).st_mode):
                return "it is a FIFO that nobody reads; start its reader first, or choose a file"
            if stat.S_ISSOCK(os.stat(path).st_mode):
                return 'it is a socket; write "stdout" or "stderr" where that is one of them, or choose a file'
    return f"{error.strerror}; see to its directory and rights, or choose another"


class Logs:
    """The logs in force: the master's own lines, and the files that all write to. `tell` has the workers hear of others."""

    def __init__(self, policy: LogPolicy, faults: Faults, tell: Callable[[object, Sequence[int]], None]) -> None:
        """What cannot be opened is one of `faults`, and told on standard error. EnvironmentFault: not even that is there."""
        self.files = self._first(policy, faults)
        self.lines, self.file = LineBuffer(), LogFile(os.dup(self.files.log))
        self.bugs = Bugs()
        self._tell = tell
        self.speak(policy)

    def _first(self, policy: LogPolicy, faults: Faults) -> LogFiles:
        with faults.gather():
            return LogFiles.open(policy)
        return LogFiles.open(LogPolicy(access="off"))

    def speak(self, policy: LogPolicy) -> None:
        """As loud and in the form that it asks for."""
        setup_logging(policy, self.lines.append, process="master")
        logging.getLogger("lbd").addHandler(self.bugs)

    async def reopen(self, config: Callable[[], Config]) -> None:
        """After a rotation. When a file cannot be opened the old ones stay. `config` is what is in force, which may change meanwhile."""
        while True:
            wanted = config()
            try:
                files = await open_logs(wanted.log)
            except EnvironmentFault as fault:
                log.error("%s; the old files stay open", "; ".join(wanted.describe(fault)))
                return
            if files.is_for(config().log):
                break
            files.close()
        try:
            self.send(files)
        except EnvironmentFault as fault:
            files.close()
            log.error("%s; the old files stay open", fault)
            return
        self.take(files)
        log.info("reopened the logs")

    def send(self, files: LogFiles) -> None:
        """Workers write to these from now on. EnvironmentFault: not all of them."""
        try:
            self._tell(ReopenLogs(files.has_access), files.fds)
        except OSError as error:
            raise EnvironmentFault(f"the workers cannot be given the log files: {error.strerror}") from error

    def take(self, files: LogFiles) -> None:
        """So do we. The old ones are closed."""
        self.files.close()
        self.files = files
        self.file.reopen(os.dup(files.log))

    def close(self) -> None:
        self.files.close()
