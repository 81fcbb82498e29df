"""The ground floor: a reactor for fibers, timers, streams, and the board of shared numbers.

syscalls    the few calls into the kernel that a request needs; twin files, plain and libc
clock       the machine's clocks, to be injected
timers      deadlines in a coarse wheel
fiber       Fiber, Signal, and the schedule that steps coroutines
crossing    from a fiber to trio and back
reactor     Pollable, Reactor: sockets, deadlines and trio, for fibers
stream      sockets as streams: try now, then wait
memory      streams without sockets, for virtual time
pipes       pipes kept for splicing
splice      large bodies from socket to socket without entering Python
records     what the board's cells mean: series that outlive the workers that made them
board       numbers in shared memory, one writer each
garbage     the collector's pauses, kept short

COMPILED is True when the compiled twins of these modules run.
"""

from __future__ import annotations

import lbd.core.syscalls as _syscalls

__all__ = ["COMPILED"]

COMPILED: bool = not str(_syscalls.__file__).endswith(".py")
