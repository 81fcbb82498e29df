"""The command line: words, exit codes, and what is said where."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from lbd.cli import main as cli
from lbd.cli.main import main
from lbd.config.schema import load_config
from lbd.errors import EnvironmentFault
from tests.support.certificates import Authority

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """\
[admin]
bind = "127.0.0.1:1"
token = "secret"

[listener.web]
bind = "0.0.0.0:8080"
cluster = "web"

[[listener.web.route]]
path = "/v1"
cluster = "web"

[cluster.web]
endpoints = ["10.0.0.1:9000"]
"""
BAD = GOOD.replace("/v1", "v1").replace("endpoints", "endpionts")
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    return str(path)


def test_no_words_are_answered_with_all_words(capsys: Captured) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert not out
    for word in ("-c FILE", "check", "config", "reload", "status", "demo", "SIGHUP"):
        assert word in err


@pytest.mark.parametrize(
    "words", [["chek"], ["--verbose"], ["-c"], ["check", "extra"], ["demo", "--port", "many"], ["demo", "--port", "99999"]]
)
def test_wrong_words_are_answered_with_the_right_ones(words: list[str], capsys: Captured) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("usage: lbd")
    assert words[-1] in err.splitlines()[-1]


@pytest.mark.parametrize(("is_compiled", "core"), [(True, "compiled core"), (False, "pure Python")])
def test_version(is_compiled: bool, core: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMPILED", is_compiled)
    with pytest.raises(SystemExit) as exit_:
        main(["--version"])
    assert exit_.value.code == 0
    assert capsys.readouterr().out == f"lbd 0.1.0 ({core}, Python {sys.version.split()[0]})\n"


@pytest.mark.parametrize("order", [["check", "-c", "FILE"], ["-c", "FILE", "check"], ["-c", "/nowhere", "check", "-c", "FILE"]])
def test_check_says_what_there_is(order: list[str], good: str, capsys: Captured) -> None:
    assert main([good if word == "FILE" else word for word in order]) == 0
    assert capsys.readouterr() == (f"{good} is valid: 1 listener, 1 cluster, 2 routes\n", "")


def test_check_tells_every_error_on_a_line_of_its_own(bad: str, capsys: Captured) -> None:
    assert main(["check", "-c", bad]) == 78
    out, err = capsys.readouterr()
    assert not out
    assert [line.removeprefix(f"{bad}:").partition(": ")[0] for line in err.splitlines()] == ["10", "13", "14"]


def test_check_tells_warnings_and_is_content(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "lb.toml"
    path.write_text(GOOD + '[cluster.other]\nendpoints = ["10.0.0.2:9000"]\n')
    assert main(["check", "-c", str(path)]) == 0
    assert capsys.readouterr().err == f"warning: {path}:15: cluster.other: no route leads to this cluster\n"


def test_check_warns_of_a_certificate_that_has_expired(tmp_path: Path, capsys: Captured) -> None:
    """lbd would start with it."""
    Authority(tmp_path).issue("a", "a.example", days=-1.0)
    path = tmp_path / "lb.toml"
    path.write_text(GOOD.replace("[listener.web]\n", '[listener.web]\ntls = { cert = "a.pem", key = "a.key" }\n'))
    assert main(["check", "-c", str(path)]) == 0
    err = capsys.readouterr().err
    assert err.startswith(f"warning: {path}:")
    assert f": listener.web.tls.cert: the certificate in {tmp_path}/a.pem has expired on 20" in err


@pytest.mark.parametrize("command", [[], ["check"], ["config"], ["reload"], ["status"]])
def test_a_file_that_is_not_there(command: list[str], capsys: Captured) -> None:
    assert main([*command, "-c", "/nowhere/lb.toml"]) == 78
    assert capsys.readouterr().err == "/nowhere/lb.toml: cannot be read: no such file or directory\n"


@pytest.mark.parametrize(("uid", "code"), [(0, 1), (1000, 0)])
def test_a_user_that_is_not_there_matters_to_root(
    uid: int, code: int, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    path = tmp_path / "lb.toml"
    path.write_text('[lbd]\nuser = "no-such-user"\n\n' + GOOD)
    assert main(["check", "-c", str(path)]) == code
    assert ('there is no user "no-such-user"' in capsys.readouterr().err) is bool(code)


def test_config_prints_what_can_be_read_again_without_the_token(good: str, tmp_path: Path, capsys: Captured) -> None:
    assert main(["config", "-c", good]) == 0
    text = capsys.readouterr().out
    assert "secret" not in text
    assert 'drain_timeout = "30s"' in text
    (tmp_path / "again.toml").write_text(text)
    again, config = load_config(tmp_path / "again.toml", {}), load_config(tmp_path / "good.toml", {})
    assert (again.lbd, again.log, again.listeners, again.clusters) == (config.lbd, config.log, config.listeners, config.clusters)


@pytest.mark.parametrize("command", ["reload", "status"])
def test_nobody_answers(command: str, good: str, capsys: Captured) -> None:
    assert main([command, "-c", good]) == 1
    err = capsys.readouterr().err
    assert err.startswith("lbd: the admin listener at 127.0.0.1:1 does not answer (")
    assert err.endswith("); is lbd running?\n")


def test_a_fault_of_the_machine_is_a_line_and_1(good: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: object) -> int:
        raise EnvironmentFault("cannot listen on 0.0.0.0:8080: the port is in use")

    monkeypatch.setattr(cli, "run", fail)
    assert main(["-c", good]) == 1
    assert capsys.readouterr() == ("", "lbd: cannot listen on 0.0.0.0:8080: the port is in use\n")


def test_a_reader_that_has_enough_is_no_error_to_be_shown(good: str) -> None:
    command = [sys.executable, "-m", "lbd", "config", "-c", good]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (1, b"")
