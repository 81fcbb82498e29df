"""An origin that can be told to misbehave, in a process of its own so that it can be killed.

    python -m tests.chaos.origin NAME HTTP_PORT WS_PORT TCP_PORT LEDGER

HTTP/1.1:   GET /item/ID/SIZE     `size` bytes that follow from the ID, x-id, x-sha256, x-origin
            POST /once/ID         writes the ID into the ledger, then answers with the SHA-256 of the body
WebSocket:  every message comes back
TCP:        everything comes back, and behind it its SHA-256: what the origin took for all of it

Its mood is a line on standard input: "well", "slow SECONDS", "hang", "reset", "status CODE", "cut" (a body ends half-way). Moods hold for
HTTP; the other ports know only life and death. The ledger is opened with O_APPEND and each line is one write: it survives kill -9, and
several origins share one.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import struct
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

import h11
import trio

from tests.support.processes import ROOT, Daemon
from tests.support.websocket import answer

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

__all__ = ["ChaosOrigin", "body_of"]

READ = 65536


def body_of(identity: str, size: int) -> bytes:
    """The only right body of /item/IDENTITY/SIZE."""
    return random.Random(identity).randbytes(size)


class ChaosOrigin:
    """The process as the program sees it; it keeps its ports over its deaths."""

    def __init__(self, directory: Path, name: str, ports: tuple[int, int, int], ledger: Path) -> None:
        self.directory, self.name, self.ports, self.ledger = directory, name, ports, ledger
        self.process: Talking | None = None

    @property
    def is_alive(self) -> bool:
        return self.process is not None

    def start(self) -> None:
        self.process = Talking(self.directory, self.name, self.ports, self.ledger)
        self.process.wait_for_ports(*self.ports, timeout=30)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def tell(self, mood: str) -> None:
        if self.process is not None:
            self.process.tell(mood)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


class Talking(Daemon):
    """Its standard input is a pipe."""

    def __init__(self, directory: Path, name: str, ports: tuple[int, int, int], ledger: Path) -> None:
        inside, self._outside = os.pipe()
        command = [sys.executable, "-m", "tests.chaos.origin", name, *map(str, ports), str(ledger), str(inside)]
        environment = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        super().__init__(command, directory, name=f"origin-{name}", environment=environment, pass_fds=[inside])
        os.close(inside)

    def tell(self, mood: str) -> None:
        os.write(self._outside, f"{mood}\n".encode())

    def kill(self) -> None:
        super().kill()
        os.close(self._outside)


@dataclass(slots=True)
class Mood:
    """How HTTP requests are met now."""

    word: str = "well"
    argument: str = ""

    def become(self, line: str) -> None:
        self.word, _, self.argument = line.strip().partition(" ")


class Conversation:
    """One connection, HTTP/1.1 by h11."""

    def __init__(self, name: str, mood: Mood, ledger: int, stream: trio.SocketStream) -> None:
        self.name, self.mood, self.ledger, self.stream = name, mood, ledger, stream
        self.http = h11.Connection(h11.SERVER)

    async def next(self) -> object:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some(READ))
        return event

    async def run(self) -> None:
        while True:
            request = await self.next()
            if not isinstance(request, h11.Request):
                return
            body = bytearray()
            while isinstance(event := await self.next(), h11.Data):
                body += event.data
            if not isinstance(event, h11.EndOfMessage) or not await self.serve(request, bytes(body)):
                return
            if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
                return
            self.http.start_next_cycle()

    async def serve(self, request: h11.Request, body: bytes) -> bool:
        """False: the connection has been ended."""
        word, argument = self.mood.word, self.mood.argument
        if word == "slow":
            await trio.sleep(float(argument))
        elif word == "hang":
            await trio.sleep_forever()
        elif word == "reset":
            self.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.stream.socket.close()
            return False
        elif word == "status":
            await self.respond(int(argument), [], b"not now\n")
            return True
        kind, identity, *rest = request.target.decode().strip("/").split("/")
        if kind == "once":
            os.write(self.ledger, f"{identity}\n".encode())
            await self.respond(200, [("x-id", identity)], hashlib.sha256(body).hexdigest().encode())
        else:
            whole = body_of(identity, int(rest[0]))
            fields = [("x-id", identity), ("x-sha256", hashlib.sha256(whole).hexdigest())]
            await self.respond(200, fields, whole, is_cut=word == "cut")
            return word != "cut"
        return True

    async def respond(self, status: int, fields: list[tuple[str, str]], body: bytes, *, is_cut: bool = False) -> None:
        fields = [*fields, ("x-origin", self.name), ("content-length", str(len(body)))]
        data = self.http.send(h11.Response(status_code=status, headers=fields)) or b""
        if is_cut:
            await self.stream.send_all(data + body[: len(body) // 2])
            return
        data += self.http.send(h11.Data(data=body)) or b""
        await self.stream.send_all(data + (self.http.send(h11.EndOfMessage()) or b""))


async def converse(name: str, mood: Mood, ledger: int, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            await Conversation(name, mood, ledger, stream).run()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return


async def echo(stream: trio.SocketStream) -> None:
    digest = hashlib.sha256()
    async with stream:
        try:
            async for data in stream:
                digest.update(data)
                await stream.send_all(data)
            await stream.send_all(digest.digest())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


async def listen_to(mood: Mood, inside: int) -> None:
    async with trio.lowlevel.FdStream(inside) as words:
        rest = b""
        async for data in words:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                mood.become(line.decode())


async def main(name: str, http: int, ws: int, tcp: int, ledger_path: str, inside: int) -> None:
    from websockets.trio.server import serve

    mood, ledger = Mood(), os.open(ledger_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, answer, ws, host="127.0.0.1", max_size=None, ping_interval=None, backlog=512))
        nursery.start_soon(partial(trio.serve_tcp, echo, tcp, host="127.0.0.1", backlog=512))
        nursery.start_soon(partial(trio.serve_tcp, partial(converse, name, mood, ledger), http, host="127.0.0.1", backlog=512))
        await listen_to(mood, inside)


if __name__ == "__main__":
    name, http, ws, tcp, ledger, inside = sys.argv[1:]
    trio.run(main, name, int(http), int(ws), int(tcp), ledger, int(inside))
