"""What the daemon tells the service manager: sd_notify(3), without its library.

Datagrams of NAME=value lines to the unix socket that $NOTIFY_SOCKET names. Nobody there is nothing wrong.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Notifier", "keep_watchdog", "watchdog_interval"]


class Notifier:
    """`$NOTIFY_SOCKET`, a path or "@name" for the abstract namespace; "" is nobody."""

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) if address else None

    def send(self, **assignments: str | int) -> None:
        """Best effort: a service manager that is being restarted must not take the daemon with it."""
        if self._socket is not None:
            text = "\n".join(f"{name}={value}" for name, value in assignments.items())
            try:
                self._socket.sendto(text.encode(), self._address)
            except OSError:
                pass

    def ready(self, status: str) -> None:
        self.send(READY=1, STATUS=status, MAINPID=os.getpid())

    def reloading(self) -> None:
        """MONOTONIC_USEC is what Type=notify-reload (systemd 253) compares with the time of its SIGHUP."""
        self.send(RELOADING=1, MONOTONIC_USEC=time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000, STATUS="reloading")

    def succeeded_by(self, pid: int) -> None:
        """Another process is the main one now; the manager hears it from us, since it does not listen to that one yet. A sign of life
        too: that one's watchdog begins now."""
        self.send(MAINPID=pid, WATCHDOG=1)

    def stopping(self, status: str) -> None:
        self.send(STOPPING=1, STATUS=status)

    def status(self, text: str) -> None:
        self.send(STATUS=text)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def watchdog_interval(environ: Mapping[str, str], pid: int) -> float:
    """Seconds between signs of life: half of what the manager allows, as sd_watchdog_enabled(3) advises; 0 for no watchdog."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    try:
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 2_000_000
    except ValueError:
        return 0.0


async def keep_watchdog(notifier: Notifier, interval: float, is_healthy: Callable[[], bool]) -> None:
    """Signs of life as long as the daemon is healthy; the manager restarts it when they cease."""
    while interval > 0:
        if is_healthy():
            notifier.send(WATCHDOG=1)
        await trio.sleep(interval)
