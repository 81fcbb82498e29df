"""HTTP/2 as an endpoint speaks it that has gone mad, or has been taken over: frames made by hand, against a real lbd.

Each attack ends its connection, or its request alone; the client gets an answer that says whose fault it was, or one of another endpoint;
the log says the same; memory stays where it is; and who has to do with other endpoints notices nothing. Once the endpoint behaves again
it is used again. tests/proxy/test_http2_upstream_floods.py has the same on virtual time.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hpack.hpack import Encoder

from tests.support import procfs
from tests.support.hostile_http2 import GREETING, Attack, HostileOrigin, behaves
from tests.support.http import Answer, Downstream, Ended
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until, whole_lines
from tests.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    REQUEST,
    RESPONSE,
    SETTINGS,
    STREAM_CLOSED,
    block,
    goaway,
    headers,
    raw,
    reset,
    settings,
    window,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_GROWTH = 24  # MB of a worker; every flood is larger, or is of frames that would be
MOST_FRAMES = 400_000
GET, POST = b"", b"p" * 300_000
CUT = 0  # as a status: the answer had begun, and is not whole


@dataclass(frozen=True, slots=True)
class Case:
    """What is done with a request, and what its client gets, where there is nobody else to ask."""

    attack: Attack
    status: int
    reasons: tuple[str, ...]
    code: int = -1  # of the GOAWAY that the connection ends with, if its end lets that through; -1: it need not end
    is_final: bool = False  # what has come is an answer, and was one too many
    body: bytes = GET
    greeting: bytes = GREETING
    is_deaf: bool = False


def flood(frame: bytes | Callable[[int], bytes], first: Callable[[int], bytes] = lambda _: b"") -> Attack:
    """The same again and again, until nobody listens."""

    def frames(number: int) -> Iterator[bytes]:
        yield first(number)
        piece = (frame if isinstance(frame, bytes) else frame(number)) * 500
        for _ in range(MOST_FRAMES // 500):
            yield piece

    return frames


def once(*frames: Callable[[int], bytes]) -> Attack:
    return lambda number: [frame(number) for frame in frames]


def head(number: int, *fields: tuple[str, str], flags: int = END_HEADERS) -> bytes:
    return headers(number, [*RESPONSE, *fields], flags)


def answer(number: int) -> bytes:
    return b"".join(behaves(number))


def bomb() -> bytes:
    """A field of 4,000 bytes in the table, and then 5,000 references to it by a byte each: 20 MB."""
    return bytes(Encoder().encode([(b":status", b"200"), (b"x", b"y" * 4000)], huffman=False)) + b"\xbe" * 5000


FLOOD = 502, ("upstream_flood",), ENHANCE_YOUR_CALM
BROKEN = 502, ("bad_response",), PROTOCOL_ERROR
CASES: dict[str, Case] = {
    # Without end
    "SETTINGS": Case(flood(settings((4, 65535))), *FLOOD),
    "SETTINGS without content": Case(flood(settings()), *FLOOD),
    "acknowledged SETTINGS": Case(flood(raw(SETTINGS, ACK, 0)), *FLOOD),
    "PING": Case(flood(raw(PING, 0, 0, bytes(8))), *FLOOD),
    "answers to PINGs that nobody sent": Case(flood(raw(PING, ACK, 0, bytes(8))), *FLOOD),
    "windows of the connection": Case(flood(window(0, 1)), *FLOOD),
    "windows of the stream": Case(flood(lambda number: window(number, 1)), *FLOOD),
    "PRIORITY": Case(flood(lambda number: raw(PRIORITY, 0, number, bytes(5))), *FLOOD),
    "frames of unknown kinds": Case(flood(raw(0x77, 0, 0, b"?")), *FLOOD),
    "CONTINUATION": Case(flood(lambda n: raw(CONTINUATION, 0, n, b"\0"), lambda n: raw(HEADERS, 0, n, block(RESPONSE))), *FLOOD),
    "empty CONTINUATION": Case(flood(lambda n: raw(CONTINUATION, 0, n), lambda n: raw(HEADERS, 0, n)), *FLOOD),
    "CONTINUATION as large as can be": Case(flood(lambda n: raw(CONTINUATION, 0, n, bytes(16384)), lambda n: raw(HEADERS, 0, n)), *FLOOD),
    "a head that grows without end": Case(once(lambda n: raw(HEADERS, END_HEADERS, n, bomb())), *FLOOD),
    "resets of a stream that ended": Case(flood(reset), 502, ("upstream_reset", "upstream_flood"), ENHANCE_YOUR_CALM),
    "empty DATA": Case(flood(lambda n: raw(DATA, 0, n), head), CUT, ("upstream_flood",), ENHANCE_YOUR_CALM),
    "padding and no DATA": Case(flood(lambda n: raw(DATA, 8, n, b"\x01\0"), head), CUT, ("upstream_flood",), ENHANCE_YOUR_CALM),
    "GOAWAY": Case(flood(goaway(MOST := (1 << 31) - 1)), *FLOOD),
    "interim responses": Case(flood(lambda n: headers(n, [(":status", "103")], END_HEADERS)), 502, ("bad_response",), is_final=True),
    "DATA behind the end": Case(flood(lambda n: raw(DATA, 0, n, b"more"), answer), 200, ("",), ENHANCE_YOUR_CALM),
    # Against the rules
    "a GOAWAY that takes back the one before": Case(once(lambda n: goaway(n), lambda n: goaway(n + 2)), *BROKEN),
    "PUSH_PROMISE": Case(once(lambda n: raw(PUSH_PROMISE, 4, n, (2).to_bytes(4, "big") + block(REQUEST))), *BROKEN),
    "a stream of its own": Case(once(lambda _: headers(2, RESPONSE)), *BROKEN),
    "a reset of a stream that nobody opened": Case(once(lambda n: reset(n + 2)), *BROKEN),
    "a frame that is too large": Case(once(lambda n: raw(DATA, 0, n, bytes(20_000))), 502, ("bad_response",), 6),
    "a window beyond all bounds": Case(once(lambda _: window(0, MOST)), 502, ("bad_response",), 3),
    "something else than SETTINGS first": Case(behaves, 502, ("connect_failed",), PROTOCOL_ERROR, greeting=raw(PING, 0, 0, bytes(8))),
    "no HTTP/2 at all": Case(behaves, 502, ("connect_failed",), greeting=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"),
    # Of the request alone
    "DATA before the head": Case(once(lambda n: raw(DATA, 0, n, b"body")), 502, ("bad_response",), is_final=True),
    "too many fields": Case(once(lambda n: head(n, *[(f"x-{index}", "1") for index in range(300)])), 502, ("bad_response",), is_final=True),
    "a stream that ends twice": Case(once(answer, lambda n: raw(DATA, END_STREAM, n, b"again")), 200, ("",)),
    "an answer that comes twice": Case(once(lambda n: answer(n) + answer(n)), 200, ("",), STREAM_CLOSED),
    "a reset": Case(once(reset), 502, ("upstream_reset",)),
    "a GOAWAY before it has looked": Case(once(lambda _: goaway(0)), 502, ("upstream_refused",)),
    "a body longer than its head says": Case(
        once(lambda n: head(n, ("content-length", "2")) + raw(DATA, 1, n, b"long")), CUT, ("bad_response",)
    ),
    "trailers that do not end": Case(once(lambda n: head(n) + head(n)), CUT, ("bad_response",)),
    # Silence
    "a GOAWAY and no answer": Case(once(goaway), 504, ("response_timeout",)),
    "no streams at all": Case(behaves, 502, ("connect_failed",), greeting=settings((3, 0)) + raw(SETTINGS, ACK, 0)),
    "windows that are never opened": Case(
        lambda _: [], 504, ("upstream_stalled",), body=POST, greeting=settings((4, 0)) + raw(SETTINGS, ACK, 0)
    ),
    "a window that is opened by a byte at a time": Case(
        flood(lambda n: window(n, 1)), *FLOOD, body=POST, greeting=settings((4, 0)) + raw(SETTINGS, ACK, 0)
    ),
    "PINGs whose answers it does not read": Case(flood(raw(PING, 0, 0, bytes(8))), 502, ("upstream_flood",), is_deaf=True),
    "half an answer": Case(once(lambda n: head(n) + raw(DATA, 0, n, b"half")), CUT, ("upstream_stalled",)),
}
SILENT = ("response_timeout", "upstream_stalled")  # of these the cluster is not patient
CONFIG = """\
[lbd]
workers = 1
[log]
access = "{access}"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
reason_header = true
"""
CLUSTER = """\
[[listener.web.route]]
path = "/{name}"
cluster = "{name}"
[cluster.{name}]
protocol = "{protocol}"
endpoints = [{endpoints}]
outlier = {{ enabled = false }}
retry = {{ attempts = 1, budget = 1.0 }}
timeouts = {{ response = "{seconds}s", idle = "{seconds}s" }}
"""


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    hostile: HostileOrigin
    tame: HostileOrigin
    port: int

    def memory(self) -> float:
        """MB."""
        return max(procfs.rss_of(pid) for pid in self.lbd.workers()) / 1e6

    def line(self, target: str) -> dict[str, Any]:
        """Of the only request for `target`."""
        found: list[dict[str, Any]] = []

        def written() -> bool:
            entries = [json.loads(line) for line in whole_lines(self.lbd.directory / "access.log")]
            found.extend(entry for entry in entries if entry["target"] == target)
            return bool(found)

        wait_until(written, f"the line of {target}")
        return found[0]

    def forget(self) -> None:
        """Every connection to an endpoint of HTTP/2."""
        for link in (*self.hostile.links, *self.tame.links):
            link.close()
        for cluster in ("alone", "both", "alone-hasty", "both-hasty"):
            wait_until(lambda: self.lbd.metric("lbd_upstream_connections", cluster=cluster) == 0, "its end")  # noqa: B023

    def ask(self, target: str, body: bytes) -> Answer | None:
        """None: it was cut."""
        with Downstream(self.port) as downstream:
            try:
                return downstream.ask("POST" if body else "GET", target, body=body)
            except (Ended, OSError):
                return None


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lbd")
    port, admin = free_ports(2)
    text = CONFIG.format(access=directory / "access.log", admin=admin, port=port)
    with HostileOrigin() as hostile, HostileOrigin() as tame, ScriptedOrigin("other") as other:
        mad, well = f'"{hostile.address}"', f'{{ address = "{tame.address}", backup = true }}'
        for suffix, seconds in (("", 50), ("-hasty", 1)):
            text += CLUSTER.format(name=f"alone{suffix}", protocol="h2", endpoints=mad, seconds=seconds)
            text += CLUSTER.format(name=f"both{suffix}", protocol="h2", endpoints=f"{mad}, {well}", seconds=seconds)
        text += CLUSTER.format(name="other", protocol="http1", endpoints=f'"{other.address}"', seconds=50)
        with start_lbd(text, directory) as lbd:
            yield Lab(lbd, hostile, tame, port)
            assert lbd.metric("lbd_faults_total") == 0


@pytest.mark.parametrize("name", CASES)
def test_an_attack(lab: Lab, name: str) -> None:
    case, hostile = CASES[name], lab.hostile
    suffix = "-hasty" if set(case.reasons) & set(SILENT) else ""
    number, memory, connections = list(CASES).index(name), lab.memory(), len(hostile.links)
    targets = [f"/{cluster}{suffix}?{number}" for cluster in ("alone", "both")]
    hostile.attack, hostile.greeting, hostile.is_deaf = case.attack, case.greeting, case.is_deaf
    with ThreadPoolExecutor(2) as pool, Downstream(lab.port) as others:
        assert others.ask("GET", "/other").status == 200
        asked = [pool.submit(lab.ask, target, case.body) for target in targets]
        while not all(each.done() for each in asked):
            assert others.ask("GET", "/other").status == 200
        alone, both = (each.result() for each in asked)
        assert others.ask("GET", "/other").status == 200

    if case.status == CUT:
        assert alone is None
    else:
        assert alone is not None
        assert (alone.status, alone.get("x-lbd-reason") in case.reasons) == (case.status, True), alone.raw
    line, other = map(lab.line, targets)
    assert line["reason"] in case.reasons
    assert line["endpoint"] == hostile.address
    if case.status in (CUT, 200) or case.body or case.is_final:  # too late, or nothing that may be done twice
        assert (other["reason"] in case.reasons, other["attempts"]) == (True, 1)
    else:
        assert both is not None
        assert (both.status, both.get("x-origin"), other["attempts"] >= 2) == (200, "tame", True)
        assert other["tried"][0].partition(" ")[0] == hostile.address
        assert other["tried"][0].partition(" ")[2] in case.reasons

    attacked = hostile.links[connections:]
    assert attacked
    if case.code >= 0:
        wait_until(lambda: all(link.is_over.is_set() for link in attacked), "the connections to end")
        assert {code for link in attacked for code in link.goaways()} <= {case.code}
    assert lab.memory() - memory < MOST_GROWTH

    hostile.attack, hostile.greeting, hostile.is_deaf = behaves, GREETING, False
    lab.forget()
    again = lab.ask(f"/alone{suffix}", GET)
    assert again is not None
    assert (again.status, again.body) == (200, b"tame")
    lab.forget()
