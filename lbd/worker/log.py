"""The log and the access log.

Theory. Nothing that happens to a log may hold up a request: the disk fills up, the program behind the pipe stops reading. So a
line is appended to a LineBuffer, which takes it or counts it as lost; flush_lines() has a thread write what has gathered
(log_file.py). An idle daemon sleeps: the first line wakes the writer, which waits a moment for more, then writes all at once.

- What could not be written is dropped and counted, not kept: later lines tell more. Of the access log the process log hears, once a
  minute; what the process log has lost itself it tells when it can be written again.
- While the process ends, the writer gets EXIT_SECONDS more and is then left behind.

The process log goes through the stdlib's `lbd` logger; `extra={...}` becomes key=value, or keys of the JSON object.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import trio

from lbd.policy import Choice
from lbd.worker.log_file import WriteThread

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from lbd.worker.log_file import LogFile

__all__ = ["LineBuffer", "LogPolicy", "flush_lines", "one_line", "setup_logging"]

BUFFER_LIMIT = 4 << 20  # a second of a busy worker's lines
FLUSH_SIZE = 256 << 10  # a write costs three hand-overs of the GIL; what is larger leaves the CPU's cache before it is written
FLUSH_SECONDS = 0.1  # what `tail -f` does not notice
EXIT_SECONDS = 1.0
COMPLAINT_SECONDS = 60.0  # between two complaints about lines lost
STUCK_SECONDS = 1.0  # a write that takes longer has nobody at its other end
NEVER = sys.maxsize

# What every record has: the rest came from `extra`.
OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@dataclass(frozen=True, slots=True)
class LogPolicy:
    """`[log]`."""

    level: Annotated[str, Choice(("debug", "info", "warning", "error"))] = "info"
    format: Annotated[str, Choice(("text", "json"))] = "text"
    file: str = "stderr"  # or a path
    access: str = "stdout"  # stdout | off | a path
    access_format: Annotated[str, Choice(("json", "combined"))] = "json"


class LineBuffer:
    """Lines on their way to a file. append() may be called from any thread and never blocks."""

    __slots__ = ("_alarm", "_alarm_size", "_limit", "_lines", "loss_alarm", "lost", "size")

    def __init__(self, limit: int = BUFFER_LIMIT) -> None:
        self._limit = limit
        self._lines: deque[bytes] = deque()
        self._alarm: Callable[[], None] | None = None
        self._alarm_size = NEVER
        self.size = 0  # bytes
        self.lost = 0  # lines, since the start
        self.loss_alarm: Callable[[], None] | None = None  # called once, by the next line that finds no room

    def append(self, line: bytes) -> None:
        size = self.size + len(line)
        if size > self._limit:
            self.lost += 1
            if self.loss_alarm is not None:
                alarm, self.loss_alarm = self.loss_alarm, None
                alarm()
            return
        self._lines.append(line)
        self.size = size
        if size >= self._alarm_size:
            self._alarm_size = NEVER
            if self._alarm is not None:
                self._alarm()

    def take(self) -> bytes:
        """Everything that has gathered; leaves the buffer empty."""
        # Not a swap of two lists: another thread may be about to append to the old one.
        lines = [self._lines.popleft() for _ in range(len(self._lines))]
        self.size = 0 if not self._lines else 1
        return b"".join(lines)

    def set_alarm(self, size: int, alarm: Callable[[], None] | None) -> None:
        """Calls `alarm` once, as soon as there are `size` bytes; maybe at once."""
        self._alarm = alarm
        self._alarm_size = NEVER if alarm is None else size
        if alarm is not None and self.size >= size:
            self._alarm_size = NEVER
            alarm()


async def flush_lines(
    buffer: LineBuffer,
    file: LogFile,
    complain: Callable[[str], None] | None = None,
    *,
    is_own: bool = False,
    interval: float = FLUSH_SECONDS,
    write: Callable[[LogFile, bytes], Awaitable[tuple[int, str]]] | None = None,
) -> None:
    """Runs until cancelled: writes what gathers in `buffer`. `complain` is told, in a sentence, when lines are lost; with `is_own` what it
    is told goes to this very log."""
    with WriteThread() as thread:
        writer = Writer(buffer, file, complain, write or thread.write, is_own=is_own)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.watch)
            try:
                while True:
                    await wait_for_size(buffer, 1)
                    with trio.move_on_after(interval):
                        await wait_for_size(buffer, FLUSH_SIZE)
                    await trio.lowlevel.checkpoint_if_cancelled()  # not later: what is taken from the buffer must be written
                    await writer.write()
            finally:
                buffer.set_alarm(0, None)
                with trio.move_on_after(EXIT_SECONDS, shield=True):
                    await writer.write()


async def wait_for_size(buffer: LineBuffer, size: int) -> None:
    """Returns when the buffer holds `size` bytes."""
    event = trio.Event()
    token = trio.lowlevel.current_trio_token()
    # By way of the token, since a line may come from another thread; it is one call for each flush.
    buffer.set_alarm(size, lambda: token.run_sync_soon(event.set, idempotent=True))
    try:
        await event.wait()
    finally:
        buffer.set_alarm(0, None)


class Writer:
    """Says that lines were lost, and why, but not more often than once in COMPLAINT_SECONDS."""

    __slots__ = ("_buffer", "_complain", "_complained_at", "_fault", "_file", "_is_own", "_is_writing", "_lost_before", "_write")

    def __init__(
        self,
        buffer: LineBuffer,
        file: LogFile,
        complain: Callable[[str], None] | None,
        write: Callable[[LogFile, bytes], Awaitable[tuple[int, str]]],
        *,
        is_own: bool = False,
    ) -> None:
        self._is_own = is_own
        self._buffer = buffer
        self._file = file
        self._complain = complain
        self._write = write
        self._complained_at = float("-inf")
        self._fault = ""
        self._lost_before = 0
        self._is_writing = False

    async def watch(self) -> None:
        """Tells of lines that found no room while a write is stuck, which may be for ever: write() itself tells when it returns."""
        token = trio.lowlevel.current_trio_token()
        while True:
            event = trio.Event()
            self._buffer.loss_alarm = partial(token.run_sync_soon, event.set)
            await event.wait()
            await trio.sleep(STUCK_SECONDS)
            if self._is_writing and not self._fault:
                self._fault = "a write does not return; nobody reads the pipe, or the disk hangs"
            if not self._is_own:
                self._report(trio.current_time())
            await trio.sleep(COMPLAINT_SECONDS)

    async def write(self) -> None:
        data = self._buffer.take()
        fault = ""
        if data:
            if self._file.is_torn:
                data = b"\n" + data
            self._is_writing = True
            written, fault = await self._write(self._file, data)
            self._is_writing = False
            self._fault = fault or self._fault
            if written:
                self._file.is_torn = not data.endswith(b"\n", 0, written)
            self._buffer.lost += data.count(b"\n", written)
        if not (self._is_own and fault):
            self._report(trio.current_time())

    def _report(self, now: float) -> None:
        lost = self._buffer.lost - self._lost_before
        if not lost or now < self._complained_at + COMPLAINT_SECONDS:
            return
        fault, self._fault = self._fault, ""
        self._complained_at = now
        self._lost_before = self._buffer.lost
        if self._complain is not None:
            remedy = 'level = "warning"' if self._is_own else 'access = "off"'
            cause = fault or f"they came faster than they could be written; a faster file, or log.{remedy}, helps"
            name = "this log" if self._is_own else "the access log"
            self._complain(f"{name} lost {lost} {'line' if lost == 1 else 'lines'}: {cause}")


class RecordHandler(logging.Handler):
    """Formats a record and hands it on as one line."""

    def __init__(self, write: Callable[[bytes], None], formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception as error:  # a wrong number of arguments must not cost the message, nor the caller
            record.msg, record.args = f"{record.msg} (with {record.args!r}: {error})", None
            text = self.format(record)
        self._write(text.encode("utf-8", "backslashreplace") + b"\n")


class TextFormatter(logging.Formatter):
    """`2026-01-01T00:00:00.000Z INFO lbd.health: sentence key=value`; a traceback follows on lines of its own, indented.

    The master has many parts, and the name is the part's; there are many workers, and the name tells which of them.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._worker = "" if process == "master" else f"lbd.{process}"

    def format(self, record: logging.LogRecord) -> str:
        words = [timestamp(record), record.levelname, f"{self._worker or record.name}:", one_line(record.getMessage())]
        words += (f"{key}={quoted_value(value)}" for key, value in extras(record).items())
        lines = [" ".join(words)]
        lines += (f"    {one_line(line)}" for line in traceback_text(record).splitlines())
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One object a line, tracebacks included."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": timestamp(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            entry["traceback"] = traceback_text(record)
        return json.dumps(entry, default=str)


def setup_logging(policy: LogPolicy, write: Callable[[bytes], None], *, process: str) -> None:
    """Sends the `lbd` logger's records to `write`, in place of where they went before: once at the start, again on reload."""
    logger = logging.getLogger("lbd")
    formatter = JsonFormatter(process) if policy.format == "json" else TextFormatter(process)
    logger.handlers = [RecordHandler(write, formatter)]
    logger.setLevel(policy.level.upper())
    logger.propagate = False


def timestamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in OWN_ATTRIBUTES}


def one_line(text: str) -> str:
    """Control characters written as escapes: what came off the wire cannot forge a line or steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted_value(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if text.isprintable() and text and not set(text) & set(' "=') else json.dumps(text)


def traceback_text(record: logging.LogRecord) -> str:
    return logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
