"""PROXY headers with those who speak them too: haproxy and nginx before lbd, and behind it."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lbd.wire.proxy_protocol import ProxyHeader, encode_proxy_header
from tests.support.certificates import Authority, client_context
from tests.support.ports import free_ports
from tests.support.processes import HaproxyDaemon, LbdDaemon, NginxDaemon, find_program, start_haproxy, start_lbd, start_nginx, wait_until
from tests.support.tcp import TcpOrigin, config, dial, hello, lines, read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
CLIENT = "127.0.0.9"  # where the clients connect from
GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

pytestmark = [
    pytest.mark.skipif(find_program("haproxy") is None, reason="needs haproxy"),
    pytest.mark.skipif(find_program("nginx") is None or not NGINX_STREAM.exists(), reason="needs nginx with its stream module"),
]


@dataclass(frozen=True, slots=True)
class Before:
    """haproxy and nginx carry connections to lbd's listeners, each with a header of its kind. Ports by (kind, version)."""

    lbd: LbdDaemon
    ports: dict[tuple[str, str], int]
    direct: dict[str, int]
    ca: Path
    directory: Path


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    directory = tmp_path_factory.mktemp("before")
    authority = Authority(directory)
    cert, key = authority.issue("own", "own.example")
    http, tcp, tls, strict, admin, *senders = free_ports(14)
    direct = {"http": http, "tcp": tcp, "tls": tls}
    kinds = [(kind, version) for kind in direct for version in ("v1", "v2", "nginx")]
    ports = dict(zip(kinds, senders, strict=True))
    trusted = 'proxy_protocol = { trusted = ["127.0.0.1"] }'
    haproxy = "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
    nginx = ""
    for (kind, version), port in ports.items():
        if version == "nginx":
            nginx += f"server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{direct[kind]}; proxy_protocol on; }}\n"
        else:
            word = "send-proxy" if version == "v1" else "send-proxy-v2"
            haproxy += f"listen {kind}{version}\n bind 127.0.0.1:{port}\n server lbd 127.0.0.1:{direct[kind]} {word}\n"
    with TcpOrigin(hello(b"tcp")) as origin:
        text = f"""
[listener.http]
bind = "127.0.0.1:{http}"
{trusted}
[[listener.http.route]]
respond = {{ body = "http" }}
[listener.tcp]
bind = "127.0.0.1:{tcp}"
protocol = "tcp"
cluster = "tcp"
{trusted}
[listener.tls]
bind = "127.0.0.1:{tls}"
tls = {{ cert = "{cert}", key = "{key}" }}
{trusted}
[[listener.tls.route]]
respond = {{ body = "tls" }}
[listener.strict]
bind = "127.0.0.1:{strict}"
protocol = "tcp"
cluster = "tcp"
proxy_protocol = {{ trusted = ["10.0.0.0/8"] }}
[cluster.tcp]
endpoints = ["{origin.address}"]
"""
        with (
            start_lbd(config(directory, admin, text), directory) as lbd,
            start_haproxy(haproxy, directory, *(port for (_, version), port in ports.items() if version != "nginx")),
            start_nginx(stream_config(nginx), directory, *(port for (_, version), port in ports.items() if version == "nginx")),
        ):
            yield Before(lbd, ports, {**direct, "strict": strict}, authority.file, directory)


def stream_config(servers: str) -> str:
    return f"load_module {NGINX_STREAM};\ndaemon off; worker_processes 1; pid nginx.pid;\nevents {{}}\nstream {{ {servers} }}\n"


def last_client(before: Before, kind: str, count: int) -> str:
    wait_until(lambda: len(of(before, kind)) > count, "its line")
    return str(of(before, kind)[-1]["client"])


def of(before: Before, kind: str) -> list[dict[str, object]]:
    return [line for line in lines(before.directory) if line["listener"] == kind and not line["reason"]]


@pytest.mark.parametrize("version", ["v1", "v2", "nginx"])
def test_the_client_is_whom_the_header_names(before: Before, version: str) -> None:
    for kind in ("http", "tcp", "tls"):
        count = len(of(before, kind))
        with dial(before.ports[kind, version], source=CLIENT) as downstream:
            if kind == "http":
                downstream.sendall(GET)
                assert read_all(downstream).endswith(b"http")
            elif kind == "tcp":
                assert downstream.recv(10) == b"tcp"
                downstream.shutdown(socket.SHUT_WR)
                read_all(downstream)
            else:
                context = client_context(before.ca)
                with context.wrap_socket(downstream, server_hostname="own.example") as secured:
                    secured.sendall(GET)
                    assert read_all(secured).endswith(b"tls")
        assert last_client(before, kind, count) == CLIENT


@pytest.mark.parametrize("kind", ["http", "tcp", "tls"])
@pytest.mark.parametrize(
    ("data", "reason"),
    [(GET, "proxy_header_invalid"), (b"PROXY TCP4 1.2.3.4 nonsense\r\n", "proxy_header_invalid"), (b"PROXY TCP4 ", "proxy_header_invalid")],
)
def test_without_a_good_header(before: Before, kind: str, data: bytes, reason: str) -> None:
    """From 127.0.0.1, who is trusted, and must send one."""

    def refused() -> list[dict[str, object]]:
        return [line for line in lines(before.directory) if line["reason"] == reason and line["listener"] == kind]

    rejected, written = before.lbd.metric("lbd_rejected_total", reason=reason), len(refused())
    with dial(before.direct[kind]) as downstream:
        downstream.sendall(data)
        downstream.shutdown(socket.SHUT_WR)
        assert ended(downstream)
    wait_until(lambda: before.lbd.metric("lbd_rejected_total", reason=reason) == rejected + 1, "the count")
    wait_until(lambda: len(refused()) == written + 1, "the line")
    assert refused()[-1]["client"] == "127.0.0.1"
    assert refused()[-1]["detail"]


@pytest.mark.parametrize("kind", ["http", "tcp", "tls", "strict"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_from_somebody_else(before: Before, kind: str, version: int) -> None:
    rejected = before.lbd.metric("lbd_rejected_total", reason="proxy_header_untrusted")
    with dial(before.direct[kind], source="127.0.0.66") as downstream:
        downstream.sendall(encode_proxy_header(version, ProxyHeader("10.1.2.3", 4, "10.1.2.4", 5)))
        assert ended(downstream)
    wait_until(lambda: before.lbd.metric("lbd_rejected_total", reason="proxy_header_untrusted") == rejected + 1, "the count")


def ended(connection: socket.socket) -> bool:
    try:
        while data := connection.recv(100):
            assert data == b"tcp"  # the endpoint may speak first
    except ConnectionResetError:
        pass
    return True


# Behind lbd


@dataclass(frozen=True, slots=True)
class Behind:
    """haproxy and nginx want a header, and answer with the address that it names. Ports by (mode, version, who)."""

    lbd: LbdDaemon
    ports: dict[tuple[str, str, str], int]
    ca: Path
    haproxy: HaproxyDaemon
    nginx: NginxDaemon


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    directory = tmp_path_factory.mktemp("behind")
    admin, haproxy_port, nginx_port, *rest = free_ports(15)
    authority = Authority(directory)
    cert, key = authority.issue("own", "own.example")
    whose = {"haproxy": haproxy_port, "nginx": nginx_port}
    cases = [(mode, version, who) for mode in ("http", "tcp", "tls") for version in ("v1", "v2") for who in whose]
    ports = dict(zip(cases, rest, strict=True))
    text = ""
    for (mode, version, who), port in ports.items():
        kind = f'tls = {{ cert = "{cert}", key = "{key}" }}' if mode == "tls" else f'protocol = "{mode}"'
        text += f'[listener.{mode}-{version}-{who}]\nbind = "127.0.0.1:{port}"\n{kind}\ncluster = "{version}-{who}"\n'
    for version in ("v1", "v2"):
        for who, port in whose.items():
            health = 'health = { interval = "100ms", path = "/health", fall = 1, initial = "down", rise = 1 }'
            text += f'[cluster.{version}-{who}]\nendpoints = ["127.0.0.1:{port}"]\nsend_proxy = "{version}"\npanic = 0.0\n{health}\n'
    haproxy = f"""
defaults
 mode http
 timeout connect 5s
 timeout client 30s
 timeout server 30s
frontend web
 bind 127.0.0.1:{haproxy_port} accept-proxy
 http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"
"""
    nginx = f"""
daemon off; worker_processes 1; pid nginx.pid;
events {{}}
http {{
    access_log off;
    server {{ listen 127.0.0.1:{nginx_port} proxy_protocol; location / {{ return 200 $proxy_protocol_addr:$proxy_protocol_port; }} }}
}}
"""
    with (
        start_haproxy(haproxy, directory, haproxy_port) as one,
        start_nginx(nginx, directory, nginx_port) as two,
        start_lbd(config(directory, admin, text), directory) as lbd,
    ):
        wait_until(lambda: lbd.metric("lbd_endpoint_up") == 4, "health checks that are believed")
        yield Behind(lbd, ports, authority.file, one, two)


@pytest.mark.parametrize("who", ["haproxy", "nginx"])
@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("mode", ["http", "tcp", "tls"])
def test_the_endpoint_knows_the_client(behind: Behind, mode: str, version: str, who: str) -> None:
    for number in range(3):  # over one connection in HTTP: each time its own client, never another's
        with dial(behind.ports[mode, version, who], source=f"127.0.0.{20 + number}") as raw:
            host, port = raw.getsockname()
            if mode == "tls":
                with client_context(behind.ca).wrap_socket(raw, server_hostname="own.example") as secured:
                    ask_twice(secured, f"{host}:{port}")
            else:
                ask_twice(raw, f"{host}:{port}")


def ask_twice(downstream: socket.socket, client: str) -> None:
    for _ in range(2):
        downstream.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while client.encode() not in answer:
            data = downstream.recv(65536)
            assert data, answer
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 ")


def test_health_checks_are_believed(behind: Behind) -> None:
    assert behind.lbd.metric("lbd_endpoint_up") == 4
    assert behind.lbd.metric("lbd_health_checks_total", result="ok") > 0


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_header_comes_before_tls(tmp_path: Path, version: str) -> None:
    """In requests, and in the health check that lets them in."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("own", "own.example")
    both = tmp_path / "both.pem"
    both.write_bytes(cert.read_bytes() + key.read_bytes())
    port, behind, admin = free_ports(3)
    haproxy = f"""
defaults
 mode http
 timeout connect 5s
 timeout client 30s
 timeout server 30s
frontend web
 bind 127.0.0.1:{behind} accept-proxy ssl crt {both}
 http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"
"""
    text = f"""
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "secured"
[cluster.secured]
endpoints = ["127.0.0.1:{behind}"]
send_proxy = "{version}"
tls = {{ ca = "{authority.file}", sni = "own.example" }}
panic = 0.0
health = {{ protocol = "https", interval = "100ms", initial = "down", rise = 1 }}
"""
    with start_haproxy(haproxy, tmp_path, behind), start_lbd(config(tmp_path, admin, text), tmp_path) as lbd:
        wait_until(lambda: lbd.metric("lbd_endpoint_up") == 1, "a health check that is believed")
        with dial(port, source=CLIENT) as downstream:
            ask_twice(downstream, ":".join(map(str, downstream.getsockname())))


def test_a_header_goes_through_with_what_it_has(tmp_path: Path) -> None:
    """TLVs and all, over two lbds in a row; the first one reads no header and makes one."""
    tlvs = struct.pack("!BH", 0xE0, 5) + b"hello"
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        got.append(connection.recv(1000))

    with TcpOrigin(serve) as origin:
        first, second, admin = free_ports(3)
        text = f"""
[listener.first]
bind = "127.0.0.1:{first}"
protocol = "tcp"
cluster = "second"
[listener.second]
bind = "127.0.0.1:{second}"
protocol = "tcp"
cluster = "origin"
proxy_protocol = {{ trusted = ["127.0.0.1"] }}
[cluster.second]
endpoints = ["127.0.0.1:{second}"]
send_proxy = "v2"
[cluster.origin]
endpoints = ["{origin.address}"]
send_proxy = "v2"
"""
        with start_lbd(config(tmp_path, admin, text), tmp_path):
            with dial(first, source=CLIENT) as downstream:
                _, port = downstream.getsockname()
                read_all(downstream)
            with dial(second) as downstream:
                downstream.sendall(encode_proxy_header(2, ProxyHeader("2001:db8::1", 1, "2001:db8::2", 2, tlvs=tlvs)))
                read_all(downstream)
    assert got == [
        encode_proxy_header(2, ProxyHeader(CLIENT, port, "127.0.0.1", first)),
        encode_proxy_header(2, ProxyHeader("2001:db8::1", 1, "2001:db8::2", 2, tlvs=tlvs)),
    ]
