"""Request smuggling against the daemon: whatever bytes come, the origin never sees a request that nobody sent.

Every probe ends with SMUGGLED. Where a message is refused, nothing behind it is read; where it is taken, its body is a body,
whatever it looks like. The tables of tests/wire hold the codec to the same; here they go through a socket, with an origin behind.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Downstream, Ended
from tests.support.origins import Link, ScriptedOrigin, answer_bytes
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd
from tests.wire.hostile import BODIES, HEADS
from tests.wire.reading import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.http import Message

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: a\r\n"


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    port: int

    def probe(self, data: bytes) -> list[int]:
        """The statuses that come, up to the end of the connection or half a second of silence."""
        self.origin.received.clear()
        statuses: list[int] = []
        with Downstream(self.port, timeout=0.5) as downstream:
            downstream.send(data)
            try:
                while downstream.reader.has_next():
                    statuses.append(downstream.final().status)
            except (Ended, TimeoutError, ConnectionResetError):
                pass
        return statuses

    def seen(self) -> list[tuple[str, bytes]]:
        """(target, body) of what the origin got."""
        return [(message.target, message.body) for message in self.origin.requests]


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    port, admin = free_ports(2)
    with ScriptedOrigin() as origin:
        text = f"""
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
limits = {{ head = {LIMITS.head}, target = {LIMITS.target}, fields = {LIMITS.fields} }}
timeouts = {{ head = "200ms", body = "200ms" }}
[cluster.web]
endpoints = ["{origin.address}"]
"""
        with start_lbd(text, tmp_path_factory.mktemp("lbd"), pure=request.param) as lbd:
            yield Lab(lbd, origin, port)
            assert lbd.metric("lbd_faults_total") == 0


@pytest.mark.parametrize(("data", "status"), [row[1::2] for row in HEADS], ids=[row[0] for row in HEADS])
def test_nothing_of_a_hostile_head_arrives(lab: Lab, data: bytes, status: int) -> None:
    is_http2 = data.startswith(b"PRI * HTTP/2.0")  # which goes on as HTTP/2, and ends with a GOAWAY
    assert lab.probe(data + SMUGGLED) == ([] if is_http2 else [status])
    assert lab.seen() == []


@pytest.mark.parametrize(("data", "status"), [row[1::2] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_hostile_body_ends_with_its_request(lab: Lab, data: bytes, status: int) -> None:
    assert lab.probe(data + SMUGGLED) == [status]
    assert lab.seen() == []


SIZE = len(SMUGGLED)
LENGTH = b"Content-Length: %d\r\n" % SIZE
CHUNKED = b"Transfer-Encoding: chunked\r\n"
SIZED = LENGTH + b"\r\n" + SMUGGLED
ONE_CHUNK = b"\r\n%x\r\n%b\r\n0\r\n\r\n" % (SIZE, SMUGGLED)
EXTENDED = b"\r\n%x;0=0\r\n%b\r\n0;0\r\n\r\n" % (SIZE, SMUGGLED)
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

# What is wrong with nothing of it: the body is SMUGGLED, to the byte.
TAKEN: list[tuple[str, bytes]] = [
    ("a body that looks like a request", POST + SIZED),
    ("a chunk that looks like a request", POST + CHUNKED + ONE_CHUNK),
    ("chunked in capitals", POST + CHUNKED.upper() + ONE_CHUNK),
    ("an extension that looks like a chunk", POST + CHUNKED + EXTENDED),
    ("a length with zeros before it", POST + b"Content-Length: 000%d\r\n\r\n" % SIZE + SMUGGLED),
    ("a GET with a body", POST.replace(b"POST", b"GET") + SIZED),
    ("a body that is announced and sent at once", POST + b"Expect: 100-continue\r\n" + SIZED),
    ("another field that names the length", POST + b"X: Content-Length: 0\r\n" + SIZED),
    ("Connection names the length", POST + b"Connection: Content-Length\r\n" + SIZED),
    ("Connection names the coding", POST + b"Connection: Transfer-Encoding\r\n" + CHUNKED + ONE_CHUNK),
    ("an upgrade that nobody grants", POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + SIZED),
    ("an upgrade to h2c", POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + SIZED),
]


@pytest.mark.parametrize("data", [row[1] for row in TAKEN], ids=[row[0] for row in TAKEN])
def test_a_body_is_a_body(lab: Lab, data: bytes) -> None:
    """Or the message is refused, and then nothing at all arrives."""
    statuses = lab.probe(data + NEXT)
    assert "/smuggled" not in [target for target, _ in lab.seen()]
    if statuses and statuses[0] in (400, 501):
        assert lab.seen() == []
    else:
        assert (statuses, lab.seen()) == ([200, 200], [("/first", SMUGGLED), ("/next", b"")])


@pytest.mark.parametrize("length", [SIZE, 50_000])
def test_a_body_that_the_origin_did_not_wait_for(lab: Lab, length: int) -> None:
    """It answers early; the rest of the body is not the next request, neither there nor here."""
    head = b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
    statuses = lab.probe(head + SMUGGLED)
    assert statuses[0] == 413
    assert 200 not in statuses
    assert "/smuggled" not in [target for target, _ in lab.seen()]


# The other direction: an origin that says more than it was asked


def extra_with_head(link: Link, message: Message) -> bool:
    link.send(answer_bytes(200, b"honest" if message.method != "HEAD" else b"smuggled"))
    return True


def body_of_a_204(link: Link, message: Message) -> bool:
    link.send(b"HTTP/1.1 204 No Content\r\n\r\n" + answer_bytes(200, b"smuggled"))
    return True


def longer_than_it_says(link: Link, message: Message) -> bool:
    link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhonest" + answer_bytes(200, b"smuggled"))
    return True


def behind_the_last_chunk(link: Link, message: Message) -> bool:
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhonest\r\n0\r\n\r\n" + answer_bytes(200, b"smuggled"))
    return True


@pytest.mark.parametrize(
    ("method", "behave"),
    [
        ("HEAD", extra_with_head),
        ("GET", body_of_a_204),
        ("GET", longer_than_it_says),
        ("GET", behind_the_last_chunk),
    ],
)
def test_an_origins_surplus_reaches_nobody(lab: Lab, method: str, behave: Callable[[Link, Message], bool]) -> None:
    lab.origin.received.clear()
    lab.origin.behave = behave
    try:
        with Downstream(lab.port, timeout=5.0) as first, Downstream(lab.port, timeout=5.0) as second:
            for downstream in (first, second, first, second):
                answer = downstream.ask(method, "/")
                assert answer.body in (b"honest", b"")
                assert not downstream.reader.buffer
        connections = [received.connection for received in lab.origin.received]
        assert len(set(connections)) == 4, "a connection with bytes left over was used again"
    finally:
        lab.origin.behave = None


def test_an_origins_late_surplus_reaches_nobody(lab: Lab) -> None:
    """It comes while the connection lies in the pool."""
    with Downstream(lab.port, timeout=5.0) as downstream:
        assert downstream.ask("GET", "/extra").body == b"extra\n"
        time.sleep(0.1)
        assert downstream.ask("GET", "/").body == b"ok"
        assert not downstream.reader.buffer
