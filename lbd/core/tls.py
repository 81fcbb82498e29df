"""TLS over any Stream, as a Stream.

Theory. OpenSSL works on two buffers in memory (BIOs), not on the socket: so one system call reads as many records as there are,
where OpenSSL itself would make two for each; nothing asks a socket that is known to be drained; and a stream in memory will do.
docs/decisions.md has the measurement. What a TlsStream is made from, `raw`, still does the calls; its events come here.

- `may_read` means that recv() is worth a try: the socket has something, or what it gave has not been looked at to the end.
- send() keeps the promise that what it counts has been handed to the kernel. A record that the kernel took only in part was
  encrypted for good; until the rest of it has gone its bytes do not count, and the next send() must begin with the same ones.
- An end without close_notify may be anybody's doing: ended_whole() is false then, and a body that only the end delimits is not
  known to be whole (RFC 9112 9.8).
- Nothing asks for a handshake by itself: `await handshake()` comes before the first recv() or send().
"""

from __future__ import annotations

import errno
import os
from ssl import MemoryBIO, SSLError, SSLWantReadError, SSLZeroReturnError
from typing import TYPE_CHECKING

from lbd.core.reactor import Pollable
from lbd.core.stream import Stream
from lbd.core.tls_error import TlsError, translated

if TYPE_CHECKING:
    from ssl import SSLContext, SSLObject, SSLSession

__all__ = ["SessionKeeper", "TlsStream"]

RECORD = 16384  # bytes of plain text in one record, at most (RFC 8446 5.1)
HEADER, LONGEST = 5, 5 + 16384 + 2048  # bytes of a record's header, and of a record as TLS 1.2 may have it (RFC 5246 6.2.3)
SILENT = 64  # records in a row that may be without content before others get a turn
CHUNK = 65536  # bytes that are encrypted before the kernel is asked to take them
EPOLLIN, EPOLLOUT = 0x001, 0x004


class SessionKeeper:
    """What a later connection to the same place needs in order to be spared half the handshake; one for each place and SSLContext."""

    __slots__ = ("session",)

    def __init__(self) -> None:
        self.session: SSLSession | None = None


class TlsStream(Stream):
    """Takes `raw` over. `received` is what was read from it already; `name` is whom a client asks for, "" for a server.

    `ssl` tells of the handshake: version(), cipher(), selected_alpn_protocol(), getpeercert().
    """

    __slots__ = (
        "_ahead", "_at", "_has_ended", "_incoming", "_is_broken", "_is_ending", "_is_open", "_is_part_read", "_is_shut", "_keeper",
        "_missing", "_outgoing", "_owed", "_plain", "_raw", "_unsent", "_was_told", "ssl",
    )  # fmt: skip

    can_splice = False

    def __init__(self, raw: Stream, context: SSLContext, name: str, keeper: SessionKeeper | None, received: bytes) -> None:
        Pollable.__init__(self, raw.reactor, -1)
        self.peer = raw.peer
        self._raw = raw
        self._incoming, self._outgoing = MemoryBIO(), MemoryBIO()
        self._keeper = keeper
        session = keeper.session if keeper is not None else None
        self.ssl: SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_side=not name, server_hostname=name or None, session=session
        )
        self._ahead = received  # read from `raw`; OpenSSL gets one record after the other, or it would keep buffers for all of it
        self._at = 0  # how much of that it has got
        self._missing = 0  # what is still to come of the record at hand
        self._is_part_read = False  # of the record before, something is left
        self._plain = b""  # read while somebody asked for something else
        self._unsent: bytes | memoryview = b""  # encrypted, and not with the kernel yet
        self._owed = 0  # plain bytes in there that no send() has counted
        self._is_open = False  # the handshake is done
        self._is_broken = False  # not by the network but in TLS itself: nothing more can be said
        self._is_ending = False  # close_notify waits in _unsent; then comes the end of the stream
        self._is_shut = False  # we have said, or will say, that we are done
        self._has_ended = False  # the other side has
        self._was_told = False  # by close_notify
        self.may_write = raw.may_write
        self.hung_up, self.broken = raw.hung_up, raw.broken
        raw.hand_over(self)

    def happened(self, events: int) -> None:
        raw = self._raw
        Pollable.happened(raw, events)
        if self._unsent and raw.may_write and not self._push():
            events &= ~EPOLLOUT
        Pollable.happened(self, events)

    def _push(self) -> bool:
        """Sends what waits; False when some of it still does. Whatever is wrong, the next send() meets too."""
        try:
            if not self._flush():
                return False
            if self._is_ending:
                self._raw.send_eof()
        except OSError:
            pass
        return True

    async def handshake(self) -> None:
        """TlsError: there will be none. OSError: the connection broke. The deadline is the fiber's."""
        while not self._shake():
            while not self._feed(RECORD):
                await self.readable
            if self._has_ended:
                raise TlsError("EOF", "closed in the middle of the handshake")
        self._is_open = True

    def _shake(self) -> bool:
        """A step of the handshake; False when it takes more from the other side."""
        try:
            self.ssl.do_handshake()
        except SSLWantReadError:
            self._flush()
            return False
        except SSLError as error:
            raise self._failed(error) from None
        self._flush()
        return True

    def _failed(self, error: SSLError) -> TlsError:
        """In our words; the other side is told by an alert."""
        self._is_broken = True
        try:
            self._flush()
        except OSError:
            pass
        return translated(error)

    # Receiving

    def recv(self, limit: int) -> bytes | None:
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if not self.may_read:
            return None
        if self._plain:
            data, self._plain = self._plain[:limit], self._plain[limit:]
            return data
        first = self._next(limit)
        if first is None:
            return None
        if limit > RECORD and not self._has_ended and (self._is_part_read or self._has_whole_record()):
            first = self._join(first, limit)
        if not (self._is_part_read or self._has_ended or self._has_whole_record()):
            self.may_read = self._raw.may_read
        if self._keeper is not None:  # tickets come no later than the first answer
            self._keeper.session = self.ssl.session
            self._keeper = None
        return first

    def _next(self, limit: int) -> bytes | None:
        """Of the next record that says something to us; b"" at the end."""
        for _ in range(SILENT):
            if not self._is_part_read:
                if self._has_ended:
                    return b""
                if not self._feed(limit):
                    return None
                if self._has_ended:
                    return b""
            data = self._read(min(limit, RECORD))
            if data is not None:
                return data
        self.may_read = False
        self.reactor.announce(self, EPOLLIN)  # who sends us records without content does not keep others waiting
        return None

    def _join(self, first: bytes, limit: int) -> bytes:
        """With what is there in other records, as far as the limit goes."""
        parts, room = [first], limit - len(first)
        while room > 0 and not self._has_ended and (self._is_part_read or self._has_whole_record()):
            if not self._is_part_read:
                self._feed(limit)
            more = self._read(min(room, RECORD))
            if more is None:
                break
            parts.append(more)
            room -= len(more)
        return b"".join(parts)

    def _feed(self, limit: int) -> bool:
        """Gives OpenSSL one record; False when there is no whole one. An end makes `_has_ended` true."""
        while True:
            left = len(self._ahead) - self._at
            if self._missing == 0 and left:
                self._missing = self._record_size(left)
            if self._missing and left:
                taken = min(self._missing, left)
                whole = taken == len(self._ahead)
                self._incoming.write(self._ahead if whole else memoryview(self._ahead)[self._at : self._at + taken])
                self._at += taken
                left -= taken
                self._missing -= taken
                if left == 0:
                    self._ahead, self._at = b"", 0
                if self._missing == 0:
                    return True
            data = self._raw.recv(max(limit, RECORD))
            if data is None:
                self.may_read = False
                return False
            if not data:
                self._has_ended = True
                return True
            self._ahead = self._ahead[self._at :] + data if left else data
            self._at = 0

    def _record_size(self, left: int) -> int:
        """Of the next one, with its header; 0 when that is not whole. What is no record is OpenSSL's to complain of, all of it."""
        ahead, at = self._ahead, self._at
        if not 20 <= ahead[at] <= 24:
            return left
        if left < HEADER:
            return 0
        size = HEADER + (ahead[at + 3] << 8 | ahead[at + 4])
        return size if size <= LONGEST else left

    def _has_whole_record(self) -> bool:
        """There is one without a look at the socket."""
        left = len(self._ahead) - self._at
        if left == 0 or self._missing:
            return False
        return 0 < self._record_size(left) <= left

    def _read(self, size: int) -> bytes | None:
        try:
            data: bytes = self.ssl.read(size)
        except SSLWantReadError:
            return None
        except SSLZeroReturnError:  # close_notify, and we have sent ours
            data = b""
        except SSLError as error:
            raise self._failed(error) from None
        if not data:
            self._has_ended = self._was_told = True
        # Less than asked for is the rest of its record.
        self._is_part_read = len(data) == size and self.ssl.pending() > 0
        return data

    def ended_whole(self) -> bool:
        return self._was_told

    # Sending

    def send(self, data: bytes | memoryview) -> int:
        if self.is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self._is_shut:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if not self.may_write or (self._unsent and not self._flush()):
            return 0
        size = len(data)
        sent = min(size, self._owed)
        self._owed -= sent
        while sent < size:
            chunk = data if sent == 0 and size <= CHUNK else data[sent : sent + CHUNK]
            if not self._send_encrypted(self._encrypt(chunk)):
                self._owed = len(chunk)
                break
            sent += len(chunk)
        return sent

    def send_gathered(self, parts: list[bytes]) -> int:
        return self.send(b"".join(parts))

    def _encrypt(self, data: bytes | memoryview) -> list[bytes]:
        """A record at a time, so that OpenSSL's buffer, which never shrinks, does not grow beyond one."""
        size, written = len(data), 0
        records = []
        try:
            while written < size:
                written += self.ssl.write(data if size <= RECORD else data[written : written + RECORD])
                records.append(self._outgoing.read())
        except SSLError as error:
            raise self._failed(error) from None
        return records

    def _send_encrypted(self, records: list[bytes]) -> bool:
        """Nothing is unsent before. False when not everything was taken."""
        try:
            sent = self._raw.send(records[0]) if len(records) == 1 else self._raw.send_gathered(records)
        except OSError as error:
            raise self._last_words(error) from None
        if sent == sum(map(len, records)):
            return True
        self._unsent = memoryview(b"".join(records))[sent:]
        self.may_write = False
        return False

    def _flush(self) -> bool:
        """Hands to the kernel what is encrypted; False when it does not take everything."""
        if self._outgoing.pending:
            data = self._outgoing.read()
            self._unsent = bytes(self._unsent) + data if self._unsent else data
        unsent = self._unsent
        if unsent:
            try:
                sent = self._raw.send(unsent)
            except OSError as error:
                raise self._last_words(error) from None
            if sent < len(unsent):
                self._unsent = memoryview(unsent)[sent:]
                self.may_write = False
                return False
            self._unsent = b""
        return True

    def _last_words(self, error: OSError) -> OSError:
        """Why the other side has gone, if it has said so: with TLS 1.3 a client hears only after its handshake that it is refused."""
        if self._is_open and not self._is_broken and not self._plain:
            self.may_read = self._raw.may_read = True
            try:
                self._plain = self.recv(RECORD) or b""
                self.may_read = True
            except OSError as said:
                return said if isinstance(said, TlsError) else error
        return error

    # The end

    def send_eof(self) -> None:
        if self.is_closed or self._is_shut:
            return
        self._say_goodbye()
        if self._unsent:
            self._is_ending = True
        else:
            self._raw.send_eof()

    def _say_goodbye(self) -> None:
        """close_notify, as far as the socket takes it now."""
        if self._is_shut or not self._is_open or self._is_broken:
            return
        self._is_shut = True
        try:
            self.ssl.unwrap()
        except SSLError:
            pass  # it waits for the other side's, which comes to recv(), or is unhappy with what comes before that
        try:
            self._flush()
        except OSError:
            pass

    def untaken(self) -> int:
        return len(self._unsent) + self._raw.untaken()

    def is_fresh(self) -> bool:
        if self.hung_up or self.is_closed or self._has_ended:
            return False
        return not self.may_read or self._is_silent()

    def is_fresh_now(self) -> bool:
        if self.hung_up or self.is_closed or self._has_ended:
            return False
        if self._raw.is_fresh_now():
            return not self.may_read or self._is_silent()
        self.may_read = self._raw.may_read = True
        return self._is_silent()

    def _is_silent(self) -> bool:
        """Whether all that is there is TLS's own business: tickets for later connections come when they like."""
        try:
            data = self.recv(RECORD)
        except OSError:
            return False
        if data is None:
            return True
        self._plain = data
        self.may_read = True
        return False

    def close(self) -> None:
        if not self.is_closed:
            if not self._unsent:
                self._say_goodbye()
            self._raw.close()
            Pollable.close(self)

    def reset(self) -> None:
        if not self.is_closed:
            self._raw.reset()
            Pollable.close(self)
