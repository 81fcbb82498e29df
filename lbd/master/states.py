"""What the master and its workers can be, and what may follow what.

    master:  STARTING ──> READY <──> RELOADING, UPGRADING
                 │          │            │
                 └──────────┴──> DRAINING┘ ──> STOPPED

    worker:  WAITING ──> STARTING ──> SERVING ──> DRAINING ──> GONE ──> WAITING

The tables below are the truth; an illegal move raises and changes nothing.
"""

from __future__ import annotations

from enum import Enum
from typing import Generic, TypeVar

__all__ = ["MASTER_MOVES", "WORKER_MOVES", "IllegalMove", "MasterState", "State", "WorkerState"]


class MasterState(Enum):
    """The daemon as a whole, as /readyz and the admin API tell it."""

    STARTING = "starting"  # until every worker serves the first configuration
    READY = "ready"
    RELOADING = "reloading"  # serving all the while
    UPGRADING = "upgrading"  # too; a successor is getting ready
    DRAINING = "draining"  # /readyz says no; listeners close after `ready_delay`
    STOPPED = "stopped"


class WorkerState(Enum):
    """A slot and the process in it."""

    WAITING = "waiting"  # no process: before the first, or for the back-off after a crash
    STARTING = "starting"  # a process that has not applied its first configuration
    SERVING = "serving"
    DRAINING = "draining"
    GONE = "gone"


MASTER_MOVES: dict[MasterState, frozenset[MasterState]] = {
    MasterState.STARTING: frozenset({MasterState.READY, MasterState.DRAINING, MasterState.STOPPED}),
    MasterState.READY: frozenset({MasterState.RELOADING, MasterState.UPGRADING, MasterState.DRAINING, MasterState.STOPPED}),
    MasterState.RELOADING: frozenset({MasterState.READY, MasterState.DRAINING, MasterState.STOPPED}),
    MasterState.UPGRADING: frozenset({MasterState.READY, MasterState.DRAINING, MasterState.STOPPED}),
    MasterState.DRAINING: frozenset({MasterState.STOPPED}),
    MasterState.STOPPED: frozenset(),
}

WORKER_MOVES: dict[WorkerState, frozenset[WorkerState]] = {
    WorkerState.WAITING: frozenset({WorkerState.STARTING, WorkerState.GONE}),  # GONE: stopped during the back-off
    WorkerState.STARTING: frozenset({WorkerState.SERVING, WorkerState.DRAINING, WorkerState.GONE}),
    WorkerState.SERVING: frozenset({WorkerState.DRAINING, WorkerState.GONE}),
    WorkerState.DRAINING: frozenset({WorkerState.GONE}),
    WorkerState.GONE: frozenset({WorkerState.WAITING}),
}

S = TypeVar("S", bound=Enum)


class IllegalMove(Exception):
    """A bug: somebody asked for what the table does not have."""


class State(Generic[S]):
    """Where a thing is in its table."""

    def __init__(self, first: S, moves: dict[S, frozenset[S]]) -> None:
        self.now = first
        self._moves = moves

    def __repr__(self) -> str:
        return f"<State {self.now.value}>"

    def move(self, to: S) -> None:
        if to not in self._moves[self.now]:
            raise IllegalMove(f"{self.now.value} -> {to.value}")
        self.now = to

    def maybe_move(self, to: S) -> bool:
        """Moves where the table allows it; tells whether it did."""
        if to not in self._moves[self.now]:
            return False
        self.now = to
        return True
