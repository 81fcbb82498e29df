"""Limits of a listener that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.proxy.listener import ListenerLimits

if TYPE_CHECKING:
    from lbd.config.positions import KeyPath
    from lbd.config.report import Report
    from lbd.proxy.listener import ListenerPolicy

__all__ = ["check_limits"]

DEFAULT = ListenerLimits()


def check_limits(listener: ListenerPolicy, path: KeyPath, report: Report) -> None:
    """A default that other keys make pointless is nobody's mistake: `lbd config` writes it down, and that must load."""
    limits = listener.limits
    for key in ("min_upload_rate", "min_download_rate"):
        rate = getattr(limits, key)
        if rate and not limits.rate_grace and report.is_sound(path):
            report.error(
                (*path, key), f'{rate} bytes a second from the first moment on is what no client can keep; give it rate_grace = "20s"'
            )
    each, own = limits.connections_per_address, (*path, "connections_per_address")
    if each != DEFAULT.connections_per_address and 0 < limits.connections < each and report.is_sound(path):
        report.error(own, f"{each} is above connections = {limits.connections}, so that one address could have all; lower it, or write 0")
