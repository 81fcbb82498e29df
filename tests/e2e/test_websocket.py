"""WebSockets with real ends: the `websockets` package on both sides of lbd, and plain sockets where that is too well-behaved."""

from __future__ import annotations

import json
import resource
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from tests.support import procfs
from tests.support.http import Downstream, Reader
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, wait_until, whole_lines
from tests.support.websocket import FLOOD, open_socket, random_bytes, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

MANY = 1000
RSS_PER_TUNNEL = 32 * 1024  # bytes, of all workers, for one that is idle; both windows would be 128 KiB
ASK = b"GET /%b HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n"
YES = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


class Lab:
    """An lbd, and the port where its only endpoint is to be."""

    def __init__(self, directory: Path, *, pure: bool = False, drain: str = "10s", workers: int = 2) -> None:
        self.port, self.origin, self.admin, self.other = free_ports(4)
        self.directory = directory
        self.drain = drain
        self.workers = workers
        self.lbd = LbdDaemon(self.text(), directory, pure=pure).wait_ready()

    def text(self, *, listener: str = "web", endpoint: int = 0, port: int = 0) -> str:
        return f"""
[lbd]
workers = {self.workers}
drain_timeout = "{self.drain}"
[log]
access = "{self.directory}/access.log"
[admin]
bind = "127.0.0.1:{self.admin}"
[listener.{listener}]
bind = "127.0.0.1:{port or self.port}"
cluster = "web"
[cluster.web]
endpoints = ["127.0.0.1:{endpoint or self.origin}"]
"""

    def lines(self, status: int = 101) -> list[dict[str, Any]]:
        path = self.directory / "access.log"
        lines = [json.loads(line) for line in whole_lines(path)] if path.exists() else []
        return [line for line in lines if line["status"] == status]

    def line(self, target: str) -> dict[str, Any]:
        """The one of that target, once it is written."""
        wait_until(lambda: any(line["target"] == target for line in self.lines()), f"a line for {target}")
        return next(line for line in self.lines() if line["target"] == target)

    def tunnels(self) -> float:
        return self.lbd.metric("lbd_tunnels")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.lbd.stop()


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("websocket"), pure=request.param) as started:
        yield started


# Messages


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_of_all_sizes_come_back(lab: Lab, compression: str | None) -> None:
    async with serving(lab.origin), open_socket(lab.port, "/echo", compression=compression) as client:
        for size in (0, 1, 125, 126, 4095, 16 * 1024, 16 * 1024 + 1, 65535, 65536, 300_000):
            message = random_bytes(size)
            await client.send(message)
            assert await client.recv() == message
        for text in ("", "grüß dich", "\N{GRINNING FACE}" * 1000, "GET / HTTP/1.1\r\n\r\n"):
            await client.send(text)
            assert await client.recv() == text


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_10_mb_there_and_back(lab: Lab, compression: str | None) -> None:
    """One after the other: the package does not read while it writes, so two ends that both write more than the sockets hold wait for
    each other. What goes both ways at once is tested below, with plain sockets."""
    async with serving(lab.origin), open_socket(lab.port, "/echo", compression=compression) as client:
        for seed in (1, 2):
            message = random_bytes(10 << 20, seed)
            await client.send(message)
            assert await client.recv() == message


async def test_what_the_two_agree_on_is_theirs(lab: Lab) -> None:
    async with serving(lab.origin, subprotocols=["chat", "other"]):
        async with open_socket(lab.port, "/protocol", subprotocols=["unknown", "chat"]) as client:
            assert client.subprotocol == "chat"
            assert await client.recv() == "chat ['permessage-deflate']"
        async with open_socket(lab.port, "/protocol", subprotocols=["other"], compression=None) as client:
            assert await client.recv() == "other []"


async def test_fragments_stay_fragments(lab: Lab) -> None:
    async with serving(lab.origin), open_socket(lab.port, "/fragments", compression=None) as client:
        await client.send([b"x" * length for length in (1, 70_000, 3, 500)])
        assert [fragment async for fragment in client.recv_streaming()] == ["1 ", "70000 ", "3 ", "500 ", "0 ", ""]


async def test_pings_are_answered_by_the_other_end(lab: Lab) -> None:
    async with serving(lab.origin), open_socket(lab.port, "/echo") as client:
        for data in (b"", b"x" * 125):
            pong = await client.ping(data)
            with trio.fail_after(5):
                await pong.wait()


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_close_codes_cross(lab: Lab, code: int) -> None:
    async with serving(lab.origin), open_socket(lab.port, f"/close/{code}") as client:
        with pytest.raises((ConnectionClosedOK, ConnectionClosedError)):
            await client.recv()
        assert (client.close_code, client.close_reason) == (code, "enough")
    line = await trio.to_thread.run_sync(lab.line, f"/close/{code}")
    assert (line["status"], line["reason"]) == (101, "")


async def test_a_client_that_closes_is_one_line_in_the_log(lab: Lab) -> None:
    async with serving(lab.origin):
        async with open_socket(lab.port, "/echo?closed", compression=None) as client:
            await client.send(b"x" * 1000)
            await client.recv()
            await client.aclose(4001, "done")
        line = await trio.to_thread.run_sync(lab.line, "/echo?closed")
    assert (line["status"], line["reason"], line["attempts"]) == (101, "", 1)
    assert line["bytes_in"] > 1000
    assert line["bytes_out"] > 1000
    assert 0 < line["first_byte"] <= line["duration"]


async def test_a_slow_reader_holds_the_writer_up(lab: Lab) -> None:
    async with serving(lab.origin), open_socket(lab.port, "/flood/300", compression=None, max_queue=1) as client:
        await trio.sleep(0.5)
        for number in range(300):
            assert await client.recv() == number.to_bytes(4, "big") * (FLOOD // 4)
            if number % 100 == 0:
                await trio.sleep(0.2)


async def test_an_origin_that_refuses(lab: Lab) -> None:
    async with serving(lab.origin, origins=["https://only.example"]):
        with pytest.raises(InvalidStatus) as caught:
            async with open_socket(lab.port, "/echo"):
                pass
    assert caught.value.response.status_code == 403


async def test_an_origin_that_is_not_there(lab: Lab) -> None:
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(lab.port, "/echo"):
            pass
    assert caught.value.response.status_code == 502


# Many


@pytest.mark.alone
async def test_a_thousand_at_once(lab: Lab) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    open_ones: list[int] = []
    may_speak, few_at_once = trio.Event(), trio.CapacityLimiter(100)

    async def talk(number: int) -> None:
        socket = open_socket(lab.port, f"/echo?{number}", compression=None)
        async with few_at_once:
            client = await socket.__aenter__()
        await client.send(f"first of {number}")
        assert await client.recv() == f"first of {number}"
        open_ones.append(number)
        await may_speak.wait()
        await client.send(random_bytes(1000, number))
        assert await client.recv() == random_bytes(1000, number)
        await socket.__aexit__(None, None, None)

    before = sum(map(procfs.rss_of, lab.lbd.workers()))
    opened = lab.lbd.metric("lbd_tunnels_opened_total")
    try:
        async with serving(lab.origin, compression=None), trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(talk, number)
            with trio.fail_after(60):
                while len(open_ones) < MANY:  # noqa: ASYNC110 - simpler than an event that a failure must not miss
                    await trio.sleep(0.05)
            assert await trio.to_thread.run_sync(lab.tunnels) == MANY
            grown = sum(map(procfs.rss_of, lab.lbd.workers())) - before
            print(f"\n{MANY} idle tunnels: {grown / MANY / 1024:.1f} KiB each")
            assert grown < MANY * RSS_PER_TUNNEL
            may_speak.set()
        await trio.to_thread.run_sync(wait_until, lambda: lab.tunnels() == 0, "the tunnels' end")
        assert lab.lbd.metric("lbd_tunnels_opened_total") - opened == MANY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# Reload, drain, death


async def test_a_tunnel_lives_through_reloads(tmp_path: Path) -> None:
    """Also one that takes its endpoint, and then its listener, out of the configuration."""
    with Lab(tmp_path) as lab:
        async with serving(lab.origin), open_socket(lab.port, "/echo?lives") as client:
            for text in (lab.text(), lab.text(endpoint=lab.other), lab.text(listener="renamed", endpoint=lab.other, port=lab.other)):
                await client.send(b"before")
                assert await client.recv() == b"before"
                await trio.to_thread.run_sync(lab.lbd.reload, text)
                await client.send(b"after")
                assert await client.recv() == b"after"
            assert lab.tunnels() == 1
        line = await trio.to_thread.run_sync(lab.line, "/echo?lives")
        assert line["reason"] == ""
        assert lab.lbd.metric("lbd_reloads_total", result="ok") == 3


async def test_a_removed_listener_cuts_its_tunnels_after_drain_timeout(tmp_path: Path) -> None:
    with Lab(tmp_path, drain="1s") as lab:
        async with serving(lab.origin), open_socket(lab.port, "/echo?removed") as client:
            began = time.perf_counter()
            await trio.to_thread.run_sync(lab.lbd.reload, lab.text(listener="renamed", port=lab.other))
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert time.perf_counter() - began > 0.9
        line = await trio.to_thread.run_sync(lab.line, "/echo?removed")
        assert line["reason"] == "drain_timeout"


async def test_a_stop_closes_tunnels_last(tmp_path: Path) -> None:
    with Lab(tmp_path, drain="2s") as lab:
        async with serving(lab.origin), open_socket(lab.port, "/echo?stopped") as client:
            began = time.perf_counter()
            lab.lbd.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(wait_until, lambda: not listens(lab.port), "the listener's end")
            await client.send(b"still here")
            assert await client.recv() == b"still here"
            with pytest.raises(ConnectionClosedError):
                await client.recv()
            assert time.perf_counter() - began > 1.5
        assert await trio.to_thread.run_sync(lab.lbd.wait) == 0
        assert lab.line("/echo?stopped")["reason"] == "drain_timeout"


async def test_a_tunnel_that_ends_in_time_holds_no_stop_up(tmp_path: Path) -> None:
    with Lab(tmp_path, drain="30s") as lab:
        async with serving(lab.origin), open_socket(lab.port, "/echo?in-time") as client:
            lab.lbd.signal(signal.SIGTERM)
            await trio.to_thread.run_sync(wait_until, lambda: not listens(lab.port), "the listener's end")
            await client.aclose()
            with trio.fail_after(5):
                assert await trio.to_thread.run_sync(lab.lbd.wait) == 0
        assert lab.line("/echo?in-time")["reason"] == ""


async def test_an_origin_that_dies(lab: Lab) -> None:
    async with serving(lab.origin) as origin, open_socket(lab.port, "/echo?dies") as client:
        await client.send(b"x")
        await client.recv()
        origin.cancel()
        with trio.fail_after(5), pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1006


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


# Raw bytes


class RawOrigin:
    """One connection after the other, each answered by `serve(connection)` in a thread."""

    def __init__(self, port: int, serve: Callable[[socket.socket], None]) -> None:
        self._listening = socket.create_server(("127.0.0.1", port))
        self._serve = serve
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                self._serve(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


def test_early_bytes_never_reach_an_upstream_that_has_not_agreed(lab: Lab) -> None:
    """CVE-2026-2833: they are the next request, and checked as such."""
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        reader = Reader(connection)
        for _ in range(2):
            heads.append(reader.until(b"\r\n\r\n"))
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)  # nothing behind the head, though the client has sent it long since
            connection.settimeout(10)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with RawOrigin(lab.origin, serve), Downstream(lab.port) as client:
        client.send(ASK % b"early" + b"GET /admin HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n" + b"BOGUS\r\n\r\n")
        assert client.response().body == b"ok"
        assert client.response().body == b"ok"
        assert client.response().status == 400
    assert heads[0].startswith(b"GET /early ")
    assert heads[1].startswith(b"GET /admin ")
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in heads[1]
    assert b"10.0.0.1" not in heads[1]
    assert len(heads) == 2


def test_each_side_may_end_before_the_other(lab: Lab) -> None:
    got: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        reader = Reader(connection)
        reader.until(b"\r\n\r\n")
        connection.sendall(YES + b"hello")
        got.append(reader.to_end())
        time.sleep(0.2)
        connection.sendall(b"all " * 100_000)

    with RawOrigin(lab.origin, serve), Downstream(lab.port) as client:
        client.send(ASK % b"half")
        reader = client.reader
        assert reader.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
        assert reader.exactly(5) == b"hello"
        client.send(b"that is all")
        client.end()
        assert reader.to_end() == b"all " * 100_000
    assert got == [b"that is all"]
    assert lab.line("/half")["reason"] == ""


@pytest.mark.parametrize("size", [1 << 20, 32 << 20])
def test_much_goes_through_both_ways_at_once(lab: Lab, size: int) -> None:
    """Large enough to be spliced, with pauses in which it is not."""
    data, half = random_bytes(size), size // 2

    def echo(connection: socket.socket) -> None:
        Reader(connection).until(b"\r\n\r\n")
        connection.sendall(YES)
        while piece := connection.recv(1 << 18):
            connection.sendall(piece)

    def send(client: Downstream) -> None:
        client.sock.sendall(data[:half])
        time.sleep(0.1)
        client.sock.sendall(b"")
        for start in range(half, size, 1 << 19):
            client.sock.sendall(data[start : start + (1 << 19)])
        client.end()

    with RawOrigin(lab.origin, echo), Downstream(lab.port) as client:
        client.send(ASK % b"much")
        reader = client.reader
        reader.until(b"\r\n\r\n")
        sender = threading.Thread(target=send, args=(client,))
        sender.start()
        assert reader.to_end() == data
        sender.join(10)


def test_a_reset_crosses(lab: Lab) -> None:
    gone = threading.Event()

    def serve(connection: socket.socket) -> None:
        Reader(connection).until(b"\r\n\r\n")
        connection.sendall(YES)
        try:
            assert connection.recv(1) == b""
        except ConnectionResetError:
            pass
        gone.set()

    with RawOrigin(lab.origin, serve), Downstream(lab.port) as client:
        client.send(ASK % b"reset")
        client.reader.until(b"\r\n\r\n")
        client.abort()
        assert gone.wait(5)
    assert lab.line("/reset")["reason"] == "downstream_reset"


@pytest.mark.parametrize("method", ["CONNECT a:80", "CONNECT /chat"])
def test_connect_is_refused(lab: Lab, method: str) -> None:
    with Downstream(lab.port) as client:
        client.send(f"{method} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
        assert client.response().status == 501


def test_nothing_went_wrong_meanwhile(lab: Lab) -> None:
    assert lab.lbd.metric("lbd_faults_total") == 0
    assert "a bug" not in lab.lbd.log()
