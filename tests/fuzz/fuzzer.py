"""One target under libFuzzer: python -m tests.fuzz.fuzzer TARGET [libFuzzer's options and directories]."""

from __future__ import annotations

import sys

import atheris

import lbd  # its finder of sources (LBD_PURE=1) comes first, so that the one that instruments stands before it

__all__: list[str] = []

assert lbd.__version__
with atheris.instrument_imports(include=["lbd.wire", "lbd.config", "lbd.cluster.sticky"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    itself = f"{sys.executable} -m tests.fuzz.fuzzer {sys.argv[1]}"  # libFuzzer's -merge gives this to a shell
    atheris.Setup([itself, *sys.argv[2:]], target)
    atheris.Fuzz()
