"""HTTP/1 bodies: where one ends, and what is in it.

A BodyReader takes bytes as they come and gives back payload. Chunks lose their borders and their extensions here (RFC 9112,
7.1.1: a recipient must ignore those it does not know, and we know none); what follows the body is `leftover`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.wire.grammar import CHUNK_LINE, CHUNK_START, NOT_TEXT
from lbd.wire.refusal import WireError, explained_chunk, field_error
from lbd.wire.strict import parse_trailers

if TYPE_CHECKING:
    from lbd.wire.message import Headers, ResponseHead
    from lbd.wire.refusal import HeadLimits

__all__ = ["CHUNKED", "LENGTH", "NO_BODY", "UNTIL_CLOSE", "BodyReader", "response_framing"]

NO_BODY, LENGTH, CHUNKED, UNTIL_CLOSE = 0, 1, 2, 3
LONGEST_LINE = 1024  # of a chunk's size and extensions
LONGEST_SIZE = 15  # hexadecimal digits
FREE, FREE_PER_BYTE = 16, 2  # bytes of a chunk's border that need no excuse
HEX = bytes(int(chr(byte), 16) if chr(byte) in "0123456789abcdefABCDEF" else 255 for byte in range(256))  # a digit's value
SIZE, DATA, DATA_END, TRAILERS = 0, 1, 2, 3  # what of a chunked body comes next


def response_framing(method: bytes, head: ResponseHead) -> int:
    """How the body of the response to such a request is delimited (RFC 9112, 6.3); with LENGTH it is head.content_length."""
    if method == b"HEAD" or head.status < 200 or head.status == 204 or head.status == 304:
        return NO_BODY
    if head.chunked:
        return CHUNKED
    return LENGTH if head.content_length >= 0 else UNTIL_CLOSE


class BodyReader:
    """`remaining` is what is left of a body of LENGTH; whoever moves some of it past the reader lowers it."""

    __slots__ = (
        "_excess", "_framing", "_left", "_length", "_limits", "_next", "_rest", "_searched", "done", "leftover", "remaining",
        "trailers",
    )  # fmt: skip

    def __init__(self, framing: int, length: int, limits: HeadLimits) -> None:
        self._framing = framing
        self._length = length
        self._limits = limits
        self.remaining = length if framing == LENGTH else 0
        self.done = framing == NO_BODY or (framing == LENGTH and length == 0)
        self.leftover = b""  # what came after the body; complete once `done`
        self.trailers: Headers | None = None
        self._next = SIZE
        self._left = 0  # of this chunk
        self._rest = b""  # the beginning of a line
        self._searched = 0  # how much of trailers' beginning there was at the last look
        self._excess = 0  # bytes of chunks' borders beyond what their payload justifies

    def feed(self, data: bytes) -> bytes:
        """The payload in this data, b"" when there is none. WireError: not a body."""
        if self.done:
            self.leftover += data
            return b""
        if self._framing == LENGTH:
            return self._feed_length(data)
        if self._framing == UNTIL_CLOSE:
            return data
        return self._feed_chunks(data)

    def feed_eof(self) -> None:
        """The stream has ended. WireError: too early."""
        if self.done:
            return
        if self._framing == LENGTH:
            received = self._length - self.remaining
            raise WireError("incomplete", 400, f"closed after {received} of {self._length} bytes of the body")
        if self._framing == CHUNKED:
            raise WireError("incomplete", 400, "closed before the last chunk of the body")
        self.done = True

    def _feed_length(self, data: bytes) -> bytes:
        size = len(data)
        if size < self.remaining:
            self.remaining -= size
            return data
        if size > self.remaining:
            self.leftover = data[self.remaining :]
            data = data[: self.remaining]
        self.remaining = 0
        self.done = True
        return data

    def _feed_chunks(self, data: bytes) -> bytes:
        if self._rest:
            data = self._rest + data
            self._rest = b""
        pieces: list[bytes] = []
        size = len(data)
        at = 0
        while at < size and not self.done:
            if self._next == DATA:
                end = at + self._left
                if end > size:
                    end = size
                pieces.append(data[at:end])
                self._left -= end - at
                at = end
                if self._left == 0:
                    self._next = DATA_END
                continue
            end = self._line_end(data, at)
            if end < 0:
                self._rest = data[at:]
                break
            at = end
        if self.done and at < size:
            self.leftover = data[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _line_end(self, data: bytes, at: int) -> int:
        """Takes what is not payload, from `at` on; the index after it, or -1 when it is not whole."""
        if self._next == SIZE:
            return self._take_size(data, at)
        if self._next == TRAILERS:
            return self._take_trailers(data, at)
        end = at + 2
        if end <= len(data) and data[at] == 13 and data[at + 1] == 10:
            self._next = SIZE
            return end
        if data[at:end] != b"\r":
            error = WireError("bad_chunk", 400, f"a chunk does not end where its size says: {data[at:end]!r}")
            raise explained_chunk(error, b"1\r\nx" + data[at:end])
        return -1

    def _take_size(self, data: bytes, at: int) -> int:
        """Most sizes are a few digits and a line end; with anything else the grammar decides."""
        end = at
        last = len(data) - 2
        left = 0
        while end <= last and HEX[data[end]] < 16:
            left = (left << 4) + HEX[data[end]]
            end += 1
            if end - at > LONGEST_SIZE:
                break
        if at < end <= last and end - at <= LONGEST_SIZE and data[end] == 13 and data[end + 1] == 10:
            self._left = left
            self._next = DATA if left else TRAILERS
            return end + 2
        return self._take_size_line(data, at)

    def _take_size_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\r\n", at, at + LONGEST_LINE)
        if end < 0:
            if len(data) - at >= LONGEST_LINE or not CHUNK_START.fullmatch(data, at):
                raise self._chunk_error(data, at)
            return -1
        match = CHUNK_LINE.fullmatch(data, at, end)
        if match is None:
            raise self._chunk_error(data, at)
        self._left = int(match[1], 16)
        # Go's rule (CVE-2023-39326): a total would end honest bodies that sign each of their chunks, and none would let a client send
        # kilobytes that nobody sees for each byte that somebody counts.
        self._excess = max(0, self._excess + end + 2 - at - FREE - FREE_PER_BYTE * self._left)
        if self._excess > self._limits.head:
            raise WireError("bad_chunk", 400, f"more than {self._limits.head} bytes of chunk extensions, for too little in the chunks")
        self._next = DATA if self._left else TRAILERS
        return end + 2

    def _chunk_error(self, data: bytes, at: int) -> WireError:
        line = data[at : at + LONGEST_LINE].partition(b"\n")[0]
        if len(line) >= LONGEST_LINE:
            return WireError("bad_chunk", 400, f"a chunk's size and extensions are above {LONGEST_LINE} bytes")
        return explained_chunk(WireError("bad_chunk", 400, f"not the size of a chunk: {line[:100]!r}"), line + b"\n")

    def _take_trailers(self, data: bytes, at: int) -> int:
        if at + 2 <= len(data) and data[at] == 13 and data[at + 1] == 10:
            self.done = True
            return at + 2
        look = at + max(0, self._searched - 3)
        end = data.find(b"\r\n\r\n", look) + 4
        if (end if end >= 4 else len(data)) - at > self._limits.head:
            raise WireError("bad_trailers", 431, f"the trailers are above {self._limits.head} bytes")
        if end < 4:
            if NOT_TEXT.search(data, look):
                raise field_error(data[at:], "bad_trailers")
            self._searched = len(data) - at
            return -1
        self.trailers = parse_trailers(data[at : end - 2], self._limits)
        self.done = True
        return end
