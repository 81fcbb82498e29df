"""The twins, in C and in Python: the same calls, the same answers."""

from __future__ import annotations

import errno
import importlib.util
import inspect
import os
import select
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lbd.core
from lbd.core import syscalls as installed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType


def plain_twin() -> ModuleType:
    """The source, even where a compiled module lies beside it."""
    spec = importlib.util.spec_from_file_location("plain_syscalls", Path(lbd.core.__file__).with_name("syscalls.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["installed", "plain"])
def calls(request: pytest.FixtureRequest) -> Any:  # noqa: ANN401  # a module
    return installed if request.param == "installed" else plain_twin()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    yield left, right
    left.close()
    right.close()


def received(calls: Any, fd: int, limit: int) -> Any:  # noqa: ANN401
    """None when nothing is there, however that is said."""
    try:
        return calls.recv(fd, limit)
    except BlockingIOError:
        return None


def sent(calls: Any, fd: int, data: Any) -> Any:  # noqa: ANN401
    try:
        return calls.send(fd, data)
    except BlockingIOError:
        return 0


Pair = tuple[socket.socket, socket.socket]
LIMITS = (1, 5, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 1 << 20)  # either side of what is copied instead of resized


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("size", [1, 5, 16 * 1024, 64 * 1024])
def test_recv(calls: Any, pair: Pair, limit: int, size: int) -> None:  # noqa: ANN401
    left, right = pair
    data = bytes(range(251)) * (size // 251 + 1)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    assert received(calls, right.fileno(), limit) is None
    left.sendall(data[:size])
    got = received(calls, right.fileno(), limit)
    assert type(got) is bytes
    assert got == data[: min(limit, size)]
    if limit >= size:
        assert received(calls, right.fileno(), limit) is None
    left.close()
    assert received(calls, right.fileno(), limit) in (b"", data[len(got) : min(limit + len(got), size)])


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_send_until_it_would_block(calls: Any, pair: Pair, kind: type[Any]) -> None:  # noqa: ANN401
    left, right = pair
    assert calls.send(left.fileno(), kind(b"hello")) == 5
    assert right.recv(100) == b"hello"
    assert calls.send(left.fileno(), kind(b"")) == 0
    total = 0
    while taken := sent(calls, left.fileno(), kind(b"x" * 50_000)):
        total += taken
    got = 0
    while got < total:
        got += len(right.recv(1 << 20))
    assert calls.send(left.fileno(), kind(b"again")) == 5


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (16, 16), (17, 16), (2000, 16)])
def test_send_gathered(calls: Any, pair: Pair, count: int, expected: int) -> None:  # noqa: ANN401
    left, right = pair
    parts = [bytes([65 + i % 26]) * (i % 7) for i in range(count)]
    whole = b"".join(parts[:expected])
    assert calls.send_gathered(left.fileno(), parts) == len(whole)
    assert (right.recv(1 << 16) if whole else b"") == whole
    while calls.send_gathered(left.fileno(), [b"x" * 30_000, b"y" * 30_000]):
        pass
    assert calls.send_gathered(left.fileno(), [b"x"]) == 0


@pytest.mark.parametrize("call", ["recv", "send", "send_gathered"])
@pytest.mark.parametrize("state", ["closed descriptor", "peer gone"])
def test_errors_are_the_kernels(calls: Any, pair: Pair, call: str, state: str) -> None:  # noqa: ANN401
    left, right = pair
    fd = left.fileno()
    if state == "closed descriptor":
        fd = -1
    else:
        left.send(b"unread")
        right.close()
    argument = {"recv": 10, "send": b"x", "send_gathered": [b"x"]}[call]
    with pytest.raises(OSError) as caught:
        getattr(calls, call)(fd, argument)
    expected = {("recv", "peer gone"): errno.ECONNRESET, ("send", "peer gone"): errno.EPIPE, ("send_gathered", "peer gone"): errno.EPIPE}
    assert caught.value.errno == expected.get((call, state), errno.EBADF)


def test_is_readable(calls: Any, pair: Pair) -> None:  # noqa: ANN401
    left, right = pair
    assert calls.is_readable(right.fileno()) is False
    left.send(b"x")
    assert calls.is_readable(right.fileno()) is True
    assert right.recv(10) == b"x"  # it took nothing
    assert calls.is_readable(right.fileno()) is False
    left.close()
    assert calls.is_readable(right.fileno()) is True


@pytest.mark.parametrize(("family", "address", "peer"), [("ipv4", "127.0.0.1", "127.0.0.1"), ("ipv6", "::1", "::1"), ("unix", "", "unix:")])
def test_accept(calls: Any, tmp_path: Path, family: str, address: str, peer: str) -> None:  # noqa: ANN401
    kind = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6, "unix": socket.AF_UNIX}[family]
    with socket.socket(kind) as listening, socket.socket(kind) as theirs:
        try:
            listening.bind(str(tmp_path / "socket") if family == "unix" else (address, 0))
        except OSError:
            pytest.skip(f"this machine has no {family}")
        listening.listen()
        listening.setblocking(False)
        assert calls.accept(listening.fileno()) is None
        theirs.connect(listening.getsockname())
        fd, name = calls.accept(listening.fileno())
        assert name == peer
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        os.close(fd)
        with pytest.raises(OSError):
            calls.accept(theirs.fileno())


def test_poller(calls: Any, pair: Pair) -> None:  # noqa: ANN401
    left, right = pair
    poller = calls.Poller(64)
    poller.add(right.fileno(), select.EPOLLIN | select.EPOLLET)
    assert poller.poll(0) == 0
    left.send(b"x")
    assert poller.poll(1) == 1
    poller.take(0)
    assert (poller.fd, poller.events) == (right.fileno(), select.EPOLLIN)
    assert poller.poll(0) == 0  # an edge is told once
    with pytest.raises(FileExistsError):
        poller.add(right.fileno(), select.EPOLLIN)
    poller.remove(right.fileno())
    left.send(b"x")
    assert poller.poll(0) == 0
    with pytest.raises(FileNotFoundError):
        poller.remove(right.fileno())
    assert not os.get_inheritable(poller.fileno())
    poller.close()
    poller.close()


class Yields:
    def __init__(self, what: object) -> None:
        self.what = what

    def __await__(self) -> Iterator[object]:
        yield self.what


async def wait(what: object) -> str:
    await Yields(what)  # type: ignore[misc]
    return "result"


async def fail() -> None:
    raise ZeroDivisionError


def test_resume(calls: Any) -> None:  # noqa: ANN401
    coroutine = wait(None)
    assert calls.resume(coroutine) is False
    assert calls.resume(coroutine) is True
    with pytest.raises(ZeroDivisionError):
        calls.resume(fail())
    foreign = wait("something of trio's")
    with pytest.raises(RuntimeError, match="in_trio"):
        calls.resume(foreign)
    assert inspect.getcoroutinestate(foreign) == inspect.CORO_CLOSED


def test_fence(calls: Any) -> None:  # noqa: ANN401
    assert calls.fence() is None


def test_both_offer_the_same(calls: Any) -> None:  # noqa: ANN401
    assert calls.MOST_PARTS == 16
    assert all(hasattr(installed, name) for name in plain_twin().__all__)
