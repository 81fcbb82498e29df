"""Who may connect when many want to: by address, and when there is no room."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio

from lbd import metrics
from lbd.core.fiber import Signal
from lbd.core.memory import memory_stream_pair
from lbd.proxy.accept import accept_one, serve_acceptor
from lbd.proxy.complaints import LINES, Complaints, LineBudget
from lbd.proxy.connection import Connection
from lbd.proxy.crowd import Crowd, group_of
from lbd.proxy.listener import ForwardedPolicy, ListenerLimits, ListenerPolicy, ListenerTimeouts, ProxyProtocolPolicy
from lbd.proxy.room import Room
from lbd.routing.route import RespondPolicy, RoutePolicy
from tests.support.script import End, Playbook

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from lbd.core.memory import MemoryStream
    from lbd.core.reactor import Reactor

pytestmark = pytest.mark.usefixtures("autojump_clock")

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"  # with an empty SETTINGS
FIXED = RoutePolicy(name="fixed", respond=RespondPolicy(200, "x"))


def policy(trusted: tuple[str, ...] = (), introducers: tuple[str, ...] = (), **limits: int) -> ListenerPolicy:
    return ListenerPolicy(
        "web",
        ("test",),
        limits=ListenerLimits(**limits),
        timeouts=ListenerTimeouts(head=1000.0, keepalive=1000.0),
        forwarded=ForwardedPolicy(trusted_proxies=trusted),
        proxy_protocol=ProxyProtocolPolicy(introducers) if introducers else None,
    )


class Door:
    """An acceptor at which the given addresses knock, one after the other; or which fails with an error instead."""

    name = "test"
    port = 80
    is_closed = False

    def __init__(self, play: Playbook) -> None:
        self.play = play
        self.reactor: Reactor = play.reactor
        self.waiting: list[MemoryStream | int] = []
        self._news = Signal(play.reactor)

    def knock(self, peer: str) -> End:
        end, stream = self.play.pair(peer)
        self.waiting.append(stream)
        self._ring()
        return end

    def fail(self, code: int) -> None:
        self.waiting.append(code)
        self._ring()

    def _ring(self) -> None:
        self._news.set()
        self._news = Signal(self.reactor)

    def accept(self) -> MemoryStream | None:
        if not self.waiting:
            return None
        first = self.waiting.pop(0)
        if isinstance(first, int):
            raise OSError(first, os.strerror(first))
        return first

    @property
    def readable(self) -> Coroutine[None, None, None]:
        return self._news.wait()


def enter(door: Door, peer: str) -> End:
    end = door.knock(peer)
    door.reactor.rouse()  # this is none of its turns
    assert accept_one(door, door.play.listener)  # type: ignore[arg-type]
    return end


async def is_in(end: End) -> bool:
    """Whether a request is answered there; otherwise it was closed without a word."""
    try:
        end.stream.send(GET)
        await end.expect(b"HTTP/1.1 200 ", until=b"\r\n\r\nx")
    except (BrokenPipeError, ConnectionResetError, AssertionError):
        await end.expect_end()
        return False
    return True


def counted(play: Playbook, number: int, *labels: str) -> int:
    return play.board.totals().get((number, labels), [0])[0]


# The table


@pytest.mark.parametrize(
    ("one", "other", "are_same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:0:abcd::1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("unix:/a", "unix:/b", False),
        ("not an: address", "not an: address", True),
    ],
)
def test_what_counts_as_one(one: str, other: str, are_same: bool) -> None:
    assert (group_of(one) == group_of(other)) is are_same


def test_the_table_forgets_who_has_left() -> None:
    crowd = Crowd()
    crowd.obey(2, ())
    groups = [crowd.enter(f"2001:db8:0:{number:x}::1") for number in range(1000) for _ in range(2)]
    assert len(crowd) == 1000
    assert crowd.is_full_for("2001:db8:0:7::5")
    assert not crowd.is_full_for("2001:db8:1:7::5")
    for group in groups:
        crowd.leave(group)
    assert len(crowd) == 0


def test_a_mapped_address_is_the_ipv4_one() -> None:
    crowd = Crowd()
    crowd.obey(1, ())
    crowd.enter("::ffff:192.0.2.1")
    assert crowd.is_full_for("192.0.2.1")


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1", "unix:", "10.1.2.3"])
def test_who_has_no_limit(peer: str) -> None:
    crowd = Crowd()
    crowd.obey(1, ("10.0.0.0/8",))
    crowd.enter(peer)
    assert not crowd.is_full_for(peer)


# An address's connections


async def test_one_address_cannot_have_all() -> None:
    async with Playbook(listener=policy(connections_per_address=2), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        held = [enter(door, "198.51.100.7") for _ in range(2)]
        beyond = enter(door, "198.51.100.7")
        other = enter(door, "198.51.100.8")
        assert [await is_in(end) for end in (*held, beyond, other)] == [True, True, False, True]
        assert [line.reason for line in play.lines if line.reason] == ["too_many_from_address"]  # type: ignore[attr-defined]
        assert counted(play, metrics.REJECTED.number, "too_many_from_address") == 1
        held[0].close()
        await trio.sleep(0.1)
        assert await is_in(enter(door, "198.51.100.7"))


async def test_a_trusted_proxy_has_no_limit() -> None:
    async with Playbook(listener=policy(("10.0.0.0/8",), connections_per_address=2), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        assert [await is_in(enter(door, "10.9.9.9")) for _ in range(10)] == [True] * 10


async def test_behind_a_proxy_header_its_client_counts() -> None:
    async with Playbook(listener=policy((), ("10.0.0.1",), connections_per_address=2), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        ends = [enter(door, "10.0.0.1") for _ in range(6)]
        for end, client in zip(ends, ["192.0.2.3", "192.0.2.2"] * 3, strict=True):
            end >> b"PROXY TCP4 %b 192.0.2.99 1000 80\r\n" % client.encode()
        await trio.sleep(0.1)
        assert [await is_in(end) for end in ends] == [True] * 4 + [False] * 2
        assert {(line.reason, line.client) for line in play.lines if line.reason} == {  # type: ignore[attr-defined]
            ("too_many_from_address", "192.0.2.3"),
            ("too_many_from_address", "192.0.2.2"),
        }
        for end in ends:
            end.close()
        await trio.sleep(0.1)
        assert len(play.listener.crowd) == 1  # the playbook's own connection


async def test_ipv4_clients_of_a_dual_stack_proxy_are_not_one_network() -> None:
    async with Playbook(listener=policy((), ("10.0.0.1",), connections_per_address=1), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        ends = [enter(door, "10.0.0.1") for _ in range(4)]
        for end, client in zip(ends, ["::ffff:192.0.2.3", "::ffff:192.0.2.4", "::ffff:c000:205", "::ffff:c000:203"], strict=True):
            end >> b"PROXY TCP6 %b 2001:db8::9 1000 80\r\n" % client.encode()
        await trio.sleep(0.1)
        assert [await is_in(end) for end in ends] == [True] * 3 + [False]
        assert [line.client for line in play.lines if line.reason] == ["192.0.2.3"]  # type: ignore[attr-defined]


async def test_a_reload_changes_the_limit_for_who_is_here() -> None:
    async with Playbook(listener=policy(connections_per_address=0), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        held = [enter(door, "192.0.2.5") for _ in range(3)]
        listener = play.listener
        listener.apply(policy(connections_per_address=3), listener.table, play.clusters, listener.forwarding)
        assert not await is_in(enter(door, "192.0.2.5"))
        assert [await is_in(end) for end in held] == [True] * 3


# No room


async def test_who_comes_takes_the_place_of_who_was_idle_for_longest() -> None:
    async with Playbook(listener=policy(connections=4), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        first, second, third = (enter(door, f"192.0.2.{number}") for number in (11, 12, 13))  # and the playbook's own is the fourth
        for end in (play.downstream, first, second, third):
            assert await is_in(end)
            await trio.sleep(1)
        assert await is_in(play.downstream)  # it is the youngest of the idle now
        fifth, sixth = enter(door, "192.0.2.15"), enter(door, "192.0.2.16")
        assert await is_in(fifth)
        assert await is_in(sixth)
        assert [await is_in(end) for end in (first, second, third, play.downstream)] == [False, False, True, True]
        assert counted(play, metrics.EVICTIONS.number, "web") == 2
        assert not play.listener.leaving
        assert len(play.listener.fibers) == 4
        assert not [line for line in play.lines if line.reason]  # type: ignore[attr-defined]  # nobody was refused


async def test_who_is_busy_stays_and_who_comes_is_refused() -> None:
    async with Playbook(listener=policy(connections=3), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        busy = [enter(door, f"192.0.2.{number}") for number in (11, 12)]
        for end in (play.downstream, *busy):
            end >> GET[:10]
        await trio.sleep(0.1)
        assert not await is_in(enter(door, "192.0.2.13"))
        assert counted(play, metrics.REJECTED.number, "too_many_connections") == 1
        for end in (play.downstream, *busy):
            end >> GET[10:]
            await end.expect(b"HTTP/1.1 200 ", until=b"\r\n\r\nx")
        assert await is_in(enter(door, "192.0.2.13"))


async def test_slow_heads_keep_nobody_out_for_more_than_half_of_their_time() -> None:
    async with Playbook(listener=policy(connections=3), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        slow = [enter(door, f"192.0.2.{number}") for number in (11, 12)]
        for end in (*slow, play.downstream):
            end >> GET[:10]
            await trio.sleep(10)
        await trio.sleep(440)  # timeouts.head is 1,000 s
        assert not await is_in(enter(door, "192.0.2.13"))
        await trio.sleep(40)
        late = enter(door, "192.0.2.14")
        assert await is_in(late)
        await slow[0].expect_end()
        assert [line.reason for line in play.lines if line.reason] == ["too_many_connections", "head_displaced"]  # type: ignore[attr-defined]
        late >> GET[:10]
        for end in (slow[1], play.downstream, late):
            end >> GET[10:]
            await end.expect(b"HTTP/1.1 200 ", until=b"\r\n\r\nx")
        assert not play.listener.heads


async def test_a_connection_of_http2_owes_no_head() -> None:
    """However slowly its preface came, which begins as a request does."""
    async with Playbook(listener=policy(), routes=[FIXED], checks_bytes=False) as play:
        play.downstream >> PREFACE[:8]
        await trio.sleep(1)
        assert play.listener.heads
        play.downstream >> PREFACE[8:]
        await trio.sleep(1)
        assert not play.listener.heads
        assert play.listener.idle


async def test_a_flood_of_silent_connections_keeps_nobody_out() -> None:
    async with Playbook(listener=policy(connections=10), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        for number in range(1000):
            enter(door, f"198.51.100.{number % 250}")
            if number % 100 == 50:
                assert await is_in(enter(door, "192.0.2.7"))
            await trio.sleep(0.01)
        assert len(play.listener.fibers) <= 11


async def test_an_idle_connection_of_http2_is_told() -> None:
    async with Playbook(listener=policy(connections=1), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        play.downstream >> PREFACE
        await trio.sleep(1)
        await play.downstream.read()
        assert await is_in(enter(door, "192.0.2.7"))
        await trio.sleep(0.1)
        said = await play.downstream.read()
        assert said[3] == 7, "a GOAWAY first"
        assert play.listener.leaving
        await trio.sleep(5)
        assert not play.listener.leaving
        assert play.listener.room.leaving == 0


# Descriptors


async def test_where_descriptors_are_short_idle_ones_give_theirs_up(caplog: pytest.LogCaptureFixture) -> None:
    async with Playbook(listener=policy(), routes=[FIXED], checks_bytes=False) as play:
        play.listener.room = room = Room(3)
        room.enter()  # the playbook's own connection
        room.listeners = [play.listener]
        door = Door(play)
        fiber = play.reactor.spawn(serve_acceptor(door, play.listener), "accept")  # type: ignore[arg-type]
        ends = [door.knock(f"192.0.2.{number}") for number in range(10, 16)]
        await trio.sleep(1)
        assert room.taken == 2  # one place is kept free for who comes
        assert [await is_in(end) for end in ends] == [False] * 4 + [True] * 2
        assert "cannot accept" not in caplog.text
        fiber.cancel()
        for end in ends:
            end.close()
        await trio.sleep(0.1)
        play.listener.room = Room(100)


async def test_memory_that_is_short_stops_accepting_until_it_is_there(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Playbook(listener=policy(), routes=[FIXED], checks_bytes=False) as play:
        room = play.listener.room
        room.may_accept = False
        door = Door(play)
        fiber = play.reactor.spawn(serve_acceptor(door, play.listener), "accept")  # type: ignore[arg-type]
        end = door.knock("192.0.2.7")
        await trio.sleep(10)
        assert len(door.waiting) == 1
        assert counted(play, metrics.ACCEPT_PAUSES.number, "web", "memory") == 1
        room.may_accept = True
        assert await is_in(end)
        assert [record.getMessage() for record in caplog.records] == [
            "listener web cannot accept: memory is short; who comes waits until there is more",
            "listener web accepts again, after 10.1 s",
        ]
        fiber.cancel()


async def test_no_descriptor_is_said_once_and_that_there_are_some_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Playbook(listener=policy(), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        fiber = play.reactor.spawn(serve_acceptor(door, play.listener), "accept")  # type: ignore[arg-type]
        for _ in range(20):
            door.fail(errno.EMFILE)
        end = door.knock("192.0.2.7")
        await trio.sleep(3)
        assert await is_in(end)
        assert counted(play, metrics.ACCEPT_PAUSES.number, "web", "descriptors") == 1
        first, second = (record.getMessage() for record in caplog.records)
        assert first == "listener web cannot accept: Too many open files; raise the limit of open files?"
        assert second.startswith("listener web accepts again, after 2.")
        fiber.cancel()


# Lines


def test_a_kind_of_trouble_is_told_of_once_a_minute() -> None:
    complaints = Complaints()
    assert [complaints.count("a", now) for now in (0.0, 1.0, 2.0, 59.0)] == [1, 0, 0, 0]
    assert complaints.count("b", 59.0) == 1
    assert [complaints.count("a", now) for now in (60.0, 61.0, 500.0)] == [4, 0, 2]


def test_so_many_lines_a_second() -> None:
    budget = LineBudget()
    assert sum(budget.takes(5.0 + number / 1000) for number in range(900)) == LINES
    assert budget.takes(6.0)


async def test_a_flood_of_refusals_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with Playbook(listener=policy(connections_per_address=1), routes=[FIXED], checks_bytes=False) as play:
        door = Door(play)
        enter(door, "192.0.2.66")
        for _ in range(1000):
            enter(door, "192.0.2.66")
        assert len(play.lines) == LINES
        assert counted(play, metrics.REFUSALS_UNLOGGED.number, "web") == 900
        assert counted(play, metrics.REJECTED.number, "too_many_from_address") == 1000
        assert len(caplog.records) == 2
        assert "this address has as many connections as one may; 1 since it was last said, the latest from 192.0.2.66" in caplog.text


async def test_a_connection_counts_once_however_it_ends() -> None:
    async with Playbook(listener=policy(), routes=[FIXED], checks_bytes=False) as play:
        ours, theirs = memory_stream_pair(play.reactor, names=("192.0.2.8", "test"))
        connection = Connection(play.listener, theirs, 80)
        assert len(play.listener.crowd) == 2
        connection.fiber.cancel()
        await trio.sleep(0.1)
        assert len(play.listener.crowd) == 1
        ours.close()
