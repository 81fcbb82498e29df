"""What comes before a connection's first request has its time, each thing of it: a PROXY header, a ClientHello, a TLS handshake.

A drain does not wait for them as it waits for exchanges. Nothing has been asked yet, so nothing is lost by an end: who connects anew finds
whoever listens now. What is under way has GRACE left, which is enough across an ocean; a first request may then follow as on any
connection that is idle. Who has not said a word is ended without a line in the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lbd.proxy.connection import Connection
    from lbd.proxy.listening import Listener

__all__ = ["DRAIN_GRACE", "HANDSHAKE", "begin_step", "hurry_opening", "receive_early", "time_given"]

DRAIN_GRACE = 1.0  # seconds in which a request may still come on a connection that is to be closed, or what comes before one
HANDSHAKE = 40  # a kind of deadline


def begin_step(connection: Connection) -> None:
    """The next thing has its time from now on; Expired (HANDSHAKE) is its end."""
    listener = connection.listener
    connection.fiber.arm(DRAIN_GRACE if listener.is_draining else listener.handshake_timeout, HANDSHAKE)


def hurry_opening(listener: Listener) -> None:
    """A drain has begun."""
    for fiber in listener.opening:
        fiber.arm(DRAIN_GRACE, HANDSHAKE)


def time_given(listener: Listener) -> str:
    """For people: how long it was."""
    if listener.is_draining:
        return f"{DRAIN_GRACE:g} s, all that is left once the listener has stopped"
    return f"{listener.handshake_timeout:g} s"


async def receive_early(connection: Connection, limit: int) -> bytes:
    """What comes next, b"" at the end. While nothing has come at all, the connection is idle."""
    listener, stream = connection.listener, connection.stream
    try:
        while (data := stream.recv(limit)) is None:
            if not connection.early:
                listener.idle[connection.fiber] = False
            await stream.readable
    finally:
        listener.idle.pop(connection.fiber, None)
    return data
