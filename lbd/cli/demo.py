"""`lbd demo`: three origins as child processes, and a balancer in front of them in this one. Ctrl-C ends all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import lbd
from lbd.cli.cert import write_certificate
from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["run_demo"]

ORIGINS = ("alpha", "beta", "gamma")
PORT, TLS_PORT, ADMIN_PORT = 8080, 8443, 9901  # when they are free
CONFIG = Path(__file__).with_name("demo.toml")
TEXT = """\
lbd demo: a balancer on http://127.0.0.1:{port} in front of alpha, beta and gamma (ports {origins})
The configuration is {config}. Try, in another terminal:

  curl 127.0.0.1:{port}/                           each origin in turn, by each of two workers
  curl -H 'x-user: ann' 127.0.0.1:{port}/sticky    always the same one for ann
  curl 127.0.0.1:{port}/canary                     gamma once in five
  curl 127.0.0.1:{port}/hello                      answered by lbd itself
  curl -i 127.0.0.1:{port}/old/page                a redirect
  curl -i 127.0.0.1:{port}/down                    nobody there: see x-lbd-reason
  curl --cacert {ca} https://localhost:{tls}/    the same origins over TLS and HTTP/2
  curl -v 127.0.0.1:{port}/early                  an early hint (103); /trailers has a field behind the body, /ws echoes WebSockets
  curl 127.0.0.1:{admin}/metrics                    what Prometheus would scrape
  {lbd} status --admin 127.0.0.1:{admin}
  {lbd} drain all/127.0.0.1:{first} --for 1m --admin unix:{control}    alpha gets no more requests for a minute; `enable` ends it

Ctrl-C ends all.
"""


def run_demo(port: int = 0) -> int:
    """Until it is interrupted; the balancer's exit code."""
    with ExitStack() as stack:
        # All at once, so that none is given out twice; the balancer binds them a moment later.
        with free_port(port, is_fixed=port != 0) as main, free_port(TLS_PORT) as tls, free_port(ADMIN_PORT) as admin:
            port, tls_port, admin_port = (each.getsockname()[1] for each in (main, tls, admin))
            origins = [start_origin(name, stack) for name in ORIGINS]
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lbd-demo-")))
        write_certificate(("localhost", "127.0.0.1", "::1"), keys)
        command = "lbd" if shutil.which("lbd") else f"{sys.executable} -m lbd"
        control = keys / "control.sock"
        places = {
            "port": port,
            "tls": tls_port,
            "admin": admin_port,
            "ca": keys / "ca.pem",
            "config": CONFIG,
            "lbd": command,
            "control": control,
            "first": origins[0],
        }
        print(TEXT.format(**places, origins=", ".join(map(str, origins))), flush=True)
        names: dict[str, object] = {
            "DEMO_PORT": port,
            "DEMO_TLS_PORT": tls_port,
            "DEMO_ADMIN_PORT": admin_port,
            "DEMO_KEYS": keys,
            "DEMO_CONTROL": f"unix:{control}",
        }
        names |= {f"DEMO_ORIGIN_{number}": origin for number, origin in enumerate(origins, 1)}
        return run_balancer({name: str(value) for name, value in names.items()})


def free_port(wanted: int, *, is_fixed: bool = False) -> socket.socket:  # noqa: TID251 - asked for a number, and closed
    """Bound to the port that is wanted, or to another when that is taken."""
    for candidate in (wanted,) if is_fixed else (wanted or PORT, 0):
        try:
            return socket.create_server(("127.0.0.1", candidate))
        except OSError as error:
            reason = error.strerror
    raise EnvironmentFault(f"cannot listen on 127.0.0.1:{wanted}: {reason}; choose another --port")


def start_origin(name: str, stack: ExitStack) -> int:
    """Its port. It ends with the stack, or when we die: its standard input does, either way."""
    home = str(Path(lbd.__file__).resolve().parent.parent)
    paths = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH", "")]))
    child = subprocess.Popen(
        [sys.executable, "-m", "lbd.cli.origin", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    )
    stack.enter_context(child)  # closes its standard input and waits
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.strip():
        raise EnvironmentFault(f"the origin {name} did not start; its last words are above")
    return int(line)


def run_balancer(ports: Mapping[str, str]) -> int:
    """In this process, so that Ctrl-C means the same as for a daemon: drain, then exit."""
    from lbd.config.schema import load_config
    from lbd.master.main import run_master

    os.environ.update(ports)  # a reload reads the file again, with these
    return run_master(CONFIG, load_config(CONFIG, os.environ))
