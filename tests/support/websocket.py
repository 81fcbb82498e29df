"""WebSockets for tests: an origin, of the `websockets` package, that answers as the path asks, and connections to it through lbd.

/echo            every message comes back
/fragments       a message in fragments comes back as the lengths of its fragments, in fragments
/close/CODE      closes with that code and the reason "enough"
/protocol        the subprotocol and the extensions that were agreed on
/flood/N         sends N messages of 64 KiB, as fast as they are taken
"""

from __future__ import annotations

import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from websockets.trio.client import connect
from websockets.trio.server import serve

from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from websockets.trio.server import ServerConnection

__all__ = ["open_socket", "random_bytes", "serving"]

FLOOD = 64 * 1024


async def answer(socket: ServerConnection) -> None:
    assert socket.request is not None
    _, what, *rest = socket.request.path.partition("?")[0].split("/")
    if what == "echo":
        async for message in socket:
            await socket.send(message)
    elif what == "fragments":
        lengths = [len(fragment) async for fragment in socket.recv_streaming()]
        await socket.send([f"{length} " for length in lengths])
    elif what == "close":
        await socket.aclose(int(rest[0]), "enough")
    elif what == "flood":
        for number in range(int(rest[0])):
            await socket.send(number.to_bytes(4, "big") * (FLOOD // 4))
    elif what == "protocol":
        await socket.send(f"{socket.subprotocol} {[extension.name for extension in socket.protocol.extensions]}")


@asynccontextmanager
async def serving(port: int, **settings: Any) -> AsyncIterator[trio.CancelScope]:  # noqa: ANN401 - any of serve()
    """An origin; cancelling its scope is its death."""
    settings = {"host": "127.0.0.1", "max_size": None, "ping_interval": None, "close_timeout": PATIENCE, "backlog": 2048, **settings}

    async def run(task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: serve(answer, port, task_status=task_status, **settings))
            task_status.started(nursery.cancel_scope)

    async with trio.open_nursery() as outer:
        life = await outer.start(run)
        yield life
        life.cancel()


def open_socket(port: int, path: str, *, scheme: str = "ws", **settings: Any) -> connect:  # noqa: ANN401 - any of connect()
    settings = {"max_size": None, "ping_interval": None, "proxy": None, "open_timeout": PATIENCE, "close_timeout": PATIENCE, **settings}
    return connect(f"{scheme}://127.0.0.1:{port}{path}", **settings)


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)
