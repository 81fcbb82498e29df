"""Connections come in: one fiber per listening socket."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

from lbd.proxy.connection import Connection

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Acceptor
    from lbd.proxy.listening import Listener

__all__ = ["accept_all", "serve_acceptor"]

# No descriptors or memory left: wait until some are given back; the connections wait in the kernel's queue meanwhile.
CAPACITY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
PAUSE = 0.1  # seconds
# One connection was gone before we took it, or the network told of an error of its own (accept(2)). Whatever else there is stays.
PASSING = {
    errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENONET, errno.EOPNOTSUPP,
}  # fmt: skip
STEPS = 32  # connections accepted before other fibers get a turn

log = logging.getLogger("lbd.proxy")


async def serve_acceptor(acceptor: Acceptor, listener: Listener) -> None:
    """Until the acceptor is closed."""
    reactor = acceptor.reactor
    steps = 0
    while not acceptor.is_closed:
        if listener.room.is_full:
            await wait_for_room(listener, reactor)
            continue
        try:
            if not accept_one(acceptor, listener):
                await acceptor.readable
                continue
        except OSError as error:
            if error.errno in CAPACITY:
                if listener.room.complains(reactor.now):
                    log.warning("listener %s cannot accept: %s; raise the limit of open files?", listener.policy.name, error.strerror)
                await reactor.sleep(PAUSE)
            elif error.errno not in PASSING and not acceptor.is_closed:
                log.error("listener %s cannot accept on %s: %s", listener.policy.name, acceptor.name, error.strerror)
                await reactor.sleep(10 * PAUSE)
        steps += 1
        if steps % STEPS == 0:
            await reactor.yield_turn()


async def wait_for_room(listener: Listener, reactor: Reactor) -> None:
    room = listener.room
    if room.complains(reactor.now):
        log.warning(
            "listener %s cannot accept: %d connections are here, as many as the limit of open files allows; raise it, "
            "or lower listener.%s.limits.connections: who comes waits until somebody leaves",
            listener.policy.name, room.taken, listener.policy.name,
        )  # fmt: skip
    await room.wait(reactor)


def accept_one(acceptor: Acceptor, listener: Listener) -> bool:
    """False when nobody waits."""
    stream = acceptor.accept()
    if stream is None:
        return False
    limit = listener.policy.limits.connections
    if limit and len(listener.fibers) >= limit:
        listener.rejected("too_many_connections")
        stream.close()
    else:
        Connection(listener, stream, acceptor.port)
    return True


def accept_all(acceptor: Acceptor, listener: Listener) -> None:
    """Empties the kernel's queue before the socket is closed: who waits there was promised a connection."""
    try:
        acceptor.may_read = True
        while accept_one(acceptor, listener):
            pass
    except OSError as error:
        log.warning("listener %s: connections were lost when it closed: %s", listener.policy.name, error.strerror)
