"""gRPC for the table: unary calls of 64 bytes each way, made by h2load and answered by an nginx that says what a gRPC server would.

A server of grpcio's would cost more than any balancer before it, and leave them idle. This one answers POST with a file that is a
framed message, and trailers behind it; to a balancer there is no difference.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.http2 import Http2Socket
from tests.support.processes import find_program, start_nginx

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["call_once", "grpc_origin", "run_calls"]

METHOD = "/lab.Echo/Unary"
FRAME = b"\0" + (64).to_bytes(4, "big") + b"m" * 64
STREAMS = 32  # at once on each connection

ORIGIN = """\
daemon off;
user {user};
worker_processes 1;
worker_rlimit_nofile 20000;
pid calls.pid;
events {{ worker_connections 19000; }}
http {{
    access_log off;
    types {{ }}
    default_type application/grpc;
    open_file_cache max=16;
    keepalive_timeout 600s;
    keepalive_requests 1000000000;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} http2 backlog=16384;
        root {directory}/files;
        add_trailer grpc-status 0;
        error_page 405 =200 $uri;
    }}
}}
"""


@contextmanager
def grpc_origin(directory: Path, port: int) -> Iterator[None]:
    """While it is needed: there is one for each balancer."""
    file = directory / "files" / METHOD[1:]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(FRAME)
    text = ORIGIN.format(user=pwd.getpwuid(os.getuid()).pw_name, directory=directory, port=port)
    with start_nginx(text, directory, port, name="calls"):
        yield


def call_once(port: int) -> None:
    """By hand, for h2load looks at no trailers. ConnectionError: it is not answered as it should be."""
    with Http2Socket(port) as them:
        number = them.post(METHOD, (b"content-type", b"application/grpc"), (b"te", b"trailers"))
        them.send(number, FRAME, ends=True)
        answer = them.answer(number)
    if (answer.status, answer.body, answer.trailers) != (200, FRAME, [(b"grpc-status", b"0")]):
        raise ConnectionError(f"a call is answered with {answer}")


def run_calls(directory: Path, port: int, seconds: float, connections: int) -> tuple[int, str]:
    """(calls answered, what went wrong)."""
    body = directory / "frame"
    body.write_bytes(FRAME)
    command = [
        find_program("h2load") or "h2load", f"-c{connections}", f"-m{STREAMS}", "-D", f"{max(1, round(seconds))}", "-d", str(body),
        "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{METHOD}",
    ]  # fmt: skip
    return counts_of(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def counts_of(output: str) -> tuple[int, str]:
    """What h2load says: (requests answered, what went wrong)."""
    line = next((line for line in output.splitlines() if line.startswith("requests: ")), "")
    numbers = {name: int(number) for number, name in (part.split()[:2] for part in line.removeprefix("requests: ").split(", ") if part)}
    if not numbers:
        return 0, "h2load says nothing"
    failed, errored = numbers["failed"], numbers["errored"]
    return numbers["succeeded"], f"{failed} failed, {errored} errored, {numbers['done']} done" if failed or errored else ""
