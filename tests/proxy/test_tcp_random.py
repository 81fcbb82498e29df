"""Sessions by chance: whatever two ends do, in whatever order, each gets what the other has said, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.proxy.listener import ListenerLimits, ListenerPolicy, ListenerTimeouts
from tests.support.script import End, Playbook

IDLE = 50.0
POLICY = ListenerPolicy(
    "web", ("test",), protocol="tcp", timeouts=ListenerTimeouts(tunnel_idle=IDLE), limits=ListenerLimits(window=4096)
)  # fmt: skip
SIDES = ("down", "up")

Step = tuple[str, str, int]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(SIDES), st.just("send"), st.integers(1, 30_000)),
        st.tuples(st.sampled_from(SIDES), st.just("read"), st.integers(1, 30_000)),
        st.tuples(st.just("both"), st.just("wait"), st.integers(1, 40)),
        st.tuples(st.sampled_from(SIDES), st.just("end"), st.just(0)),
    ),
    max_size=25,
)


class Side:
    """One end: what it has sent, what it has got."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.sent = bytearray()
        self.got = bytearray()
        self.has_ended = False

    def do(self, what: str, count: int) -> None:
        if what == "send":
            self.send(count)
        elif what == "read":
            self.read(count)
        else:
            self.finish()

    def send(self, count: int) -> None:
        """As much as there is room for."""
        if not self.has_ended:
            data = bytes((len(self.sent) + i) * 7 % 251 for i in range(count))
            self.sent += data[: self.end.stream.send(data)]

    def read(self, limit: int) -> bool:
        """True at the other side's end."""
        self.end.stream.may_read = True
        data = self.end.stream.recv(limit)
        self.got += data or b""
        return data == b""

    def finish(self) -> None:
        if not self.has_ended:
            self.has_ended = True
            self.end.end()


async def play_all(steps: list[Step], buffer: int, resets: str) -> None:
    clusters = [ClusterPolicy("web", (EndpointPolicy("one:1"), EndpointPolicy("two:1")))]
    async with Playbook(listener=POLICY, clusters=clusters, buffer=buffer, checks_bytes=False) as play:
        play.refuse = {"one:1"}
        sides = {"down": Side(play.downstream), "up": Side(await play.upstream())}
        for who, what, count in steps:
            if what == "wait":
                await trio.sleep(count)
            else:
                sides[who].do(what, count)
                await trio.sleep(0.002)
            if play.lines:
                break
        if resets:
            sides[resets].end.reset()
            del sides[resets]
        await conclude(play, sides, was_reset=bool(resets))
        [line] = play.lines
        check(line, sides)
        assert not play.listener.fibers
        assert sum(endpoint.load() for endpoint in play.clusters["web"].endpoints) == 0
        assert len(play.reactor.fibers) == 0


async def conclude(play: Playbook, sides: dict[str, Side], *, was_reset: bool) -> None:
    """Reads everything, ends both, and waits until the session is written down."""
    try:
        done: set[str] = set()
        while len(done) < len(sides):
            for name, side in sides.items():
                if name not in done and side.read(1 << 16):
                    done.add(name)
                side.finish()
            await trio.sleep(0.002)
    except ConnectionResetError:
        assert was_reset or play.lines, "nobody has reset it"
    for side in sides.values():
        side.end.close()
    with trio.fail_after(5.0):
        while play.listener.fibers or not play.lines:  # noqa: ASYNC110 - virtual time
            await trio.sleep(0.01)


def check(line: Any, sides: dict[str, Side]) -> None:  # noqa: ANN401 - a Session
    assert line.reason in ("", "tunnel_idle", "downstream_reset", "upstream_reset")
    if len(sides) == 2:
        for name, other in (("down", "up"), ("up", "down")):
            got, sent = bytes(sides[name].got), bytes(sides[other].sent)
            assert sent.startswith(got), "what came is what was sent"
            assert line.reason or got == sent, "and all of it"
        if not line.reason:
            assert (line.bytes_in, line.bytes_out) == (len(sides["down"].sent), len(sides["up"].sent))


@given(STEPS, st.sampled_from([100, 5_000, 70_000]), st.sampled_from(["", "", "down", "up"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_sessions(steps: list[Step], buffer: int, resets: str) -> None:
    trio.run(play_all, steps, buffer, resets, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)


@pytest.mark.parametrize("resets", ["", "down", "up"])
def test_one_that_moves_much(resets: str) -> None:
    steps: list[Step] = [(side, what, 20_000) for _ in range(12) for what in ("send", "read") for side in SIDES]
    trio.run(play_all, steps, 70_000, resets, clock=trio.testing.MockClock(autojump_threshold=0), strict_exception_groups=True)
