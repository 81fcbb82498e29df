"""Settings of the daemon itself that cannot do what they are meant to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.config.daemon import DaemonPolicy
    from lbd.config.report import Report

__all__ = ["check_daemon"]

SHORTEST_HANG = 3.0  # seconds: a sign of life comes once in one, and is looked for once in one


def check_daemon(daemon: DaemonPolicy, report: Report) -> None:
    if 0 < daemon.hang_timeout < SHORTEST_HANG:
        text = f'is below "{SHORTEST_HANG:g}s", within which a worker under load may be well; write more, or "0s" for never'
        report.error(("lbd", "hang_timeout"), text)
