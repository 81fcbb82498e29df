"""Builds lbd; compiles the hot path when it can.

COMPILED is every module of lbd with C types beside it (`stream.py` + `stream.pxd`). Where only C will do there is a third file,
`syscalls.pyx`, compiled in place of `syscalls.py`. All of them are compiled or none: a compiled module that cimports an
interpreted one does not load, so the first failure (no compiler, no Python.h) removes what was built and lbd installs as plain
Python. Two variables change that:

    LBD_PURE=1       do not compile (at run time the same variable ignores what is compiled: lbd/__init__.py)
    LBD_COMPILED=1   a failure to compile is an error; `make build` says so, to see it
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
DIRECTIVES = {
    "language_level": "3str",
    "annotation_typing": False,  # annotations are for readers and mypy; C types come from the .pxd alone
    "initializedcheck": False,
}
# Without debugging information a build takes half as long; -O3 gains nothing over -O2 here. The warnings are about C that Cython writes.
C_FLAGS = ["-O2", "-g0", "-Wno-unreachable-code", "-Wno-unused-function", "-Wno-maybe-uninitialized"]


def compiled_sources() -> list[Path]:
    """The source file of each module that has C types, relative to the project."""
    sources = []
    for declarations in sorted((ROOT / "lbd").rglob("*.pxd")):
        for suffix in (".pyx", ".py"):
            if declarations.stem != "__init__" and declarations.with_suffix(suffix).exists():
                sources.append(declarations.with_suffix(suffix).relative_to(ROOT))
                break
    return sources


COMPILED = {".".join(source.with_suffix("").parts): source for source in compiled_sources()}


def build_extensions() -> list[Extension]:
    """C files in build/cython, out of the source tree; nothing when lbd is to be plain Python."""
    if os.environ.get("LBD_PURE", "0") not in ("", "0") or not COMPILED:
        return []
    os.chdir(ROOT)
    try:
        from Cython.Build import cythonize

        extensions = [
            # Its twin, too: what is compiled must not be older than either, or the tests refuse it.
            Extension(name, [str(source)], depends=[str(source.with_suffix(".py"))], extra_compile_args=C_FLAGS)
            for name, source in COMPILED.items()
        ]
        built: list[Extension] = cythonize(extensions, compiler_directives=DIRECTIVES, build_dir="build/cython", quiet=True)
    except Exception as error:
        give_up(error)
        return []
    return built


def give_up(error: BaseException) -> None:
    if os.environ.get("LBD_COMPILED", "0") not in ("", "0"):
        raise error
    print(f"lbd: not compiled, will run as plain Python: {error}", file=sys.stderr)


class BuildAllOrNothing(build_ext):
    """Compiles every extension; on the first failure leaves none."""

    def run(self) -> None:
        self.parallel = self.parallel or os.cpu_count()
        try:
            super().run()
        except Exception as error:
            give_up(error)
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []


setup(ext_modules=build_extensions(), cmdclass={"build_ext": BuildAllOrNothing})
