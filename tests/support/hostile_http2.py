"""An endpoint that speaks HTTP/2 with prior knowledge, and does with each request what its `attack` says, in frames made by hand."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable

from tests.support.tcp import TcpOrigin
from tests.wire.http2_frames import ACK, DATA, END_HEADERS, GOAWAY, HEADERS, PREFACE, SETTINGS, headers, raw, settings

__all__ = ["GREETING", "Attack", "HostileLink", "HostileOrigin", "behaves"]

Attack = Callable[[int], Iterable[bytes]]  # the number of the stream -> what is sent, until nobody takes it any more
GREETING = settings() + raw(SETTINGS, ACK, 0)


def behaves(number: int) -> Iterable[bytes]:
    """An answer as it should be."""
    yield headers(number, [(":status", "200"), ("x-origin", "tame")], END_HEADERS) + raw(DATA, 1, number, b"tame")


class HostileLink:
    """One connection. `frames` are those that came: (kind, stream, payload)."""

    def __init__(self, origin: HostileOrigin, sock: socket.socket) -> None:
        self.frames: list[tuple[int, int, bytes]] = []
        self.is_over = threading.Event()
        self._origin = origin
        self._sock = sock

    def goaways(self) -> list[int]:
        return [int.from_bytes(payload[4:8], "big") for kind, _, payload in self.frames if kind == GOAWAY]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            if self._exactly(len(PREFACE)) == PREFACE:
                self._sock.sendall(self._origin.greeting)
                while len(head := self._exactly(9)) == 9:
                    payload = self._exactly(int.from_bytes(head[:3], "big"))
                    kind, number = head[3], int.from_bytes(head[5:9], "big")
                    self.frames.append((kind, number, payload))
                    if kind == HEADERS:
                        threading.Thread(target=self._attack, args=(self._origin.attack, number), daemon=True).start()
                        if self._origin.is_deaf:
                            self._origin.closing.wait()
        self.is_over.set()

    def _attack(self, attack: Attack, number: int) -> None:
        with contextlib.suppress(OSError):
            for data in attack(number):
                self._sock.sendall(data)

    def _exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size and (data := self._sock.recv(size - len(got))):
            got += data
        return got


class HostileOrigin(TcpOrigin):
    """`is_deaf`: it reads no more once it has been asked."""

    def __init__(self) -> None:
        self.attack: Attack = behaves
        self.greeting = GREETING
        self.is_deaf = False
        self.closing = threading.Event()
        self.links: list[HostileLink] = []
        super().__init__(self._meet)

    def close(self) -> None:
        self.closing.set()
        super().close()

    def _meet(self, sock: socket.socket) -> None:
        if self.is_deaf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link = HostileLink(self, sock)
        self.links.append(link)
        link.serve()
