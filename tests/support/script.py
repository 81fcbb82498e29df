"""The proxy on virtual time, between two scripted ends: no sockets, no waiting.

    async with Playbook() as play:
        play.downstream >> b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
        up = await play.upstream()                      # the connection that lbd has made
        await up.expect(b"GET / HTTP/1.1\\r\\n", until=b"\\r\\n\\r\\n")
        up >> b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok"
        await play.downstream.expect(b"HTTP/1.1 200 OK\\r\\n", until=b"ok")

`end >> data` sends; `await end.expect(...)` reads. A playbook that ends with bytes nobody looked at fails: a transcript is whole
or it proves nothing. So does one with a fiber, a stream or a descriptor that goes on when everybody has left. Dialling is replaced
by memory streams, per address; `play.refuse` has the addresses that refuse, `play.greetings` what an address says, once, as soon
as it is connected (b"": it closes).
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import trio

from lbd.cluster.cluster import Cluster, ClusterPolicy, EndpointPolicy
from lbd.core.board import Board
from lbd.core.fiber import Signal
from lbd.core.memory import MemoryStream, memory_stream_pair
from lbd.core.reactor import Reactor
from lbd.proxy.connection import Connection
from lbd.proxy.forwarding import Forwarding
from lbd.proxy.listener import ListenerPolicy
from lbd.proxy.listening import Listener
from lbd.routing.route import RoutePolicy
from lbd.routing.table import RoutingTable
from lbd.worker.messages import EndpointState
from tests.conftest import open_fds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from lbd.core.fiber import Fiber

__all__ = ["End", "Playbook"]


BOARD = "/memfd:lbd-board"  # is mapped as long as anybody has a cell of it
LAST_MOMENT = 0.1  # seconds of virtual time in which everything ends when everybody has left


class End:
    """The far end of one of lbd's streams."""

    def __init__(self, stream: MemoryStream) -> None:
        self.stream = stream
        self.unseen = b""

    def __rshift__(self, data: bytes) -> Self:
        """Sends; the buffer must have room for it."""
        assert self.stream.send(data) == len(data), "more than the stream's buffer takes: use send()"
        return self

    async def send(self, data: bytes) -> None:
        """Sends as fast as lbd takes it."""
        rest, nap = memoryview(data), 0.001
        while rest:
            sent = self.stream.send(rest)
            rest = rest[sent:]
            if rest:
                nap = 0.001 if sent else min(2 * nap, 0.02)
                await trio.sleep(nap)

    def end(self) -> None:
        self.stream.send_eof()

    def close(self) -> None:
        self.stream.close()

    def reset(self) -> None:
        self.stream.reset()

    async def read(self, seconds: float = 5.0) -> bytes:
        """What comes next, b"" at the end; AssertionError when nothing comes in that (virtual) time."""
        with trio.move_on_after(seconds):
            while True:
                self.stream.may_read = True
                data = self.stream.recv(1 << 20)
                if data is not None:
                    return data
                await trio.sleep(0.001)
        raise AssertionError(f"nothing came within {seconds} s")

    async def read_until(self, mark: bytes, seconds: float = 5.0) -> bytes:
        """Bytes up to and with `mark`."""
        while mark not in self.unseen:
            data = await self.read(seconds)
            assert data, f"closed before {mark!r}: {self.unseen!r}"
            self.unseen += data
        at = self.unseen.index(mark) + len(mark)
        taken, self.unseen = self.unseen[:at], self.unseen[at:]
        return taken

    async def expect(self, start: bytes, *, until: bytes, seconds: float = 5.0) -> bytes:
        """Reads up to `until`; what came must begin with `start`."""
        got = await self.read_until(until, seconds)
        assert got.startswith(start), f"expected {start!r}, got {got!r}"
        return got

    async def expect_end(self, seconds: float = 5.0) -> None:
        """Nothing more, and the stream ends (a reset counts)."""
        try:
            data = await self.read(seconds)
        except ConnectionResetError:
            return
        assert not self.unseen + data, f"expected the end, got {self.unseen + data!r}"

    async def expect_silence(self, seconds: float) -> None:
        """Nothing comes for so long."""
        await trio.sleep(seconds)
        self.stream.may_read = True
        data = None if self.stream.inbox == b"" and not self.stream.hung_up else self.stream.recv(1 << 20)
        assert data is None, f"expected silence, got {data!r}"
        assert not self.unseen, f"expected silence, got {self.unseen!r}"

    def assert_all_seen(self, name: str) -> None:
        left = self.unseen + bytes(self.stream.inbox)
        assert not left, f"{name} got bytes that nobody looked at: {left!r}"


class Playbook:
    """A listener with one cluster (or the given ones) between memory streams. Use with the `autojump_clock` fixture."""

    def __init__(
        self,
        *,
        listener: ListenerPolicy | None = None,
        clusters: Sequence[ClusterPolicy] = (),
        routes: Sequence[RoutePolicy] = (),
        buffer: int = 64 * 1024,
        checks_bytes: bool = True,
        leaves: str = "",
    ) -> None:
        """`leaves`: why something may go on when everybody has left."""
        self.policy = listener or ListenerPolicy("web", ("test",))
        self.cluster_policies = list(clusters) or [ClusterPolicy("web", (EndpointPolicy("one:1"),))]
        self.routes = list(routes) or [RoutePolicy(name="all", cluster=self.cluster_policies[0].name)]
        self.buffer = buffer
        self.checks_bytes = checks_bytes
        self.leaves = leaves
        self.faults: list[BaseException] = []
        self.lines: list[object] = []  # finished exchanges, as the access log gets them
        self.refuse: set[str] = set()
        self.silent: set[str] = set()  # addresses where connecting never ends
        self.greetings: dict[str, bytes] = {}
        self.dialled: list[str] = []
        self.noticed: list[tuple[str, str]] = []  # what the master would be told: of whom, and what kind of thing
        self._waiting: deque[End] = deque()
        self._came = trio.lowlevel.ParkingLot()
        self._latest: End | None = None
        self._ends: list[tuple[str, End]] = []
        self._given: list[MemoryStream] = []  # to lbd

    async def __aenter__(self) -> Self:
        self._before = open_fds()
        self.board = Board.create(1)
        segment = self.board.segment(0)
        self.reactor = Reactor(on_fault=self._fault, has_sockets=False)
        self.clusters = {
            p.name: Cluster(p, segment, self.board, random.Random(1), self._noticed, self.reactor.clock) for p in self.cluster_policies
        }
        index = 0
        for policy in self.cluster_policies:
            states = []
            for endpoint in policy.endpoints:
                state = EndpointState(
                    endpoint.address,
                    endpoint.weight,
                    index,
                    name=endpoint.address,
                    backup=endpoint.backup,
                    max_requests=endpoint.max_requests,
                    max_connections=endpoint.max_connections,
                )
                states.append(replace(state, priority=endpoint.priority, zone=endpoint.zone, metadata=endpoint.metadata))
                index += 1
            self.clusters[policy.name].update(states)
        self.listener = Listener(self.policy, segment, random.Random(2).random, lambda count: b"\1" * count)
        self.listener.access = self  # type: ignore[assignment]  # all it needs is write()
        table = RoutingTable.build(tuple(self.routes), self.policy.name)
        self.listener.apply(self.policy, table, self.clusters, Forwarding(self.policy.forwarded, lambda count: b"\1" * count))
        self.listener.connect = self._connect
        self.listener.wall_clock = lambda: 0.0
        self._nursery_manager = trio.open_nursery()
        nursery = await self._nursery_manager.__aenter__()
        self._nursery = nursery
        await nursery.start(self.reactor.run)
        self.downstream = self.connect()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        left = await self._what_stays() if error is None else []
        self._nursery.cancel_scope.cancel()
        await self._nursery_manager.__aexit__(None, None, None)
        self.board.close()
        if error is None:
            assert not self.faults, f"faults: {self.faults!r}"
            opened = (target for fd, target in open_fds().items() if self._before.get(fd) != target)
            left += [target for target in opened if not target.startswith(BOARD)]
            assert bool(left) == bool(self.leaves), f"left: {left}" if left else f"nothing was left, where there was to be: {self.leaves}"
            if self.checks_bytes:
                for name, end in self._ends:
                    end.assert_all_seen(name)

    async def _what_stays(self) -> list[str]:
        """Everybody leaves; what lbd has open or running then, it would have for ever."""
        for _, end in self._ends:
            end.unseen += bytes(end.stream.inbox)
            end.stream.inbox.clear()
            end.close()
        for cluster in self.clusters.values():
            for endpoint in cluster.endpoints:
                endpoint.pool.close_all()  # as a worker that leaves does
        with trio.move_on_after(LAST_MOMENT):
            while self.reactor.fibers:  # noqa: ASYNC110 - for milliseconds
                await trio.sleep(0.001)
        left = [fiber.name for fiber in self.reactor.fibers]
        return left + [f"stream to {stream.peer}" for stream in self._given if not stream.is_closed]

    def write(self, exchange: object) -> None:
        self.lines.append(exchange)

    def _noticed(self, address: str, kind: str, _sentence: str) -> None:
        self.noticed.append((address, kind))

    def _fault(self, fiber: Fiber, error: BaseException) -> None:
        self.faults.append(error)

    def connect(self, peer: str = "192.0.2.1") -> End:
        """Another downstream."""
        end, stream = self.pair(peer)
        Connection(self.listener, stream, 80)
        return end

    def pair(self, peer: str) -> tuple[End, MemoryStream]:
        """Another downstream, and what lbd has of it: still to be given to somebody."""
        ours, theirs = memory_stream_pair(self.reactor, names=(peer, "test"), buffer=self.buffer)
        end = End(ours)
        self._ends.append((f"downstream {peer}", end))
        self._given.append(theirs)
        return end, theirs

    async def _connect(self, reactor: Reactor, family: int, address: tuple[str, int] | str, name: str) -> MemoryStream:
        self.dialled.append(name)
        if name in self.refuse:
            raise ConnectionRefusedError(111, "Connection refused")
        if name in self.silent:
            await Signal(reactor).wait()
        ours, theirs = memory_stream_pair(reactor, names=("lbd", name), buffer=self.buffer)
        end = End(theirs)
        self._ends.append((f"upstream {name}", end))
        self._given.append(ours)
        self._waiting.append(end)
        self._came.unpark_all()
        greeting = self.greetings.pop(name, None)
        if greeting is not None:
            end >> greeting if greeting else end.close()
            await reactor.yield_turn()  # the greeting is there when the connection is
        return ours

    async def latest_upstream(self) -> End:
        """The connection that upstream() gave last, or the first one."""
        return self._latest or await self.upstream()

    async def upstream(self, seconds: float = 5.0) -> End:
        """The next connection that lbd has made."""
        with trio.move_on_after(seconds):
            while not self._waiting:
                await self._came.park()
            self._latest = self._waiting.popleft()
            return self._latest
        raise AssertionError(f"lbd made no connection within {seconds} s")
