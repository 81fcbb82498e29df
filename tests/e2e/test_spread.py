"""Connections by one socket that all workers share, as a supervisor brings it or as a file: nobody gets most of them."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, wait_until
from tests.support.procfs import open_fds

if TYPE_CHECKING:
    from pathlib import Path

WORKERS, COUNT = 4, 400

TEXT = """
[lbd]
workers = {workers}
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "{bind}"
backlog = 1024
route = [{{ respond = {{ body = "hello" }} }}]
"""


def connect(address: str | tuple[str, int]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(20)
    sock.connect(address)
    return sock


def ask(sock: socket.socket) -> None:
    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    received = b""
    while not received.endswith(b"hello"):
        received += sock.recv(4096) or pytest.fail("the connection ended")


@pytest.mark.parametrize("kind", ["fd", "unix"])
@pytest.mark.parametrize("pace", ["burst", "one by one"])
def test_connections_are_spread_over_workers_that_share_a_socket(kind: str, pace: str, tmp_path: Path) -> None:
    admin, port = free_ports(2)
    with ExitStack() as stack:
        address: str | tuple[str, int] = str(tmp_path / "lbd.sock")
        bind = f"unix:{address}"
        fds: tuple[int, ...] = ()
        if kind == "fd":
            listening = stack.enter_context(socket.create_server(("127.0.0.1", port), backlog=1024))
            address, bind, fds = ("127.0.0.1", port), f"fd:{listening.fileno()}", (listening.fileno(),)
        lbd = stack.enter_context(LbdDaemon(TEXT.format(workers=WORKERS, admin=admin, bind=bind), tmp_path, pass_fds=fds))
        lbd.wait_ready()
        workers = lbd.workers()
        before = [open_fds(worker) for worker in workers]
        held: list[socket.socket] = []
        for _ in range(COUNT):
            held.append(stack.enter_context(connect(address)))
            if pace == "one by one":
                ask(held[-1])
        if pace == "burst":
            for sock in held:
                ask(sock)
        counts: list[int] = []

        def are_all_here() -> bool:
            counts[:] = [open_fds(worker) - had for worker, had in zip(workers, before, strict=True)]
            return sum(counts) >= COUNT

        wait_until(are_all_here, "all connections to be at some worker")
        assert max(counts) <= 1.3 * COUNT / WORKERS
        for sock in held:
            sock.close()
