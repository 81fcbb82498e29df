"""What the fuzzer has found worth keeping stays as it is; and the fuzzer itself can be started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS, known, seeds
from tests.support.verdicts import COMPLETE

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_known(target: str) -> None:
    found = [*seeds(target), *known(target)]
    assert len(found) > 50
    for data in found:
        TARGETS[target](data)


@pytest.mark.parametrize(("complete", "status"), [("", 0), ("0", 0), ("1", 1)])
def test_without_atheris_it_says_so(complete: str, status: int, tmp_path: Path) -> None:
    """And fails where nothing may be missing."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as util\n"
        "find = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'atheris' else find(name, *rest)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), COMPLETE: complete}
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, "")
    assert "skipped, atheris is not installed" in done.stdout


FUZZER = """
import contextlib

instrument_imports = lambda include: contextlib.nullcontext()

def Setup(arguments, target):
    assert "-timeout=5" in arguments and "-max_len=20000" in arguments
    prefix = next(word.partition("=")[2] for word in arguments if word.startswith("-artifact_prefix="))
    open(prefix + "found", "wb").write(b"what was tried")

def Fuzz():
    raise SystemExit({code})
"""


@pytest.mark.parametrize(("code", "told"), [
    (77, "http2 broke a promise"), (70, "http2 did not come to an end"), (71, "http2 took too much memory"), (1, "the fuzzer did not run"),
])  # fmt: skip
def test_what_the_fuzzer_ends_with_is_told(tmp_path: Path, code: int, told: str) -> None:
    """A hang is a finding, with what it was that hung."""
    (tmp_path / "atheris.py").write_text(FUZZER.format(code=code))
    command = [sys.executable, "-m", "tests.fuzz", "--seconds", "1", "--target", "http2"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert told in done.stdout + done.stderr
    assert ("b'what was tried'" in done.stdout) is (code != 1)
