"""A secret goes where it is sent, and nowhere else: not to a log, an answer of the admin API, a metric, or what the command prints."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from lbd.policy import MASK
from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import ROOT, LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from pathlib import Path

CANARY = "canary-4711"
TEXT = """\
[lbd]
workers = 1
[log]
level = "debug"
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{admin}"
control = "unix:{directory}/control.sock"
[listener.web]
bind = "127.0.0.1:{port}"
[[listener.web.route]]
path = "/answer"
respond = {{ body = "here", headers = {{ X-Api-Key = "{secret}-answer" }} }}
[[listener.web.route]]
path = "/wanted"
headers = {{ x-session-token = "~{secret}.*" }}
query = {{ password = "{secret}" }}
cluster = "web"
[[listener.web.route]]
path = "/"
cluster = "web"
[listener.web.route.rewrite.request_headers.set]
Authorization = "Basic {secret}-set"
X-Caller = "${{CANARY}}"
[cluster.web]
endpoints = ["{endpoint}"]
sticky = {{ secret = "{secret}-of-sticky-cookies" }}
[cluster.web.health]
interval = "50ms"
expect_status = ["{status}"]
headers = {{ Authorization = "Bearer {secret}", X-Prober = "${{CANARY}}" }}
"""
BROKEN = [
    'x-session-token = "~{secret}.*"->x-session-token = "~({secret}.*"',
    'password = "{secret}"->password = "~[{secret}"',
    'Authorization = "Bearer {secret}"->Authorization = "Bearer {secret}\\u0007"',
    'Authorization = "Basic {secret}-set"->Authorization = "{secret}${{"',
]
PAGES = ["status", "clusters", "config", "config?format=json", "overlays"]


def printed(lbd: LbdDaemon, *words: str) -> str:
    command = [sys.executable, "-m", "lbd", *words, "-c", str(lbd.config)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CANARY": CANARY}
    done = subprocess.run(command, cwd=lbd.directory, env=env, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr


def everything_shown(lbd: LbdDaemon) -> dict[str, str]:
    shown = {f"lbd {' '.join(words)}": printed(lbd, *words) for words in [("config",), ("config", "--effective"), ("check",), ("status",)]}
    shown |= {page: lbd.ask(f"/api/v1/{page}").decode() for page in PAGES} | {"metrics": lbd.ask("/metrics").decode()}
    return shown | {"the log": lbd.log(), "the access log": (lbd.directory / "access.log").read_text()}


def test_a_secret_is_found_in_nothing_that_lbd_shows(tmp_path: Path) -> None:
    port, admin = free_ports(2)
    with ScriptedOrigin() as origin:

        def text(secret: str, status: str = "200-399") -> str:
            return TEXT.format(directory=tmp_path, admin=admin, port=port, endpoint=origin.address, secret=secret, status=status)

        with start_lbd(text(CANARY), tmp_path, environment={"CANARY": CANARY}) as lbd:
            assert f"Basic {CANARY}-set" in get(port, "/show").body.decode()
            assert f"X-Caller: {CANARY}" in get(port, "/show").body.decode()
            assert get(port, "/answer").get("x-api-key") == f"{CANARY}-answer"
            get(port, f"/wanted?a={MASK}")
            wait_until(lambda: any(request.get("authorization") == f"Bearer {CANARY}" for request in origin.requests), "a check")
            lbd.reload(text(f"{CANARY}-2", "500"))  # every secret is another one, and checks fail from now on
            lbd.wait_for_log("is down")
            for change in BROKEN:
                before, after = (part.format(secret=f"{CANARY}-2") for part in change.split("->"))
                assert before in text(f"{CANARY}-2")
                start = len(lbd.log())
                lbd.reload(text(f"{CANARY}-2").replace(before, after))
                lbd.wait_for_log("reload refused", start=start)
                shown = everything_shown(lbd)
                assert not [place for place, what in shown.items() if CANARY in what], change
            lbd.rewrite(text(f"{CANARY}-2"))
            printed_config = printed(lbd, "config")
            assert CANARY not in printed_config
            assert printed_config.count(MASK) == 8
        assert CANARY not in lbd.log()
