"""Listening sockets that others hold too: the master, the next master. Closing ours ends nothing but our own part in them."""

from __future__ import annotations

import os
import socket

import trio

from lbd.core.stream import Acceptor, Stream
from tests.core.reactors import running


async def test_a_closed_acceptors_number_hears_nothing_of_its_socket() -> None:
    """An epoll registration lives as long as the open file, which is not ours alone (epoll(7))."""
    left, right = socket.socketpair()
    right.setblocking(False)
    with left, right, socket.create_server(("127.0.0.1", 0)) as listening:
        async with running() as reactor:
            acceptor = Acceptor(reactor, os.dup(listening.fileno()), "test")
            number = acceptor.fd
            acceptor.close()
            reactor.rouse()
            await trio.sleep(0.01)
            os.dup2(right.fileno(), number)
            stream = Stream(reactor, number, "left")
            assert stream.recv(10) is None
            await trio.sleep(0.01)
            assert not stream.may_read
            with socket.create_connection(listening.getsockname()):
                await trio.sleep(0.01)
                assert not stream.may_read, "woken by the socket that had the number before"
