"""The blocking side of a log: its descriptor, and the thread that writes to it.

Theory. No file and hardly any pipe can be written without blocking (to set O_NONBLOCK on a descriptor that we inherited would set
it for our parent too), so a thread writes, and whoever waits for it may leave it behind.

It is not one of trio's. What a thread costs beside a busy reactor is not its start but the GIL: while a thread waits for it, each
short release by the reactor wakes the thread for nothing, and one of trio's takes the GIL seven times for a write (to name itself,
to look at its next job, ...), this one three times. That was 1 us for each line of a busy log.

- A pipe takes up to PIPE_BUF bytes in one piece (POSIX); several workers share it, so more is cut there, between lines.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import sys
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Self

import trio

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

__all__ = ["LogFile", "WriteThread", "write_and_release", "write_lines"]

STALL_MILLISECONDS = 1000  # how long a full non-blocking descriptor may stay full
NEVER = sys.maxsize


class LogFile:
    """A descriptor that may be exchanged (logs reopened after rotation), but not under a write in progress."""

    __slots__ = ("_lock", "_retired", "_writers", "fd", "is_torn")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.is_torn = False  # the last write ended in the middle of a line
        self._lock = threading.Lock()  # a writer's thread releases, the loop reopens
        self._writers = 0
        self._retired: list[int] = []

    def reopen(self, fd: int) -> None:
        """Takes `fd` over and closes the old one, now or when its write is done."""
        with self._lock:
            self._retired.append(self.fd)
            self.fd = fd
            self.is_torn = False
            self._close_retired()

    def close(self) -> None:
        self.reopen(-1)

    def acquire(self) -> int:
        with self._lock:
            self._writers += 1
            return self.fd

    def release(self) -> None:
        with self._lock:
            self._writers -= 1
            self._close_retired()

    def _close_retired(self) -> None:
        while self._retired and not self._writers:
            fd = self._retired.pop()
            if fd > 2:  # stdout and stderr may be the other log, or a library's last words
                os.close(fd)


class WriteThread:
    """Writes what it is given, one piece after the other. It begins with the first piece; `with` ends it behind the last one."""

    __slots__ = ("_jobs", "_thread")

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None) -> None:
        self._jobs.put(None)

    async def write(self, file: LogFile, data: bytes) -> tuple[int, str]:
        """write_lines(), which may block for as long as the file likes; when cancelled, the thread is left to itself."""
        token = trio.lowlevel.current_trio_token()
        done = trio.Event()
        result = 0, ""
        fd = file.acquire()

        def job() -> None:
            nonlocal result
            result = write_and_release(file, fd, data)
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="log", daemon=True)
            self._thread.start()
        self._jobs.put(job)
        await done.wait()
        return result

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def write_and_release(file: LogFile, fd: int, data: bytes) -> tuple[int, str]:
    try:
        return write_lines(fd, data)
    finally:
        file.release()


def write_lines(fd: int, data: bytes) -> tuple[int, str]:
    """Writes all, blocking; or as much as could be, and a sentence that says why not all."""
    try:
        piece = select.PIPE_BUF if stat.S_ISFIFO(os.fstat(fd).st_mode) else NEVER
        written = 0
        while written < len(data):
            end = end_of_piece(data, written, piece)
            try:
                written += os.write(fd, data[written:end] if written or end < len(data) else data)
            except BlockingIOError:
                if not wait_writable(fd):
                    return written, "nobody reads them"
    except OSError as error:
        return written if error.errno != errno.EBADF else 0, f"writing failed: {error.strerror}"
    return written, ""


def end_of_piece(data: bytes, start: int, limit: int) -> int:
    """Where to cut: behind the last whole line within `limit`; behind the first line, when that alone is longer."""
    if len(data) - start <= limit:
        return len(data)
    end = data.rfind(b"\n", start, start + limit) + 1
    return end or data.find(b"\n", start) + 1 or len(data)


def wait_writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(STALL_MILLISECONDS))
