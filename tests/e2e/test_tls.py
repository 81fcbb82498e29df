"""TLS towards clients, with real ones: curl, openssl, and sockets that misbehave."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority, client_context
from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import ROOT, LbdDaemon, find_program, start_lbd, wait_until
from tests.wire.hellos import hello_of, over_records
from tests.wire.http2_frames import PREFACE, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http import Message

pytestmark = pytest.mark.skipif(find_program("curl") is None or find_program("openssl") is None, reason="needs curl and openssl")

NAMES = ("a.example", "x.c.example", "x.b.example")


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    authority: Authority
    port: int
    strict: int
    mutual: int
    optional: int
    plain: int

    def curl(self, port: int, *arguments: str, name: str = "a.example", path: str = "/") -> str:
        """What it says: its own words after the answer's, which -w adds."""
        command = [find_program("curl") or "curl", "-sS", "-m", "10", "--cacert", str(self.authority.file)]
        for each in NAMES:
            command += ["--resolve", f"{each}:{port}:127.0.0.1"]
        ran = subprocess.run([*command, *arguments, f"https://{name}:{port}{path}"], capture_output=True, text=True, check=False)
        return ran.stdout + ran.stderr

    def openssl(self, port: int, *arguments: str, name: str = "a.example", asking: str = "Q\n") -> str:
        command = [find_program("openssl") or "openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", name]
        ran = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, input=asking, timeout=20)
        return ran.stdout + ran.stderr

    def upstream_heard(self, path: str) -> Message:
        return next(each.message for each in reversed(self.origin.received) if each.message.target == path)

    def tls(self, port: int, **settings: object) -> ssl.SSLSocket:
        context = client_context(self.authority.file, **settings)  # type: ignore[arg-type]
        return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 10), server_hostname="a.example")


def config(ports: list[int], origin: ScriptedOrigin) -> str:
    port, strict, mutual, optional, plain, admin = ports
    return f"""
[lbd]
workers = 2
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
tls = [{{ cert = "a.pem", key = "a.key" }}, {{ cert = "w.pem", key = "w.key" }}]
timeouts = {{ handshake = "2s" }}
[listener.strict]
bind = "127.0.0.1:{strict}"
cluster = "web"
tls = {{ cert = "a.pem", key = "a.key", min_version = "1.3", strict_sni = true }}
[listener.mutual]
bind = "127.0.0.1:{mutual}"
cluster = "web"
tls = {{ cert = "a.pem", key = "a.key", client_ca = "ca.pem" }}
[listener.optional]
bind = "127.0.0.1:{optional}"
cluster = "web"
tls = {{ cert = "a.pem", key = "a.key", client_ca = "ca.pem", verify = "optional" }}
[listener.plain]
bind = "127.0.0.1:{plain}"
redirect_to_https = true
[cluster.web]
endpoints = ["{origin.address}"]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory)
    authority.issue("a", "a.example", "localhost", days=30)
    authority.issue("w", "*.c.example", "*.b.example", days=30)
    ports = free_ports(6)
    with ScriptedOrigin() as origin, start_lbd(config(ports, origin), directory) as lbd:
        yield Lab(lbd, origin, authority, *ports[:5])
        assert lbd.metric("lbd_faults_total") == 0


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("name", NAMES)
def test_curl_and_the_names(lab: Lab, version: str, name: str) -> None:
    """curl verifies that the certificate is for the name it asks for."""
    said = lab.curl(lab.port, version, "-o", "/dev/null", "-w", "%{http_code} %{http_version}", name=name)
    assert said == ("200 1.1" if version == "--http1.1" else "200 2")


def test_the_upstream_hears_of_https(lab: Lab) -> None:
    lab.curl(lab.port, "-o", "/dev/null", "-H", "X-Forwarded-Proto: http", path="/proto")
    message = lab.upstream_heard("/proto")
    assert message.get("x-forwarded-proto") == "https"
    assert message.get("x-forwarded-port") == str(lab.port)


def test_versions(lab: Lab) -> None:
    assert "Protocol  : TLSv1.2" in lab.openssl(lab.port, "-tls1_2")
    assert "New, TLSv1.3" in lab.openssl(lab.port)
    assert re.search(r"alert|no protocols", lab.openssl(lab.port, "-tls1_1"))
    assert "protocol version" in lab.openssl(lab.strict, "-tls1_2")


def test_strangers_at_a_strict_listener(lab: Lab) -> None:
    assert "New, TLSv1.3" in lab.openssl(lab.strict)
    assert "unrecognized name" in lab.openssl(lab.strict, name="other.test")
    lab.lbd.wait_for_log(r'"tls_handshake_failed".*strict_sni')


def test_a_name_that_is_none_is_no_name(lab: Lab) -> None:
    """Who asks for bytes beyond ASCII gets the first certificate, or the strict listener's refusal, and writes nothing else to our log."""
    for name in ("ä.example", "\udcff.a.example"):
        said = lab.openssl(lab.port, name=name)
        assert "New, TLSv1.3" in said
        start = len(lab.lbd.log())
        assert "unrecognized name" in lab.openssl(lab.strict, name=name)
        lab.lbd.wait_for_log(r'"listener":"strict".*"tls_handshake_failed".*strict_sni', start=start)
    assert "Traceback" not in lab.lbd.log()
    assert "Exception ignored" not in lab.lbd.log()


def test_a_name_that_is_none_in_pieces_is_refused_as_such(lab: Lab) -> None:
    """The first record is all that is looked at before OpenSSL does."""
    hello = hello_of("aaaa.example").replace(b"aaaa", b"\xff\xfeaa")
    start = len(lab.lbd.log())
    with socket.create_connection(("127.0.0.1", lab.port), 10) as stream:
        stream.sendall(over_records(hello, 20))
        assert stream.recv(100)[:1] == b"\x15"
    lab.lbd.wait_for_log(r'"listener":"web".*"tls_handshake_failed".*not all of it is ASCII', start=start)
    assert "Exception ignored" not in lab.lbd.log()[start:]
    assert lab.lbd.metric("lbd_faults_total") == 0


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_session_is_resumed(tmp_path: Path, version: str) -> None:
    """Within one worker."""
    authority = Authority(tmp_path)
    authority.issue("a", "a.example")
    ports = free_ports(6)
    with ScriptedOrigin() as origin:
        text = config(ports, origin).replace("workers = 2", "workers = 1").replace(', { cert = "w.pem", key = "w.key" }', "")
        with start_lbd(text, tmp_path) as lbd:
            lab = Lab(lbd, origin, authority, *ports[:5])
            session = str(tmp_path / "session")
            asking = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n"
            assert "200 OK" in lab.openssl(lab.port, version, "-ign_eof", "-sess_out", session, asking=asking)
            assert "Reused, TLS" in lab.openssl(lab.port, version, "-sess_in", session)


def test_client_certificates_that_are_required(lab: Lab) -> None:
    shown = lab.authority.issue("ann", "ann@example.com")
    pair = ("--cert", str(shown[0]), "--key", str(shown[1]))
    assert lab.curl(lab.mutual, *pair, "-o", "/dev/null", "-w", "%{http_code}") == "200"
    assert "certificate required" in lab.curl(lab.mutual, "--http1.1")
    stranger = Authority(lab.authority.directory / "stranger").issue("eve", "eve@example.com")
    assert "alert" in lab.curl(lab.mutual, "--http1.1", "--cert", str(stranger[0]), "--key", str(stranger[1]))
    lab.lbd.wait_for_log(r'"tls_handshake_failed"')


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_what_a_client_certificate_says_cannot_be_forged(lab: Lab, version: str) -> None:
    forged = ("-H", "X-Client-Cert-Subject: CN=admin", "-H", "x-client-cert-verify: SUCCESS", "-H", "X-Client-Cert-Fingerprint: 00")
    shown = lab.authority.issue("ann", "ann@example.com")
    with_one = ("--cert", str(shown[0]), "--key", str(shown[1]))
    for number, (port, pair, verdict) in enumerate([(lab.optional, (), "NONE"), (lab.optional, with_one, "SUCCESS"), (lab.port, (), None)]):
        path = f"/forged/{number}/{version}"
        assert lab.curl(port, version, *forged, *pair, "-o", "/dev/null", "-w", "%{http_code}", path=path) == "200"
        message = lab.upstream_heard(path)
        assert message.get("x-client-cert-verify") == (verdict or "")
        assert (message.get("x-client-cert-san") == "email:ann@example.com") == (verdict == "SUCCESS")
        assert message.get("x-client-cert-subject") != "CN=admin"
        assert len(message.get("x-client-cert-fingerprint")) == (64 if verdict == "SUCCESS" else 0)


def test_plain_http_to_a_port_with_tls(lab: Lab) -> None:
    answer = get(lab.port)
    assert answer.status == 400
    assert b"https://" in answer.body
    lab.lbd.wait_for_log(r'"plain_to_tls"')


def test_tls_to_a_plain_port(lab: Lab) -> None:
    with pytest.raises(ssl.SSLError):
        lab.tls(lab.plain)
    lab.lbd.wait_for_log(r'"listener":"plain".*"status":400,"reason":"tls_to_plain"')


def test_alpn_decides(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("a", "a.example")
    authority.issue("w", "*.c.example")
    ports = free_ports(6)
    with ScriptedOrigin() as origin:
        text = config(ports, origin).replace("strict_sni = true", 'alpn = ["h2"]')
        text = text.replace('client_ca = "ca.pem" }', 'alpn = ["http/1.1"] }')
        with start_lbd(text, tmp_path) as lbd:
            lab = Lab(lbd, origin, authority, *ports[:5])
            only_h2, only_h1 = lab.strict, lab.mutual
            version = ("-o", "/dev/null", "-w", "%{http_code} %{http_version}")
            assert lab.curl(only_h2, "--http2", *version) == "200 2"
            for arguments in (("--http1.1",), ("--no-alpn",)):
                assert "no application protocol" in lab.curl(only_h2, *arguments, *version)
            lbd.wait_for_log(r'"tls_handshake_failed".*does not offer h2')
            assert lab.curl(only_h1, "--http2", *version) == "200 1.1"
            with lab.tls(only_h1, alpn=("http/1.1",)) as stubborn:
                stubborn.sendall(PREFACE + settings())
                assert stubborn.recv(1000).startswith(b"HTTP/1.1 505 ")


def test_a_listener_that_redirects(lab: Lab) -> None:
    answer = get(lab.plain, "/x?y=1", {"Host": f"a.example:{lab.plain}"})
    assert (answer.status, answer.get("location")) == (308, "https://a.example/x?y=1")


def test_slow_handshakes_hold_nobody_up(lab: Lab) -> None:
    """Fifty that do not go on, and one that does; the fifty are closed in time."""
    with ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", lab.port), 10)) for _ in range(50)]
        for each in slow:
            each.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        begun = time.perf_counter()
        assert lab.curl(lab.port, "-o", "/dev/null", "-w", "%{http_code}") == "200"
        assert time.perf_counter() - begun < 2.0  # the handshake's own limit
        for each in slow:
            each.settimeout(10)
            assert each.recv(1) == b""
    assert lab.lbd.metric("lbd_tls_handshakes_total", listener="web", result="timeout") >= 50
    assert lab.lbd.metric("lbd_rejected_total", reason="tls_handshake_timeout") >= 50


def test_half_a_handshake_holds_no_stop_up(tmp_path: Path) -> None:
    """Nothing has been asked there; what is asked elsewhere is waited for."""
    authority = Authority(tmp_path)
    authority.issue("a", "a.example")
    authority.issue("w", "*.c.example")
    ports = free_ports(6)
    with ScriptedOrigin() as origin, ExitStack() as stack:
        text = config(ports, origin).replace('handshake = "2s"', 'handshake = "100s"').replace("[lbd]", '[lbd]\ndrain_timeout = "100s"')
        lbd = stack.enter_context(start_lbd(text, tmp_path))
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", ports[0]), PATIENCE)) for _ in range(4)]
        for each in slow:
            each.sendall(b"\x16\x03\x01\x02\x00\x01\x00")
        wait_until(lambda: lbd.metric("lbd_downstream_connections", listener="web") == 4, "all to be there")
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(PATIENCE) == 0
        assert "stopped: nothing was cut short" in lbd.log()
        assert [each.recv(1) for each in slow] == [b""] * 4


def test_a_large_upload_and_download(lab: Lab) -> None:
    body = bytes(range(256)) * 40_000
    with Downstream(lab.tls(lab.port)) as downstream:
        assert downstream.ask("POST", "/echo", {}, body).status == 200
        assert len(body) == 10_240_000


def test_certificates_change_without_a_reload(lab: Lab) -> None:
    """A connection keeps its own; a pair that does not fit keeps the old one in use."""
    old = lab.tls(lab.port)
    before = old.getpeercert(binary_form=True)
    fresh, _ = lab.authority.issue("a", "a.example", "localhost", days=40)
    expected = ssl.PEM_cert_to_DER_cert(fresh.read_text())

    def shown() -> bytes | None:
        with lab.tls(lab.port) as now:
            return now.getpeercert(binary_form=True)

    wait_until(lambda: shown() == expected, "the new certificate", 20.0)
    assert expected != before
    with Downstream(old) as downstream:
        assert downstream.ask("GET", "/").status == 200
    assert lab.lbd.metric("lbd_certificate_reloads_total", result="ok") >= 1
    ends = lab.lbd.metrics()['lbd_certificate_expiry_timestamp_seconds{listener="web",name="a.example"}']
    key = lab.authority.directory / "a.key"
    good = key.read_bytes()
    key.write_text("no key")
    wait_until(lambda: lab.lbd.metric("lbd_certificate_reloads_total", result="failed") >= 1, "the refusal", 20.0)
    assert shown() == expected
    lab.lbd.wait_for_log("listener web keeps the one in use: .*no private key that can be read")
    key.write_bytes(good)
    assert 39 * 86_400 < ends - lab.lbd.metrics()['process_start_time_seconds{process="master"}'] < 41 * 86_400


def test_a_reload_cuts_no_connection(lab: Lab) -> None:
    with Downstream(lab.tls(lab.port)) as downstream:
        assert downstream.ask("GET", "/").status == 200
        lab.lbd.reload()
        assert downstream.ask("GET", "/").status == 200


def test_a_bad_reload_names_the_file_and_changes_nothing(lab: Lab) -> None:
    text = lab.lbd.config.read_text()
    start = len(lab.lbd.log())
    lab.lbd.reload(text.replace('"w.pem"', '"gone.pem"'))
    lab.lbd.wait_for_log(r"lbd\.toml:9: listener\.web\.tls\.certificates\[2\]\.cert: .*gone\.pem cannot be read", start=start)
    assert lab.curl(lab.port, "-o", "/dev/null", "-w", "%{http_code}", name="x.c.example") == "200"
    lab.lbd.reload(text)


def test_files_that_are_wrong_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    authority.issue("a", "a.example")
    ports = free_ports(6)
    with ScriptedOrigin() as origin:
        (tmp_path / "lb.toml").write_text(config(ports, origin))
        command = [sys.executable, "-m", "lbd", "check", "-c", "lb.toml"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 1
    assert "listener.web.tls.certificates[2].cert: w.pem cannot be read: no such file or directory" in ran.stderr


def test_an_expired_certificate_takes_nothing_else_down(tmp_path: Path) -> None:
    """Not the start, not a renewal beside it, not a reload, not an upgrade."""
    authority = Authority(tmp_path)
    authority.issue("a", "a.example")
    authority.issue("w", "*.c.example", days=-1.0)
    ports = free_ports(6)
    with ScriptedOrigin() as origin:
        text = config(ports, origin)
        with start_lbd(text, tmp_path) as lbd:
            lab = Lab(lbd, origin, authority, *ports[:5])

            def serves(end: float) -> bool:
                with lab.tls(lab.port) as stream:
                    shown = stream.getpeercert()
                assert shown is not None
                return abs(ssl.cert_time_to_seconds(str(shown["notAfter"])) - time.time() - end * 86_400) < 3_600

            lbd.wait_for_log(r"WARNING lbd\.master: .*: listener\.web\.tls\.certificates.*the certificate in .*w\.pem has expired")
            lbd.wait_for_log("ERROR lbd.master: the certificate of listener web for .*c.example has expired")
            assert serves(30)
            authority.issue("a", "a.example", days=40)
            wait_until(lambda: serves(40), "the new certificate")
            lbd.reload(text.replace("workers = 2", 'workers = 2\ndrain_timeout = "5s"'))
            assert lbd.metric("lbd_reloads_total", result="ok") == 1
            assert any("has expired" in warning for warning in lbd.json("/api/v1/status")["last_reload"]["warnings"])
            lbd.signal(signal.SIGUSR2)
            lbd.wait()
            lbd.wait_for_log(r"the new master \(pid \d+\) serves")
            wait_until(lambda: serves(40), "the new master")
