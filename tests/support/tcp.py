"""Origins and downstreams that speak no protocol at all: bytes over TCP, in threads; and lbd's configuration and log in such tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
from typing import TYPE_CHECKING, Any, Self

from tests.support.patience import PATIENCE
from tests.support.ports import free_port
from tests.support.processes import wait_until, whole_lines

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

__all__ = ["TcpOrigin", "config", "dial", "echo", "hello", "lines", "read_all", "sink", "tls_name", "wait_for_line"]

PIECE = 256 * 1024


class TcpOrigin:
    """Gives each connection to `serve`, in a thread of its own. `peers` are the addresses that came."""

    def __init__(self, serve: Callable[[socket.socket], None], port: int = 0) -> None:
        self._serve = serve
        self.port = port or free_port()
        self.peers: list[str] = []
        self._listening = socket.create_server(("127.0.0.1", self.port), backlog=128, reuse_port=False)
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for accepted in list(self._open):
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)

    def _accept(self) -> None:
        while True:
            try:
                accepted, peer = self._listening.accept()
            except OSError:
                return
            self.peers.append(f"{peer[0]}:{peer[1]}")
            self._open.add(accepted)
            threading.Thread(target=self._run, args=(accepted,), daemon=True).start()

    def _run(self, accepted: socket.socket) -> None:
        with accepted, contextlib.suppress(OSError):
            self._serve(accepted)
        self._open.discard(accepted)


def read_all(connection: socket.socket) -> bytes:
    """To its end."""
    pieces = []
    while piece := connection.recv(PIECE):
        pieces.append(piece)
    return b"".join(pieces)


def echo(connection: socket.socket) -> None:
    while piece := connection.recv(PIECE):
        connection.sendall(piece)


def sink(connection: socket.socket) -> None:
    """Reads to the end, then says what it has got."""
    digest = hashlib.sha256()
    while piece := connection.recv(PIECE):
        digest.update(piece)
    connection.sendall(digest.hexdigest().encode())


def hello(text: bytes) -> Callable[[socket.socket], None]:
    """Speaks first, and waits for the end."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(text)
        read_all(connection)

    return serve


def tls_name(name: str, context: ssl.SSLContext) -> Callable[[socket.socket], None]:
    """Ends TLS itself; says its name and the protocol that was agreed on."""

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.sendall(f"{name} {secured.selected_alpn_protocol()}".encode())

    return serve


def dial(port: int, *, source: str = "", timeout: float = PATIENCE) -> socket.socket:
    """From another loopback address, where one is named: that is who lbd sees."""
    connection = socket.create_connection(("127.0.0.1", port), timeout, (source, 0) if source else None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def config(directory: Path, admin: int, listeners: str, *, workers: int = 1, drain: str = "2s") -> str:
    return f"""
[lbd]
workers = {workers}
drain_timeout = "{drain}"
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{admin}"
{listeners}
"""


def lines(directory: Path) -> list[dict[str, Any]]:
    path = directory / "access.log"
    return [json.loads(line) for line in whole_lines(path)] if path.exists() else []


def wait_for_line(directory: Path, count: int = 1) -> dict[str, Any]:
    wait_until(lambda: len(lines(directory)) >= count, f"{count} lines in the access log")
    return lines(directory)[count - 1]
