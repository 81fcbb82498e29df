"""When a skip is a failure, and which failures are final."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.verdicts import COMPLETE, FINAL, what_is_missing

ROOT = Path(__file__).resolve().parent.parent
TESTS = """\
import pytest

@pytest.mark.skipif(True, reason="needs nginx")
def test_marked(): pass

def test_within(): pytest.skip("needs root")

@pytest.fixture
def disk(): pytest.skip("needs root, to mount a disk")

def test_fixture(disk): pass

@pytest.mark.skipif(True, reason="this machine has no IPv6")
def test_machine(): pass

@pytest.mark.xfail
def test_known(): assert False

@pytest.mark.final
def test_lost(): assert 1 == 2

@pytest.mark.final
def test_lost_in_a_group(): raise ExceptionGroup("of tasks", [TimeoutError(), ExceptionGroup("", [AssertionError("two answers")])])

@pytest.mark.final
def test_slow(): raise TimeoutError("not within a minute")

def test_any(): assert 1 == 2
"""
NEEDY = {"test_marked": "nginx", "test_within": "root", "test_fixture": "root, to mount a disk"}
FAILING = {"test_lost", "test_lost_in_a_group", "test_slow", "test_any"}


def run(directory: Path, *arguments: str, **environ: str) -> tuple[set[str], str]:
    """The tests that fail, and what pytest says."""
    (directory / "test_it.py").write_text(TESTS)
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = final\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.verdicts", "-rfE", *arguments, str(directory)]
    env = {**os.environ, COMPLETE: "", FINAL: "", "PYTHONPATH": str(ROOT), **environ}
    env.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return {line.partition("::")[2].split()[0] for line in lines}, done.stdout + done.stderr


def test_a_skip_for_what_is_missing_stays_a_skip(tmp_path: Path) -> None:
    failed, _ = run(tmp_path)
    assert failed == FAILING


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "side by side"])
def test_where_nothing_may_be_missing_it_fails_and_says_what(arguments: tuple[str, ...], tmp_path: Path) -> None:
    failed, said = run(tmp_path, *arguments, **{COMPLETE: "1"})
    assert failed == FAILING | NEEDY.keys()
    for name, what in NEEDY.items():
        assert f"::{name} needs {what}, which is not here" in said


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["alone", "side by side"])
def test_a_failed_assertion_of_a_final_test_is_written_down(arguments: tuple[str, ...], tmp_path: Path) -> None:
    final = tmp_path / "final"
    run(tmp_path, *arguments, **{FINAL: str(final)})
    assert {line.partition("::")[2] for line in final.read_text().splitlines()} == {"test_lost", "test_lost_in_a_group"}


def test_every_reason_to_skip_says_what_is_needed_or_what_cannot_be() -> None:
    """Or else it would be skipped for ever, and nobody would know."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.skip", "pytest.mark.skipif"):
                said = ast.unparse(node)
                assert any(words in said for words in ("needs ", "this ", "NO_COMPILER", "compiled: ")), f"{path}:{node.lineno}: {said}"


def test_what_is_missing() -> None:
    assert what_is_missing("Skipped: needs curl and openssl") == "curl and openssl"
    assert what_is_missing("Skipped: this machine needs rest") == ""
