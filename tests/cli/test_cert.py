"""Certificates to develop with."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

import pytest

from lbd.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("names", "host"),
    [(["localhost", "127.0.0.1", "::1"], "localhost"), (["*.dev.example"], "www.dev.example"), (["::1"], "[::1]")],
)
def test_three_files_that_fit_together(names: list[str], host: str, tmp_path: Path, capsys: Captured) -> None:
    directory = tmp_path / "made/for/this"
    assert main(["cert", "--dev", *names, "--dir", str(directory)]) == 0
    assert sorted(path.name for path in directory.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert stat.S_IMODE((directory / "key.pem").stat().st_mode) == 0o600
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(directory / "cert.pem", directory / "key.pem")
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(directory / "ca.pem")
    out = capsys.readouterr().out
    assert f"curl --cacert {directory}/ca.pem https://{host}:8443/" in out
    assert f"for {', '.join(names)}, valid until 2" in out


@pytest.mark.parametrize("name", ["ca.pem", "cert.pem", "key.pem"])
def test_nothing_is_overwritten(name: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / name).write_text("mine")
    assert main(["cert", "--dev", "localhost", "--dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"lbd: {tmp_path / name} is there already; choose another --dir, or remove it\n"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_directory_that_cannot_be(tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "file").write_text("")
    assert main(["cert", "--dev", "localhost", "--dir", str(tmp_path / "file/below")]) == 1
    assert capsys.readouterr().err.endswith("Not a directory; choose another --dir\n")


def test_what_is_no_name(tmp_path: Path, capsys: Captured) -> None:
    assert main(["cert", "--dev", "a..b", "--dir", str(tmp_path)]) == 1
    assert "no certificate can be made for a..b: " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["cert"], ["cert", "--dev"], ["cert", "localhost"]])
def test_it_is_said_that_they_are_to_develop_with(words: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert "--dev" in capsys.readouterr().err
