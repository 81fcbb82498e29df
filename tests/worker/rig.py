"""One worker with a real reactor and real sockets, in the test's own process, and who talks to it.

    async with Rig(tmp_path) as rig:
        web = rig.listen()                                  # a socket as the master would open it
        rig.apply([web.listener("web", cluster="all")], {"all": [origin.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")

Everything runs in one trio loop: what the test does between two awaits, the worker sees as one moment.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.core.board import Board
from lbd.proxy.listener import ListenerPolicy, ListenerTimeouts
from lbd.routing.route import RespondPolicy, RoutePolicy
from lbd.worker.log import LogPolicy
from lbd.worker.messages import Configure, Drain, EndpointState, Hello
from lbd.worker.worker import Worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from lbd.metrics import Metric

__all__ = ["Bound", "Downstream", "Origin", "Rig", "answering", "states"]

PATIENCE = 10.0  # seconds until a test that hangs is failed; none takes a tenth of it
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


def answering(name: str, body: str) -> RoutePolicy:
    """A route that answers by itself."""
    return RoutePolicy(name=name, respond=RespondPolicy(body=body))


def states(*addresses: str) -> tuple[EndpointState, ...]:
    return tuple(EndpointState(address, 1, index) for index, address in enumerate(addresses))


class Downstream:
    """A client's connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = b""

    async def send(self, target: str) -> None:
        await self._stream.send_all(f"GET {target} HTTP/1.1\r\nHost: test\r\n\r\n".encode())

    async def answer(self) -> tuple[int, bytes]:
        """Status and body; `fields` has the head."""
        while b"\r\n\r\n" not in self._buffer:
            await self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        start, *lines = head.decode().split("\r\n")
        self.fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(self.fields["content-length"])
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(start.split(" ")[1]), body

    async def get(self, target: str = "/") -> tuple[int, bytes]:
        await self.send(target)
        return await self.answer()

    async def end(self) -> bytes:
        """What comes before the connection is closed."""
        try:
            while True:
                await self._more()
        except EOFError:
            return self._buffer

    async def _more(self) -> None:
        try:
            data = await self._stream.receive_some()
        except trio.BrokenResourceError:  # a reset
            data = b""
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data


class Bound:
    """A bind and its socket: ours for as long as the test wants connections to it, the worker's own by a copy."""

    def __init__(self) -> None:
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.sock.getsockname()[1]
        self.name = f"127.0.0.1:{self.port}"

    def listener(self, name: str, *routes: RoutePolicy, cluster: str = "", **rest: Any) -> ListenerPolicy:  # noqa: ANN401
        """A listener on this bind alone; it gives up waiting for slow clients at once."""
        rest.setdefault("timeouts", ListenerTimeouts(linger=0.01))
        return ListenerPolicy(name, (self.name,), cluster=cluster, routes=routes, **rest)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Downstream]:
        async with await trio.open_tcp_stream("127.0.0.1", self.port) as stream:
            yield Downstream(stream)

    def connect_at_once(self) -> AbstractAsyncContextManager[Downstream]:
        """Without giving the worker a turn: it queues in the kernel."""
        connected = socket.create_connection(("127.0.0.1", self.port))

        @asynccontextmanager
        async def kept() -> AsyncIterator[Downstream]:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(connected)) as stream:
                yield Downstream(stream)

        return kept()

    async def is_refused(self) -> bool:
        """Nobody listens there any more."""
        try:
            async with self.connect():
                return False
        except OSError:
            return True


class Origin:
    """Answers with its name; `/slow` only after `release`. `open` counts its connections, `requests` what it got."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.open = 0
        self.requests: list[str] = []
        self.release = trio.Event()
        self.address = ""

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._talk, [listener])

    async def _talk(self, stream: trio.SocketStream) -> None:
        self.open += 1
        buffer = b""
        try:
            async with stream:
                while data := await stream.receive_some():
                    buffer += data
                    while b"\r\n\r\n" in buffer:
                        head, _, buffer = buffer.partition(b"\r\n\r\n")
                        await self._answer(stream, head.split(b" ")[1].decode())
        except trio.BrokenResourceError:
            pass
        finally:
            self.open -= 1

    async def _answer(self, stream: trio.SocketStream, target: str) -> None:
        self.requests.append(target)
        if target == "/slow":
            await self.release.wait()
        await stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.name)}\r\n\r\n{self.name}".encode())


class Rig:
    """`reports` is what the worker has said; `over` is set when its run() has returned."""

    def __init__(self, directory: Path, *, has_access_log: bool = True, prepare: Callable[[Board], None] | None = None) -> None:
        """`prepare(board)` is called before there is a worker."""
        self.directory = directory
        self.board = Board.create(1)
        if prepare is not None:
            prepare(self.board)
        self.reports: list[object] = []
        self.over = trio.Event()
        self.generation = 0
        self.held: set[str] = set()  # binds whose sockets the worker has
        self._bounds: dict[str, Bound] = {}
        self._replaced: list[socket.socket] = []  # noqa: TID251 - that the worker still has
        self._files = (self.file("lbd.log"), self.file("access.log") if has_access_log else -1)
        self._stack = AsyncExitStack()
        logger = logging.getLogger("lbd")
        self._logging = (logger.handlers, logger.level, logger.propagate)
        self._threshold = gc.get_threshold()
        hello = Hello(0, 1, has_access_log=has_access_log)
        self.worker = Worker(hello, self.board, *self._files, self.reports.append)

    async def __aenter__(self) -> Self:
        self._stack.enter_context(trio.fail_after(PATIENCE))
        self.nursery = await self._stack.enter_async_context(trio.open_nursery())
        await self.nursery.start(self._run)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        logger = logging.getLogger("lbd")
        self.nursery.cancel_scope.cancel()
        try:
            await self._stack.__aexit__(kind, error, trace)
        finally:
            logger.handlers, logger.level, logger.propagate = self._logging
            gc.unfreeze()  # the collector is the whole process's, and the worker has settled it
            gc.set_threshold(*self._threshold)
            for bound in self._bounds.values():
                bound.sock.close()
            self.worker._log_file.close()
            self.worker._access_file.close()
            self.board.close()
        if error is None:
            assert "Traceback" not in (self.directory / "lbd.log").read_text()

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.worker.run(task_status=task_status)
        self.over.set()

    def file(self, name: str) -> int:
        return os.open(self.directory / name, APPEND)

    def read(self, name: str) -> str:
        return (self.directory / name).read_text()

    async def origin(self, name: str) -> Origin:
        origin = Origin(name)
        await self.nursery.start(origin.serve)
        return origin

    def listen(self) -> Bound:
        bound = Bound()
        self._bounds[bound.name] = bound
        return bound

    def replace(self, bound: Bound) -> None:
        """Another socket for this bind, with another port so that they are not mistaken for each other; the next apply() brings it."""
        other = Bound()
        self.held.remove(bound.name)
        self._replaced.append(bound.sock)
        bound.sock, bound.port = other.sock, other.port

    def apply(
        self,
        listeners: Sequence[ListenerPolicy],
        clusters: Mapping[str, Sequence[str]] | None = None,
        *,
        log: LogPolicy | None = None,
        drain_timeout: float = 5.0,
    ) -> None:
        """As the master does it: with the sockets that the worker has not got yet, and its own copies closed of those it gave away."""
        clusters = clusters or {}
        wanted = [bind for listener in listeners for bind in listener.bind]
        missing = [bind for bind in wanted if bind not in self.held]
        sockets = {bind: os.dup(self._bounds[bind].sock.fileno()) for bind in missing}
        message = Configure(
            self.generation + 1,
            tuple(listeners),
            tuple(ClusterPolicy(name, tuple(map(EndpointPolicy, addresses)), slow_start=0.0) for name, addresses in clusters.items()),
            log or LogPolicy(),
            {name: states(*addresses) for name, addresses in clusters.items()},
            tuple(missing),
            drain_timeout,
        )
        try:
            self.worker.apply(message, sockets)
        except BaseException:
            for fd in sockets.values():
                os.close(fd)
            raise
        for bind in self.held - set(wanted):
            self._bounds[bind].sock.close()
        for sock in self._replaced:
            sock.close()
        self._replaced.clear()
        self.generation += 1
        self.held = set(wanted)

    def drain(self, timeout: float = 5.0) -> None:
        """The sockets are the worker's alone by then."""
        for bound in self._bounds.values():
            bound.sock.close()
        self.worker.drain(Drain(timeout))

    def count(self, metric: Metric, *labels: str) -> int:
        """Of the series that begin with these labels."""
        totals = self.board.totals().items()
        return sum(cells[0] for (number, found), cells in totals if number == metric.number and found[: len(labels)] == labels)

    async def until(self, holds: Callable[[], object]) -> None:
        """Looks again and again; fails with the rig's patience."""
        while not holds():  # noqa: ASYNC110 - of sockets nobody here hears
            await trio.sleep(0.002)
