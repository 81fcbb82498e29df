"""Load that wrk cannot make: large bodies taken at full speed, a fixed rate, WebSockets, and thousands of idle connections.

A program of its own (`python -m tests.bench.loader drain|paced|echo ...`), so that its CPU is not in the bench's process; it prints
one line of JSON. `hold_connections` runs in the caller's process.

paced: requests are due at fixed times, whatever the answers do, and latency counts from the time a request was due: a balancer
that stalls pays for every request that waited ("coordinated omission" avoided).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import resource
import select
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from tests.support.http import Downstream, request_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["drain", "echo", "hold_connections", "paced"]

CHUNK = 262_144
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n"
)
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n\r\n"
KEY, ACCEPT = b"dGhlIHNhbXBsZSBub25jZQ==", b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MESSAGE = b"\x82\xc0" + b"\0\0\0\0" + b"m" * 64  # one binary frame, masked with nothing, of 64 bytes


def drain(port: int, path: str, connections: int, seconds: float) -> dict[str, float]:
    """Downloads `path` again and again; every request begun is finished, so that bytes and CPU belong together."""
    poll = select.epoll()
    buffer = memoryview(bytearray(CHUNK))
    request = request_bytes("GET", path)
    sockets: dict[int, socket.socket] = {}
    missing: dict[int, int] = {}  # bytes of the body still to come; -1: the head is to come
    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        sockets[sock.fileno()] = sock
        missing[sock.fileno()] = -1
        poll.register(sock, select.EPOLLIN)
        sock.sendall(request)
    begun = time.perf_counter()
    done = taken = 0
    while sockets:
        for fd, _ in poll.poll():
            got = sockets[fd].recv_into(buffer)
            if not got:
                raise ConnectionError(f"closed after {done} bodies")
            if missing[fd] < 0:
                got -= (head := bytes(buffer[:got]).index(b"\r\n\r\n") + 4)
                missing[fd] = length_of(bytes(buffer[:head]))
            missing[fd] -= got
            taken += got
            if missing[fd] > 0:
                continue
            done += 1
            missing[fd] = -1
            if time.perf_counter() - begun < seconds:
                sockets[fd].sendall(request)
            else:
                poll.unregister(fd)
                sockets.pop(fd).close()
    poll.close()
    return {"requests": done, "bytes": taken, "seconds": time.perf_counter() - begun}


def length_of(head: bytes) -> int:
    status, *lines = head.split(b"\r\n")
    if b" 200 " not in status:
        raise ConnectionError(f"answered {status!r}")
    return next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length:"))


def paced(port: int, path: str, rate: int, seconds: float, connections: int = 64) -> dict[str, float]:
    """Latency in microseconds at a fixed rate."""
    request = request_bytes("GET", path)
    idle: deque[socket.socket] = deque(socket.create_connection(("127.0.0.1", port)) for _ in range(connections))
    for sock in idle:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    latencies: list[float] = []
    waiting: dict[int, tuple[socket.socket, float]] = {}
    total = int(rate * seconds)
    gc.disable()  # our own pauses are not the balancer's latency
    start = time.perf_counter() + 0.05
    sent = 0
    while len(latencies) < total:
        now = time.perf_counter()
        while sent < total and start + sent / rate <= now and idle:
            sock = idle.popleft()
            waiting[sock.fileno()] = (sock, start + sent / rate)
            sock.sendall(request)
            sent += 1
        # Not epoll: its timeout has the grain of a millisecond, ours must have that of a request.
        due = start + sent / rate - time.perf_counter() if sent < total and idle else 1.0
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, due))
        for fd in ready:
            sock, was_due = waiting.pop(fd)
            if not sock.recv(65_536).startswith(b"HTTP/1.1 200"):
                raise ConnectionError("not a good answer")
            latencies.append(time.perf_counter() - was_due)
            idle.append(sock)
    for sock in idle:
        sock.close()
    latencies.sort()
    warm = latencies[: int(total * 0.9999)]
    return {
        name: 1e6 * warm[min(len(warm) - 1, int(len(latencies) * share))] for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    } | {"requests": len(latencies)}


def echo(port: int, origin: int, connections: int, seconds: float) -> dict[str, float]:
    """Messages and their echoes through the balancer at `port`, whose origin is here too, so that nobody waits for a third process."""
    poll = select.epoll()
    listening = socket.create_server(("127.0.0.1", origin), backlog=connections)
    sockets: dict[int, socket.socket] = {}
    ours: set[int] = set()  # those that we have opened; the others are the origin's
    heads: dict[int, bytes] = {}  # beginnings of heads, of those that have not switched yet

    def add(sock: socket.socket) -> int:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[sock.fileno()] = sock
        heads[sock.fileno()] = b""
        poll.register(sock, select.EPOLLIN)
        return sock.fileno()

    for _ in range(connections):
        ours.add(fd := add(socket.create_connection(("127.0.0.1", port))))
        sockets[fd].sendall(UPGRADE % KEY)
    poll.register(listening, select.EPOLLIN)
    begun = time.perf_counter()
    messages = 0
    while ours:
        for fd, _ in poll.poll():
            if fd == listening.fileno():
                add(listening.accept()[0])
                continue
            data = sockets[fd].recv(CHUNK)
            if fd in heads:
                heads[fd] += data
                if heads[fd].endswith(b"\r\n\r\n"):
                    sockets[fd].sendall(MESSAGE if switched(heads.pop(fd), fd in ours) else ACCEPTED % ACCEPT)
            elif data != MESSAGE:
                raise ConnectionError(f"not the message that was sent: {data[:100]!r}, after {messages}")
            elif fd not in ours:
                sockets[fd].sendall(data)
            else:
                messages += 1
                if time.perf_counter() - begun < seconds:
                    sockets[fd].sendall(MESSAGE)
                else:
                    ours.discard(fd)
    for sock in [*sockets.values(), listening]:
        sock.close()
    return {"messages": messages, "seconds": time.perf_counter() - begun}


def switched(head: bytes, is_ours: bool) -> bool:
    if (b" 101 " if is_ours else b"websocket") not in head:
        raise ConnectionError(f"no WebSocket: {head[:200]!r}")
    return is_ours


@contextlib.contextmanager
def hold_connections(port: int, count: int) -> Iterator[list[Downstream]]:
    """Keep-alive connections that have done one request each and now wait."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    held: list[Downstream] = []
    try:
        for _ in range(count):
            held.append(Downstream(port))
            if held[-1].ask("GET", "/").status != 200:
                raise ConnectionError("not a good answer")
        yield held
    finally:
        for downstream in held:
            downstream.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["drain", "echo", "paced"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--origin", type=int, help="where the balancer looks for an origin of WebSockets")
    parser.add_argument("--path", default="/")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--rate", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=2.0)
    a = parser.parse_args()
    if a.what == "drain":
        print(json.dumps(drain(a.port, a.path, a.connections, a.seconds)))
    elif a.what == "echo":
        print(json.dumps(echo(a.port, a.origin, a.connections, a.seconds)))
    else:
        print(json.dumps(paced(a.port, a.path, a.rate, a.seconds, a.connections)))


if __name__ == "__main__":
    main()
