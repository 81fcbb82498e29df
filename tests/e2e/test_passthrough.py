"""TLS that passes: routes by the name and the protocols of a ClientHello, with certificates that only the endpoints have."""

from __future__ import annotations

import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, find_program, start_lbd, wait_until
from tests.support.tcp import TcpOrigin, config, dial, lines, tls_name
from tests.wire.hellos import over_records

if TYPE_CHECKING:
    from collections.abc import Iterator

PIECE = 1 << 20
needs_openssl = pytest.mark.skipif(find_program("openssl") is None, reason="needs openssl")


@dataclass(frozen=True, slots=True)
class Names:
    """Three origins with certificates of their own, behind one port for TCP and one for HTTP that ends TLS itself."""

    lbd: LbdDaemon
    tcp: int
    web: int
    ca: Path
    directory: Path


def server_context(pair: tuple[Path, Path], *alpn: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Names]:
    directory = tmp_path_factory.mktemp("names")
    authority = Authority(directory)
    pairs = {name: authority.issue(name, f"{name}.example", f"*.{name}.example") for name in ("a", "b", "own")}
    tcp, web, admin = free_ports(3)
    with (
        TcpOrigin(tls_name("a", server_context(pairs["a"]))) as a,
        TcpOrigin(tls_name("b", server_context(pairs["b"], "h2"))) as b,
        TcpOrigin(tls_name("rest", server_context(pairs["own"]))) as rest,
    ):
        listeners = f"""
[listener.tcp]
bind = "127.0.0.1:{tcp}"
protocol = "tcp"
cluster = "rest"
timeouts = {{ handshake = "2s" }}
[[listener.tcp.route]]
name = "a"
sni = ["a.example", "*.a.example"]
cluster = "a"
[[listener.tcp.route]]
name = "b"
sni = "b.example"
alpn = "h2"
cluster = "b"
[listener.web]
bind = "127.0.0.1:{web}"
tls = {{ cert = "{pairs["own"][0]}", key = "{pairs["own"][1]}" }}
[[listener.web.passthrough]]
sni = "a.example"
cluster = "a"
[[listener.web.route]]
respond = {{ body = "own" }}
[cluster.a]
endpoints = ["{a.address}"]
[cluster.b]
endpoints = ["{b.address}"]
[cluster.rest]
endpoints = ["{rest.address}"]
"""
        with start_lbd(config(directory, admin, listeners), directory) as lbd:
            yield Names(lbd, tcp, web, authority.file, directory)


def ask(names: Names, port: int, name: str, *alpn: str) -> str:
    context = ssl.create_default_context(cafile=str(names.ca))
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(list(alpn))
    with dial(port) as downstream, context.wrap_socket(downstream, server_hostname=name or None) as secured:
        return secured.recv(100).decode()


@pytest.mark.parametrize(
    ("name", "alpn", "answer"),
    [
        ("a.example", (), "a None"),
        ("x.A.example", ("h2",), "a None"),
        ("b.example", ("h2", "http/1.1"), "b h2"),
        ("b.example", ("http/1.1",), "rest None"),
        ("other.example", (), "rest None"),
        ("", (), "rest None"),
    ],
)
def test_names_and_protocols(names: Names, name: str, alpn: tuple[str, ...], answer: str) -> None:
    assert ask(names, names.tcp, name, *alpn) == answer


@pytest.mark.parametrize("size", [1, 40])
def test_a_hello_in_pieces(names: Names, size: int) -> None:
    """Over many records, and these over many segments: OpenSSL at the other end joins them as we do."""
    context = ssl.create_default_context(cafile=str(names.ca))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname="a.example")
    with pytest.raises(ssl.SSLWantReadError):
        secured.do_handshake()
    with dial(names.tcp) as downstream:
        data = over_records(outgoing.read(), size)
        for at in range(0, len(data), 100):
            downstream.sendall(data[at : at + 100])
            threading.Event().wait(0.002)
        while True:
            try:
                secured.do_handshake()
                break
            except ssl.SSLWantReadError:
                downstream.sendall(outgoing.read())
                incoming.write(downstream.recv(PIECE))
        downstream.sendall(outgoing.read())
        while True:
            try:
                assert secured.read(100) == b"a None"
                break
            except ssl.SSLWantReadError:
                incoming.write(downstream.recv(PIECE))


@needs_openssl
@pytest.mark.parametrize("arguments", [("-tls1_2",), ("-tls1_3",), ("-max_send_frag", "512", "-alpn", ",".join(["protocol"] * 100))])
def test_openssl(names: Names, arguments: tuple[str, ...]) -> None:
    command: list[str | Path] = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{names.tcp}",
        "-servername",
        "a.example",
        "-CAfile",
        names.ca,
        *arguments,
    ]
    result = subprocess.run([*command, "-verify_return_error", "-quiet"], stdin=subprocess.DEVNULL, capture_output=True, timeout=20.0)
    assert b"a None" in result.stdout, result.stderr


def test_one_port_ends_some_and_passes_others(names: Names) -> None:
    assert ask(names, names.web, "a.example") == "a None"
    context = ssl.create_default_context(cafile=str(names.ca))
    with dial(names.web) as downstream, context.wrap_socket(downstream, server_hostname="own.example") as secured:
        secured.sendall(b"GET / HTTP/1.1\r\nHost: own.example\r\nConnection: close\r\n\r\n")
        answer = b""
        while piece := secured.recv(PIECE):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"own")
    wait_until(lambda: any(line["host"] == "a.example" and line["route"] == "passthrough-1" for line in lines(names.directory)), "its line")


def test_a_hello_that_stops(names: Names) -> None:
    with dial(names.tcp) as downstream:
        downstream.sendall(b"\x16\3\1\2\0\1")
        assert downstream.recv(1) == b""
    wait_until(lambda: any(line["reason"] == "client_hello_timeout" for line in lines(names.directory)), "its line")
