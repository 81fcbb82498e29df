"""How lbd's tests run.

`async def` tests are trio tasks; one that asks for `autojump_clock` runs on virtual time. Everything in tests/e2e is marked so.
The head of the report says whether the compiled core or the sources are being tested, and a compiled module older than its
source stops the run: it would test yesterday's code.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from tests.support.verdicts import pytest_runtest_logreport, pytest_runtest_makereport  # noqa: F401 - hooks

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent


def is_pure() -> bool:
    return os.environ.get("LBD_PURE", "0") not in ("", "0")


def compiled_modules() -> list[Path]:
    return sorted((ROOT / "lbd").rglob("*.so"))


def stale_modules() -> list[str]:
    """Compiled modules whose sources are newer."""
    stale = []
    for module in compiled_modules():
        stem = module.name.split(".")[0]
        sources = [module.with_name(stem + suffix) for suffix in (".py", ".pyx", ".pxd")]
        if any(source.exists() and source.stat().st_mtime > module.stat().st_mtime for source in sources):
            stale.append(str(module.relative_to(ROOT)))
    return stale


def pytest_configure(config: pytest.Config) -> None:
    if not is_pure() and (stale := stale_modules()):
        pytest.exit(f"older than their sources, run `make build` (or LBD_PURE=1): {', '.join(stale)}", returncode=4)


def pytest_report_header() -> str:
    return f"lbd: {'compiled core' if compiled_modules() and not is_pure() else 'pure Python'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "e2e" in item.path.relative_to(ROOT).parts:
            item.add_marker(pytest.mark.e2e)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an `async def` test in trio, on the virtual clock when it asked for one."""
    test = pyfuncitem.obj
    if not inspect.iscoroutinefunction(test):
        return None
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    clock = next((value for value in pyfuncitem.funcargs.values() if isinstance(value, trio.abc.Clock)), None)

    async def run() -> None:
        await test(**arguments)

    trio.run(run, clock=clock, strict_exception_groups=True)
    return True


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Virtual time: jumps to the next deadline as soon as every task waits. Not for real sockets: it would jump past them."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture
def no_leaked_fds() -> Iterator[None]:
    """Fails the test that leaves a descriptor open."""
    before = open_fds()
    yield
    leaked = {fd: target for fd, target in open_fds().items() if before.get(fd) != target}
    assert not leaked, f"left open: {leaked}"


def open_fds() -> dict[int, str]:
    fds: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            fds[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the directory's own descriptor
            continue
    return fds
