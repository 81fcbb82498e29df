"""The rows of the table: what is asked of each balancer, and what lbd must reach (docs/benchmarks.md).

A CPU row is user + system time of all processes of the balancer per request (or per megabyte), under a closed loop: the load
generator asks again as soon as it is answered, so that the figure is the cost of work, not of waiting. Requests that went wrong
make a round worthless, and it says so.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.bench.calls import call_once, counts_of, grpc_origin, run_calls
from tests.support import procfs
from tests.support.http import get
from tests.support.origins import BODIES
from tests.support.processes import ROOT, find_program

if TYPE_CHECKING:
    from tests.bench.subjects import Subject

__all__ = ["CASES", "Case", "Sample", "run_loader", "run_wrk", "sample"]

POST_SCRIPT = """\
wrk.method = "POST"
wrk.body = string.rep("p", 65536)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One row. The targets are lbd / nginx; 0 is no target."""

    name: str
    title: str
    path: str = "/"
    connections: int = 32
    tool: str = "wrk"  # wrk | post | close | drain | h2load | echo | calls
    port: str = "plain"  # plain | tls | tcp
    target: float = 0.0
    pure_target: float = 0.0

    @property
    def unit(self) -> str:
        return {"drain": "us/MB", "echo": "us/message", "calls": "us/call"}.get(self.tool, "us/request")


CASES = (
    Case("small", "GET 126 bytes, 32 connections", target=1.5, pure_target=2.6),
    Case("thousand", "GET 126 bytes, 1,000 connections", connections=1000, target=1.6),
    Case("10k", "GET 10 KB", path="/10k", target=1.5),
    Case("1m", "GET 1 MB", path="/1m", connections=8, tool="drain", target=0.7),
    Case("100m", "GET 100 MB", path="/100m", connections=4, tool="drain", target=0.4),
    Case("post", "POST 64 KB", path="/sink", tool="post", target=1.5),
    Case("connect", "new connection per request", tool="close", target=2.0),
    Case("tls", "GET 126 bytes over TLS 1.3, 32 connections", port="tls", target=1.5),
    Case("handshake", "TLS handshake per request", tool="close", port="tls", target=1.3),
    Case("tcp", "TCP stream of 1 GB", path="/100m", connections=4, tool="drain", port="tcp", target=0.6),
    Case("websocket", "WebSocket, 64 bytes and their echo, 32 connections", tool="echo", target=2.0),
    Case("h2", "HTTP/2 over TLS, GET 126 bytes, 8 x 32 streams", connections=8, tool="h2load", port="tls"),
    Case("grpc", "gRPC, unary calls of 64 bytes, 8 x 32 streams", connections=8, tool="calls"),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round of one case on one balancer; `cost` is in the case's unit."""

    cost: float
    user: float
    system: float
    rate: float  # requests a second
    trouble: str = ""


def run_wrk(url: str, seconds: float, connections: int, *options: str) -> tuple[int, str]:
    """(requests answered, what went wrong)."""
    command = [find_program("wrk") or "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", *options, url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    answered = re.search(r"(\d+) requests in", output)
    trouble = re.findall(r"(Socket errors.*|Non-2xx.*)", output)
    return int(answered[1]) if answered else 0, "; ".join(trouble)


def run_h2load(url: str, seconds: float, connections: int) -> tuple[int, str]:
    """As run_wrk(), with 32 requests at once on each connection."""
    command = [find_program("h2load") or "h2load", f"-c{connections}", "-m32", "-D", f"{max(1, round(seconds))}", url]
    return counts_of(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def run_loader(what: str, subject_port: int, **options: float | str) -> dict[str, float]:
    """tests/bench/loader.py in a process of its own."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "tests.bench.loader", what, "--port", str(subject_port), *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ConnectionError(ran.stderr.strip().splitlines()[-1])
    answer: dict[str, float] = json.loads(ran.stdout)
    return answer


def check(subject: Subject, case: Case) -> None:
    """One request by hand: a fast wrong answer must not win."""
    if case.tool in ("echo", "calls"):
        return None  # every message is looked at; a call is made when there is an origin for it
    size = BODIES[case.path[1:] or "126"] if case.tool != "post" else None
    if case.port == "tls":
        return check_tls(subject, case)
    answer = get(subject.port if case.port == "plain" else subject.ports.tcp, case.path, timeout=30.0)
    if answer.status != 200 or (size is not None and len(answer.body) != size):
        raise ConnectionError(f"{subject.name} answers {case.path} with {answer!r}")


def check_tls(subject: Subject, case: Case) -> None:
    command = [find_program("curl") or "curl", "-sk", "-m30", "-o", "/dev/null", "-w", "%{http_code} %{size_download}"]
    if case.tool != "h2load":
        command.append("--http1.1")
    answer = subprocess.run(
        [*command, f"https://127.0.0.1:{subject.ports.tls}{case.path}"], capture_output=True, text=True, check=False
    ).stdout
    if answer != f"200 {BODIES['126']}":
        raise ConnectionError(f"{subject.name} answers {case.path} over TLS with {answer!r}")


def sample(subject: Subject, case: Case, seconds: float) -> Sample:
    """One round."""
    check(subject, case)
    if case.tool != "calls":
        return measured(subject, case, seconds)
    with grpc_origin(subject.daemon.directory / "calls", subject.ports.calls):
        call_once(subject.ports.grpc)
        return measured(subject, case, seconds)


def measured(subject: Subject, case: Case, seconds: float) -> Sample:
    before, begun = procfs.cpu_of(subject.pids()), time.perf_counter()
    amount, requests, trouble = load(subject, case, seconds)
    spent, lasted = procfs.cpu_of(subject.pids()).since(before), time.perf_counter() - begun
    if not amount:
        return Sample(float("nan"), 0.0, 0.0, 0.0, trouble or "no request was answered")
    return Sample(1e6 * spent.total / amount, 1e6 * spent.user / amount, 1e6 * spent.system / amount, requests / lasted, trouble)


def load(subject: Subject, case: Case, seconds: float) -> tuple[float, float, str]:
    """(units of work done, requests, trouble)."""
    if case.tool == "drain":
        port = subject.port if case.port == "plain" else subject.ports.tcp
        result = run_loader("drain", port, path=case.path, connections=case.connections, seconds=seconds)
        return result["bytes"] / 1e6, result["requests"], ""
    if case.tool == "echo":
        result = run_loader("echo", subject.ports.ws, origin=subject.ports.echo, connections=case.connections, seconds=seconds)
        return result["messages"], result["messages"], ""
    if case.tool == "calls":
        requests, trouble = run_calls(subject.daemon.directory, subject.ports.grpc, seconds, case.connections)
        return float(requests), float(requests), trouble
    url = subject.url if case.port == "plain" else f"https://127.0.0.1:{subject.ports.tls}"
    if case.tool == "h2load":
        requests, trouble = run_h2load(url + case.path, seconds, case.connections)
        return float(requests), float(requests), trouble
    options: list[str] = []
    if case.tool == "close":
        options = ["-H", "Connection: close"]
    if case.tool == "post":
        script = subject.daemon.directory / "post.lua"
        script.write_text(POST_SCRIPT)
        options = ["-s", str(script)]
    requests, trouble = run_wrk(url + case.path, seconds, case.connections, *options)
    return float(requests), float(requests), trouble
