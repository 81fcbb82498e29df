"""`python -m lbd`, and the command `lbd`.

SIGHUP, SIGUSR1 and SIGUSR2 end a process that has not said what it wants to do about them, and until lbd has, it imports for a while: up
to a second. Whoever sends one means what it means to a daemon. So they are held here, before anything else is imported, and heard when
there is somebody to hear them (master/main.py); a command that is no daemon lets them through at once (cli/main.py).
"""

from __future__ import annotations

import signal
import sys

__all__ = ["run"]


def run() -> int:
    """The exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
    from lbd.cli.main import main

    return main()


if __name__ == "__main__":
    sys.exit(run())
