"""Reactors to test with: they run while the `async with` lasts, and complain about faults and fibers that were left over."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import trio

from lbd.core.memory import memory_stream_pair
from lbd.core.reactor import Pollable, Reactor
from lbd.core.stream import Stream
from lbd.core.tls import TlsStream
from tests.support.certificates import downstream_context, upstream_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Callable, Coroutine
    from typing import Any

    from lbd.core.fiber import Fiber

    T = TypeVar("T")

__all__ = ["KINDS", "Kind", "pair_of", "recv_all", "recv_some", "result_of", "running"]

Kind = str
BUFFER = 64 * 1024  # of a TCP socket each way, or a megabyte would be gone in one call
LAST_TURNS = 100
KINDS = ("tcp", "unix", "memory", "tls", "tls-memory")  # of streams


@asynccontextmanager
async def running(
    *,
    has_sockets: bool = True,
    faults: list[tuple[str, BaseException]] | None = None,
    on_turn: Callable[[float], None] | None = None,
    leaves: str = "",
) -> AsyncIterator[Reactor]:
    """A reactor. Faults are collected in `faults`; without that list there must be none. Every fiber must have ended when the test has,
    but for those that it leaves on purpose: `leaves` says why."""
    found: list[tuple[str, BaseException]] = [] if faults is None else faults

    def on_fault(fiber: Fiber, error: BaseException) -> None:
        found.append((fiber.name, error))

    reactor = Reactor(on_fault=on_fault, on_turn=on_turn, has_sockets=has_sockets)
    async with trio.open_nursery() as nursery:
        await nursery.start(reactor.run)
        yield reactor
        for _ in range(LAST_TURNS):  # for those that are about to end
            if not reactor.fibers:
                break
            await trio.lowlevel.checkpoint()
        left = [fiber.name for fiber in reactor.fibers]
        nursery.cancel_scope.cancel()
    assert not reactor.fibers
    assert bool(left) == bool(leaves), f"left running: {left}" if left else f"nothing was left running, where there was to be: {leaves}"
    if faults is None:
        assert not found


async def result_of(reactor: Reactor, coroutine: Coroutine[Any, None, T], seconds: float = 10.0) -> T:
    """Runs a coroutine as a fiber and waits for it, in trio, for no longer than that (seconds of the reactor's clock)."""
    ended = trio.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    async def body() -> None:
        try:
            results.append(await coroutine)
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    fiber = reactor.spawn(body(), "test")
    try:
        with trio.fail_after(seconds):
            await ended.wait()
    finally:
        fiber.cancel()
    if errors:
        raise errors.pop()
    return results.pop()


def pair_of(kind: Kind, reactor: Reactor) -> tuple[Stream, Stream]:
    """Two connected streams."""
    if kind == "tls":
        return tls_over(*pair_of("tcp", reactor))
    if kind == "tls-memory":
        return tls_over(*pair_of("memory", reactor))
    if kind == "memory":
        return memory_stream_pair(reactor)
    left, right = socket.socketpair() if kind == "unix" else tcp_pair()
    for end in (left, right):
        end.setblocking(False)
    return Stream(reactor, left.detach(), "right"), Stream(reactor, right.detach(), "left")


@cache
def tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return downstream_context(), upstream_context()


def tls_over(left: Stream, right: Stream) -> tuple[TlsStream, TlsStream]:
    """The left one is the client. The handshake is done, by hand: who is here may be no fiber."""
    asking, asked = tls_contexts()
    pair = TlsStream(left, asking, "localhost", None, b""), TlsStream(right, asked, "", None, b"")
    shaking = [end.handshake() for end in pair]
    while shaking:
        for step in list(shaking):
            for end in (left, right, *pair):
                end.may_read = True
            try:
                step.send(None)
            except StopIteration:
                shaking.remove(step)
    for raw, end in zip((left, right), pair, strict=True):
        raw.may_read = end.may_read = True
        assert end.recv(1) is None  # but tickets
        end.reactor.hand_over(end, Pollable(end.reactor, -1))  # what was news has been seen
    return pair


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        left = socket.create_connection(listening.getsockname())
        right, _ = listening.accept()
    for end in (left, right):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    return left, right


async def recv_some(stream: Stream, limit: int = 65536) -> bytes:
    while (data := stream.recv(limit)) is None:
        await stream.readable
    return data


async def recv_all(stream: Stream) -> bytes:
    """Up to the end."""
    parts = []
    while data := await recv_some(stream):
        parts.append(data)
    return b"".join(parts)
