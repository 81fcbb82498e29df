"""Making connections and taking them."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from lbd.core.fiber import Expired
from lbd.core.stream import Acceptor, connect
from tests.core.reactors import recv_all, recv_some, result_of, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lbd.core.reactor import Reactor
    from lbd.core.stream import Stream

Address = tuple[str, int] | str
FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "unix": socket.AF_UNIX}
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}


@contextmanager
def listening(family: str, tmp_path: Path, backlog: int = 128) -> Iterator[tuple[socket.socket, Address]]:
    """A listening socket and the address to reach it by."""
    with socket.socket(FAMILIES[family], socket.SOCK_STREAM) as ours:
        if family == "unix":
            ours.bind(str(tmp_path / "socket"))
        else:
            try:
                ours.bind((LOOPBACK[family], 0))
            except OSError:
                pytest.skip(f"this machine has no {family}")
        ours.listen(backlog)
        name = ours.getsockname()
        yield ours, name if isinstance(name, str) else name[:2]


def acceptor_of(reactor: Reactor, ours: socket.socket) -> Acceptor:
    return Acceptor(reactor, os.dup(ours.fileno()), "test")


async def accept(acceptor: Acceptor) -> Stream:
    while (stream := acceptor.accept()) is None:
        await acceptor.readable
    return stream


@pytest.mark.parametrize("family", FAMILIES)
async def test_two_meet(family: str, tmp_path: Path) -> None:
    async with running() as reactor:
        with listening(family, tmp_path) as (ours, address):
            acceptor = acceptor_of(reactor, ours)

            async def body() -> None:
                assert acceptor.accept() is None
                left = await connect(reactor, FAMILIES[family], address, "them")
                right = await accept(acceptor)
                assert acceptor.accept() is None
                assert left.peer == "them"
                assert right.peer == LOOPBACK.get(family, "unix:")
                assert acceptor.port == (0 if isinstance(address, str) else address[1])
                assert left.is_fresh()
                for stream in (left, right):
                    if family != "unix":
                        assert option(stream, socket.IPPROTO_TCP, socket.TCP_NODELAY)
                    assert not os.get_blocking(stream.fd)
                    assert not os.get_inheritable(stream.fd)
                left.send(b"ping")
                assert await recv_some(right) == b"ping"
                right.send(b"pong")
                assert await recv_some(left) == b"pong"
                left.close()
                right.close()

            await result_of(reactor, body())
            acceptor.close()
            acceptor.close()


def option(stream: Stream, level: int, name: int) -> int:
    borrowed = socket.socket(fileno=stream.fd)
    try:
        return borrowed.getsockopt(level, name)
    finally:
        borrowed.detach()


@pytest.mark.parametrize("family", FAMILIES)
async def test_nobody_listens(family: str, tmp_path: Path) -> None:
    async with running() as reactor:
        with listening(family, tmp_path) as (_, address):
            pass
        with pytest.raises(ConnectionRefusedError):
            await result_of(reactor, connect(reactor, FAMILIES[family], address, "nobody"))


@pytest.mark.parametrize(
    ("address", "code"),
    [("/nowhere/at/all", errno.ENOENT), ("x" * 200, None), (("255.255.255.255", 1), None)],
    ids=["path", "long", "address"],
)
async def test_an_address_that_cannot_be(address: Address, code: int | None) -> None:
    async with running() as reactor:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        with pytest.raises(OSError) as caught:
            await result_of(reactor, connect(reactor, family, address, "nobody"))
        assert code is None or caught.value.errno == code


async def test_nobody_answers(tmp_path: Path) -> None:
    """A full backlog drops what comes: the deadline is the fiber's own."""
    async with running() as reactor:
        with listening("ipv4", tmp_path, backlog=0) as (_, address):
            others = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
            for other in others:
                other.connect_ex(address)
            await trio.sleep(0.01)

            async def body() -> None:
                reactor.running().arm(0.05, 4)
                await connect(reactor, socket.AF_INET, address, "silent")

            with pytest.raises(Expired) as caught:
                await result_of(reactor, body())
            assert caught.value.kind == 4
            for other in others:
                other.close()


async def test_a_full_unix_backlog_counts_as_refused(tmp_path: Path) -> None:
    async with running() as reactor:
        with listening("unix", tmp_path, backlog=0) as (_, address), socket.socket(socket.AF_UNIX) as other:
            other.connect(address)
            with pytest.raises(BlockingIOError):
                await result_of(reactor, connect(reactor, socket.AF_UNIX, address, "full"))


async def test_cancelled_while_connecting_it_leaves_nothing(tmp_path: Path) -> None:
    async with running() as reactor:
        with listening("ipv4", tmp_path, backlog=0) as (_, address):
            others = [socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) for _ in range(4)]
            for other in others:
                other.connect_ex(address)
            fiber = reactor.spawn(connect(reactor, socket.AF_INET, address, "silent"), "connects")  # type: ignore[arg-type]
            await trio.sleep(0.01)
            assert fiber.coroutine is not None
            fiber.cancel()
            await result_of(reactor, fiber.done.wait())
            for other in others:
                other.close()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("word", [b"220 ready\r\n", b""])
async def test_one_who_speaks_or_leaves_at_once_is_heard(family: str, word: bytes, tmp_path: Path) -> None:
    """What comes with the connection itself makes one event with it, and there may be no other."""
    async with running() as reactor:
        with listening(family, tmp_path) as (ours, address):

            async def body() -> bytes:
                connecting = reactor.spawn(keep(streams, connect(reactor, FAMILIES[family], address, "them")), "connects")
                await reactor.yield_turn()  # let the kernel do its part, then answer before the reactor looks
                theirs, _ = ours.accept()
                if word:
                    theirs.sendall(word)
                theirs.close()
                await connecting.done.wait()
                return await recv_all(streams[0])

            streams: list[Stream] = []
            assert await result_of(reactor, body(), 5) == word
            assert streams[0].hung_up
            streams[0].close()


async def keep(into: list[Stream], connecting: object) -> None:
    into.append(await connecting)  # type: ignore[misc]


# Acceptors


async def test_no_descriptors_left(tmp_path: Path) -> None:
    """accept() says so, the connection waits in the queue, and is taken once there is one again."""
    async with running() as reactor:
        with listening("ipv4", tmp_path) as (ours, address):
            acceptor = acceptor_of(reactor, ours)
            assert isinstance(address, tuple)
            with socket.create_connection(address) as theirs:
                soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                taken = os.dup(theirs.fileno())  # the lowest number that is free
                os.close(taken)
                resource.setrlimit(resource.RLIMIT_NOFILE, (taken, hard))
                try:
                    with pytest.raises(OSError) as caught:
                        acceptor.accept()
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                assert caught.value.errno == errno.EMFILE
                stream = acceptor.accept()
                assert stream is not None
                theirs.sendall(b"still here")
                assert await result_of(reactor, recv_some(stream)) == b"still here"
                stream.close()
            acceptor.close()


async def test_one_that_left_before_it_was_taken(tmp_path: Path) -> None:
    async with running() as reactor:
        with listening("ipv4", tmp_path) as (ours, address):
            acceptor = acceptor_of(reactor, ours)
            assert isinstance(address, tuple)
            theirs = socket.create_connection(address)
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            theirs.close()

            async def body() -> None:
                stream = await accept(acceptor)
                with pytest.raises(ConnectionResetError):
                    await recv_some(stream)
                stream.close()

            await result_of(reactor, body())
            acceptor.close()


async def test_many_come_at_once(tmp_path: Path) -> None:
    async with running() as reactor:
        with listening("unix", tmp_path) as (ours, address):
            acceptor = acceptor_of(reactor, ours)
            others = [socket.socket(socket.AF_UNIX) for _ in range(100)]
            for other in others:
                other.connect(address)

            async def body() -> list[Stream]:
                return [await accept(acceptor) for _ in others]

            streams = await result_of(reactor, body())
            assert acceptor.accept() is None
            for stream, other in zip(streams, others, strict=True):
                stream.close()
                other.close()
            acceptor.close()
