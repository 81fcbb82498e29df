"""What has gone up of a body that was still arriving, for another attempt: all of it, up to a limit, or nothing."""

from __future__ import annotations

__all__ = ["KeptBody"]


class KeptBody:
    """`is_lost`: something has gone up that is not here."""

    __slots__ = ("_limit", "_size", "is_lost", "pieces")

    def __init__(self, limit: int) -> None:
        self.pieces: list[bytes] = []
        self.is_lost = False
        self._limit = limit
        self._size = 0

    def add(self, piece: bytes) -> None:
        """Before it is sent: what has left the downstream and did not go up is needed most."""
        if not self.is_lost and self.takes(len(piece)):
            self._size += len(piece)
            if piece:
                self.pieces.append(piece)

    def takes(self, size: int) -> bool:
        """Whether there is room for so much more; if not, the rest is of no use either."""
        if not self.is_lost and self._size + size > self._limit:
            self.drop()
        return not self.is_lost

    def drop(self) -> None:
        """There is no use for it any more."""
        self.is_lost = True
        self.pieces = []

    def whole(self) -> bytes:
        """In one piece."""
        if len(self.pieces) > 1:
            self.pieces = [b"".join(self.pieces)]
        return self.pieces[0] if self.pieces else b""
