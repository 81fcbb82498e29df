"""Why a message is refused: a word for machines, a status for its sender, a sentence for people.

Our parsers accept less than h11 does. What h11 refuses as well is refused in its words, so that the reasons people find in their
logs are known ones; h11 is asked only when the verdict has fallen already, and cannot change it.

Reasons: bad_request, bad_host, bad_framing, target_too_long, head_too_large, unsupported (a method or a transfer coding),
bad_version; of bodies bad_chunk, bad_trailers, incomplete.
"""

from __future__ import annotations

import re

import h11

from lbd.wire.grammar import FIELD_LINE, NOT_TEXT, TOKENS

__all__ = ["HeadLimits", "WireError", "explained", "explained_chunk", "field_error", "first_line_error", "malformed", "target_error"]

CHUNKED_HEAD = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
LONGEST_METHOD = 32
BUFFER = re.compile(r"""bytearray\((b'(?:[^'\\]|\\.)*'|b"(?:[^"\\]|\\.)*")\)""")  # what h11 quotes is a piece of its own buffer
MOST_WORDS = 200  # h11 quotes the line it refuses, however long


class WireError(Exception):
    """Not HTTP as we speak it. `status` is what a request's sender is told."""

    def __init__(self, reason: str, status: int, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.message = message

    def __repr__(self) -> str:
        return f"WireError({self.reason!r}, {self.status}, {self.message!r})"


class HeadLimits:
    """Bytes of a whole head (and of the trailers, and of a body's chunk extensions), bytes of a target, number of fields."""

    __slots__ = ("fields", "head", "target")

    def __init__(self, head: int, target: int, fields: int) -> None:
        self.head = head
        self.target = target
        self.fields = fields


def explained(error: WireError, head: bytes, is_request: bool) -> WireError:
    """The same refusal, in h11's words where h11 refuses this head too."""
    verdict = h11_verdict(head, is_request)
    if verdict is None:
        return error
    message = words_of(verdict)
    if len(message) > MOST_WORDS:
        message = message[:MOST_WORDS] + "..."
    return WireError(error.reason, verdict.error_status_hint, message)


def words_of(verdict: h11.RemoteProtocolError) -> str:
    """Without the name of a type of Python's around what it quotes."""
    return BUFFER.sub(r"\1", str(verdict))


def explained_chunk(error: WireError, chunk: bytes) -> WireError:
    """As explained(), of a body that goes on with `chunk`."""
    return explained(error, CHUNKED_HEAD + chunk, is_request=True)


def h11_verdict(data: bytes, is_request: bool) -> h11.RemoteProtocolError | None:
    connection = h11.Connection(h11.SERVER if is_request else h11.CLIENT, max_incomplete_event_size=len(data) + 1)
    if not is_request:
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.receive_data(data)
    try:
        while isinstance(connection.next_event(), h11.Request | h11.Data):
            pass
    except h11.RemoteProtocolError as verdict:
        return verdict
    return None


def malformed(head: bytes, first_line: re.Pattern[bytes]) -> WireError:
    """Which line of a head is wrong, and how."""
    line, _, rest = head.partition(b"\r\n")
    match = first_line.fullmatch(line)
    if match is None or match["version"] not in (b"1.0", b"1.1"):
        return first_line_error(line)
    return field_error(rest)


def first_line_error(line: bytes) -> WireError:
    version = line.rpartition(b" ")[2] if not line.startswith(b"HTTP/") else line.partition(b" ")[0]
    if len(version) == 8 and version.startswith(b"HTTP/") and version[6:7] == b"." and version not in (b"HTTP/1.0", b"HTTP/1.1"):
        return WireError("bad_version", 505, f"{version.decode('latin-1')} is not spoken here, only HTTP/1.1 and HTTP/1.0")
    token = TOKENS.match(line)
    if token is not None and token.end() > LONGEST_METHOD:
        return WireError("unsupported", 501, f"a method of more than {LONGEST_METHOD} characters")
    return WireError("bad_request", 400, f"not the first line of a message: {line[:MOST_WORDS]!r}")


def field_error(lines: bytes, reason: str = "bad_request") -> WireError:
    """The first thing that is wrong with a block of field lines; it may end in the middle of a line, or with the empty one."""
    good = 0
    while match := FIELD_LINE.match(lines, good):
        good = match.end()
    line = lines[good:].partition(b"\r\n")[0]
    name = TOKENS.match(line)
    if line.startswith((b" ", b"\t")):
        fault = "a field folded over two lines"
    elif (bad := NOT_TEXT.search(line)) is not None:
        fault = f"the control byte {bad[0]!r}"
    elif name is not None and line[name.end() : name.end() + 1] in (b" ", b"\t"):
        fault = "white space before the colon"
    else:
        fault = "not a header field"
    return WireError(reason, 400, f"{fault}: {line[:MOST_WORDS]!r}")


def target_error(limits: HeadLimits) -> WireError:
    return WireError("target_too_long", 414, f"the target is above {limits.target} bytes")
