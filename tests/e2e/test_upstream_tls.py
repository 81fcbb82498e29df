"""TLS towards endpoints: who is believed, who is not, and what the client and the log are told."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.certificates import Authority, encrypted
from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import ROOT, LbdDaemon, start_lbd, wait_until
from tests.support.tls_origin import TlsOrigin

if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = """\
[lbd]
workers = 1
[log]
access = "./access.log"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
reason_header = true
"""
CLUSTER = """\
[[listener.web.route]]
path = "/{name}"
cluster = "{name}"
[cluster.{name}]
endpoints = ["{host}:{port}"]
retry = {{ attempts = 0 }}
tls = {tls}
"""


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    port: int
    directory: Path
    origins: dict[str, TlsOrigin]

    def ask(self, path: str) -> dict[str, object]:
        """What the endpoint knows of the session."""
        answer = get(self.port, path)
        assert answer.status == 200, answer
        told: dict[str, object] = json.loads(answer.body)
        return told

    def last_line(self, path: str) -> dict[str, object]:
        def seen() -> list[dict[str, object]]:
            lines = (self.directory / "access.log").read_text().splitlines()
            return [line for line in map(json.loads, lines) if line["target"] == path]

        wait_until(lambda: bool(seen()), f"the line of {path}")
        return seen()[-1]


@contextmanager
def grumbler() -> Iterator[int]:
    """A server for plain HTTP, which answers a ClientHello as it is; its port."""

    class Grumble(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Grumble) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("upstream-tls")
    known, unknown = Authority(directory), Authority(directory / "unknown")
    known.issue("client", "client.example")
    with ExitStack() as stack:
        origins = {
            "good": TlsOrigin(known.issue("good", "localhost", "app.internal")),
            "old": TlsOrigin(known.issue("old", "localhost"), version="1.2"),
            "named": TlsOrigin(known.issue("named", "app.internal")),
            "address": TlsOrigin(known.issue("address", "127.0.0.1")),
            "expired": TlsOrigin(known.issue("expired", "localhost", days=-1)),
            "unknown": TlsOrigin(unknown.issue("unknown", "localhost")),
            "mutual": TlsOrigin(known.issue("mutual", "localhost"), client_ca=known.file),
        }
        for origin in origins.values():
            stack.enter_context(origin)
        plain = stack.enter_context(grumbler())
        ca = 'ca = "ca.pem"'
        pair = 'client_cert = "client.pem", client_key = "client.key"'
        clusters = [
            ("good", "localhost", origins["good"].port, f"{{ {ca} }}"),
            ("old", "localhost", origins["old"].port, f"{{ {ca} }}"),
            ("old-refused", "localhost", origins["old"].port, f'{{ {ca}, min_version = "1.3" }}'),
            ("named", "127.0.0.1", origins["named"].port, f'{{ {ca}, sni = "app.internal" }}'),
            ("misnamed", "localhost", origins["named"].port, f"{{ {ca} }}"),
            ("address", "127.0.0.1", origins["address"].port, f"{{ {ca} }}"),
            ("misaddressed", "127.0.0.1", origins["good"].port, f"{{ {ca} }}"),
            ("expired", "localhost", origins["expired"].port, f"{{ {ca} }}"),
            ("unknown", "localhost", origins["unknown"].port, f"{{ {ca} }}"),
            ("pinned", "localhost", origins["unknown"].port, '{ ca = "unknown/unknown.pem" }'),
            ("system", "localhost", origins["good"].port, "true"),
            ("insecure", "127.0.0.1", origins["unknown"].port, "{ insecure_skip_verify = true }"),
            ("mutual", "localhost", origins["mutual"].port, f"{{ {ca}, {pair} }}"),
            ("anonymous", "localhost", origins["mutual"].port, f"{{ {ca} }}"),
            ("plain", "localhost", plain, f"{{ {ca} }}"),
        ]
        port, admin = free_ports(2)
        text = HEAD.format(port=port, admin=admin)
        text += "".join(CLUSTER.format(name=name, host=host, port=at, tls=tls) for name, host, at, tls in clusters)
        lbd = stack.enter_context(start_lbd(text, directory))
        yield Lab(lbd, port, directory, origins)


def test_a_session_with_a_verified_endpoint(lab: Lab) -> None:
    first, second = lab.ask("/good"), lab.ask("/good")
    assert (first["version"], first["sni"], first["is_resumed"]) == ("TLSv1.3", "localhost", False)
    assert first["serial"] == second["serial"]  # the connection is kept


@pytest.mark.parametrize("name", ["good", "old"])
def test_sessions_are_resumed(lab: Lab, name: str) -> None:
    lab.ask(f"/{name}/until-close")
    assert lab.ask(f"/{name}/until-close")["is_resumed"] is True


def test_a_body_up_to_the_end_is_whole_only_when_the_endpoint_says_so(lab: Lab) -> None:
    assert lab.ask("/good/until-close")["sni"] == "localhost"
    with pytest.raises(Exception):  # noqa: B017 - cut, in one way or another
        get(lab.port, "/good/cut/until-close")
    assert lab.last_line("/good/cut/until-close")["reason"] == "upstream_truncated"


@pytest.mark.parametrize(
    ("name", "sni"), [("named", "app.internal"), ("address", ""), ("pinned", "localhost"), ("insecure", ""), ("old", "localhost")]
)
def test_who_is_believed(lab: Lab, name: str, sni: str) -> None:
    assert lab.ask(f"/{name}")["sni"] == sni


def test_a_client_certificate_is_shown(lab: Lab) -> None:
    assert lab.ask("/mutual")["client"] == ["client.example"]


@pytest.mark.parametrize(
    ("name", "reason", "says"),
    [
        ("misnamed", "upstream_unverified", "Hostname mismatch, certificate is not valid for 'localhost'"),
        ("misaddressed", "upstream_unverified", "IP address mismatch, certificate is not valid for '127.0.0.1'"),
        ("expired", "upstream_unverified", "certificate has expired"),
        ("unknown", "upstream_unverified", "unable to get local issuer certificate"),
        ("system", "upstream_unverified", "unable to get local issuer certificate"),
        ("old-refused", "upstream_tls_failed", "tlsv1 alert protocol version"),
        ("plain", "upstream_tls_failed", "(wrong version number|record layer failure|closed in the middle of the handshake)"),
    ],
)
def test_who_is_not_believed(lab: Lab, name: str, reason: str, says: str) -> None:
    answer = get(lab.port, f"/{name}")
    assert (answer.status, answer.get("x-lbd-reason")) == (502, reason)
    assert re.search(f"^TLS with (localhost|127.0.0.1):[0-9]+: {says}", str(lab.last_line(f"/{name}")["detail"]))
    assert lab.lbd.metric("lbd_upstream_attempts_total", cluster=name, outcome=reason) >= 1


def test_an_endpoint_that_wants_to_know_us_refuses_strangers(lab: Lab) -> None:
    """With TLS 1.3 it says so only after the handshake, in place of an answer."""
    answer = get(lab.port, "/anonymous")
    assert answer.status == 502
    assert "certificate required" in str(lab.last_line("/anonymous")["detail"])


def test_insecure_is_warned_of(lab: Lab) -> None:
    lab.lbd.wait_for_log(r"WARNING .*cluster\.insecure\.tls\.insecure_skip_verify: whoever is between lbd and the endpoints")


def test_the_next_endpoint_is_tried(tmp_path: Path) -> None:
    known, unknown = Authority(tmp_path), Authority(tmp_path / "unknown")
    port, admin = free_ports(2)
    with TlsOrigin(known.issue("good", "localhost")) as good, TlsOrigin(unknown.issue("bad", "localhost")) as bad:
        text = HEAD.format(port=port, admin=admin) + 'cluster = "web"\n[cluster.web]\ntls = { ca = "ca.pem" }\n'
        text += f'endpoints = ["localhost:{bad.port}", "localhost:{good.port}"]\n'
        with start_lbd(text, tmp_path):
            assert [get(port).status for _ in range(6)] == [200] * 6
            assert bad.connections >= 2


def test_health_checks_go_over_tls_too(tmp_path: Path) -> None:
    known, unknown = Authority(tmp_path), Authority(tmp_path / "unknown")
    known.issue("client", "client.example")
    port, admin = free_ports(2)
    with (
        TlsOrigin(known.issue("good", "localhost"), client_ca=known.file) as good,
        TlsOrigin(unknown.issue("bad", "localhost")) as bad,
    ):
        text = HEAD.format(port=port, admin=admin) + 'cluster = "web"\n[cluster.web]\n'
        text += 'tls = { ca = "ca.pem", client_cert = "client.pem", client_key = "client.key" }\n'
        text += f'endpoints = ["localhost:{bad.port}", "localhost:{good.port}"]\n'
        text += 'health = { interval = "50ms", fall = 2, rise = 1 }\n'
        with start_lbd(text, tmp_path) as lbd:
            lbd.wait_for_log(rf"127\.0\.0\.1:{bad.port} is down after 2 checks: TLS handshake failed: unable to get local issuer")
            assert lbd.metric("lbd_endpoint_up", endpoint=f"127.0.0.1:{good.port}") == 1
            assert [get(port).status for _ in range(4)] == [200] * 4


def test_authorities_are_watched(tmp_path: Path) -> None:
    """Who may vouch for endpoints has changed: no reload is needed."""
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    port, admin = free_ports(2)
    with TlsOrigin(new.issue("good", "localhost")) as origin:
        text = HEAD.format(port=port, admin=admin) + 'cluster = "web"\n[cluster.web]\nretry = { attempts = 0 }\n'
        text += f'tls = {{ ca = "ca.pem" }}\nendpoints = ["localhost:{origin.port}"]\n'
        with start_lbd(text, tmp_path) as lbd:
            assert get(port).status == 502
            new.file.rename(old.file)
            lbd.wait_for_log("cluster web has new certificates", timeout=15)
            wait_until(lambda: get(port).status == 200, "an endpoint that is believed now")
            assert lbd.metric("lbd_certificate_reloads_total", result="ok") == 1


@pytest.mark.parametrize(
    ("tls", "code", "says"),
    [
        ('{ ca = "none.pem" }', 1, "lb.toml:13: cluster.web.tls.ca: none.pem cannot be read: no such file or directory"),
        ('{ ca = "client.key" }', 1, "lb.toml:13: cluster.web.tls.ca: client.key is a private key; are `cert` and `key` exchanged?"),
        (
            '{ client_cert = "client.pem", client_key = "other.key" }',
            1,
            "client_key: the key in other.key is not that of the certificate in ",
        ),
        ('{ client_cert = "client.pem", client_key = "client.encrypted" }', 1, "client_key: the key in client.encrypted is encrypted"),
        (
            '{ client_cert = "expired.pem", client_key = "expired.key" }',
            0,
            "warning: lb.toml:13: cluster.web.tls.client_cert: the certificate in expired.pem has expired on 20",
        ),
        ('{ ciphers = "NONSENSE" }', 1, 'cluster.web.tls.ciphers: OpenSSL knows no cipher "NONSENSE"'),
        ('{ client_cert = "client.pem" }', 78, "cluster.web.tls.client_cert: there is no client_key to it"),
    ],
)
def test_what_is_wrong_with_files_is_told_with_its_place(tls: str, code: int, says: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    _, key = authority.issue("client", "client.example")
    authority.issue("other", "client.example")
    authority.issue("expired", "client.example", days=-1)
    encrypted(key)
    (tmp_path / "lb.toml").write_text(
        HEAD.format(port=1, admin=2) + f'cluster = "web"\n[cluster.web]\nendpoints = ["localhost:443"]\ntls = {tls}\n'
    )
    found = lbd_check(tmp_path)
    assert found[0] == code
    assert says in found[1].replace(f"{tmp_path}/", "")


def lbd_check(directory: Path) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "lbd", "check", "-c", "lb.toml"],
        cwd=directory, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stderr


def test_an_endpoint_may_differ_from_its_cluster(tmp_path: Path) -> None:
    """As while a service moves to TLS. Health checks and requests know which is which; a reload that turns one drops its connections."""
    known = Authority(tmp_path)
    port, admin = free_ports(2)
    with TlsOrigin(known.issue("good", "localhost")) as secured, ScriptedOrigin() as plain:
        text = HEAD.format(port=port, admin=admin) + 'cluster = "web"\n[cluster.web]\nretry = { attempts = 0 }\n'
        text += f'endpoints = ["localhost:{secured.port}", {{ address = "localhost:{plain.port}", tls = false }}]\n'
        text += 'tls = { ca = "ca.pem" }\nhealth = { interval = "50ms", fall = 1, rise = 1, initial = "down" }\npanic = 0.0\n'
        with start_lbd(text, tmp_path) as lbd:
            for origin in (secured, plain):
                lbd.wait_for_log(rf"127\.0\.0\.1:{origin.port} is up")
            assert [get(port).status for _ in range(4)] == [200] * 4
            lbd.reload(text.replace("tls = false", "tls = true"))
            lbd.wait_for_log(rf"127\.0\.0\.1:{plain.port} is down")
            assert [get(port).status for _ in range(4)] == [200] * 4
