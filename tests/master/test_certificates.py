"""What is wrong with certificates and keys, in the words that operators read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from lbd.config.schema import Config, load_config
from lbd.core.clock import wall_clock
from lbd.errors import EnvironmentFault
from lbd.master.listener_certificates import read_listeners
from tests.support.certificates import Authority, Signer, encrypted

if TYPE_CHECKING:
    from pathlib import Path

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
    material = read_listeners(load(tmp_path, f'[{PAIR}, {{ cert = "w.pem", key = "w.key" }}]'), wall_clock())["web"].material
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


def doubts(directory: Path, tls: str = PAIR) -> list[str]:
    """About what is used all the same; without the directory."""
    config = load(directory, tls)
    found = read_listeners(config, wall_clock())["web"]
    assert len(found.material.pairs) == 1
    return [line.replace(f"{directory}/", "") for doubt in found.warnings() for line in config.describe(doubt)]


def test_one_that_has_expired_can_be_used(authority: Authority, tmp_path: Path) -> None:
    """Who refused it would take all other sites down at the next start."""
    authority.issue("a", "a.example", days=-1.0)
    (found,) = doubts(tmp_path)
    assert re.fullmatch(r"lb\.toml:4: listener\.web\.tls\.cert: the certificate in a\.pem has expired on 20.* UTC; renew it", found)


def test_one_whose_time_has_not_come_can_be_used(authority: Authority, tmp_path: Path) -> None:
    authority.issue("a", "a.example", begins=1.0)
    (found,) = doubts(tmp_path)
    assert re.fullmatch(r"lb\.toml:4: .*: the certificate in a\.pem is not valid before 20.* UTC; is the clock right\?", found)


def test_the_dates_of_a_chain_are_those_that_all_of_it_is_valid_in(authority: Authority, tmp_path: Path) -> None:
    root = Signer("root")
    intermediate = Signer("intermediate", root, days=-2.0)
    leaf = Signer("a.example", intermediate, names=["a.example"])
    authority.write("a", leaf.pem + intermediate.pem, leaf.private)
    (found,) = doubts(tmp_path)
    assert "tls.cert: certificate 2 of the chain in a.pem has expired on 20" in found
    (pair,) = read_listeners(load(tmp_path), wall_clock())["web"].material.pairs
    assert pair.not_after == intermediate.certificate.not_valid_after_utc.timestamp()


def test_a_chain_whose_second_has_the_right_name_and_another_key(authority: Authority, tmp_path: Path) -> None:
    intermediate = Signer("intermediate", Signer("root"))
    leaf = Signer("a.example", intermediate, names=["a.example"])
    authority.write("a", leaf.pem + Signer("intermediate").pem, leaf.private)
    assert complaints(tmp_path) == [
        "lb.toml:4: listener.web.tls.cert: a.pem: certificate 1 is not signed by the next one, which has the right name but another key; "
        "take the chain that came with the certificate"
    ]


def test_an_extension_that_nobody_understands_is_a_fault_and_no_traceback(authority: Authority, tmp_path: Path) -> None:
    leaf = Signer("a.example", names=[b"\x30\x03no"])
    authority.write("a", leaf.pem, leaf.private)
    (found,) = complaints(tmp_path)
    assert re.fullmatch(r"lb\.toml:4: listener\.web\.tls\.cert: a\.pem is not understood: .*; have it made anew", found)


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
    assert len(read_listeners(load(tmp_path), wall_clock())["web"].material.pairs) == 1


def test_two_for_one_name(authority: Authority, tmp_path: Path) -> None:
    authority.issue("b", "b.example", "a.example")
    assert complaints(tmp_path, f'[{PAIR}, {{ cert = "b.pem", key = "b.key" }}]') == [
        "lb.toml:4: listener.web.tls: two certificates are for a.example, number 1 and number 2; keep one"
    ]


def test_unknown_ciphers(authority: Authority, tmp_path: Path) -> None:
    found = complaints(tmp_path, '{ cert = "a.pem", key = "a.key", ciphers = "NONSENSE" }')
    assert found == [
        'lb.toml:4: listener.web.tls.ciphers: OpenSSL knows no cipher "NONSENSE"; `openssl ciphers` lists them, separated by colons'
    ]
    found = doubts(tmp_path, '{ cert = "a.pem", key = "a.key", ciphers = "HIGH:!NONSENSE" }')
    assert found == ['lb.toml:4: listener.web.tls.ciphers: OpenSSL knows no cipher "NONSENSE", so that "!NONSENSE" changes nothing']


def test_a_key_too_short_for_the_level_that_its_ciphers_ask_for(authority: Authority, tmp_path: Path) -> None:
    """Or the workers would find out, one after the other."""
    (found,) = complaints(tmp_path, '{ cert = "a.pem", key = "a.key", ciphers = "DEFAULT:@SECLEVEL=5" }')
    assert found == "lb.toml:4: listener.web.tls: OpenSSL does not take a.pem: ee key too small"


@pytest.mark.parametrize(
    ("passthrough", "named"),
    [
        ('sni = ["a.example"]', "a.example"),
        ('sni = ["*.example"]', "a.example"),
        ('sni = ["b.example", "A.example"]', "a.example"),
        ('sni = ["a.example"]\nalpn = ["acme-tls/1"]', ""),
        ('sni = ["*.a.example"]', ""),
        ('alpn = ["h3"]', ""),
    ],
)
def test_a_name_that_is_handed_on_has_no_use_for_a_certificate(authority: Authority, tmp_path: Path, passthrough: str, named: str) -> None:
    file = tmp_path / "lb.toml"
    file.write_text(TEXT.format(tls=PAIR) + f'[[listener.web.passthrough]]\n{passthrough}\ncluster = "web"\n')
    config = load_config(file, {})
    found = [line for doubt in read_listeners(config, wall_clock())["web"].warnings() for line in config.describe(doubt)]
    sentence = f"a certificate of this listener is for {named}, but who asks for it is handed on; one of the two has no use"
    assert found == ([f"{file}:8: listener.web.passthrough[1].sni: {sentence}"] if named else [])


def test_authorities_that_are_not_there(authority: Authority, tmp_path: Path) -> None:
    found = complaints(tmp_path, '{ cert = "a.pem", key = "a.key", client_ca = "nobody.pem" }')
    assert found == ["lb.toml:4: listener.web.tls.client_ca: nobody.pem cannot be read: no such file or directory"]
