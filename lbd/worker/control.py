"""The control channel: objects and descriptors between the master and a worker, over one stream socket.

A frame is a header (length of the pickle, number of descriptors), the pickle, and the descriptors as SCM_RIGHTS. The kernel takes
at most 253 descriptors with one sendmsg, so more of them ride on the frame's first bytes, one call each. A descriptor arrives no
later than the byte it was sent with; so once a frame is whole, so are its descriptors.

Warning: a pickle can do anything to the one who reads it. A worker may believe its master. The master must not believe a worker,
which has less rights and talks to strangers: it gives `accepts`, the classes that may arrive, and every other name in a pickle is
refused before anything is built.
"""

from __future__ import annotations

import array
import io
import os
import pickle
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["FDS_AT_ONCE", "FRAME_LIMIT", "ControlChannel", "ControlError"]

FDS_AT_ONCE = 253  # SCM_MAX_FD of the kernel
FRAME_LIMIT = 64 * 1024 * 1024  # a configuration with 100,000 endpoints is 10 MB
FDS_LIMIT = 65536
READ = 65536
HEADER = struct.Struct("!II")
INT_SIZE = array.array("i").itemsize


class ControlError(Exception):
    """The other end broke the protocol; nothing it says can be trusted any more."""


class _Unpickler(pickle.Unpickler):
    """Builds objects of the accepted classes only."""

    def __init__(self, data: bytes, accepts: frozenset[type]) -> None:
        super().__init__(io.BytesIO(data))
        self._accepts = {(cls.__module__, cls.__qualname__): cls for cls in accepts}

    def find_class(self, module_name: str, global_name: str, /) -> type:
        try:
            return self._accepts[module_name, global_name]
        except KeyError:
            raise ControlError(f"a message names {module_name}.{global_name}, which is not expected here") from None


class ControlChannel:
    """One end. Sends and receives may run at the same time, one task each."""

    def __init__(self, sock: trio.socket.SocketType, accepts: Iterable[type] | None = None) -> None:
        self._socket = sock
        self._accepts = None if accepts is None else frozenset(accepts)
        self._buffer = bytearray()
        self._fds: deque[int] = deque()

    @classmethod
    def from_fd(cls, fd: int, accepts: Iterable[type] | None = None) -> ControlChannel:
        """Owns the descriptor from now on."""
        os.set_inheritable(fd, False)
        return cls(trio.socket.socket(fileno=fd), accepts)

    async def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """The descriptors stay the caller's. trio.BrokenResourceError: nobody is at the other end."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        if len(data) > FRAME_LIMIT:
            raise ControlError(f"a message of {len(data)} bytes; the limit is {FRAME_LIMIT}")
        rest = memoryview(HEADER.pack(len(data), len(fds)) + data)
        waiting = list(fds)
        try:
            while waiting:
                batch, waiting = waiting[:FDS_AT_ONCE], waiting[FDS_AT_ONCE:]
                # One byte carries a full batch, so that a frame is always long enough for all its descriptors.
                part = rest[:1] if waiting else rest
                rest = rest[await self._send_with(part, batch) :]
            while rest:
                rest = rest[await self._socket.send(rest) :]
        except OSError as error:
            raise trio.BrokenResourceError("the other end of the control channel is gone") from error

    async def _send_with(self, part: memoryview, fds: list[int]) -> int:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
        return await self._socket.sendmsg([part], [rights])

    async def receive(self) -> tuple[object, list[int]] | None:
        """The next message and its descriptors, which are the caller's now; None when the other end is gone.

        ControlError: what came is not a message.
        """
        while (frame := self._take_frame()) is None:
            if not await self._read():
                return None
        data, count = frame
        fds = [self._fds.popleft() for _ in range(count)]
        try:
            return self._load(data), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _take_frame(self) -> tuple[bytes, int] | None:
        if len(self._buffer) < HEADER.size:
            return None
        length, count = HEADER.unpack_from(self._buffer)
        if length > FRAME_LIMIT or count > FDS_LIMIT:
            raise ControlError(f"a message of {length} bytes and {count} descriptors")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        if len(self._fds) < count:
            raise ControlError(f"a message announces {count} descriptors, {len(self._fds)} came")
        data = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return data, count

    def _load(self, data: bytes) -> object:
        try:
            return pickle.loads(data) if self._accepts is None else _Unpickler(data, self._accepts).load()
        except ControlError:
            raise
        except Exception as error:  # a pickle may fail in any way it likes
            raise ControlError(f"a message that cannot be read: {error!r}") from error

    async def _read(self) -> bool:
        room = socket.CMSG_SPACE(FDS_AT_ONCE * INT_SIZE)
        try:
            data, ancillary, flags, _ = await self._socket.recvmsg(READ, room, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return False
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds = array.array("i")
                fds.frombytes(payload[: len(payload) - len(payload) % INT_SIZE])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:
            raise ControlError("descriptors were lost on the way: the process has no room for more (ulimit -n)")
        self._buffer += data
        return bool(data)

    def close(self) -> None:
        """Idempotent. Descriptors that came without being asked for are closed too."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.popleft())
