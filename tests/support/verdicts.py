"""What a report says is not always the last word: a skip may be a failure, a failure may be forgiven.

- Where everything that tests need is to be there (LBD_TESTS_COMPLETE=1, which .ci/run sets), one that is skipped for a tool or a right
  that is not there fails, and names it. Such reasons begin with "needs". What a machine or a kernel cannot do is skipped all the same.
- scripts/e2e runs once more what failed: a shared machine may be too slow for a moment. A test marked `final` promises what no slowness
  excuses, that no answer is lost, doubled or another one's: its failed assertion is written down in FINAL, and scripts/e2e fails for
  it. That it waited in vain (TimeoutError) is no such failure.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

__all__ = ["COMPLETE", "FINAL", "is_complete", "pytest_runtest_logreport", "pytest_runtest_makereport", "what_is_missing"]

COMPLETE = "LBD_TESTS_COMPLETE"
FINAL = "LBD_TESTS_FINAL"  # of the environment: the file, a line for each test
MARK = ("final", True)
SKIPPED = "Skipped: "


def is_complete(environ: Mapping[str, str]) -> bool:
    return environ.get(COMPLETE, "0") not in ("", "0")


def what_is_missing(reason: str) -> str:
    """ "needs nginx" -> "nginx"; "" where nothing could be installed or allowed."""
    before, needs, what = reason.removeprefix(SKIPPED).partition("needs ")
    return what if needs and not before else ""


def is_wrong(error: BaseException) -> bool:
    """Not that something took too long."""
    if isinstance(error, BaseExceptionGroup):
        return any(is_wrong(each) for each in error.exceptions)
    return isinstance(error, AssertionError)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and is_complete(os.environ) and isinstance(report.longrepr, tuple) and (what := what_is_missing(report.longrepr[2])):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs {what}, which is not here; with {COMPLETE}=1 nothing may be missing"
    if report.failed and call.excinfo is not None and item.get_closest_marker("final") and is_wrong(call.excinfo.value):
        report.user_properties.append(MARK)
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Where the reports of all workers come together."""
    file = os.environ.get(FINAL)
    if file and "PYTEST_XDIST_WORKER" not in os.environ and report.failed and MARK in map(tuple, report.user_properties):
        with open(file, "a") as final:
            final.write(f"{report.nodeid}\n")
