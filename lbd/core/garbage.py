"""The garbage collector's pauses, kept short.

A connection is a dozen or two objects that the collector looks at, 0.2 us each. A full collection over 10,000 connections thus
stands still for 50 ms, and CPython starts one whenever the number of objects has grown by a quarter. It would find nothing:
connections and requests are built without cycles (tests/core holds that for what is ours), reference counts free them. So:

- what is there after a configuration was applied is frozen: modules, routes and clusters are not looked at again;
- the young are collected as always, in small portions: what does make a cycle mostly dies young;
- a full collection is made when few connections are there to be looked at, or after very much has survived.

Measured, the longest pause of each generation in ms of CPU while 8,000 connections of a dozen objects came and went: by default
0.08, 0.8 and 19 (2,000 connections: 0.06, 1.3 and none yet); settled 0.1, 0.5 and none.
"""

from __future__ import annotations

import gc

__all__ = ["Collector"]

YOUNG = 500  # objects more than before; times MIDDLE, the most that one automatic collection looks at
MIDDLE = 5
NEVER = 1 << 30
FEW_FIBERS = 300  # a full collection over their objects takes less than 3 ms
WORTHWHILE = 10  # collections of the middle generation since the last full one
OVERDUE = 2000  # likewise: five million objects have survived; whatever they are, now is the time


class Collector:
    """The process's collector: there is one, so keep one of these."""

    def __init__(self) -> None:
        self._is_due = True

    def settle(self) -> None:
        """At the start, and after a configuration was applied: what is there now stays. Takes no time."""
        gc.set_threshold(YOUNG, MIDDLE, NEVER)
        gc.freeze()
        self._is_due = True  # the last configuration was frozen, too

    def tidy(self, fibers: int) -> bool:
        """To be called now and then, with the number of fibers; whether it was time for a full collection."""
        since = gc.get_count()[2]
        if not self._is_due and since < WORTHWHILE:
            return False
        if fibers > FEW_FIBERS and since < OVERDUE:
            return False
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        self._is_due = False
        return True
