"""What clusters with TLS need of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbd.config.schema import Config, load_config
from lbd.core.clock import wall_clock
from lbd.errors import EnvironmentFault
from lbd.master import cluster_certificates
from lbd.master.cluster_certificates import read_clusters, system_bundle, wanted_by_clusters
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
[listener.web]
bind = "127.0.0.1:8080"
cluster = "a"
"""


def load(directory: Path, *tls: str) -> Config:
    file = directory / "lb.toml"
    tables = (f'[cluster.{name}]\nendpoints = ["localhost:443"]\n{text}\n' for name, text in zip("abcd", tls, strict=False))
    file.write_text(TEXT + "".join(tables))
    return load_config(file, {})


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whom the system trusts."""
    file = Authority(tmp_path / "system").file
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return file


def test_whom_the_system_trusts_is_read_once_for_all(bundle: Path, tmp_path: Path) -> None:
    assert system_bundle() == bundle
    found = read_clusters(load(tmp_path, "tls = true", "", 'tls = { sni = "b" }', "tls = { insecure_skip_verify = true }"), wall_clock())
    assert sorted(found) == ["a", "c", "d"]
    assert found["a"].material.authorities == bundle.read_text()
    assert found["c"].material.authorities is found["a"].material.authorities
    assert found["d"].material.authorities == ""


def test_the_files_that_are_watched(bundle: Path, tmp_path: Path) -> None:
    pair = 'client_cert = "c.pem", client_key = "c.key"'
    config = load(tmp_path, f"tls = {{ {pair} }}", f'tls = {{ ca = "ca.pem", {pair} }}', "tls = { insecure_skip_verify = true }", "")
    watched = {wanted.name: [file.name for file in wanted.files] for wanted in wanted_by_clusters(config)}
    assert watched == {"a": [bundle.name, "c.pem", "c.key"], "b": ["ca.pem", "c.pem", "c.key"], "c": []}


def test_a_system_that_trusts_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(cluster_certificates, "BUNDLES", (str(tmp_path / "neither"),))
    config = load(tmp_path, "", "tls = true")
    with pytest.raises(EnvironmentFault) as caught:
        read_clusters(config, wall_clock())
    (sentence,) = config.describe(caught.value)
    assert sentence == (
        f"{tmp_path}/lb.toml:9: cluster.b.tls: the system has no file of authorities that it trusts; install ca-certificates, "
        "or name a file with `ca`"
    )


def test_all_that_is_wrong_is_told(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("")
    config = load(tmp_path, 'tls = { ca = "empty.pem", ciphers = "NONE" }', 'tls = { client_cert = "c.pem", client_key = "c.key" }')
    with pytest.raises(EnvironmentFault) as caught:
        read_clusters(config, wall_clock())
    keys = [sentence.split(": ")[1] for sentence in config.describe(caught.value)]
    assert keys == ["cluster.a.tls.ca", "cluster.a.tls.ciphers", "cluster.b.tls.client_cert"]
