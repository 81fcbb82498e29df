"""The tables of legal moves."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from lbd.master.states import MASTER_MOVES, WORKER_MOVES, IllegalMove, MasterState, State, WorkerState

if TYPE_CHECKING:
    from enum import Enum

TABLES: dict[str, tuple[type[Enum], Any]] = {"master": (MasterState, MASTER_MOVES), "worker": (WorkerState, WORKER_MOVES)}
MOVES = [(name, start, end) for name, (states, _) in TABLES.items() for start, end in product(states, states)]


@pytest.mark.parametrize(("table", "start", "end"), MOVES, ids=lambda value: getattr(value, "value", value))
def test_a_move_is_in_the_table_or_raises_and_changes_nothing(table: str, start: Enum, end: Enum) -> None:
    moves = TABLES[table][1]
    state = State(start, moves)
    if end in moves[start]:
        state.move(end)
        assert state.now is end
    else:
        with pytest.raises(IllegalMove, match=f"{start.value} -> {end.value}"):
            state.move(end)
        assert state.now is start
    assert State(start, moves).maybe_move(end) is (end in moves[start])


@pytest.mark.parametrize("table", TABLES)
def test_every_state_can_be_reached_from_the_first(table: str) -> None:
    states, moves = TABLES[table]
    reached: set[Enum] = set()
    frontier = {next(iter(states))}
    while frontier:
        reached |= frontier
        frontier = {end for start in frontier for end in moves[start]} - reached
    assert reached == set(states)


def test_a_stopped_master_stays_stopped() -> None:
    assert MASTER_MOVES[MasterState.STOPPED] == frozenset()
