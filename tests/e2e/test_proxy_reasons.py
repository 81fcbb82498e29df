"""Every reason why lbd answers by itself or cuts a connection: what the client gets, what the access log and the metrics say.

One daemon, a cluster for each kind of trouble. ONLY_HERE and the table together are the whole of lbd/proxy/reasons.py.
"""

from __future__ import annotations

import json
import signal
import socket
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from lbd.proxy.reasons import REASONS
from tests.support.http import Downstream, Ended, get, request_bytes
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import NginxOrigin, ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import ROOT, LbdDaemon, start_lbd, wait_until, whole_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = [
    "time", "listener", "client", "method", "host", "target", "protocol", "status", "reason", "route", "cluster", "endpoint", "attempts",
    "reused", "bytes_in", "bytes_out", "duration", "queue", "connect", "first_byte", "request_id", "referer", "user_agent", "detail",
]  # fmt: skip


def config(origin: ScriptedOrigin, directory: Path, ports: list[int], black_hole: int) -> str:
    clusters = ("refused", "no-socket", "black-hole", "down")
    more = "\n".join(f'[[listener.web.route]]\npath = "/{name}"\ncluster = "{name}"' for name in clusters)
    return f"""
[lbd]
workers = 1
drain_timeout = "300ms"
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{ports[2]}"
[listener.web]
bind = "127.0.0.1:{ports[0]}"
reason_header = true
timeouts = {{ head = "300ms", body = "300ms", linger = "100ms" }}
limits = {{ head = 4096, target = 1024, body = "64KiB" }}
[[listener.web.route]]
path = "/"
cluster = "web"
[[listener.web.route]]
path = "/slow/0.5"
cluster = "total"
[[listener.web.route]]
path_exact = "/full/slow"
rewrite = {{ path = "/slow/0.5" }}
cluster = "full"
[[listener.web.route]]
path = "/full"
rewrite = {{ prefix = "/status/200" }}
cluster = "full"
[[listener.web.route]]
path = "/forever"
rewrite = {{ prefix = "/silent" }}
cluster = "full"
{more}
[listener.narrow]
bind = "127.0.0.1:{ports[1]}"
limits = {{ connections = 1 }}
[[listener.narrow.route]]
path = "/only"
cluster = "web"
[[listener.narrow.route]]
path = "/only/slow"
rewrite = {{ path = "/slow/0.5" }}
cluster = "full"
[cluster.web]
endpoints = ["{origin.address}"]
timeouts = {{ response = "300ms", idle = "300ms" }}
[cluster.total]
endpoints = ["{origin.address}"]
timeouts = {{ total = "300ms" }}
[cluster.full]
endpoints = [{{ address = "{origin.address}", max_requests = 1 }}]
queue = {{ size = 0 }}
[cluster.refused]
endpoints = ["127.0.0.1:{free_port()}"]
[cluster.no-socket]
endpoints = ["unix:{directory}/nobody.sock"]
[cluster.black-hole]
endpoints = ["127.0.0.1:{black_hole}"]
timeouts = {{ connect = "200ms" }}
retry = {{ attempts = 0 }}
[cluster.down]
endpoints = ["127.0.0.1:{free_port()}"]
panic = 0
health = {{ initial = "down" }}
"""


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    port: int
    narrow_port: int  # of a listener with few routes and room for one connection
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in whole_lines(self.log)]

    def wait_for_line(self, start: int, reason: str) -> dict[str, Any]:
        """The line with that reason behind the first `start` ones."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines()[start:] if line["reason"] == reason]

        wait_until(lambda: bool(found()), f"a line that says {reason}")
        (line,) = found()
        return line


@contextmanager
def full_queue() -> Iterator[int]:
    """A port whose queue is full: whoever connects waits."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening, ExitStack() as waiting:
        for _ in range(3):
            sock = waiting.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lbd")
    ports = free_ports(3)
    with (
        full_queue() as black_hole,
        ScriptedOrigin() as origin,
        start_lbd(config(origin, directory, ports, black_hole), directory) as lbd,
    ):
        yield Lab(lbd, origin, ports[0], ports[1], directory / "access.log")
        assert lbd.metric("lbd_faults_total") == 0


def post(target: str, *fields: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"POST {target} HTTP/1.1", "Host: a", *fields, "", ""]).encode() + body


GET = b"GET / HTTP/1.1\r\nHost: a\r\n"
CUT = -1  # no status: the answer that had begun was cut short

# What is sent, the status that comes, and why.
CASES: list[tuple[bytes, int, str]] = [
    # The codec's words
    (b"GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    (GET + b"X : 1\r\n\r\n", 400, "bad_request"),
    (post("/", "Content-Length: 1", "Transfer-Encoding: chunked"), 400, "bad_framing"),
    (post("/", "Transfer-Encoding: gzip"), 501, "unsupported"),
    (b"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "bad_version"),
    (b"GET /" + b"a" * 2000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414, "target_too_long"),
    (GET + b"X: " + b"a" * 5000 + b"\r\n\r\n", 431, "head_too_large"),
    (post("/", "Transfer-Encoding: chunked", body=b"x\r\n"), 400, "bad_chunk"),
    (post("/", "Transfer-Encoding: chunked", body=b"0\r\nX\r\n\r\n"), 400, "bad_trailers"),
    # The downstream's fault
    (b"GET / HTTP/1.1\r\nHost: a\r\n", 408, "header_timeout"),
    (post("/", "Content-Length: 10", body=b"abc"), 408, "body_timeout"),
    (post("/", "Content-Length: 70000"), 413, "request_too_large"),
    (post("/", "Transfer-Encoding: chunked", body=b"11170\r\n" + b"b" * 70000 + b"\r\n0\r\n\r\n"), 413, "request_too_large"),
    (request_bytes("GET", "/%zz"), 400, "bad_path"),
    (request_bytes("GET", "/x/..%2frefused"), 400, "ambiguous_path"),
    (request_bytes("GET", "/", {"Via": ", ".join(["1.1 lbd"] * 10)}), 508, "proxy_loop"),
    # The upstream's
    (request_bytes("GET", "/refused"), 502, "connect_refused"),
    (request_bytes("POST", "/refused", body=b"abc"), 502, "connect_refused"),
    (request_bytes("GET", "/no-socket"), 502, "connect_failed"),
    (request_bytes("GET", "/black-hole"), 504, "connect_timeout"),
    (request_bytes("GET", "/down"), 503, "no_healthy_endpoint"),
    (request_bytes("GET", "/silent"), 504, "response_timeout"),
    (request_bytes("GET", "/slow/0.5"), 504, "total_timeout"),
    (request_bytes("GET", "/close"), 502, "upstream_closed"),
    (request_bytes("POST", "/close", body=b"abc"), 502, "upstream_closed"),
    (request_bytes("GET", "/half-head"), 502, "upstream_closed"),
    (request_bytes("GET", "/reset"), 502, "upstream_reset"),
    (request_bytes("GET", "/garbage"), 502, "bad_response"),
    (request_bytes("GET", "/half"), CUT, "upstream_truncated"),
    (request_bytes("GET", "/stream/2/0.6"), CUT, "upstream_stalled"),
]
# Those with a test of their own below, and the one that needs a bug; what belongs to one protocol has its test there.
ONLY_HERE = {
    "no_route", "downstream_closed", "downstream_reset", "downstream_stalled", "too_many_connections", "no_descriptors", "drain_timeout",
    "fault", "http2_error",
}  # fmt: skip


def test_every_reason_is_somewhere() -> None:
    """Here, or in a test of the protocol that it belongs to."""
    here = {reason for _, _, reason in CASES} | ONLY_HERE
    files = [path for folder in ("e2e", "proxy") for path in (ROOT / "tests" / folder).glob("test_*.py") if path != Path(__file__)]
    texts = "".join(path.read_text() for path in files)
    assert [reason for reason in REASONS if reason not in here and f'"{reason}"' not in texts] == []


@pytest.mark.parametrize(("data", "status", "reason"), CASES, ids=[f"{data[:20]!r} {reason}" for data, _, reason in CASES])
def test_a_reason_is_told_to_all(lab: Lab, data: bytes, status: int, reason: str) -> None:
    """To the client in x-lbd-reason, to the operator in the access log and in the metrics."""
    start, before = len(lab.lines()), lab.lbd.metric("lbd_rejected_total", reason=reason)
    with Downstream(lab.port) as downstream:
        downstream.send(data)
        if status == CUT:
            with pytest.raises((Ended, ConnectionResetError)):
                downstream.final()
        else:
            answer = downstream.final()
            assert (answer.status, answer.get("x-lbd-reason")) == (status, reason)
            assert answer.body.decode().splitlines()[1:] == [reason]
            assert answer.get("cache-control") == "no-store"
    line = lab.wait_for_line(start, reason)
    assert line["status"] == (200 if status == CUT else status)
    assert line["detail"]
    assert lab.lbd.metric("lbd_rejected_total", reason=reason) == before + 1


@pytest.mark.parametrize("path", ["/close", "/reset", "/garbage", "/half-head", "/half", "/silent"])
def test_a_failed_attempt_counts_by_its_outcome(lab: Lab, path: str) -> None:
    before, start = lab.lbd.metric("lbd_upstream_attempts_total"), len(lab.lines())
    with pytest.raises(Ended) if path == "/half" else nullcontext():
        get(lab.port, path)
    wait_until(lambda: len(lab.lines()) > start, "its line")
    (line,) = lab.lines()[start:]
    assert lab.lbd.metric("lbd_upstream_attempts_total") == before + line["attempts"]
    assert lab.lbd.metric("lbd_upstream_attempts_total", outcome=line["reason"]) > 0
    assert line["endpoint"] == lab.origin.address


# Those that need more than a message


def test_no_route(lab: Lab) -> None:
    start = len(lab.lines())
    answer = get(lab.narrow_port, "/nothing")
    assert (answer.status, answer.get("x-lbd-reason")) == (404, "")  # this listener does not tell
    assert lab.wait_for_line(start, "no_route")["status"] == 404


def test_a_client_that_goes_away(lab: Lab) -> None:
    """The upstream's connection is closed at once: that is how HTTP/1 says "never mind"."""
    start, count = len(lab.lines()), len(lab.origin.received)
    with Downstream(lab.port) as downstream:
        downstream.send(request_bytes("GET", "/slow/0.25"))
        wait_until(lambda: len(lab.origin.received) > count, "the request at the origin")
    line = lab.wait_for_line(start, "downstream_closed")
    assert line["status"] == 0
    assert line["duration"] < 0.25


def test_a_client_that_breaks(lab: Lab) -> None:
    """It resets in the middle of a response that it does not read."""
    start = len(lab.lines())
    with Downstream(lab.port) as downstream:
        downstream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        downstream.send(request_bytes("GET", "/bytes/30000000"))
        downstream.reader.head()
        downstream.abort()
    wait_until(lambda: len(lab.lines()) > start, "its line")
    (line,) = lab.lines()[start:]
    assert line["reason"] in ("downstream_reset", "downstream_closed")
    assert line["status"] == 200
    assert line["bytes_out"] < 30_000_000


def test_a_client_that_stops_reading(lab: Lab) -> None:
    start = len(lab.lines())
    with Downstream(lab.port) as downstream:
        downstream.send(request_bytes("GET", "/bytes/30000000"))
        line = lab.wait_for_line(start, "downstream_stalled")
    assert line["status"] == 200
    assert 0.3 <= line["duration"] < 5.0


def test_a_listener_that_is_full(lab: Lab) -> None:
    before, count = lab.lbd.metric("lbd_rejected_total", reason="too_many_connections"), len(lab.origin.received)
    with Downstream(lab.narrow_port) as first:
        first.send(request_bytes("GET", "/only/slow"))  # whoever is idle makes room
        wait_until(lambda: len(lab.origin.received) > count, "the request at the origin")
        with Downstream(lab.narrow_port) as second:
            assert second.is_closed_by_peer()
        assert first.final().status == 200
    assert lab.lbd.metric("lbd_rejected_total", reason="too_many_connections") == before + 1
    wait_until(lambda: lab.lbd.metric("lbd_downstream_connections", listener="narrow") == 0, "room again")
    assert get(lab.narrow_port, "/only").status == 200


def test_an_endpoint_that_is_full(lab: Lab) -> None:
    start, count = len(lab.lines()), len(lab.origin.received)
    with Downstream(lab.port) as first:
        first.send(request_bytes("GET", "/full/slow"))
        wait_until(lambda: len(lab.origin.received) > count, "the request at the origin")
        answer = get(lab.port, "/full/other")
        assert (answer.status, answer.get("x-lbd-reason")) == (503, "concurrency_limited")
        assert answer.get("retry-after") == "1"
        assert first.final().status == 200
    assert get(lab.port, "/full/other").status == 200
    assert lab.wait_for_line(start, "concurrency_limited")["attempts"] == 0


def test_a_worker_without_descriptors(lab: Lab, tmp_path: Path) -> None:
    """Who comes waits until there is room; who has come and finds no descriptor for the upstream is told so. The upstream is not blamed."""
    ports = free_ports(3)
    text = config(lab.origin, tmp_path, ports, 1).replace('head = "300ms"', 'head = "120s"')
    with ExitStack() as stack:
        lbd = stack.enter_context(LbdDaemon(text, tmp_path, under=("prlimit", "--nofile=64")))
        lbd.wait_ready()
        request = request_bytes("GET", "/slow/0.2")
        served = [stack.enter_context(Downstream(ports[0])).send(request[:20]) for _ in range(38)]  # those that are idle would make room
        lbd.wait_for_log("listener web cannot accept: 38 connections are here, as many as the limit of open files allows")
        assert lbd.metric("lbd_accept_pauses_total", listener="web", cause="descriptors") == 1
        late = [stack.enter_context(Downstream(ports[0])) for _ in range(10)]
        for downstream in served:
            downstream.send(request[20:])
        answers = [downstream.final() for downstream in served]
        assert {(answer.status, answer.get("x-lbd-reason")) for answer in answers} == {(200, ""), (503, "no_descriptors")}
        assert lbd.metric("lbd_downstream_connections", listener="web") <= 38
        assert not [series for series in lbd.metrics() if "attempts" in series and "no_descriptors" in series]
        for downstream in served:
            downstream.close()
        assert [downstream.ask("GET", "/").status for downstream in late] == [200] * 10
        lbd.wait_for_log("listener web accepts again, after")
        assert lbd.log().count("cannot accept") == 1
        assert lbd.metric("lbd_faults_total") == 0


def test_what_a_stop_cuts_short_is_told(lab: Lab, tmp_path: Path) -> None:
    ports = free_ports(3)
    with start_lbd(config(lab.origin, tmp_path, ports, 1), tmp_path) as lbd, Downstream(ports[0]) as downstream:
        count = len(lab.origin.received)
        downstream.send(request_bytes("GET", "/forever"))
        wait_until(lambda: len(lab.origin.received) > count, "the request at the origin")
        lbd.signal(signal.SIGTERM)
        assert lbd.wait() == 0
    (line,) = map(json.loads, (tmp_path / "access.log").read_text().splitlines())
    assert (line["reason"], line["status"]) == ("drain_timeout", 0)


# The access log


NASTY = {
    "quotes": {"User-Agent": 'a"b\\c', "Referer": "\\"},
    "raw bytes": {"User-Agent": "\xff\xfe\xe4", "Referer": "\xc3\xa4"},
    "tabs": {"User-Agent": "a\tb"},
    "nothing": {"User-Agent": "", "Referer": ""},
    "very long": {"User-Agent": "u" * 3000},
    "JSON": {"User-Agent": '","status":200,"x":"'},
}


@pytest.mark.parametrize("fields", NASTY.values(), ids=NASTY)
def test_a_line_holds_what_strangers_write(lab: Lab, fields: dict[str, str]) -> None:
    start = len(lab.lines())
    assert get(lab.port, "/status/201?q=%22", fields).status == 201
    wait_until(lambda: len(lab.lines()) > start, "its line")
    (line,) = lab.lines()[start:]
    assert list(line) == KEYS
    assert line["user_agent"] == fields["User-Agent"]
    assert line["referer"] == fields.get("Referer", "")
    asked = {
        key: line[key] for key in ("listener", "client", "method", "host", "target", "protocol", "status", "route", "cluster", "reason")
    }
    assert asked == {
        "listener": "web", "client": "127.0.0.1", "method": "GET", "host": "test", "target": "/status/201?q=%22", "protocol": "HTTP/1.1",
        "status": 201, "route": "route-1", "cluster": "web", "reason": "",
    }  # fmt: skip
    assert line["endpoint"] == lab.origin.address
    assert line["attempts"] == 1
    assert 0 < line["first_byte"] <= line["duration"] < 5
    assert line["bytes_in"] > 0 < line["bytes_out"]


@pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)
@pytest.mark.final
def test_every_request_has_its_line(tmp_path: Path) -> None:
    """Whole and valid, also when several workers write as fast as they can."""
    port, admin = free_ports(2)
    with NginxOrigin(tmp_path / "origin") as origin:
        text = (
            f'[lbd]\nworkers = 2\n[log]\naccess = "{tmp_path}/access.log"\n[admin]\nbind = "127.0.0.1:{admin}"\n'
            f'[listener.web]\nbind = "127.0.0.1:{port}"\ncluster = "web"\n[cluster.web]\nendpoints = ["127.0.0.1:{origin.port}"]\n'
        )
        with start_lbd(text, tmp_path / "lbd") as lbd:
            with IdLoad(port, requests=20_000, post=10, close=5, pipeline=10) as load:
                counts = load.wait().assert_clean(20_000)
            assert lbd.metric("lbd_log_lines_dropped_total") == 0
            assert lbd.stop() == 0
    lines = [json.loads(line) for line in whole_lines(tmp_path / "access.log")]
    assert len(lines) == counts.ok
    assert all(list(line) == KEYS and line["status"] == 200 for line in lines)
    assert len({line["request_id"] for line in lines}) == counts.ok
