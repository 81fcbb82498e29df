"""The load generator idload.c, built when it is first needed, and what it counted.

with IdLoad(port, connections=32, post=10) as load:
    ...                                  # load.counts() looks at it meanwhile
load.counts().assert_clean()             # after the block: everything that was begun has been answered, or counted as lost
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["NO_COMPILER", "Counts", "IdLoad", "build_idload", "find_compiler"]

SOURCE = Path(__file__).with_suffix(".c")
NO_COMPILER = "needs a C compiler (cc, gcc or clang) to build tests/support/idload.c"


def find_compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def build_idload() -> Path:
    """The program, compiled once for each state of its source."""
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError(NO_COMPILER)
    directory = Path(tempfile.gettempdir()) / f"lbd-tests-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    program = directory / f"idload-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        fresh = directory / f"{program.name}.{os.getpid()}"  # two runs may build at the same time
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", fresh, SOURCE], check=True)
        fresh.rename(program)
    return program


@dataclass(frozen=True, slots=True)
class Counts:
    """What idload.c says; it tells what each means."""

    begun: int
    ok: int
    status: int
    broken: int
    cut: int
    mismatched: int
    refused: int
    reconnects: int
    resent: int
    seconds: float
    first_failure: str

    @property
    def failed(self) -> int:
        """Requests that were not answered as they should be."""
        return self.status + self.broken + self.mismatched + self.refused

    def assert_clean(self, at_least: int = 1) -> Self:
        assert self.failed == 0, self
        assert self.ok == self.begun, self
        if self.ok < at_least:
            raise TimeoutError(f"fewer than {at_least} in that time: {self}")
        return self


class IdLoad:
    """Runs until the end of the `with` block, or until its number of requests or seconds is reached."""

    def __init__(
        self,
        *ports: int,
        connections: int = 32,
        requests: int = 0,
        seconds: int = 0,
        **shares: int,  # post, body, close, pipeline, pause, timeout: as idload.c has them
    ) -> None:
        options = {"connections": connections, "requests": requests, "seconds": seconds, **shares}
        arguments = [word for name, value in options.items() if value for word in (f"--{name}", str(value))]
        self._counts: Counts | None = None
        self.process = subprocess.Popen([build_idload(), *arguments, *map(str, ports)], stdout=subprocess.PIPE, start_new_session=True)
        self._read()  # from now on it hears signals

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.stop()
        elif self._counts is None:
            self.process.kill()
            self.process.communicate()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def counts(self) -> Counts:
        """So far; at the end, all."""
        if self._counts is None:
            self.process.send_signal(signal.SIGUSR1)
            return self._read()
        return self._counts

    def wait(self, timeout: float = 120.0) -> Counts:
        """Until it ends by itself."""
        if self._counts is None:
            self.process.wait(timeout)
            assert self.process.stdout is not None
            with self.process.stdout:
                *_, last = self.process.stdout
            self._counts = read_counts(last)
            assert self.process.returncode == 0
        return self._counts

    def stop(self, timeout: float = 40.0) -> Counts:
        """Begins no more requests, waits for the answers to those that were begun."""
        if self.is_running():
            self.process.terminate()
        return self.wait(timeout)

    def _read(self) -> Counts:
        assert self.process.stdout is not None
        return read_counts(self.process.stdout.readline())


def read_counts(line: bytes) -> Counts:
    if not line:
        raise RuntimeError("idload ended without a word")
    return Counts(**json.loads(line))
