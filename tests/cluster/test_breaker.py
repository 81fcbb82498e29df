"""The breaker of a cluster: as a story, as a table, and before a cluster's choices; time is a number."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from lbd import metrics
from lbd.cluster.breaker import Breaker, BreakerPolicy, BreakerState
from lbd.cluster.cluster import Cluster, ClusterPolicy
from lbd.core.board import Board
from tests.cluster.fakes import Facts

POLICY = BreakerPolicy(share=0.5, window=10.0, volume=4, open=5.0, probes=2)


class Clocked:
    def __init__(self, policy: BreakerPolicy = POLICY) -> None:
        self.now = 1000.0
        self.inflight = 0
        self.moves: list[str] = []
        self.breaker = Breaker(policy, lambda: self.now, lambda _old: self.moves.append(self.breaker.state.value))

    def play(self, script: str) -> str:
        """`.` a success, `x` a failure, `-` an end that tells nothing, `_` a second, `+` a request from before, `?` may one pass: answered
        by y or n."""
        answers = ""
        for step in script:
            if step == "_":
                self.now += 1.0
            elif step == "?":
                passes = self.breaker.lets_through(self.inflight)
                self.inflight += passes
                answers += "y" if passes else "n"
            elif step == "+":
                self.inflight += 1
            else:
                if step != "-":
                    self.breaker.record(step == "x")
                self.inflight = max(0, self.inflight - 1)
        return answers


@pytest.mark.parametrize(
    ("script", "moves"),
    [
        ("xxx", ""),  # too few
        ("xxxx", "open"),
        ("..xx", "open"),
        ("...x...x...x...x", ""),
        ("xxx___________x", ""),  # of another window
        ("xxx_________x", "open"),
        ("..........xxxxxxxxx", ""),
        ("..........___________xxxx", "open"),
        ("xxxx_____?", "open half_open"),
        ("xxxx_____?x", "open half_open open"),
        ("xxxx_____??..", "open half_open closed"),
        ("xxxx_____??..xxx", "open half_open closed"),  # it begins anew
        ("xxxx_____??.x", "open half_open open"),
        ("xxxxxxxx.....", "open"),  # what was under way
    ],
)
def test_moves(script: str, moves: str) -> None:
    clocked = Clocked()
    clocked.play(script)
    assert " ".join(clocked.moves) == moves


@pytest.mark.parametrize(
    ("script", "answers"),
    [
        ("?", "y"),
        ("xxxx?____?_?", "nny"),
        ("xxxx_____????", "yynn"),
        ("xxxx_____???.?", "yyny"),
        ("xxxx_____???____?_?", "yynny"),  # those who are silent cannot stand in the way for ever
        ("xxxx_____???-??", "yynyn"),  # a client has left
        ("xxxx_____???--???", "yynyyn"),
        ("xxxx++_____???", "yyn"),  # those from before take no room
        ("xxxx++_____--???", "yyn"),
        ("xxxx++_____?--?-?", "yyy"),
    ],
)
def test_who_may_pass(script: str, answers: str) -> None:
    assert Clocked().play(script) == answers


def test_when_to_come_again() -> None:
    clocked = Clocked()
    assert not clocked.breaker.is_shut
    clocked.play("xxxx__")
    assert clocked.breaker.is_shut
    assert (clocked.breaker.wait, clocked.breaker.why()) == (3.0, "4 of 4 attempts failed within 10 s")
    assert repr(clocked.breaker) == "<Breaker open, 4 of 4 failed>"
    clocked.play("___")
    assert not clocked.breaker.is_shut
    clocked.play("?")
    assert clocked.breaker.wait == 5.0


@settings(deadline=None)
@given(st.text(".x_?-+", max_size=200))
def test_whatever_happens(script: str) -> None:
    """What it counts is what the last seconds had, and it is open for as long as it says."""
    clocked = Clocked(replace(POLICY, volume=3))
    breaker, opened_at = clocked.breaker, 0.0
    for step in script:
        before = breaker.state
        passed = clocked.play(step)
        assert 0 <= breaker.failed <= breaker.total
        assert passed != "y" or breaker.state is not BreakerState.OPEN
        if before is BreakerState.OPEN and breaker.state is not BreakerState.OPEN:
            assert clocked.now - opened_at >= POLICY.open
        if breaker.state is BreakerState.OPEN and before is not BreakerState.OPEN:
            opened_at = clocked.now


@pytest.mark.parametrize("balance", ["round-robin", "consistent-hash"])
def test_before_a_clusters_choices(balance: str) -> None:
    board = Board.create(2, cells=512, endpoints=16)
    now = 1000.0
    policy = ClusterPolicy("web", (), balance=balance, breaker=POLICY)
    cluster = Cluster(policy, board.segment(0), board, Random(1), clock=lambda: now)
    cluster.update([Facts("a:1"), Facts("b:1", index=1)])
    assert states(board) == {"closed": 1, "open": 0, "half_open": 0}
    for _ in range(4):
        endpoint = cluster.pick(b"k", ())
        assert endpoint is not None
        endpoint.attempted("connect_refused")
    assert cluster.pick(b"k", ()) is None
    assert cluster.selection((), heeds_panic=False).pick(b"k", ()) is None
    assert (cluster.circuit.is_closed, states(board)) == (False, {"closed": 0, "open": 1, "half_open": 0})
    now += 5.0
    assert [cluster.pick(b"k", ()) is not None for _ in range(10)] == [True] * 10  # whoever only asks takes no place
    probes = [cluster.pick(b"k", ())]
    for _ in range(2):
        assert probes[-1] is not None
        probes[-1].begin()
        probes.append(cluster.pick(b"k", ()))
    assert probes[2] is None
    assert states(board) == {"closed": 0, "open": 0, "half_open": 1}
    for probe in probes[:2]:
        assert probe is not None
        probe.end()
        again = cluster.pick(b"k", ())
        assert again is not None
        again.begin()
        assert cluster.pick(b"k", ()) is None
    for probe in probes[:2]:
        assert probe is not None
        probe.observe(0.1, now, 404)
    assert [cluster.pick(b"k", ()) is not None for _ in range(10)] == [True] * 10
    assert (cluster.circuit.is_closed, states(board)["closed"]) == (True, 1)
    cluster.apply_policy(replace(policy, breaker=None))
    assert (cluster.circuit.breaker, sum(states(board).values())) == (None, 0)
    board.close()


def test_a_reload_keeps_it_open() -> None:
    now = 1000.0
    cluster = Cluster(ClusterPolicy("web", (), breaker=POLICY), None, None, Random(1), clock=lambda: now)
    cluster.update([Facts("a:1")])
    for _ in range(4):
        cluster.endpoints[0].observe(0.1, now, 503)
    cluster.apply_policy(ClusterPolicy("web", (), breaker=replace(POLICY, probes=5)))
    cluster.update([Facts("a:1")])
    assert cluster.pick(b"", ()) is None


def states(board: Board) -> dict[str, int]:
    return {labels[1]: cells[0] for (number, labels), cells in board.totals().items() if number == metrics.BREAKER_STATE.number}
