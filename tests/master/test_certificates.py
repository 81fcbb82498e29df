"""What is wrong with certificates and keys, in the words that operators read; and the watch over their files."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.config.schema import Config, load_config
from lbd.core.clock import wall_clock
from lbd.errors import EnvironmentFault
from lbd.master import vault
from lbd.master.certificates import read_listeners
from lbd.master.vault import Vault
from tests.support.certificates import Authority, encrypted

if TYPE_CHECKING:
    from pathlib import Path

    from lbd.proxy.tls_material import TlsMaterial

TEXT = """\
[listener.web]
bind = "127.0.0.1:8443"
cluster = "web"
tls = {tls}
[cluster.web]
endpoints = ["127.0.0.1:9000"]
"""
PAIR = '{ cert = "a.pem", key = "a.key" }'


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path)
    made.issue("a", "a.example", "localhost")
    return made


def load(directory: Path, tls: str = PAIR) -> Config:
    file = directory / "lb.toml"
    file.write_text(TEXT.format(tls=tls))
    return load_config(file, {})


def complaints(directory: Path, tls: str = PAIR) -> list[str]:
    """Without the directory."""
    config = load(directory, tls)
    with pytest.raises(EnvironmentFault) as caught:
        read_listeners(config, wall_clock())
    return [line.replace(f"{directory}/", "") for line in config.describe(caught.value)]


def test_what_is_right(authority: Authority, tmp_path: Path) -> None:
    authority.issue("w", "*.b.example")
    material = read_listeners(load(tmp_path, f'[{PAIR}, {{ cert = "w.pem", key = "w.key" }}]'), wall_clock())["web"]
    assert [pair.names for pair in material.pairs] == [("a.example", "localhost"), ("*.b.example",)]
    assert material.pairs[0].chain == (tmp_path / "a.pem").read_bytes()
    assert "PRIVATE" not in repr(material)


def test_the_key_is_another_one(authority: Authority, tmp_path: Path) -> None:
    authority.issue("b", "b.example")
    (tmp_path / "b.key").rename(tmp_path / "a.key")
    assert complaints(tmp_path) == ["lb.toml:4: listener.web.tls.key: the key in a.key is not that of the certificate in a.pem"]


def test_files_that_are_not_there_all_at_once(authority: Authority, tmp_path: Path) -> None:
    found = complaints(tmp_path, '[{ cert = "x.pem", key = "x.key" }, { cert = "a.pem", key = "y.key" }]')
    assert found == [
        "lb.toml:4: listener.web.tls.certificates[1].cert: x.pem cannot be read: no such file or directory",
        "lb.toml:4: listener.web.tls.certificates[2].key: y.key cannot be read: no such file or directory",
    ]


def test_expired(authority: Authority, tmp_path: Path) -> None:
    authority.issue("a", "a.example", days=-1.0)
    (found,) = complaints(tmp_path)
    assert found.startswith("lb.toml:4: listener.web.tls.cert: the certificate in a.pem has expired on 20")
    assert found.endswith("UTC; renew it")


def test_encrypted(authority: Authority, tmp_path: Path) -> None:
    encrypted(tmp_path / "a.key").rename(tmp_path / "a.key")
    (found,) = complaints(tmp_path)
    assert found.startswith("lb.toml:4: listener.web.tls.key: the key in a.key is encrypted, and nobody is there at night")
    assert "openssl pkey -in a.key" in found


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.pem", b"", "cert: a.pem has no certificate that can be read; it must be PEM (-----BEGIN CERTIFICATE-----)"),
        ("a.pem", b"\0\1\2 not PEM", "cert: a.pem has no certificate that can be read; it must be PEM (-----BEGIN CERTIFICATE-----)"),
        ("a.key", b"x" * 10, "key: a.key has no private key that can be read; it must be PEM (-----BEGIN PRIVATE KEY-----)"),
        ("a.pem", b"x" * ((1 << 20) + 1), "cert: a.pem has more than 1024 KiB; that is no PEM file of certificates"),
    ],
    ids=["empty", "binary", "no key", "large"],
)
def test_what_is_no_pem(authority: Authority, tmp_path: Path, file: str, content: bytes, expected: str) -> None:
    (tmp_path / file).write_bytes(content)
    assert complaints(tmp_path) == [f"lb.toml:4: listener.web.tls.{expected}"]


def test_certificate_and_key_exchanged(authority: Authority, tmp_path: Path) -> None:
    assert complaints(tmp_path, '{ cert = "a.key", key = "a.pem" }') == [
        "lb.toml:4: listener.web.tls.cert: a.key is a private key; are `cert` and `key` exchanged?"
    ]


def test_a_chain_out_of_order(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    other.issue("b", "b.example")
    (tmp_path / "a.pem").write_bytes((tmp_path / "a.pem").read_bytes() + (tmp_path / "other/b.pem").read_bytes())
    (found,) = complaints(tmp_path)
    assert found.startswith("lb.toml:4: listener.web.tls.cert: a.pem: certificate 1 is issued by ")
    assert found.endswith("; put the server's first, then those that lead to the authority")


def test_a_chain_in_order(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "a.pem").write_bytes((tmp_path / "a.pem").read_bytes() + authority.file.read_bytes())
    assert len(read_listeners(load(tmp_path), wall_clock())["web"].pairs) == 1


def test_two_for_one_name(authority: Authority, tmp_path: Path) -> None:
    authority.issue("b", "b.example", "a.example")
    assert complaints(tmp_path, f'[{PAIR}, {{ cert = "b.pem", key = "b.key" }}]') == [
        "lb.toml:4: listener.web.tls: two certificates are for a.example, number 1 and number 2; keep one"
    ]


def test_unknown_ciphers_and_authorities(authority: Authority, tmp_path: Path) -> None:
    found = complaints(tmp_path, '{ cert = "a.pem", key = "a.key", ciphers = "NONSENSE" }')
    assert found == [
        'lb.toml:4: listener.web.tls.ciphers: OpenSSL knows no cipher "NONSENSE"; `openssl ciphers` lists them, separated by colons'
    ]
    found = complaints(tmp_path, '{ cert = "a.pem", key = "a.key", client_ca = "nobody.pem" }')
    assert found == ["lb.toml:4: listener.web.tls.client_ca: nobody.pem cannot be read: no such file or directory"]


class Watch:
    """A vault, the files' configuration, and what it has said."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.changes: list[TlsMaterial] = []
        self.now = wall_clock()
        self.vault = Vault(lambda _name, material: self.changes.append(material), lambda: self.now)

    async def start(self, nursery: trio.Nursery) -> None:
        self.vault.update(self.config, await self.vault.first(self.config))
        nursery.start_soon(self.vault.run)

    def results(self) -> dict[str, float]:
        return {labels["result"]: value for _, labels, value in self.vault.metrics() if "result" in labels}


@pytest.fixture
def watch(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Threads read the files, so the clock is the real one, and the pauses short."""
    monkeypatch.setattr(vault, "INTERVAL", 0.01)
    monkeypatch.setattr(vault, "PATIENCE", 0.05)
    return Watch(load(tmp_path))


async def until(condition: object) -> None:
    assert callable(condition)
    with trio.fail_after(5.0):
        while not condition():  # noqa: ASYNC110 - a thread's work
            await trio.sleep(0.005)


async def test_a_new_pair_is_taken(watch: Watch, authority: Authority) -> None:
    async with trio.open_nursery() as nursery:
        await watch.start(nursery)
        cert, _ = authority.issue("a", "a.example")
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.changes[-1].pairs[0].chain == cert.read_bytes()
    assert watch.results() == {"ok": 1, "failed": 0}


async def test_a_pair_that_does_not_fit_changes_nothing_until_it_does(
    watch: Watch, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        await watch.start(nursery)
        old = (tmp_path / "a.key").read_bytes()
        authority.issue("a", "a.example")
        fresh = (tmp_path / "a.key").read_bytes()
        (tmp_path / "a.key").write_bytes(old)
        await until(lambda: watch.results()["failed"])
        assert not watch.changes
        assert "listener web keeps its certificates: the key in" in caplog.text
        (tmp_path / "a.key").write_bytes(fresh)
        await until(lambda: watch.changes)
        nursery.cancel_scope.cancel()
    assert watch.results() == {"ok": 1, "failed": 1}


async def test_warnings_before_the_end(watch: Watch, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    authority.issue("a", "a.example", days=20.0)
    watch.config = replace(watch.config)
    async with trio.open_nursery() as nursery:
        await watch.start(nursery)
        assert caplog.text.count("the certificate of listener web for a.example expires on") == 1
        await trio.sleep(0.05)
        assert caplog.text.count("expires on") == 1  # once for each of the days
        watch.now += 15 * 86_400
        await until(lambda: caplog.text.count("expires on") == 2)
        watch.now += 10 * 86_400
        await until(lambda: "has expired on" in caplog.text)
        nursery.cancel_scope.cancel()


async def test_when_it_ends_is_a_metric(watch: Watch, tmp_path: Path) -> None:
    watch.vault.update(watch.config, await watch.vault.first(watch.config))
    (end,) = [value for name, labels, value in watch.vault.metrics() if labels.get("name") == "a.example"]
    assert abs(end - (wall_clock() + 30 * 86_400)) < 60
