"""The command against real daemons: reload, status, demo."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.support import procfs
from tests.support.ports import free_ports
from tests.support.processes import ROOT, Daemon, start_lbd, wait_until

TEXT = """\
[lbd]
workers = 1
[admin]
bind = "127.0.0.1:{admin}"
token = "secret"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = ["127.0.0.1:1"]
"""


def lbd(*words: str | Path, directory: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbd", *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environ}
    return subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=30, check=False)


def test_reload_and_status(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    text = TEXT.format(port=port, admin=admin)
    with start_lbd(text, tmp_path) as daemon:
        found = lbd("status", "-c", daemon.config, directory=tmp_path)
        assert found.returncode == 0, found.stderr
        assert re.match(rf"lbd 0\.1\.0 \(.*\): ready, pid {daemon.pid}, up \d+ s\n", found.stdout)
        assert "cluster web: 1 of 1 endpoints up, round-robin\n  ENDPOINT     STATE  WEIGHT  IN FLIGHT\n  127.0.0.1:1  up " in found.stdout

        daemon.rewrite(text.replace('"127.0.0.1:1"]', '"127.0.0.1:1", "127.0.0.1:2"]'))
        found = lbd("reload", "-c", daemon.config, directory=tmp_path)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout.startswith("reloaded: generation 2 is in force\n")
        assert "  endpoints  +web/127.0.0.1:2 (1 kept)\n" in found.stdout

        daemon.rewrite(text.replace("endpoints", "endpionts"))
        found = lbd("reload", "--admin", f"127.0.0.1:{admin}", directory=tmp_path, LBD_ADMIN_TOKEN="secret")
        assert (found.returncode, found.stdout) == (1, "")
        assert 'cluster.web.endpionts: unknown key; did you mean "endpoints"?\n' in found.stderr
        assert found.stderr.endswith("reload refused, nothing has changed: generation 2 stays in force\n")

        found = lbd("status", "--admin", f"127.0.0.1:{admin}", directory=tmp_path, LBD_ADMIN_TOKEN="wrong")
        assert found.returncode == 1
        assert found.stderr.startswith("lbd: the admin listener refuses: send the header")


def test_a_wrong_file_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text("[lbd]\nworkers = 0\n")
    found = lbd("-c", "lb.toml", directory=tmp_path)
    assert (found.returncode, found.stdout) == (78, "")
    assert found.stderr == "lb.toml:2: lbd.workers: 0 is too small; the least is 1\n"


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_demo_serves_and_leaves_nothing_behind(end: signal.Signals, tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with Daemon(
        [sys.executable, "-m", "lbd", "demo", "--port", str(port)], tmp_path, name="demo", environment={"PYTHONPATH": str(ROOT)}
    ) as demo:
        demo.wait_for_log("INFO lbd.master: ready:")
        answers = {ask(port, "/").split(":")[0] for _ in range(6)}
        assert answers == {"alpha", "beta", "gamma"}
        assert ask(port, "/hello") == "Hello from lbd.\n"
        assert ask(port, "/old/page").endswith(": GET /new/page\n")  # redirected
        assert len({ask(port, "/sticky", {"x-user": "ann"}) for _ in range(6)}) == 1
        with pytest.raises(urllib.error.HTTPError) as down:
            ask(port, "/down")
        down.value.close()
        assert (down.value.code, down.value.headers["x-lbd-reason"]) == (502, "connect_refused")
        over_tls = re.search(r"curl (--cacert \S+ https://localhost:\d+/)", demo.log())
        assert over_tls
        found = subprocess.run(["curl", "-sS", "--max-time", "5", *over_tls[1].split()], capture_output=True, text=True, check=True)
        assert found.stdout.split(":")[0] in answers
        children = procfs.children(demo.pid)
        assert len(children) == 5  # three origins, two workers
        demo.signal(end)
        assert demo.wait() == (-signal.SIGKILL if end is signal.SIGKILL else 0)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "the end of the demo's children")
    assert "Traceback" not in demo.log()


def ask(port: int, path: str, fields: dict[str, str] | None = None) -> str:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=fields or {})
    with urllib.request.urlopen(request, timeout=5.0) as answer:
        text: str = answer.read().decode()
        return text
