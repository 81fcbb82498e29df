"""The proxy with programs that people use: curl, ab, wrk, and nginx in front of it. Both with the compiled core and without."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Downstream, get
from tests.support.origins import Link, NginxOrigin, ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import LbdDaemon, find_program, start_lbd, start_nginx, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.http import Message

UPLOAD = 10 << 20


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_program(program) is None, reason=f"needs {program}")


@dataclass(frozen=True, slots=True)
class Lab:
    """lbd before a scripted origin; files and /id come from an nginx."""

    lbd: LbdDaemon
    origin: ScriptedOrigin
    files: NginxOrigin
    directory: Path
    port: int
    trusting_port: int  # of a listener that believes its downstreams
    socket: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def config(origin: ScriptedOrigin, files: NginxOrigin, directory: Path, ports: list[int]) -> str:
    routes = "\n".join(
        f'[[listener.web.route]]\npath_exact = "/{name}"\ncluster = "files"' for name in ("126", "10k", "1m", "100m", "id", "sink")
    )
    return f"""
[lbd]
workers = 2
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{ports[2]}"
[listener.web]
bind = ["127.0.0.1:{ports[0]}", "unix:{directory}/lbd.sock"]
cluster = "web"
{routes}
[listener.trusting]
bind = "127.0.0.1:{ports[1]}"
cluster = "web"
forwarded = {{ trusted_proxies = ["127.0.0.1"] }}
[cluster.web]
endpoints = ["{origin.address}"]
[cluster.files]
endpoints = ["127.0.0.1:{files.port}"]
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxOrigin]:
    with NginxOrigin(tmp_path_factory.mktemp("files")) as started:
        yield started


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, files: NginxOrigin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lbd")
    ports = free_ports(3)
    with ScriptedOrigin() as origin, start_lbd(config(origin, files, directory, ports), directory, pure=request.param) as lbd:
        yield Lab(lbd, origin, files, directory, ports[0], ports[1], directory / "lbd.sock")
        assert lbd.metric("lbd_faults_total") == 0


def run(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A program that must succeed; its output may be anything."""
    result = subprocess.run([*map(str, arguments)], input=stdin, capture_output=True, timeout=60, check=False)
    assert result.returncode == 0, (arguments, result.returncode, result.stderr[-2000:])
    return result


def curl(*arguments: str | Path, stdin: bytes = b"") -> bytes:
    return run("curl", "-sS", "--max-time", "30", *arguments, stdin=stdin).stdout


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# curl


@needs("curl")
def test_curl_gets(lab: Lab) -> None:
    assert curl(f"{lab.url}/", "-H", "x-id: seven", "-w", " %{http_code} %{http_version}") == b"seven 200 1.1"


@needs("curl")
def test_curl_goes_on_with_one_connection(lab: Lab) -> None:
    out = curl(*(f"{lab.url}/bytes/{size}" for size in (1, 10_000, 300_000)), "-o", "/dev/null", "-w", "%{num_connects} %{size_download}\n")
    assert re.findall(rb"(\d) (\d+)\n", out)[-2:] == [(b"0", b"10000"), (b"0", b"300000")]


@needs("curl")
def test_curl_uploads(lab: Lab, tmp_path: Path) -> None:
    """With `Expect: 100-continue`, which curl says before a body of this size, and waits for a second for the answer."""
    sent, came = tmp_path / "sent", tmp_path / "came"
    sent.write_bytes(os.urandom(UPLOAD))
    dialogue = run("curl", "-sSv", "--max-time", "30", "--data-binary", f"@{sent}", "-o", came, f"{lab.url}/echo").stderr
    assert digest_of(came) == digest_of(sent)
    assert dialogue.count(b"< HTTP/1.1 100 Continue") == 1
    assert lab.origin.requests[-1].get("expect") == "100-continue"


@needs("curl")
def test_curl_uploads_in_chunks(lab: Lab) -> None:
    body = os.urandom(3_000_000)
    assert digest(curl("-T", "-", f"{lab.url}/echo", stdin=body)) == digest(body)
    assert lab.origin.requests[-1].get("transfer-encoding") == "chunked"
    assert lab.origin.requests[-1].method == "PUT"


@needs("curl")
def test_curl_gets_a_head(lab: Lab) -> None:
    head = curl("-I", f"{lab.url}/1m")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 1048576\r\n" in head
    assert head.endswith(b"\r\n\r\n")


@needs("curl")
@pytest.mark.parametrize("path", ["/bytes/100000", "/stream/20/0", "/until-close/100000"])
def test_curl_speaks_http_1_0(lab: Lab, path: str) -> None:
    """Which knows no chunks."""
    fields, _, body = curl("--http1.0", "-i", f"{lab.url}{path}").partition(b"\r\n\r\n")
    assert fields.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"chunked" not in fields.lower()
    assert len(body) == (100_000 if "stream" not in path else sum(len(f"chunk {number}\n") for number in range(20)))


@needs("curl")
def test_curl_sees_trailers(lab: Lab, tmp_path: Path) -> None:
    assert curl(f"{lab.url}/stream/3/0.01", "-D", tmp_path / "fields") == b"chunk 0\nchunk 1\nchunk 2\n"
    assert (tmp_path / "fields").read_bytes().endswith(b"\r\n\r\nx-sum: 3\r\n")


def test_trailers_of_a_request_arrive(lab: Lab) -> None:
    """curl cannot send any."""
    with Downstream(lab.port) as downstream:
        downstream.send(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 3\r\n\r\n"
        )
        assert downstream.response().status == 200
    assert lab.origin.requests[-1].body == b"abc"
    assert ("x-sum", "3") in [(name.lower(), value) for name, value in lab.origin.requests[-1].trailers]


@needs("curl")
def test_compressed_bodies_are_left_alone(lab: Lab) -> None:
    text = b"to be compressed " * 1000
    packed = gzip.compress(text)

    def compressed(link: Link, message: Message) -> bool:
        link.answer(message, packed, 200, "Content-Encoding: gzip", "Vary: Accept-Encoding")
        return True

    lab.origin.behave = compressed
    try:
        assert curl("--compressed", f"{lab.url}/") == text
        assert "gzip" in lab.origin.requests[-1].get("accept-encoding")
        assert curl(f"{lab.url}/") == packed
        assert lab.origin.requests[-1].get("accept-encoding") == ""
    finally:
        lab.origin.behave = None


@needs("curl")
def test_curl_by_a_unix_socket(lab: Lab) -> None:
    assert curl("--unix-socket", lab.socket, "http://any/", "-H", "x-id: by unix") == b"by unix"


@needs("curl")
def test_curl_gets_early_hints(lab: Lab) -> None:
    assert re.findall(rb"HTTP/1.1 (\d+)", curl("-i", f"{lab.url}/hints")) == [b"103", b"200"]


# Large bodies


def test_a_large_body_comes_down_whole(lab: Lab) -> None:
    answer = get(lab.port, "/100m", timeout=60)
    assert len(answer.body) == 100 << 20
    assert digest(answer.body) == digest_of(lab.files.directory / "files" / "100m")


def test_a_large_body_goes_up_whole(lab: Lab) -> None:
    body = (lab.files.directory / "files" / "100m").read_bytes()

    def digested(link: Link, message: Message) -> bool:
        link.answer(message, digest(message.body).encode())
        return True

    lab.origin.behave = digested
    try:
        with Downstream(lab.port, timeout=60) as downstream:
            assert downstream.ask("PUT", "/", {}, body).body.decode() == digest(body)
            assert downstream.ask("PUT", "/", {}, b"small").body.decode() == digest(b"small")  # and the connection goes on
    finally:
        lab.origin.behave = None
        lab.origin.received.clear()  # 100 MB


# Loads


@needs("ab")
def test_ab_keeps_http_1_0_connections_alive(lab: Lab) -> None:
    before = lab.lbd.metric("lbd_downstream_connections_total")
    said = run("ab", "-q", "-k", "-n", "2000", "-c", "8", f"{lab.url}/126").stdout.decode()
    assert found(r"Complete requests:\s+(\d+)", said) == 2000
    assert found(r"Failed requests:\s+(\d+)", said) == 0
    assert found(r"Keep-Alive requests:\s+(\d+)", said) == 2000
    assert lab.lbd.metric("lbd_downstream_connections_total") - before == 8


@needs("ab")
def test_ab_with_a_connection_each(lab: Lab) -> None:
    said = run("ab", "-q", "-n", "500", "-c", "8", f"{lab.url}/10k").stdout.decode()
    assert found(r"Complete requests:\s+(\d+)", said) == 500
    assert found(r"Failed requests:\s+(\d+)", said) == 0
    assert "Non-2xx" not in said


@needs("ab")
def test_ab_posts(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"b" * 50_000)
    said = run("ab", "-q", "-k", "-n", "300", "-c", "4", "-p", tmp_path / "body", f"{lab.url}/sink").stdout.decode()
    assert found(r"Failed requests:\s+(\d+)", said) == 0
    assert "Non-2xx" not in said


@needs("wrk")
@pytest.mark.parametrize("path", ["/126", "/1m"])
def test_wrk_sees_no_errors(lab: Lab, path: str) -> None:
    said = run("wrk", "-t", "1", "-c", "16", "-d", "1", f"{lab.url}{path}").stdout.decode()
    assert found(r"(\d+) requests in", said) > 10
    assert "Socket errors" not in said
    assert "Non-2xx" not in said


def found(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    assert match, text
    return int(match[1])


# nginx in front

FRONT = """\
daemon off;
pid front.pid;
events {{ worker_connections 1000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream lbd {{ server 127.0.0.1:{upstream}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://lbd;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host shop.example;
            proxy_set_header X-Forwarded-For "198.51.100.7, 203.0.113.9";
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header X-Request-Id front-$request_id;
        }}
    }}
}}
"""


@needs("nginx")
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "untrusted"])
def test_behind_nginx(lab: Lab, tmp_path: Path, is_trusted: bool) -> None:
    """Whose word about its downstreams counts when lbd trusts it, and not otherwise."""
    port = free_port()
    text = FRONT.format(directory=tmp_path, port=port, upstream=lab.trusting_port if is_trusted else lab.port)
    with start_nginx(text, tmp_path, port, name="front"), Downstream(port) as downstream:
        before = lab.lbd.metric("lbd_downstream_connections_total")
        for _ in range(20):
            assert downstream.ask("GET", "/show").status == 200
        assert lab.lbd.metric("lbd_downstream_connections_total") - before <= 2  # a connection for each of nginx's workers
    seen = lab.origin.requests[-1]
    assert seen.get("host") == "shop.example"
    assert seen.get_all("x-forwarded-for") == ["198.51.100.7, 203.0.113.9, 127.0.0.1" if is_trusted else "127.0.0.1"]
    assert seen.get_all("x-forwarded-proto") == ["https" if is_trusted else "http"]
    assert seen.get("x-request-id").startswith("front-") == is_trusted
    identity = seen.get("x-request-id")
    (line,) = (line for line in logged(lab, lambda lines: any(identity in line for line in lines)) if identity in line)
    assert ('"client":"203.0.113.9"' in line) is is_trusted


def logged(lab: Lab, holds: Callable[[list[str]], bool]) -> list[str]:
    """The access log's lines as soon as they are as wanted; other workers may write more behind them."""
    lines: list[str] = []

    def are_there() -> bool:
        lines[:] = (lab.directory / "access.log").read_text().splitlines() or [""]
        return holds(lines)

    wait_until(are_there, "the access log's line")
    return lines
