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
