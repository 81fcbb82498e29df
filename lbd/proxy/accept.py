"""Connections come in: one fiber per listening socket."""

from __future__ import annotations

import errno
import logging
from typing import TYPE_CHECKING

import trio

from lbd.proxy.connection import Connection
from lbd.proxy.eviction import make_room, make_room_anywhere
from lbd.proxy.reasons import REASONS, failure

if TYPE_CHECKING:
    from lbd.core.reactor import Reactor
    from lbd.core.stream import Acceptor, Stream
    from lbd.errors import ProxyError
    from lbd.proxy.listening import Listener
    from lbd.proxy.room import Room

__all__ = ["accept_all", "serve_acceptor"]

# No descriptors or memory left: wait until some are given back; the connections wait in the kernel's queue meanwhile.
CAPACITY = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
OF_MEMORY = {errno.ENOMEM, errno.ENOBUFS}
PAUSE = 0.1  # seconds
# One connection was gone before we took it, or the network told of an error of its own (accept(2)). Whatever else there is stays.
PASSING = {
    errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENONET, errno.EOPNOTSUPP,
}  # fmt: skip
STEPS = 32  # connections accepted before other fibers get a turn
SHARED = ("unix:", "fd:")  # one socket for all workers; of others the kernel gives each its own, and spreads connections itself
GRACE = 0.002  # seconds that a connection is left to workers with fewer; as long again while they do take some
ROUNDS = 8  # of that at most
AT_ONCE = 4  # connections that are taken then, if nobody else has

log = logging.getLogger("lbd.proxy")


async def serve_acceptor(acceptor: Acceptor, listener: Listener) -> None:
    """Until the acceptor is closed."""
    reactor = acceptor.reactor
    pause = Pause(listener)
    is_shared = acceptor.name.startswith(SHARED)
    steps = ours = 0
    while not acceptor.is_closed:
        if listener.room.is_full:
            await wait_for_room(listener, reactor)
            continue
        if is_shared and ours == 0 and acceptor.may_read and listener.room.has_more_than_its_share:
            await leave_to_others(listener.room, reactor)
            ours = AT_ONCE
            continue  # a while has passed
        try:
            if not accept_one(acceptor, listener):
                ours = 0
                await acceptor.readable
                continue
            ours = max(0, ours - 1)
            pause.end(reactor.now)
        except OSError as error:
            if error.errno in CAPACITY:
                pause.begin(
                    reactor.now,
                    "memory" if error.errno in OF_MEMORY else "descriptors",
                    f"{error.strerror}; raise the limit of open files?",
                )
                make_room_anywhere(listener.room, reactor.now)  # upstream connections may have taken the last descriptor
                await reactor.sleep(PAUSE)
            elif error.errno not in PASSING and not acceptor.is_closed:
                log.error("listener %s cannot accept on %s: %s", listener.policy.name, acceptor.name, error.strerror)
                await reactor.sleep(10 * PAUSE)
        steps += 1
        if steps % STEPS == 0:
            await reactor.yield_turn()


async def leave_to_others(room: Room, reactor: Reactor) -> None:
    """Who waits at a socket that all workers share: until they take no more, because nobody waits or because they cannot."""
    for _ in range(ROUNDS):
        before = room.elsewhere
        await reactor.in_trio(trio.sleep, GRACE)  # a deadline of the reactor's own is coarser
        if room.elsewhere <= before:
            return


class Pause:
    """A time in which nobody can be accepted: counted once, told of when it begins, where it is time for that, and then when it ends."""

    __slots__ = ("_began", "_is_told", "_listener")

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._began = -1.0
        self._is_told = False

    def begin(self, now: float, cause: str, sentence: str) -> None:
        """It may have begun already."""
        if self._began >= 0:
            return
        self._began = now
        self._listener.accept_paused(cause)
        self._is_told = self._listener.room.complains(now)
        if self._is_told:
            log.warning("listener %s cannot accept: %s", self._listener.policy.name, sentence)

    def end(self, now: float) -> None:
        if self._began < 0:
            return
        if self._is_told:
            log.info("listener %s accepts again, after %.1f s", self._listener.policy.name, now - self._began)
        self._began = -1.0


async def wait_for_room(listener: Listener, reactor: Reactor) -> None:
    """Until there is room for one more; it is made, where somebody is idle."""
    room, pause = listener.room, Pause(listener)
    while room.is_full:
        if not room.may_accept:
            pause.begin(reactor.now, "memory", "memory is short; who comes waits until there is more")
        elif room.is_short and not make_room_anywhere(room, reactor.now):
            pause.begin(
                reactor.now,
                "descriptors",
                f"{room.taken} connections are here, as many as the limit of open files allows; raise it, or lower "
                f"listener.{listener.policy.name}.limits.connections: who comes waits until somebody leaves",
            )
        await room.wait(reactor, PAUSE)
    pause.end(reactor.now)


def accept_one(acceptor: Acceptor, listener: Listener) -> bool:
    """False when nobody waits."""
    stream = acceptor.accept()
    if stream is None:
        return False
    now = acceptor.reactor.now
    limit = listener.policy.limits.connections
    if listener.crowd.is_full_for(stream.peer):
        refuse(listener, stream, failure("too_many_from_address", f"it has {listener.crowd.limit} connections already"), now)
    elif limit and len(listener.fibers) - len(listener.leaving) >= limit and not make_room(listener, now):
        refuse(listener, stream, failure("too_many_connections", f"{limit} are here, and none of them is idle"), now)
    else:
        Connection(listener, stream, acceptor.port)
    return True


def refuse(listener: Listener, stream: Stream, error: ProxyError, now: float) -> None:
    """Before a word is exchanged."""
    listener.turned_away(stream.peer, 0, error, 0.0, now)
    if count := listener.complaints.count(error.reason, now):
        log.warning(
            "listener %s refuses connections: %s; %d since it was last said, the latest from %s. %s",
            listener.policy.name, REASONS[error.reason].meaning, count, stream.peer, REASONS[error.reason].remedy,
        )  # fmt: skip
    stream.close()


def accept_all(acceptor: Acceptor, listener: Listener) -> None:
    """Empties the kernel's queue before the socket is closed: who waits there was promised a connection."""
    try:
        acceptor.may_read = True
        while accept_one(acceptor, listener):
            pass
    except OSError as error:
        log.warning("listener %s: connections were lost when it closed: %s", listener.policy.name, error.strerror)
