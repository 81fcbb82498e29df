"""lbd started as root: its workers are nobody, and lack nothing.

It is installed as in /root/lbd/.venv, where nobody may not look: whatever a worker needs from there must be in its memory before
it gives up root. So everything here is asked of a copy in a directory that is closed to others, and asked again of a worker that
has taken a killed one's place.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import signal
import socket
import socketserver
import sys
import threading
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority, client_context
from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import Daemon, LbdDaemon, start_lbd, wait_until, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root")

NOBODY = pwd.getpwnam("nobody")
# What lbd imports from site-packages, and what that imports.
PACKAGES = (
    "_cffi_backend", "attr", "attrs", "cffi", "cryptography", "h11", "hpack", "hyperframe", "idna", "lbd", "outcome", "prometheus_client",
    "sniffio", "sortedcontainers", "tomli_w", "trio",
)  # fmt: skip
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nunix\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment that only root can read."""
    closed = tmp_path_factory.mktemp("closed")
    closed.chmod(0o700)
    venv.create(closed / "venv", symlinks=True)
    (site,) = (closed / "venv/lib").glob("python*/site-packages")
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        if origin.stem == "__init__":
            shutil.copytree(origin.parent, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(origin, site)
    yield closed / "venv/bin/python"
    shutil.rmtree(closed)


@pytest.fixture(scope="module")
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin() as started:
        yield started


class Rig:
    """An lbd without `[lbd] user`, and what its configuration names."""

    def __init__(self, origin: ScriptedOrigin, directory: Path) -> None:
        self.origin = origin
        self.directory = directory
        self.port, self.admin, self.tls = free_ports(3)
        self.authority = Authority(directory / "keys")
        self.cert, self.key = self.authority.issue("a", "localhost")
        self.key.chmod(0o600)
        self.authority.directory.chmod(0o700)
        self.access = directory / "access.log"
        self.binds = [f"127.0.0.1:{self.port}"]

    def text(self, lbd: str = "") -> str:
        return f"""
[lbd]
workers = 2
{lbd}
[log]
access = "{self.access}"
[admin]
bind = "127.0.0.1:{self.admin}"
[listener.web]
bind = {json.dumps(self.binds)}
cluster = "web"
[listener.tls]
bind = "127.0.0.1:{self.tls}"
tls = {{ cert = "{self.cert}", key = "{self.key}" }}
cluster = "web"
[cluster.web]
endpoints = "{self.origin.address}"
"""

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in whole_lines(self.access)] if self.access.exists() else []

    def over_tls(self) -> socket.socket:
        """Workers have the keys, whose files are root's alone, from the master."""
        plain = socket.create_connection(("127.0.0.1", self.tls), 10)
        return client_context(self.authority.file).wrap_socket(plain, server_hostname="localhost")

    def refused(self) -> list[object]:
        """Why, each time."""
        return [line["detail"] for line in self.lines() if line["status"] == 400]


@pytest.fixture(scope="module")
def rig(origin: ScriptedOrigin, tmp_path_factory: pytest.TempPathFactory) -> Rig:
    return Rig(origin, tmp_path_factory.mktemp("rig"))


@pytest.fixture(scope="module")
def lbd(installed: Path, rig: Rig) -> Iterator[LbdDaemon]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(installed))
        daemon = start_lbd(rig.text(), rig.directory, environment={"PYTHONPATH": ""})
    with daemon:
        yield daemon
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0, daemon.log()


def status_of(pid: int) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def check_identity(pid: int) -> None:
    status = status_of(pid)
    assert set(status["Uid"].split()) == {str(NOBODY.pw_uid)}
    assert set(status["Gid"].split()) == {str(NOBODY.pw_gid)}
    assert set(status["Groups"].split()) == {str(group) for group in os.getgrouplist("nobody", NOBODY.pw_gid)}
    assert [status[name].strip("0") for name in ("CapEff", "CapPrm", "CapInh")] == ["", "", ""]


def check_service(rig: Rig, lbd: LbdDaemon) -> None:
    """By every worker: answers, bodies, and refusals in h11's words."""
    before = len(rig.refused())
    for _ in range(8):
        assert get(rig.port, "/bytes/100000").body == b"b" * 100_000
        with Downstream(rig.port) as downstream:
            downstream.send(b"GET / HTTP/1.1\r\nHost: a\r\nno colon here\r\n\r\n")
            assert downstream.response().status == 400
        with Downstream(rig.port) as downstream:
            downstream.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            assert downstream.response().body == b"hello"
        with Downstream(rig.over_tls()) as downstream:
            assert downstream.ask("GET", "/").status == 200
    wait_until(lambda: len(rig.refused()) == before + 8, "lines in the access log")
    assert set(rig.refused()) == {"illegal header line: b'no colon here'"}
    assert "Traceback" not in lbd.log()


def test_workers_are_nobody(lbd: LbdDaemon, rig: Rig, installed: Path) -> None:
    assert installed.parent.parent.parent.stat().st_mode & 0o077 == 0
    assert set(status_of(lbd.pid)["Uid"].split()) == {"0"}
    assert len(lbd.workers()) == 2
    for worker in lbd.workers():
        check_identity(worker)
    check_service(rig, lbd)


def test_reload(lbd: LbdDaemon, rig: Rig) -> None:
    """The master opens what workers could not: a port, and a socket file in a directory that is closed to them."""
    path = rig.directory / "lbd.sock"
    port = free_port()
    rig.binds += [f"127.0.0.1:{port}", f"unix:{path}"]
    lbd.reload(rig.text())
    lbd.wait_for_log("reloaded, generation 2")
    assert get(port).status == 200
    assert get(str(path)).status == 200
    check_service(rig, lbd)
    rig.binds.pop()
    lbd.reload(rig.text())
    assert not path.exists()


def test_logs_are_reopened(lbd: LbdDaemon, rig: Rig) -> None:
    rig.access.rename(rig.directory / "access.log.1")
    lbd.signal(signal.SIGUSR1)
    wait_until(rig.access.exists, "the new access log")
    check_service(rig, lbd)


def test_a_killed_worker_has_a_successor_that_is_nobody(lbd: LbdDaemon, rig: Rig) -> None:
    killed = lbd.workers()
    for worker in killed:
        os.kill(worker, signal.SIGKILL)

    def are_replaced() -> bool:
        serving = {worker["pid"] for worker in lbd.json("/api/v1/status")["workers"] if worker["state"] == "serving"}
        return len(serving - set(killed)) == 2

    wait_until(are_replaced, "the successors")
    for worker in lbd.workers():
        check_identity(worker)
    check_service(rig, lbd)


# Upstreams behind a socket file: nobody has to be let in.


class UnixOrigin(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            if line == b"\r\n":
                self.wfile.write(ANSWER)


@pytest.mark.parametrize(("mode", "status", "detail"), [(0o666, 200, ""), (0o600, 502, "Permission denied")])
def test_a_unix_upstream_must_let_nobody_in(mode: int, status: int, detail: str, origin: ScriptedOrigin, tmp_path: Path) -> None:
    rig = Rig(origin, tmp_path)
    directory = Path("/tmp") / f"lbd-test-{os.getpid()}-{mode:o}"
    directory.mkdir(mode=0o755)
    path = directory / "app.sock"
    try:
        with socketserver.ThreadingUnixStreamServer(str(path), UnixOrigin) as server:
            path.chmod(mode)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with start_lbd(rig.text().replace(origin.address, f"unix:{path}"), tmp_path):
                assert get(rig.port).status == status
                wait_until(lambda: len(rig.lines()) == 1, "a line in the access log")
            server.shutdown()
        (line,) = rig.lines()
        assert detail in str(line["detail"])
        assert line["reason"] == ("" if status == 200 else "connect_failed")
    finally:
        shutil.rmtree(directory)


# Other wishes


def test_root_stays_when_it_is_asked_to(origin: ScriptedOrigin, tmp_path: Path) -> None:
    rig = Rig(origin, tmp_path)
    with start_lbd(rig.text('user = "root"'), tmp_path) as lbd:
        assert {status_of(worker)["Uid"].split()[0] for worker in lbd.workers()} == {"0"}
        lbd.wait_for_log(r"WARNING lbd\.master: \S+:4: lbd\.user: whoever breaks into a worker has the whole machine")


@pytest.mark.parametrize("user", ['"nobody"', '"root"'])
def test_root_that_cannot_become_somebody_else(user: str, origin: ScriptedOrigin, tmp_path: Path) -> None:
    """As in a container with --cap-drop ALL: refused, with a remedy; who stays needs no right to."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("needs setpriv")
    rig = Rig(origin, tmp_path)
    (tmp_path / "lb.toml").write_text(rig.text(f"user = {user}"))
    taken = "-setuid,-setgid"
    command: list[str | Path] = [
        setpriv,
        "--bounding-set",
        taken,
        "--inh-caps",
        taken,
        sys.executable,
        "-m",
        "lbd",
        "-c",
        tmp_path / "lb.toml",
    ]
    with Daemon(command, tmp_path, name="lbd", environment={"PYTHONPATH": str(Path(__file__).parent.parent.parent)}) as lbd:
        if user == '"root"':
            lbd.wait_for_log("ready: lbd")
            assert get(rig.port).status == 200
        else:
            assert lbd.wait() == 1
            assert f"cannot become user {NOBODY.pw_uid} and group {NOBODY.pw_gid}: Operation not permitted; start lbd with" in lbd.log()
