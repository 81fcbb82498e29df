"""Daemons for tests and the bench: lbd, nginx, haproxy, started on loopback and stopped by their own pid.

    with start_lbd(text, directory) as lbd:
        ...
        lbd.rewrite(other_text); lbd.reload()

Every daemon runs in a session of its own, so that a signal meant for pytest does not reach it and that what is left of it can
be ended as one group. Its output is in `daemon.log()`, and is part of the message when something does not come up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support import procfs
from tests.support.http import get
from tests.support.leaks import GAUGED, GROWTH, leaks, look_at
from tests.support.patience import PATIENCE
from tests.support.ports import is_listening

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from tests.support.leaks import Footprint

__all__ = [
    "Daemon",
    "HaproxyDaemon",
    "LbdDaemon",
    "NginxDaemon",
    "begin_with",
    "find_program",
    "start_haproxy",
    "start_lbd",
    "start_nginx",
    "wait_until",
    "whole_lines",
]  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent.parent
# As many descriptors as the machine allows: 10,000 connections need 20,000 in a balancer.
NO_FILE_LIMIT = "ulimit -n $(ulimit -Hn); "
QUIET = 10.0  # seconds until nothing is left of what a test has done, once the last client is gone


def find_program(name: str) -> str | None:
    """Debian keeps daemons in /usr/sbin, which is not in everyone's PATH."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def whole_lines(path: Path) -> list[str]:
    """Of a log that may be in the middle of being written."""
    return path.read_text().rpartition("\n")[0].splitlines()


def wait_until(holds: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
    """Polls until it holds; fails with `what` was waited for."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(0.01)


class Daemon:
    """A child process with its output in a file."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        directory: Path,
        *,
        name: str = "",
        environment: Mapping[str, str] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.arguments = [str(argument) for argument in arguments]
        self.directory = directory
        self.name = name or Path(self.arguments[0]).name
        self.stop_signal = stop_signal
        self.log_path = directory / f"{self.name}.log"
        directory.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                ["/bin/sh", "-c", NO_FILE_LIMIT + 'exec "$@"', "sh", *self.arguments],
                cwd=directory,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self.is_running() else f"exited {self.process.returncode}"
        return f"<{type(self).__name__} {self.name} pid {self.pid} {state}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_running(self) -> bool:
        return self.process.poll() is None

    def workers(self) -> list[int]:
        """The processes that do the work: the master's children, or itself when it has none."""
        return procfs.children(self.pid) or [self.pid]

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, pattern: str, timeout: float = PATIENCE, start: int = 0) -> re.Match[str]:
        """The first match in the log from position `start` on."""
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found.extend(match for match in [re.search(pattern, self.log()[start:])] if match)
            return bool(found)

        try:
            wait_until(seen, f"{pattern!r} in the log of {self.name}", timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; the log says:\n{self.log()[-4000:]}") from None
        return found[0]

    def wait_for_ports(self, *ports: int, timeout: float = PATIENCE) -> Self:
        """Until it listens on all of them; at once with its log when it exits instead."""

        def serving() -> bool:
            if not self.is_running():
                raise RuntimeError(f"{self.name} exited with {self.process.returncode}:\n{self.log()[-4000:]}")
            return all(is_listening(port) for port in ports)

        try:
            wait_until(serving, f"{self.name} on {ports}", timeout)
        except BaseException as error:
            self.stop()
            error.add_note(self.log()[-4000:])
            raise
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Its exit status, once it ends by itself."""
        return self.process.wait(timeout)

    def stop(self, timeout: float = PATIENCE) -> int:
        """Asks it to end, and ends what is left of its group. The exit status tells whether it came to force (-9)."""
        if self.is_running():
            self.signal(self.stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # our own session: workers that outlived their master too
        return self.process.wait(timeout)

    def kill(self) -> None:
        """As a crash would: master and workers at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


class LbdDaemon(Daemon):
    """An lbd with its configuration in directory/lb.toml, and the admin listener's answers.

    Each one that is stopped is looked at for what it has left behind, before and after (`check_leaks`), and so is the master that an
    upgrade has put in its place. A test that stops it while something is under way, or does worse to it, says so: `lbd.leaks = "why it
    may"`; one that needs more memory sets `lbd.growth`.
    """

    leaks = ""
    growth = GROWTH
    quiet = QUIET
    begun: Footprint | None = None  # when it was ready

    def __init__(
        self,
        text: str,
        directory: Path,
        *,
        pure: bool = False,
        name: str = "lbd",
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        under: Sequence[str] = (),
    ) -> None:
        """`under`: the command that starts it, as ("prlimit", "--nofile=64")."""
        directory.mkdir(parents=True, exist_ok=True)
        self.config = directory / f"{name}.toml"
        self.config.write_text(text)
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        mode = {"LBD_PURE": "1"} if pure else {}
        super().__init__(
            [*under, sys.executable, "-m", "lbd", "-c", self.config],
            directory,
            name=name,
            environment={"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **mode, **(environment or {})},
            pass_fds=pass_fds,
        )

    def stop(self, timeout: float = PATIENCE) -> int:
        """Its exit status; the master that has come after it is ended too."""
        is_to_be_checked = not self.leaks and sys.exc_info()[0] is None
        successor = self.successor()
        start = self.log_path.stat().st_size
        try:
            if is_to_be_checked and (self.is_running() or successor):
                self.check_leaks()
        finally:
            if successor:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(successor, signal.SIGTERM)
                wait_until(lambda: not procfs.is_alive(successor), "the successor's end", timeout)
            status = super().stop(timeout)
        if is_to_be_checked and (found := re.search("a bug: .* left over.*", self.log()[start:])):
            raise AssertionError(f"{self.name}: {found[0]}")
        return status

    def master(self) -> int:
        """Who answers: after an upgrade it is no child of ours."""
        return int(self.json("/api/v1/status")["pid"])

    def successor(self) -> int:
        """The master that an upgrade has brought; 0: there is none."""
        if "upgrading: starting a new master" not in self.log():
            return 0
        try:
            pid = self.master()
        except (OSError, ValueError, KeyError, IndexError):  # nobody is there
            return 0
        return pid if pid != self.pid and str(self.config) in procfs.command_of(pid) else 0

    def check_leaks(self) -> None:
        """Waits until there is nothing more than there was; fails with what is. One that was never ready cannot be compared."""
        found: list[str] = []

        def is_clean() -> bool:
            assert self.begun is not None
            try:
                found[:] = leaks(self.begun, look_at(self), self.growth)
            except OSError as error:
                found[:] = [f"{self.admin} does not say: {error!r}"]
            return not found

        if self.begun is None:
            return
        with contextlib.suppress(OSError):
            if look_at(self).may_show_leaks:
                time.sleep(GAUGED)  # what the gauges say now may be from before the last request
        try:
            wait_until(is_clean, "nothing to be left", self.quiet)
        except TimeoutError:
            raise TimeoutError(f"{self.name} leaks, or somebody is still connected: {'; '.join(found)}") from None

    @property
    def admin(self) -> str:
        """Host and port, as the configuration has them."""
        match = re.search(r"^\[admin\][^\[]*?^bind\s*=\s*\"([^\"]+)\"", self.config.read_text(), re.MULTILINE | re.DOTALL)
        return match[1] if match else "127.0.0.1:9901"

    @property
    def token(self) -> str:
        match = re.search(r"^\[admin\][^\[]*?^token\s*=\s*\"([^\"]+)\"", self.config.read_text(), re.MULTILINE | re.DOTALL)
        return match[1] if match else ""

    def rewrite(self, text: str) -> None:
        """In one step, as an operator's tool should: a reload never reads half a file."""
        new = self.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.config)

    def reload(self, text: str | None = None, timeout: float = PATIENCE) -> None:
        """SIGHUP, and wait until the master has said what came of it (a good or a bad reload)."""
        if text is not None:
            self.rewrite(text)
        before = self.reloads()
        self.signal(signal.SIGHUP)
        wait_until(lambda: self.reloads() > before, "the reload", timeout)

    def reloads(self) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith("lbd_reloads_total{"))

    def ask(self, path: str, timeout: float = PATIENCE) -> bytes:
        fields = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        if self.admin.startswith("unix:"):
            return get(self.admin.removeprefix("unix:"), path, {"Connection": "close", **fields}, timeout).body
        question = urllib.request.Request(f"http://{self.admin}{path}", headers=fields)
        with urllib.request.urlopen(question, timeout=timeout) as answer:
            body: bytes = answer.read()
            return body

    def json(self, path: str) -> Any:  # noqa: ANN401 - whatever the admin API answers
        return json.loads(self.ask(path))

    def is_ready(self) -> bool:
        try:
            return bool(self.ask("/readyz"))
        except OSError:  # 503, or not listening yet
            return False

    def wait_ready(self, timeout: float = PATIENCE) -> Self:
        def ready() -> bool:
            if not self.is_running():
                raise RuntimeError(f"lbd exited with {self.process.returncode}:\n{self.log()[-4000:]}")
            return self.is_ready()

        try:
            wait_until(ready, "lbd's /readyz", timeout)
        except BaseException as error:
            self.stop()
            error.add_note(self.log()[-4000:])
            raise
        if self.begun is None:
            self.begun = look_at(self)
        return self

    def metrics(self) -> dict[str, float]:
        """`lbd_requests_total{code="200",...}` -> value, as scraped."""
        lines = (line for line in self.ask("/metrics").decode().splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series of that name which have those labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        found = [v for series, v in self.metrics().items() if series.split("{")[0] == name and all(w in series for w in wanted)]
        return sum(found)


class NginxDaemon(Daemon):
    """nginx in the foreground, everything it writes in its directory."""

    def __init__(self, text: str, directory: Path, name: str = "nginx") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / f"{name}.conf"
        config.write_text(text)
        program = find_program("nginx") or "nginx"
        arguments: list[str | Path] = [program, "-e", directory / f"{name}.error.log", "-p", directory, "-c", config]
        super().__init__(arguments, directory, name=name, stop_signal=signal.SIGTERM)


class HaproxyDaemon(Daemon):
    """haproxy in the foreground; its one process is its own worker."""

    def __init__(self, text: str, directory: Path, name: str = "haproxy") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / f"{name}.cfg"
        config.write_text(text)
        super().__init__([find_program("haproxy") or "haproxy", "-db", "-f", config], directory, name=name)


def begin_with(directory: Path, program: str) -> dict[str, str]:
    """An environment in which every process of Python begins with `program`, which finds out whether it is meant."""
    (directory / "first").mkdir()
    (directory / "first" / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": f"{directory / 'first'}{os.pathsep}{ROOT}"}


def start_lbd(
    text: str, directory: Path, *, pure: bool = False, timeout: float = PATIENCE, environment: Mapping[str, str] | None = None
) -> LbdDaemon:
    """An lbd whose workers are ready."""
    return LbdDaemon(text, directory, pure=pure, environment=environment).wait_ready(timeout)


def start_nginx(text: str, directory: Path, *ports: int, name: str = "nginx") -> NginxDaemon:
    """nginx that listens on those ports; `text` is its whole configuration (nginx_config makes one)."""
    return NginxDaemon(text, directory, name).wait_for_ports(*ports)


def start_haproxy(text: str, directory: Path, *ports: int, name: str = "haproxy") -> HaproxyDaemon:
    return HaproxyDaemon(text, directory, name).wait_for_ports(*ports)
