"""The daemon's life with real processes: start, drain, crashes, signals, inherited sockets, and what the service manager hears."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import stat
import sys
import threading
import time
import tomllib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.http import Answer, Downstream, Ended, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_port
from tests.support.processes import ROOT, Daemon, LbdDaemon, begin_with, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

RSS_LIMIT = 45 << 20
HEAVY = ("h2", "prometheus_client", "tomllib", "tomli_w", "asyncio", "trustme", "cryptography")
is_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root")


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


def config(origin: ScriptedOrigin, *binds: str, lbd: str = "", log: str = "", listener: str = "", admin: int = 0) -> str:
    """A balancer in front of one origin."""
    names = ", ".join(f'"{bind}"' for bind in binds)
    return f"""
[lbd]
{lbd or "workers = 2"}
[log]
{log or 'access = "off"'}
[admin]
bind = "127.0.0.1:{admin or free_port()}"
[listener.web]
bind = [{names}]
cluster = "web"
{listener}
[cluster.web]
endpoints = ["{origin.address}"]
"""


class Asked:
    """A request in a thread of its own."""

    def __init__(self, address: int | str, target: str) -> None:
        self.answer: Answer | None = None
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._ask, args=(address, target))
        self._thread.start()

    def _ask(self, address: int | str, target: str) -> None:
        try:
            self.answer = get(address, target)
        except (OSError, Ended) as error:
            self.error = error

    def wait(self) -> Asked:
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self


def asked(origin: ScriptedOrigin, port: int, target: str) -> Asked:
    """A request that has reached the origin."""
    count = len(origin.received)
    started = Asked(port, target)
    wait_until(lambda: len(origin.received) > count, "the request at the origin")
    return started


@contextmanager
def started(text: str, directory: Path, **kwargs: object) -> Iterator[LbdDaemon]:
    with start_lbd(text, directory, **kwargs) as lbd:  # type: ignore[arg-type]
        yield lbd


def runs(text: str, directory: Path) -> tuple[int, str]:
    """A start that is to fail: exit code and what was said."""
    with LbdDaemon(text, directory) as lbd:
        return lbd.wait(), lbd.log()


def first_in_workers(directory: Path, statement: str) -> dict[str, str]:
    """An environment in which every worker, and nothing else, begins with a statement."""
    return begin_with(directory, f"import os, sys, time\nif sys.orig_argv[3:4] == ['lbd.worker']: {statement}")


def wait_for(path: Path) -> str:
    """A statement that hangs until the file is there."""
    return f"any(time.sleep(0.01) for _ in iter(lambda: os.path.exists({str(path)!r}), True))"


def answers(lbd: LbdDaemon, path: str) -> bool:
    try:
        return bool(lbd.ask(path))
    except OSError:
        return False


# The start


def test_it_is_ready_soon(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    begin = time.monotonic()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        seconds = time.monotonic() - begin
        print(f"ready after {seconds:.2f} s; workers at rest: {[procfs.rss_of(pid) >> 20 for pid in lbd.workers()]} MB")
        assert get(port).status == 200
        assert all(procfs.rss_of(pid) < RSS_LIMIT for pid in lbd.workers())
        lbd.wait_for_log(r"ready: lbd \S+ \((compiled core|pure Python)\), 2 workers, generation 1 on 127\.0\.0\.1:")


def test_a_worker_imports_little(tmp_path: Path) -> None:
    program = "import sys, lbd.worker.__main__; print(*sys.modules)"
    with Daemon([sys.executable, "-c", program], tmp_path, name="imports") as process:
        assert process.wait() == 0
        modules = set(process.log().split())
        assert not modules & set(HEAVY)
        assert not [name for name in modules if name.startswith(("lbd.config", "lbd.master", "lbd.admin", "lbd.discovery"))]


def test_a_port_in_use_ends_it_and_names_the_holder(origin: ScriptedOrigin, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        code, said = runs(config(origin, bind), tmp_path)
    assert code == 1
    assert f"lbd.toml:9: listener.web.bind: cannot listen on {bind}: the port is in use by " in said
    assert f"(process {os.getpid()}); stop what uses it, or choose another port" in said


FAULTY = """\
[lbd]
workers = 1
user = "no-such-user"
[log]
file = "{home}/nowhere/lbd.log"
access = "/"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = [
    "unix:{home}/fine.sock",
    "127.0.0.1:{taken}",
    "192.0.2.1:80",
    "fd:web",
]
cluster = "web"
[listener.b]
bind = "unix:{home}/nowhere/b.sock"
cluster = "web"
[cluster.web]
endpoints = ["127.0.0.1:1"]
"""
FAULTS = [
    '3: lbd.user: there is no user "no-such-user"',
    "5: log.file: cannot write to {home}/nowhere/lbd.log: No such file or directory",
    "6: log.access: cannot write to /: Is a directory",
    "8: admin.bind: cannot listen on 127.0.0.1:{admin}: the port is in use by ",
    "12: listener.web.bind[2]: cannot listen on 127.0.0.1:{taken}: the port is in use by ",
    "13: listener.web.bind[3]: cannot listen on 192.0.2.1:80: no interface of this machine has this address",
    '14: listener.web.bind[4]: cannot listen on fd:web: no sockets came with the name "web"',
    "18: listener.b.bind: cannot listen on unix:{home}/nowhere/b.sock: No such file or directory",
]


def test_all_that_the_machine_refuses_is_told_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        names = {"home": str(tmp_path), "admin": str(first.getsockname()[1]), "taken": str(second.getsockname()[1])}
        code, said = runs(FAULTY.format(**names), tmp_path)
    assert code == 1
    told = [line.partition("lbd.toml:")[2] for line in said.splitlines() if "lbd.toml:" in line]
    expected = [sentence.format(**names) for sentence in FAULTS if os.geteuid() == 0 or "lbd.user" not in sentence]
    assert len(told) == len(expected), said
    for line, start in zip(sorted(told, key=lambda line: int(line.split(":")[0])), expected, strict=True):
        assert line.startswith(start)
    assert not (tmp_path / "fine.sock").exists(), "nothing is left half started"


def test_a_second_one_does_not_take_the_firsts_connections(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path / "first") as first:
        code, said = runs(config(origin, f"127.0.0.1:{port}"), tmp_path / "second")
        assert code == 1
        assert f"the port is in use by lbd (process {first.pid})" in said
        assert get(port).status == 200


@pytest.mark.parametrize("key", ["file", "access"])
def test_a_log_that_cannot_be_written_ends_it(origin: ScriptedOrigin, tmp_path: Path, key: str) -> None:
    code, said = runs(config(origin, f"127.0.0.1:{free_port()}", log=f'{key} = "/nowhere/lbd.log"'), tmp_path)
    assert code == 1
    assert f"log.{key}: cannot write to /nowhere/lbd.log" in said


def test_a_wrong_configuration_is_another_exit_code(origin: ScriptedOrigin, tmp_path: Path) -> None:
    code, said = runs(config(origin, f"127.0.0.1:{free_port()}").replace("cluster =", "clutser ="), tmp_path)
    assert code == 78
    assert "clutser" in said


def test_a_worker_that_cannot_start_ends_it(origin: ScriptedOrigin, tmp_path: Path) -> None:
    text = config(origin, f"127.0.0.1:{free_port()}")
    with LbdDaemon(text, tmp_path, environment=first_in_workers(tmp_path, "os._exit(3)")) as lbd:
        assert lbd.wait(20) == 1
        assert "exited with 3 (3 times in a row)" in lbd.log()


@is_root
def test_workers_run_as_the_user_and_gain_no_rights(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}", lbd='workers = 1\nuser = "nobody"'), tmp_path) as lbd:
        (worker,) = lbd.workers()
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{worker}/status").read_text().splitlines() if ":\t" in line)
        assert set(status["Uid"].split()) == {str(pwd.getpwnam("nobody").pw_uid)}
        assert set(status["Gid"].split()) == {str(pwd.getpwnam("nobody").pw_gid)}
        assert status["NoNewPrivs"] == "1"
        assert status["CapEff"].strip("0") == ""
        assert get(port).status == 200


def test_workers_do_not_inherit_secrets_or_descriptors(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path, environment={"API_TOKEN": "hush"}) as lbd:
        for worker in lbd.workers():
            assert b"hush" not in Path(f"/proc/{worker}/environ").read_bytes()
            assert os.readlink(f"/proc/{worker}/fd/0") == "/dev/null"
            targets = [os.readlink(f"/proc/{worker}/fd/{fd}") for fd in os.listdir(f"/proc/{worker}/fd")]
            assert sum(target.startswith("socket:") for target in targets) <= 6, targets  # channel, listening, trio's wake-up pair


# Sends itself, in the middle of its first imports, what somebody else might send.
EARLY = """\
import os, signal, sys
def send(event, args):
    if event == "import" and args[0] == "lbd.cli.main":
        for number in (signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
sys.addaudithook(send)
"""
MODULE, _, FUNCTION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["lbd"].partition(":")
DOORS = {"-m": ["-m", "lbd"], "lbd": ["-c", f"import sys; from {MODULE} import {FUNCTION}; sys.exit({FUNCTION}())"]}


@pytest.mark.parametrize("door", DOORS)
def test_signals_that_come_while_it_imports_are_heard_later(origin: ScriptedOrigin, tmp_path: Path, door: str) -> None:
    (tmp_path / "lb.toml").write_text(config(origin, f"127.0.0.1:{free_port()}"))
    command: list[str | Path] = [sys.executable, *DOORS[door], "-c", tmp_path / "lb.toml"]
    with Daemon(command, tmp_path, name="lbd", environment=begin_with(tmp_path, EARLY)) as lbd:
        lbd.wait_for_log("reopened the logs")
        lbd.wait_for_log("reloaded, generation 2: nothing has changed")
        lbd.signal(signal.SIGTERM)
        assert lbd.wait() == 0


def test_a_command_that_is_no_daemon_ends_by_them(origin: ScriptedOrigin, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(config(origin, f"127.0.0.1:{free_port()}"))
    command: list[str | Path] = [sys.executable, "-m", "lbd", "check", "-c", tmp_path / "lb.toml"]
    with Daemon(command, tmp_path, name="lbd", environment=begin_with(tmp_path, EARLY)) as lbd:
        assert lbd.wait() in (-signal.SIGHUP, -signal.SIGUSR1)


# The end


def test_a_stop_lets_requests_finish_and_refuses_new_ones(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        slow = asked(origin, port, "/slow/1.5")
        begin = time.monotonic()
        lbd.signal(signal.SIGTERM)
        wait_until(lambda: not can_connect(port), "the port to close", 1.0)
        answer = slow.wait().answer
        assert answer is not None
        assert answer.body == b"slow\n"
        assert lbd.wait(5) == 0
        assert time.monotonic() - begin < 4.0
        assert "stopped: nothing was cut short" in lbd.log()


def test_an_answer_during_the_drain_says_close(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        slow = asked(origin, port, "/slow/1")
        lbd.signal(signal.SIGTERM)
        answer = slow.wait().answer
        assert answer is not None
        assert answer.get("connection") == "close"


def test_an_idle_one_stops_at_once(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd, Downstream(port) as idle:
        assert idle.ask("GET", "/").status == 200
        begin = time.monotonic()
        lbd.signal(signal.SIGINT)
        assert lbd.wait(10) == 0
        assert time.monotonic() - begin < 5.0
        assert idle.is_closed_by_peer()


def test_readyz_says_no_before_the_port_closes(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}", lbd='workers = 1\nready_delay = "1s"'), tmp_path) as lbd:
        lbd.signal(signal.SIGTERM)
        wait_until(lambda: not lbd.is_ready(), "readyz to say no", 0.9)
        assert get(port).status == 200
        assert lbd.wait(5) == 0


def test_what_takes_too_long_is_cut(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}", lbd='workers = 1\ndrain_timeout = "300ms"'), tmp_path) as lbd:
        slow = asked(origin, port, "/slow/30")
        begin = time.monotonic()
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(10) == 0
        assert 0.3 <= time.monotonic() - begin < 4.0
        assert slow.wait().error is not None
        assert "1 requests were cut short" in lbd.log()


def test_a_second_signal_ends_it_at_once(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        workers = lbd.workers()
        slow = asked(origin, port, "/slow/30")
        lbd.signal(signal.SIGTERM)
        lbd.wait_for_log("stopping")
        time.sleep(0.6)  # two in a moment are one: `timeout` and some shells send a signal twice
        assert lbd.is_running()
        begin = time.monotonic()
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(5) == 0
        assert time.monotonic() - begin < 2.0
        assert slow.wait().error is not None
        assert not any(map(procfs.is_alive, workers))


def test_two_signals_in_a_moment_are_one(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        slow = asked(origin, port, "/slow/1")
        lbd.signal(signal.SIGTERM)
        lbd.signal(signal.SIGINT)
        answer = slow.wait().answer
        assert answer is not None
        assert answer.status == 200
        assert lbd.wait(5) == 0


def test_a_stop_during_the_start_is_obeyed(origin: ScriptedOrigin, tmp_path: Path) -> None:
    environment = first_in_workers(tmp_path, wait_for(tmp_path / "go"))
    with LbdDaemon(config(origin, f"127.0.0.1:{free_port()}"), tmp_path, environment=environment) as lbd:
        wait_until(lambda: answers(lbd, "/healthz") and len(procfs.children(lbd.pid)) == 2, "workers that hang")
        workers = procfs.children(lbd.pid)
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(10) == 0
        assert not any(map(procfs.is_alive, workers))


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


# Crashes


@pytest.mark.final
def test_a_killed_worker_is_replaced_and_refuses_nobody(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        victim, survivor = lbd.workers()
        before = lbd.metric("lbd_requests_total")
        os.kill(victim, signal.SIGKILL)
        # Half of these queue at the dead worker's socket until its successor takes them.
        assert [get(port).status for _ in range(20)] == [200] * 20
        wait_until(lambda: len(lbd.workers()) == 2 and lbd.metric("lbd_worker_restarts_total") == 1, "a successor")
        assert victim not in lbd.workers()
        assert survivor in lbd.workers()
        # An answer goes out first and is counted then; the victim may have died between the two.
        assert before + 19 <= lbd.metric("lbd_requests_total") <= before + 20
        assert [worker["state"] for worker in lbd.json("/api/v1/status")["workers"]] == ["serving"] * 2
        lbd.wait_for_log(r"worker \d \(pid \d+\) was killed by SIGKILL; its successor starts now")


def test_workers_ignore_signals_meant_for_the_master(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    with started(config(origin, f"127.0.0.1:{port}"), tmp_path) as lbd:
        workers = lbd.workers()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            for worker in workers:
                os.kill(worker, number)
        time.sleep(0.2)
        assert get(port).status == 200
        assert lbd.workers() == workers


def test_workers_of_a_killed_master_finish_and_leave_the_port(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port = free_port()
    text = config(origin, f"127.0.0.1:{port}")
    with started(text, tmp_path / "first") as lbd:
        workers = lbd.workers()
        slow = asked(origin, port, "/slow/1.5")
        os.kill(lbd.pid, signal.SIGKILL)
        with started(text.replace(lbd.admin, f"127.0.0.1:{free_port()}"), tmp_path / "second"):
            assert get(port).status == 200
            answer = slow.wait().answer
            assert answer is not None
            assert answer.status == 200
            wait_until(lambda: not any(map(procfs.is_alive, workers)), "the orphans to end", 5.0)


# Sockets


def test_a_unix_socket_has_its_mode_and_goes_with_the_daemon(origin: ScriptedOrigin, tmp_path: Path) -> None:
    path = tmp_path / "lbd.sock"
    with started(config(origin, f"unix:{path}", listener='mode = "0600"'), tmp_path) as lbd:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert get(str(path)).status == 200
        lbd.kill()
    assert path.exists()  # what a crash leaves
    with started(config(origin, f"unix:{path}", listener='mode = "0666"'), tmp_path) as lbd:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert get(str(path)).status == 200
        lbd.signal(signal.SIGTERM)
        assert lbd.wait() == 0
    assert not path.exists()


@pytest.mark.parametrize("bind", ["fd:3", "fd:web"])
def test_sockets_from_the_service_manager(origin: ScriptedOrigin, tmp_path: Path, bind: str) -> None:
    text = config(origin, bind)
    (tmp_path / "lb.toml").write_text(text)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        # As systemd does it: the socket is descriptor 3, LISTEN_PID the process itself.
        program = (
            "import os, sys\n"
            f"os.dup2({held.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1', LISTEN_FDNAMES='web')\n"
            "os.execv(sys.executable, [sys.executable, '-m', 'lbd', *sys.argv[1:]])\n"
        )
        arguments: list[str | Path] = [sys.executable, "-c", program, "-c", tmp_path / "lb.toml"]
        with Daemon(arguments, tmp_path, name="lbd", environment={"PYTHONPATH": str(ROOT)}, pass_fds=[held.fileno()]) as lbd:
            lbd.wait_for_log("ready: lbd")
            assert [get(port).status for _ in range(5)] == [200] * 5
            # The same socket by another word would be served by either bind, by lot.
            again = "fd:web" if bind == "fd:3" else "fd:3"
            (tmp_path / "lb.toml").write_text(text.replace(f'["{bind}"]', f'["{bind}", "{again}"]'))
            lbd.signal(signal.SIGHUP)
            lbd.wait_for_log(rf'bind\[2\]: cannot listen on {again}: its socket is where "{bind}" of listener.web.bind\[1\] listens')
            assert [get(port).status for _ in range(5)] == [200] * 5
            lbd.signal(signal.SIGTERM)
            assert lbd.wait() == 0
        # The socket is its holder's, and still listens: a connection waits there for the next lbd.
        assert can_connect(port)


# Logs


def test_logs_are_reopened(origin: ScriptedOrigin, tmp_path: Path) -> None:
    port, log, access = free_port(), tmp_path / "lbd.txt", tmp_path / "access.txt"
    with started(config(origin, f"127.0.0.1:{port}", log=f'file = "{log}"\naccess = "{access}"'), tmp_path) as lbd:
        get(port, "/first")
        wait_until(lambda: "/first" in access.read_text(), "the first line")
        access.rename(tmp_path / "access.1")
        log.rename(tmp_path / "lbd.1")
        lbd.signal(signal.SIGUSR1)
        wait_until(lambda: access.exists() and log.exists() and "reopened the logs" in log.read_text(), "new files")
        for _ in range(10):  # of both workers
            get(port, "/second")
        wait_until(lambda: access.read_text().count("/second") == 10, "lines in the new file")
        assert "/second" not in (tmp_path / "access.1").read_text()
        assert log.stat().st_mode & 0o137 == 0


# The service manager


class Manager:
    """Hears what a daemon says with sd_notify."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.environment = {"NOTIFY_SOCKET": str(path)}
        self.said: list[str] = []

    def heard(self, word: str) -> bool:
        try:
            while True:
                self.said += self.socket.recv(4096).decode().splitlines()
        except BlockingIOError:
            return word in self.said

    def count(self, word: str) -> int:
        self.heard(word)
        return self.said.count(word)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    listening = Manager(tmp_path / "notify.sock")
    yield listening
    listening.socket.close()


def test_the_service_manager_hears_of_everything(origin: ScriptedOrigin, tmp_path: Path, manager: Manager) -> None:
    port = free_port()
    with LbdDaemon(config(origin, f"127.0.0.1:{port}"), tmp_path, environment=manager.environment) as lbd:
        wait_until(lambda: manager.heard("READY=1"), "READY=1")
        assert get(port).status == 200  # ready means ready
        assert f"MAINPID={lbd.pid}" in manager.said
        lbd.wait_ready()
        lbd.reload()
        wait_until(lambda: manager.heard("RELOADING=1") and manager.count("READY=1") == 2, "the reload")
        lbd.signal(signal.SIGTERM)
        assert lbd.wait() == 0
        assert manager.heard("STOPPING=1")


def test_the_watchdog_is_fed(origin: ScriptedOrigin, tmp_path: Path, manager: Manager) -> None:
    environment = {**manager.environment, "WATCHDOG_USEC": "400000"}
    with LbdDaemon(config(origin, f"127.0.0.1:{free_port()}"), tmp_path, environment=environment).wait_ready():
        wait_until(lambda: manager.count("WATCHDOG=1") >= 4, "four signs of life", 5.0)


def test_ready_is_said_only_when_all_serve(origin: ScriptedOrigin, tmp_path: Path, manager: Manager) -> None:
    """A worker is slow to start: nobody may be told that the daemon is ready."""
    environment = {**manager.environment, **first_in_workers(tmp_path, wait_for(tmp_path / "go"))}
    with LbdDaemon(config(origin, f"127.0.0.1:{free_port()}"), tmp_path, environment=environment) as lbd:
        wait_until(lambda: len(procfs.children(lbd.pid)) == 2 and answers(lbd, "/healthz"), "workers that hang")
        assert not lbd.is_ready()
        assert not manager.heard("READY=1")
        (tmp_path / "go").touch()
        wait_until(lambda: manager.heard("READY=1"), "READY=1")
        assert lbd.is_ready()
