"""HTTP/2 as attackers speak it: frames made by hand, against a real lbd. Each attack has an end that can be told from outside.

For each: the connection ends with the right code, and words that say why; the log and the metrics say the same; memory stays where it
is; others are answered meanwhile; and little of it reaches the endpoint.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import pytest
from hpack.hpack import Encoder

from tests.support import procfs
from tests.support.http2 import Http2Socket
from tests.support.origins import ScriptedOrigin
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until, whole_lines
from tests.wire.http2_frames import (
    ACK,
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    POST,
    PREFACE,
    PRIORITY,
    REQUEST,
    SETTINGS,
    WITH_PRIORITY,
    block,
    headers,
    raw,
    reset,
    settings,
    window,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

WINDOW, STREAMS = 64 * 1024, 100  # of a stream; at a time on a connection
GREETING = PREFACE + settings() + raw(SETTINGS, ACK, 0)


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    port: int

    def memory(self) -> float:
        """MB."""
        return max(procfs.rss_of(pid) for pid in self.lbd.workers()) / 1e6

    def cpu(self) -> float:
        """Seconds."""
        return procfs.cpu_of(self.lbd.workers()).total

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in whole_lines(self.lbd.directory / "access.log")]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lbd")
    port, admin = free_ports(2)
    with ScriptedOrigin() as origin:
        text = f"""
[lbd]
workers = 1
[log]
access = "{directory}/access.log"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
timeouts = {{ body = "2s", linger = "1s", head = "4s" }}
[cluster.web]
endpoints = ["{origin.address}"]
"""
        with start_lbd(text, directory) as lbd:
            yield Lab(lbd, origin, port)
            assert lbd.metric("lbd_faults_total") == 0
            wait_until(lambda: lbd.metric("lbd_http2_streams") == 0, "the streams to end")


class Attacker:
    """A socket that says what it is told, and reads all the while unless it `is_deaf`."""

    def __init__(self, port: int, *, is_deaf: bool = False) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        if is_deaf:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.got = bytearray()
        self.is_over = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        if not is_deaf:
            self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)  # while a thread reads it, close() alone would end nothing
        self.socket.close()

    def _listen(self) -> None:
        try:
            while data := self.socket.recv(1 << 16):
                self.got += data
        except OSError:
            pass
        self.is_over.set()

    def say(self, data: bytes) -> bool:
        """Whether it could be said as a whole."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def flood(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            if not self.say(frame):
                return

    def frames(self) -> list[tuple[int, int, bytes]]:
        """(type, stream, payload) of what came whole."""
        found, at, got = [], 0, bytes(self.got)
        while at + 9 <= len(got) and at + 9 + (size := int.from_bytes(got[at : at + 3], "big")) <= len(got):
            found.append((got[at + 3], int.from_bytes(got[at + 5 : at + 9], "big"), got[at + 9 : at + 9 + size]))
            at += 9 + size
        return found

    def goaway(self) -> tuple[int, bytes]:
        """Code and words of the last one, once the connection is over."""
        assert self.is_over.wait(PATIENCE), "the connection is still open"
        goodbyes = [payload for kind, _, payload in self.frames() if kind == 7]
        assert goodbyes, "it ended without a word"
        return int.from_bytes(goodbyes[-1][4:8], "big"), goodbyes[-1][8:]


def encoded(fields: Sequence[tuple[bytes, bytes]], *, huffman: bool = False) -> bytes:
    """With the dynamic table in use."""
    return bytes(Encoder().encode(fields, huffman=huffman))


PSEUDO = [(name.encode(), value.encode()) for name, value in REQUEST]


def in_pieces(number: int, whole: bytes) -> bytes:
    """A header block that does not fit into one frame."""
    pieces = [whole[at : at + 16384] for at in range(0, len(whole), 16384)]
    frames = [raw(CONTINUATION, END_HEADERS if index == len(pieces) - 1 else 0, number, piece) for index, piece in enumerate(pieces)]
    return raw(HEADERS, 5 if len(pieces) == 1 else 1, number, pieces[0]) + b"".join(frames[1:])


def repeated(frame: bytes, times: int) -> list[bytes]:
    return [frame * 500] * (times // 500)


ASK, ASK_POST = block(REQUEST), block(POST)
ASK_SLOW, ASK_LARGE = (block([*REQUEST[:2], (":path", path), REQUEST[3]]) for path in ("/slow/1", "/bytes/1000000"))


def expanding(times: int) -> list[bytes]:
    """One field of 3,900 bytes, put into the table, then named again and again by a byte each: 50 of them are a head of 195 kB."""
    first = raw(HEADERS, 5, 1, encoded([*PSEUDO, (b"x-bomb", b"b" * 3900)]))
    again = ASK + b"\xbe" * 40  # 62: the newest entry
    return [first, *(raw(HEADERS, 5, number, again) for number in range(3, 2 * times, 2))]


OPEN = headers(1, POST, 4)
LARGE = ASK + b"\x10\x01x\xff\x81\xc1\x03" + b"\x18\xc6\x31\x8c\x63" * 11_520  # 92,160 times "a" in Huffman's code
TREE = b"".join(raw(PRIORITY, 0, n + 2, n.to_bytes(4, "big") + b"\xff") for n in range(1, 80_000, 2))
ON_ITSELF = [raw(HEADERS, 5 | WITH_PRIORITY, number, number.to_bytes(4, "big") + b"\0") for number in range(1, 4000, 2)]
BOMB = encoded([(b"x", b"y" * 4000)]) + b"\xbe" * 5000
UNHEARD = "streams too many, and SETTINGS that are never acknowledged"

IDLE = ENHANCE_YOUR_CALM, b"idle frames", "frames"
RESET = ENHANCE_YOUR_CALM, b"streams reset", "resets"
PIECES = ENHANCE_YOUR_CALM, b"too many pieces", "head"
# What is sent; and what it ends with: the code, of what the words speak, lbd_http2_floods_total's kind.
FLOODS: dict[str, tuple[list[bytes], tuple[int, bytes, str]]] = {
    "PING": (repeated(raw(PING, 0, 0, bytes(8)), 40_000), IDLE),
    "answers to PINGs that nobody sent": (repeated(raw(PING, ACK, 0, bytes(8)), 40_000), IDLE),
    "SETTINGS": (repeated(settings((4, 65535)), 40_000), IDLE),
    "SETTINGS without content": (repeated(settings(), 40_000), IDLE),
    "acknowledged SETTINGS": (repeated(raw(SETTINGS, ACK, 0), 40_000), IDLE),
    "windows of the connection": (repeated(window(0, 1), 40_000), IDLE),
    "windows of a stream": ([OPEN, *repeated(window(1, 1), 40_000)], IDLE),
    "windows of a stream that ended": ([headers(1), reset(1), *repeated(window(1, 1), 40_000)], IDLE),
    "empty DATA": ([OPEN, *repeated(raw(DATA, 0, 1), 40_000)], IDLE),
    "padding and no DATA": ([OPEN, *repeated(raw(DATA, 8, 1, b"\x03\0\0\0"), 40_000)], IDLE),
    "a tree of priorities": ([TREE], IDLE),
    "PRIORITY_UPDATE": (repeated(raw(0x10, 0, 0, bytes(4) + b"u=1"), 40_000), IDLE),
    "frames of unknown kinds": (repeated(raw(0x77, 0, 0, b"?"), 40_000), IDLE),
    "empty HEADERS": ([raw(HEADERS, 5, number) for number in range(1, 4000, 2)], RESET),
    "HEADERS that depend on themselves": (ON_ITSELF, RESET),
    "CONTINUATION": ([raw(HEADERS, 0, 1, ASK), *repeated(raw(CONTINUATION, 0, 1, b"\0"), 10_000)], PIECES),
    "empty CONTINUATION": ([raw(HEADERS, 0, 1), *repeated(raw(CONTINUATION, 0, 1), 10_000)], PIECES),
    "CONTINUATION as large as can be": ([raw(HEADERS, 0, 1), *[raw(CONTINUATION, 0, 1, bytes(16384))] * 100], PIECES),
    UNHEARD: ([raw(HEADERS, 4, number, ASK_POST) for number in range(1, 40_000, 2)], IDLE),
    "heads of references": (expanding(1000), IDLE),
    "a head that grows without end": ([in_pieces(1, BOMB)], (ENHANCE_YOUR_CALM, b"a head above", "head")),
    "crumbs of a cookie": ([in_pieces(n, ASK + block([("cookie", "a")]) * 900) for n in range(1, 1000, 2)], IDLE),
    "large heads in Huffman's code": ([in_pieces(n, LARGE) for n in range(1, 200, 2)], IDLE),
    "a table that is resized all the time": ([raw(HEADERS, 5, 1, b"\x20" * 16000)], (COMPRESSION_ERROR, b"cannot be decoded", "")),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood(lab: Lab, name: str) -> None:
    frames, (code, words, kind) = FLOODS[name]
    greeting = PREFACE + settings() if name == UNHEARD else GREETING
    before, memory, start = lab.lbd.metrics(), lab.memory(), len(lab.lines())
    with Http2Socket(lab.port) as others, Attacker(lab.port) as attacker:
        assert others.answer(others.get("/126")).status == 200
        attacker.say(greeting)
        attacker.flood(frames)
        assert others.answer(others.get("/126")).status == 200
        got, said = attacker.goaway()
        assert (got, words in said) == (code, True), said
        assert others.answer(others.get("/126")).status == 200
    reason = "http2_flood" if kind else "http2_error"
    assert counted(lab, before, f'lbd_rejected_total{{reason="{reason}"}}') == 1
    if kind:
        assert counted(lab, before, f'lbd_http2_floods_total{{kind="{kind}"}}') == 1
    if not counted(lab, before, 'lbd_refusals_unlogged_total{listener="web"}'):  # else the log has had enough of this second's refusals
        wait_until(lambda: any(line["reason"] == reason for line in lab.lines()[start:]), "the line in the log")
    assert lab.memory() - memory < 16


def counted(lab: Lab, before: dict[str, float], series: str) -> float:
    return lab.lbd.metrics().get(series, 0.0) - before.get(series, 0.0)


# Resets


def rapid_resets() -> Iterator[bytes]:
    """CVE-2023-44487: 100,000 of them."""
    for first in range(1, 200_000, 1000):
        yield b"".join(raw(HEADERS, 5, number, ASK) + reset(number) for number in range(first, first + 1000, 2))


def slow_resets() -> Iterator[bytes]:
    """In time for each request to be on its way upstream."""
    for number in range(1, 2000, 2):
        time.sleep(0.001)
        yield raw(HEADERS, 5, number, ASK_SLOW)
        time.sleep(0.001)
        yield reset(number)


def made_resets() -> Iterator[bytes]:
    """CVE-2025-8671: requests that are whole, and then wrong, in each way there is. lbd resets them itself."""
    faults = [
        lambda n: window(n, 0),
        lambda n: window(n, (1 << 31) - 1),
        lambda n: raw(DATA, 0, n, b"x"),
        lambda n: raw(HEADERS, 5, n, ASK),
        lambda n: raw(PRIORITY, 0, n, bytes(4)),
    ]
    for number in range(1, 20_000, 2):
        yield raw(HEADERS, 5, number, ASK_SLOW) + faults[number // 2 % len(faults)](number)


@pytest.mark.parametrize("frames", [rapid_resets, slow_resets, made_resets])
def test_resets(lab: Lab, frames: Callable[[], Iterator[bytes]]) -> None:
    memory, before, began, cpu = lab.memory(), len(lab.origin.received), time.monotonic(), lab.cpu()
    with Http2Socket(lab.port) as others, Attacker(lab.port) as attacker:
        assert others.answer(others.get("/126")).status == 200
        attacker.say(GREETING)
        attacker.flood(frames())
        code, words = attacker.goaway()
        assert (code, b"streams reset" in words) == (ENHANCE_YOUR_CALM, True)
        assert others.answer(others.get("/126")).status == 200
    seconds, cpu = time.monotonic() - began, lab.cpu() - cpu
    reached = sum(received.message.target != "/126" for received in lab.origin.received[before:])  # without the others'
    # The allowance; what it refills meanwhile is for those that take their time, so that requests are on their way before the reset.
    assert reached <= 200 + (0 if frames is rapid_resets else 20 * seconds)
    wait_until(lambda: lab.lbd.metric("lbd_http2_streams") == 0, "the attacker's streams to end")
    after = rests(lab)
    print(f"{frames.__name__}: {seconds:.2f} s, {reached} requests upstream; CPU {cpu:.2f} s, afterwards {after:.3f} s in half a second")
    assert lab.memory() - memory < 16


def rests(lab: Lab) -> float:
    """What is over costs nothing any more: CPU time of half a second."""
    spent = 1.0

    def at_rest() -> bool:
        nonlocal spent
        before = lab.cpu()
        time.sleep(0.5)
        spent = lab.cpu() - before
        return spent <= 0.1

    wait_until(at_rest, "lbd to have nothing to do")
    return spent


# Who does not read, or nearly not


def test_who_does_not_read_the_answers_to_pings(lab: Lab) -> None:
    """Slowly enough for the allowance: what is not taken stops the reading, and with it the connection's memory."""
    memory = lab.memory()
    with Http2Socket(lab.port) as others, Attacker(lab.port, is_deaf=True) as attacker:
        attacker.say(GREETING)
        attacker.socket.settimeout(0.2)
        sent = 0
        while sent < 200 and attacker.say(raw(PING, 0, 0, bytes(8)) * 40):
            sent += 1
            time.sleep(0.005)
        assert others.answer(others.get("/126")).status == 200
        assert lab.memory() - memory < 8


def test_windows_that_are_never_opened(lab: Lab) -> None:
    """Many streams on many connections: a piece of each body is held, until timeouts.body."""
    memory = lab.memory()
    with contextlib.ExitStack() as stack:
        attackers = [stack.enter_context(Attacker(lab.port)) for _ in range(10)]
        for attacker in attackers:
            attacker.say(PREFACE + settings((4, 0)) + raw(SETTINGS, ACK, 0))
            attacker.say(b"".join(raw(HEADERS, 5, number, ASK_LARGE) for number in range(1, 2 * STREAMS, 2)))
        with Http2Socket(lab.port) as others:
            assert others.answer(others.get("/126")).status == 200
            wait_until(lambda: lab.lbd.metric("lbd_http2_streams") >= 1, "the streams")
            assert lab.memory() - memory < 10 * STREAMS * 1.5 * WINDOW / 1e6
            wait_until(lambda: lab.lbd.metric("lbd_http2_streams") == 0, "their end")
            assert others.answer(others.get("/126")).status == 200
        wait_until(lambda: all(len(resets(attacker)) == STREAMS for attacker in attackers), "a reset for each")
    assert lab.lbd.metric("lbd_rejected_total", reason="downstream_stalled") >= 10 * STREAMS


def resets(attacker: Attacker) -> set[int]:
    return {stream for kind, stream, _ in attacker.frames() if kind == 3}


def test_a_window_that_is_opened_by_a_byte_at_a_time(lab: Lab) -> None:
    """CVE-2019-9511: each byte would be a frame."""
    with Http2Socket(lab.port) as others, Attacker(lab.port) as attacker:
        attacker.say(PREFACE + settings((4, 0)) + raw(SETTINGS, ACK, 0) + raw(HEADERS, 5, 1, ASK_LARGE))
        attacker.flood(repeated(window(1, 1), 40_000))
        code, words = attacker.goaway()
        assert (code, b"idle frames" in words) == (ENHANCE_YOUR_CALM, True)
        assert others.answer(others.get("/126")).status == 200


# Who asks, and goes no further


def test_streams_that_are_opened_and_left(lab: Lab) -> None:
    """They have as long as a body may stand still."""
    with Http2Socket(lab.port) as others, Attacker(lab.port) as attacker:
        attacker.say(GREETING)
        attacker.say(b"".join(raw(HEADERS, 4, number, ASK_POST) for number in range(1, 2 * STREAMS + 2, 2)))
        wait_until(lambda: any(kind == 3 for kind, _, _ in attacker.frames()), "the stream too many to be refused")
        assert others.answer(others.get("/126")).status == 200
        wait_until(lambda: len(resets(attacker)) == STREAMS + 1, "the others to be given up")


def test_a_head_that_never_ends_while_nothing_else_is_asked(lab: Lab) -> None:
    with Attacker(lab.port) as attacker:
        attacker.say(GREETING + raw(HEADERS, 0, 1, ASK))
        attacker.goaway()
