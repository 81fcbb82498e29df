"""Who means harm: short, bounded, and over by themselves."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import TYPE_CHECKING

from tests.support.http2 import Http2Socket

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["attack"]

SECONDS = 1.5


def attack(kind: str, port: int) -> None:
    """One of schedule.ATTACKS."""
    works: dict[str, Callable[[int], None]] = {
        "slowloris": slowloris,
        "garbage": garbage,
        "rapid reset": rapid_reset,
        "abandon": abandon,
        "half a body": half_a_body,
    }
    with contextlib.suppress(OSError, AssertionError):  # being thrown out is what they are there for
        works[kind](port)


def slowloris(port: int) -> None:
    """Heads that never end."""
    victims = []
    with contextlib.suppress(OSError):
        victims = [socket.create_connection(("127.0.0.1", port), 5.0) for _ in range(200)]
    for _ in range(3):
        for victim in victims:
            with contextlib.suppress(OSError):
                victim.sendall(b"GET /item/slow/1 HTTP/1.1\r\nHost: a\r\nX-A: "[:20])
        time.sleep(SECONDS / 3)
    for victim in victims:
        victim.close()


def garbage(port: int) -> None:
    """Bytes that are no protocol, and requests that two would read in two ways."""
    choose = random.Random(port)
    smuggled = (
        b"POST /once/evil HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /item/evil/1 HTTP/1.1\r\n",
        b"GET /item/evil/1 HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /item/evil/1 HTTP/1.1\nHost: a\n\n",
        choose.randbytes(2000),
    )
    for data in smuggled * 10:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5.0) as victim:
            victim.sendall(data)
            victim.settimeout(1.0)
            victim.recv(65536)


def rapid_reset(port: int) -> None:
    """CVE-2023-44487, in small."""
    with Http2Socket(port, reads_bodies=True, timeout=5.0) as connection:
        for _ in range(2000):
            connection.reset(connection.get("/item/reset/126"))


def abandon(port: int) -> None:
    """Requests whose clients leave at once."""
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", port), 5.0) as victim:
            victim.sendall(b"GET /item/abandoned/300000 HTTP/1.1\r\nHost: a\r\n\r\n")


def half_a_body(port: int) -> None:
    """Uploads that stop."""
    victims = [socket.create_connection(("127.0.0.1", port), 5.0) for _ in range(20)]
    for victim in victims:
        victim.sendall(b"GET /item/half/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 500)
    time.sleep(SECONDS)
    for victim in victims:
        victim.close()
