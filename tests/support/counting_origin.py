"""An origin that counts: how many requests, and connections, it has at a time, and which requests came in what order.

`/held...` is answered when `release(count)` lets so many go, `/slow/SECONDS...` after that time, everything else at once.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

from tests.support.http import Ended, Reader

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CountingOrigin"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class CountingOrigin:
    """`most_requests` and `most_connections` are of all times since reset()."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._lock = threading.Lock()
        self._held = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._streams: set[socket.socket] = set()
        self.reset()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(30)
        self._listening.close()
        self.release(10_000)
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)

    def reset(self) -> None:
        """Counts anew, from what is here now."""
        with self._lock:
            self.targets: list[str] = []
            self.requests = getattr(self, "requests", 0)
            self.connections = len(self._streams)
            self.most_requests, self.most_connections = self.requests, self.connections

    def release(self, count: int = 1) -> None:
        self._held.release(count)

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._streams.add(stream)
                self.connections += 1
                self.most_connections = max(self.most_connections, self.connections)
            thread = threading.Thread(target=self._serve, args=(stream,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, stream: socket.socket) -> None:
        try:
            reader = Reader(stream)
            while reader.has_next():
                self._answer(stream, reader.request_body(reader.head()).target)
        except (OSError, Ended):
            pass
        finally:
            with self._lock:
                self._streams.discard(stream)
                self.connections -= 1
            stream.close()

    def _answer(self, stream: socket.socket, target: str) -> None:
        with self._lock:
            self.targets.append(target)
            self.requests += 1
            self.most_requests = max(self.most_requests, self.requests)
        try:
            if target.startswith("/held"):
                self._held.acquire()
            elif target.startswith("/slow/"):
                threading.Event().wait(float(target.split("/")[2]))
        finally:
            with self._lock:
                self.requests -= 1
        stream.sendall(OK)
