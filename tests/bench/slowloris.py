"""An attacker for `make bench`: connections whose request heads never come to an end (`python -m tests.bench.slowloris PORT COUNT`).

Each gets a field line now and then; one that is cut off is opened anew, by a reset, so that its port is free at once. It says "held" on a
line of its own as soon as all are there, and goes on until its input ends.
"""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from tests.support.processes import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["under_attack"]

START, LINE = b"GET / HTTP/1.1\r\nHost: a\r\n", b"X-Later: 1\r\n"
EVERY = 5.0  # seconds between two lines of a connection
NO_LINGER = b"\1\0\0\0\0\0\0\0"
OPEN = 200  # connections that are opened between two looks at the others


class Attack:
    """All its connections."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._poll = select.epoll()
        self._held: dict[int, socket.socket] = {}
        self._next_lines: dict[int, float] = {}

    def is_whole(self) -> bool:
        return len(self._held) == self._count

    def step(self) -> None:
        for _ in range(min(OPEN, self._count - len(self._held))):
            self._open()
        for fd, _ in self._poll.poll(0.01):
            self._drop(fd)
        now = time.monotonic()
        while self._next_lines:
            fd = next(iter(self._next_lines))  # who has waited for longest
            if self._next_lines[fd] > now:
                return
            self._next_lines[fd] = self._next_lines.pop(fd) + EVERY
            with contextlib.suppress(OSError):
                self._held[fd].send(LINE)

    def _open(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._port), 10.0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.send(START)
        self._held[sock.fileno()] = sock
        self._next_lines[sock.fileno()] = time.monotonic() + EVERY
        self._poll.register(sock, select.EPOLLIN)

    def _drop(self, fd: int) -> None:
        self._poll.unregister(fd)
        del self._next_lines[fd]
        self._held.pop(fd).close()


@contextlib.contextmanager
def under_attack(port: int, count: int) -> Iterator[None]:
    """By a process of its own, from the moment on when it holds them all."""
    command = [sys.executable, "-m", "tests.bench.slowloris", str(port), str(count)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as attacker:
        assert attacker.stdin is not None
        assert attacker.stdout is not None
        try:
            if attacker.stdout.readline() != b"held\n":
                raise ConnectionError(f"the attacker could not hold {count} connections")
            yield
        finally:
            attacker.stdin.close()


def main() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attack = Attack(int(sys.argv[1]), int(sys.argv[2]))
    while not attack.is_whole():
        attack.step()
    print("held", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        attack.step()


if __name__ == "__main__":
    main()
