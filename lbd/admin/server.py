"""The admin listener: h11 over trio, one task per connection.

It is small on purpose and bounded everywhere: connections, the size of a request, the time for it, the time for its answer. What
goes wrong in one connection is caught in one place, logged, answered with 500 where it still can be, and ends that connection
only. When all CONNECTION_LIMIT places are taken, the connection that owes us a request for the longest time makes room: neither a
scraper that keeps its connection for the next scrape nor one that never finishes its request keeps a probe of /healthz out.
"""

from __future__ import annotations

import logging
import re
import socket
import struct
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

import h11
import trio

from lbd.admin.pages import Answer, Pages, Request, refuse

if TYPE_CHECKING:
    from lbd.admin.view import AdminView

__all__ = ["serve_admin"]

CONNECTION_LIMIT = 64  # scrapers and operators are few; more is a mistake or an attack
IDLE_TIMEOUT = 15.0  # between requests
REQUEST_TIMEOUT = 10.0  # from a request's first byte to its last
SEND_TIMEOUT = 30.0  # for a whole answer, which is some hundred kilobytes at most
LINGER_TIMEOUT = 1.0  # after our last byte: closing on unread bytes would reset the connection and destroy the answer on its way
HEAD_LIMIT = 16 * 1024
BODY_LIMIT = 64 * 1024  # a command is some hundred bytes
CHUNK = 16 * 1024
ORIGIN = re.compile(r"^https?://[^/?]*", re.IGNORECASE)  # of a target in absolute form, which any server must take (RFC 9112 3.2.2)
UNREAD = Request("GET", "/")  # stands for one that could not be read

logger = logging.getLogger("lbd.admin")


async def serve_admin(
    sockets: list[socket.socket],  # noqa: TID251 - listening sockets, opened by the master
    token: str,
    view: AdminView,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until cancelled, then closes the sockets; `started()` as soon as connections are accepted."""
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    house = _Admin(Pages(view, token))
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, house.serve, listeners)
        task_status.started()
        await trio.sleep_forever()


class _BodyTooLarge(Exception):
    pass


class _Admin:
    """All connections of one admin listener."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages
        self.open = 0
        self.waiting: dict[_Connection, trio.CancelScope] = {}  # those that owe us a request, longest first

    async def serve(self, stream: trio.abc.HalfCloseableStream) -> None:
        """One connection, from its first byte to its end."""
        connection = _Connection(stream, self)
        self.open += 1
        try:
            if self.open > CONNECTION_LIMIT and not self._make_room():
                await connection.turn_away()
                return
            await connection.serve()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            logger.debug("an admin connection was broken off")
        except trio.TooSlowError:
            logger.info("an admin connection was too slow and was closed")
        except Exception:
            logger.exception("an admin connection failed in lbd itself")
            await connection.apologise()
        finally:
            self.open -= 1
            await trio.aclose_forcefully(stream)

    def _make_room(self) -> bool:
        """Ends the connection that has waited longest; False when all of them are at work."""
        for connection, scope in self.waiting.items():
            del self.waiting[connection]
            scope.cancel()
            return True
        return False


class _Connection:
    """One downstream of the admin listener."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, admin: _Admin) -> None:
        self.stream = stream
        self.admin = admin
        self.codec = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self.is_head = False  # the request in hand: its answer has no body, whatever goes wrong
        self.is_unix = isinstance(stream, trio.SocketStream) and stream.socket.family == socket.AF_UNIX
        self.who = who_asks(stream)

    async def serve(self) -> None:
        """Requests one after the other, until either side has enough."""
        while (received := await self._receive()) is not None:
            request, refusal = received
            # Pages have their own sense of time: a reload may take long.
            answer = refusal or await self.admin.pages.answer(request)
            await self._send(answer)
            if self.codec.our_state is not h11.DONE or self.codec.their_state is not h11.DONE:
                break
            self.codec.start_next_cycle()
            self.is_head = False
        await self._linger()

    async def _receive(self) -> tuple[Request, Answer | None] | None:
        """The next request, with the answer when it is refused unread; None when none comes, or the place is wanted."""
        with trio.CancelScope() as scope:
            self.admin.waiting[self] = scope
            try:
                if not await self._wait_for_request():
                    return None
                with trio.fail_after(REQUEST_TIMEOUT):
                    return await self._read_request(), None
            except h11.RemoteProtocolError as error:
                return UNREAD, refuse(UNREAD, error.error_status_hint, f"the request is not HTTP/1.1: {error}")
            except trio.TooSlowError:
                return UNREAD, refuse(UNREAD, 408, f"no whole request within {REQUEST_TIMEOUT:g} s")
            except _BodyTooLarge:
                return UNREAD, refuse(UNREAD, 413, f"no page here takes a body above {BODY_LIMIT} bytes")
            finally:
                self.admin.waiting.pop(self, None)
        return None

    async def turn_away(self) -> None:
        answer = Answer(503, "text/plain; charset=utf-8", f"all {CONNECTION_LIMIT} admin connections are at work\n".encode())
        await self._send(answer)

    async def apologise(self) -> None:
        """After a bug of ours: 500, if nothing has been said yet and the connection still takes it."""
        if self.codec.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        answer = Answer(500, "text/plain; charset=utf-8", b"a bug in lbd: the log has a trace\n")
        try:
            await self._send(answer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            logger.debug("the downstream did not wait for the apology")

    async def _wait_for_request(self) -> bool:
        """The first bytes of a request have come; False when the time is up or the other side has gone."""
        if self.codec.trailing_data[0]:  # pipelined
            return True
        with trio.move_on_after(IDLE_TIMEOUT):
            data = bytes(await self.stream.receive_some(CHUNK))
            self.codec.receive_data(data)
            return bool(data)
        return False

    async def _read_request(self) -> Request:
        """Head and body."""
        head = await self._next_event()
        assert isinstance(head, h11.Request)
        self.is_head = head.method == b"HEAD"
        if b"100-continue" in dict(head.headers).get(b"expect", b"").lower():
            await self.stream.send_all(self.codec.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > BODY_LIMIT:
                raise _BodyTooLarge
        path, _, query = ORIGIN.sub("", head.target.decode("ascii")).partition("?")
        fields = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
        return Request(head.method.decode("ascii"), path or "/", query, fields, self.is_unix, bytes(body), self.who)

    async def _next_event(self) -> h11.Event:
        while (event := self.codec.next_event()) is h11.NEED_DATA:
            self.codec.receive_data(bytes(await self.stream.receive_some(CHUNK)))
        if not isinstance(event, h11.Event) or isinstance(event, h11.ConnectionClosed):
            raise trio.BrokenResourceError("closed in the middle of a request")
        return event

    async def _send(self, answer: Answer) -> None:
        fields = [
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            ("Date", formatdate(usegmt=True)),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            *answer.fields,
        ]
        if self.codec.their_state is not h11.DONE:  # the rest of the request is not worth reading
            fields.append(("Connection", "close"))
        reason = HTTPStatus(answer.status).phrase  # for people with curl -i
        data = self.codec.send(h11.Response(status_code=answer.status, reason=reason, headers=fields)) or b""
        if answer.body and not self.is_head:
            data += self.codec.send(h11.Data(data=answer.body)) or b""
        data += self.codec.send(h11.EndOfMessage()) or b""
        with trio.fail_after(SEND_TIMEOUT):
            await self.stream.send_all(data)

    async def _linger(self) -> None:
        """Our end first, then what the other side still sends, for a moment."""
        await self.stream.send_eof()
        with trio.move_on_after(LINGER_TIMEOUT):
            while await self.stream.receive_some(CHUNK):
                pass


def who_asks(stream: trio.abc.Stream) -> str:
    """For the log, and for whoever reads who has drained this: a user by its number, since finding its name may ask the network."""
    if not isinstance(stream, trio.SocketStream):
        return "somebody"
    if stream.socket.family != socket.AF_UNIX:
        try:
            return str(stream.socket.getpeername()[0])
        except OSError:
            return "somebody"
    _, uid, _ = struct.unpack("3i", stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return "root" if uid == 0 else f"uid {uid}"
