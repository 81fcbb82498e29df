"""Bodies through TLS on every side: curl, lbd, lbd, an origin; HTTP/1 and HTTP/2 in any mix. Identical by hash, whoever is slow."""

from __future__ import annotations

import hashlib
import random
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.certificates import Authority
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, find_program, start_lbd

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(find_program("curl") is None, reason="needs curl")

SIZE = 10 << 20
PROTOCOLS = ("http1", "h2", "auto")
TEXT = """\
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
tls = {{ cert = "{directory}/a.pem", key = "{directory}/a.key" }}
"""
FRONT = """\
[[listener.web.route]]
path = "/{name}"
cluster = "{name}"
rewrite = {{ prefix = "/" }}
[cluster.{name}]
endpoints = ["localhost:{back}"]
protocol = "{name}"
tls = {{ ca = "{directory}/ca.pem" }}
"""


@dataclass(frozen=True, slots=True)
class Chain:
    front: LbdDaemon
    back: LbdDaemon
    port: int
    directory: Path

    def command(self, *arguments: str, path: str) -> list[str]:
        common = ["-sS", "--fail", "-m", "60", "--cacert", str(self.directory / "ca.pem")]
        return [find_program("curl") or "curl", *common, *arguments, f"https://localhost:{self.port}{path}"]

    def curl(self, *arguments: str, path: str) -> bytes:
        return subprocess.run(self.command(*arguments, path=path), capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    directory = tmp_path_factory.mktemp("chain")
    Authority(directory).issue("a", "localhost")
    (directory / "body").write_bytes(random.Random(1).randbytes(SIZE))
    port, back_port, admin, back_admin = free_ports(4)
    front_text = TEXT.format(admin=admin, port=port, directory=directory)
    front_text += "".join(FRONT.format(name=name, back=back_port, directory=directory) for name in PROTOCOLS)
    back_text = TEXT.format(admin=back_admin, port=back_port, directory=directory) + 'cluster = "web"\n[cluster.web]\n'
    with ScriptedOrigin() as origin:
        back_text += f'endpoints = ["{origin.address}"]\n'
        with start_lbd(back_text, directory / "back") as back, start_lbd(front_text, directory / "front") as front:
            yield Chain(front, back, port, directory)


@pytest.mark.parametrize("downstream", ["--http1.1", "--http2"])
@pytest.mark.parametrize("upstream", PROTOCOLS)
@pytest.mark.parametrize("pace", ["", "--limit-rate"])
def test_what_is_sent_comes_back(chain: Chain, downstream: str, upstream: str, pace: str) -> None:
    body = chain.directory / "body"
    slowly = [pace, "8M"] if pace else []
    echoed = chain.curl(downstream, *slowly, "--data-binary", f"@{body}", "-H", "Expect:", path=f"/{upstream}/echo")
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(body.read_bytes()).digest()


@pytest.mark.parametrize("downstream", ["--http1.1", "--http2"])
@pytest.mark.parametrize("upstream", PROTOCOLS)
def test_chunks_and_what_only_the_end_delimits(chain: Chain, downstream: str, upstream: str) -> None:
    assert len(chain.curl(downstream, path=f"/{upstream}/until-close/300000")) == 300_000
    pieces = chain.curl(downstream, path=f"/{upstream}/stream/20/0.01")
    assert pieces == chain.curl(downstream, path=f"/{upstream}/stream/20/0")


def test_memory_is_bounded_by_windows(chain: Chain) -> None:
    """Ten uploads and downloads at once of which nobody is fast."""
    before = sum(procfs.rss_of(pid) for pid in chain.front.workers())
    slowly = ("--limit-rate", "4M", "-H", "Expect:", "--data-binary", f"@{chain.directory / 'body'}", "-o", "/dev/null")
    running = [subprocess.Popen(chain.command(*slowly, path="/http1/echo")) for _ in range(10)]
    assert [each.wait(60) for each in running] == [0] * 10
    grown = sum(procfs.rss_of(pid) for pid in chain.front.workers()) - before
    print(f"grown by {grown >> 10} KiB")
    assert grown < 32 << 20  # ten bodies are 100 MB
