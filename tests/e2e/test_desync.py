"""Hostile framing from both sides, in any mix of versions, against origins that write down every byte.

Two promises. Nothing ambiguous reaches an endpoint: what it reads with a strict parser is what the client meant, once, or nothing. And
nothing that an endpoint says beyond its answer becomes the answer to somebody else: after each hostile response two others ask, again
and again, and get their own.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import h11
import pytest

from tests.support.http import Downstream, Ended
from tests.support.http2 import Http2Socket
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until
from tests.support.recording import CLOSE, Http1Recorder, Http2Recorder, Recorder
from tests.wire.hostile import BODIES, HEADS
from tests.wire.http2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    PUSH_PROMISE,
    SETTINGS,
    block,
    raw,
    settings,
)
from tests.wire.reading import LIMITS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.recording import Step

Fields = list[tuple[str, str | bytes]]
Meaning = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    one: Http1Recorder
    two: Http2Recorder
    greeter: Http1Recorder  # that nobody has asked yet
    ports: dict[str, int]  # by what speaks behind it

    def origin(self, back: str) -> Recorder:
        return self.one if back == "h1" else self.two


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    one_port, two_port, greeter_port, hasty_one, hasty_two, admin = free_ports(6)
    with Http1Recorder() as one, Http2Recorder() as two, Http1Recorder() as greeter:
        limits = f"limits = {{ head = {LIMITS.head}, target = {LIMITS.target}, fields = {LIMITS.fields} }}"
        hasty = 'timeouts = { head = "300ms", body = "300ms", keepalive = "300ms", linger = "100ms" }'
        text = f"""
[lbd]
workers = 1
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.one]
bind = "127.0.0.1:{one_port}"
cluster = "one"
{limits}
[listener.two]
bind = "127.0.0.1:{two_port}"
cluster = "two"
{limits}
[listener.hasty-one]
bind = "127.0.0.1:{hasty_one}"
cluster = "one"
{hasty}
[listener.hasty-two]
bind = "127.0.0.1:{hasty_two}"
cluster = "two"
{hasty}
[listener.greeter]
bind = "127.0.0.1:{greeter_port}"
cluster = "greeter"
[cluster.greeter]
endpoints = ["127.0.0.1:{greeter.port}"]
[cluster.one]
endpoints = ["127.0.0.1:{one.port}"]
retry = {{ attempts = 0 }}
[cluster.two]
endpoints = ["127.0.0.1:{two.port}"]
protocol = "h2"
retry = {{ attempts = 0 }}
"""
        with start_lbd(text, tmp_path_factory.mktemp("lbd")) as lbd:
            ports = {"h1": one_port, "h2": two_port, "hasty h1": hasty_one, "hasty h2": hasty_two, "greeter": greeter_port}
            yield Lab(lbd, one, two, greeter, ports)
            assert lbd.metric("lbd_faults_total") == 0


@pytest.fixture(params=["h1", "h2"])
def back(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    for origin in (lab.one, lab.two):
        origin.forget()
    lab.one.answers_early.clear()
    yield request.param
    assert lab.origin(request.param).faults == []


# Requests of HTTP/1

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /first HTTP/1.1\r\nHost: a\r\n"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
ENDS = (b"GET", b"/next", b"")


def said(lab: Lab, back: str, data: bytes) -> tuple[list[int], list[Meaning]]:
    """Statuses of what came up to the end of the connection, and what the origin understood."""
    statuses = []
    with Downstream(lab.ports[back]) as downstream:
        downstream.send(data)
        try:
            while downstream.reader.has_next():
                statuses.append(downstream.final().status)
        except (Ended, ConnectionResetError):
            pass
    return statuses, lab.origin(back).meanings()


def whole(rows: Sequence[tuple[str, bytes, str, int]]) -> list[tuple[str, bytes, int]]:
    """Not HTTP/2's preface, which is the beginning of another table."""
    return [(name, data, status) for name, data, _, status in rows if not data.startswith(b"PRI ")]


@pytest.mark.parametrize("back", ["h2"], indirect=True)  # with HTTP/1 behind: tests/e2e/test_proxy_smuggling.py
@pytest.mark.parametrize(("data", "status"), [row[1:] for row in whole(HEADS + BODIES)], ids=[row[0] for row in whole(HEADS + BODIES)])
def test_what_is_refused_reaches_nobody(lab: Lab, back: str, data: bytes, status: int) -> None:
    """A POST's head may have gone up before its body is found wrong; then it never ends there."""
    assert said(lab, back, data + SMUGGLED + NEXT) == ([status], [])


SIZE = len(SMUGGLED)
LENGTH = b"Content-Length: %d\r\n" % SIZE
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ONE_CHUNK = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, SMUGGLED)
BODY = (b"POST", b"/first", SMUGGLED)

# What is sent, and what it means.
TAKEN: dict[str, tuple[bytes, Meaning]] = {
    "a request in the body": (POST + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "a request in a chunk": (POST + CHUNKED + b"\r\n" + ONE_CHUNK, BODY),
    "a chunk for each byte": (POST + CHUNKED + b"\r\n" + b"".join(b"1\r\n%c\r\n" % byte for byte in SMUGGLED) + b"0\r\n\r\n", BODY),
    "extensions": (POST + CHUNKED + b'\r\n%x;a="b;\\"0"\r\n%b\r\n0;c\r\n\r\n' % (SIZE, SMUGGLED), BODY),
    "zeros before a size": (POST + CHUNKED + b"\r\n000%x\r\n%b\r\n000\r\n\r\n" % (SIZE, SMUGGLED), BODY),
    "trailers that would frame": (POST + CHUNKED + b"\r\n" + ONE_CHUNK[:-2] + b"Content-Length: 5\r\nHost: b\r\n\r\n", BODY),
    "the same length twice in one field": (POST + b"Content-Length: %d, %d\r\n\r\n" % (SIZE, SIZE) + SMUGGLED, BODY),
    "a GET with a body": (POST.replace(b"POST", b"GET") + LENGTH + b"\r\n" + SMUGGLED, (b"GET", b"/first", SMUGGLED)),
    "a GET with chunks": (POST.replace(b"POST", b"GET") + CHUNKED + b"\r\n" + ONE_CHUNK, (b"GET", b"/first", SMUGGLED)),
    "a HEAD with a body": (POST.replace(b"POST", b"HEAD") + LENGTH + b"\r\n" + SMUGGLED, (b"HEAD", b"/first", SMUGGLED)),
    "no length (0.CL)": (POST + b"\r\n", (b"POST", b"/first", b"")),
    "a length of nothing": (POST + b"Content-Length: 0\r\n\r\n", (b"POST", b"/first", b"")),
    "a length with an underscore": (POST + b"Content_Length: 3\r\n\r\n", (b"POST", b"/first", b"")),
    "a coding with an underscore": (POST + b"Transfer_Encoding: chunked\r\n" + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "Connection names the length": (POST + b"Connection: Content-Length\r\n" + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "Connection names the coding": (POST + b"Connection: Transfer-Encoding\r\n" + CHUNKED + b"\r\n" + ONE_CHUNK, BODY),
    "Connection names Host": (POST + b"Connection: Host\r\n" + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "an upgrade to h2c": (
        POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + LENGTH + b"\r\n" + SMUGGLED, BODY,
    ),
    "Expect, and a body that does not wait": (POST + b"Expect: 100-continue\r\n" + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "absolute-form": (POST.replace(b"/first", b"http://a/first") + LENGTH + b"\r\n" + SMUGGLED, BODY),
    "another request for its path": (b"GET /first?GET%20/smuggled%20HTTP/1.1%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n",
        (b"GET", b"/first?GET%20/smuggled%20HTTP/1.1%0d%0a", b"")),
}  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_taken_means_what_it_meant(lab: Lab, back: str, name: str) -> None:
    data, meaning = TAKEN[name]
    statuses, meanings = said(lab, back, data + NEXT)
    assert (statuses[-1], meanings) == (200, [meaning, ENDS])
    names = {name.lower() for seen in lab.origin(back).seen for name, _ in seen.fields}
    assert not {b"content_length", b"transfer_encoding", b"http2-settings", b"upgrade", b"proxy-connection"} & names


def test_http_1_0_is_kept_alive_only_when_it_asks(lab: Lab, back: str) -> None:
    old = b"GET /old HTTP/1.0\r\nHost: a\r\n"
    assert said(lab, back, old + b"\r\n" + NEXT) == ([200], [(b"GET", b"/old", b"")])
    lab.origin(back).forget()
    assert said(lab, back, old + b"Connection: keep-alive\r\n\r\n" + NEXT) == ([200, 200], [(b"GET", b"/old", b""), ENDS])


@pytest.mark.parametrize("framing", [LENGTH, CHUNKED])
def test_a_body_that_breaks_off_is_no_request(lab: Lab, back: str, framing: bytes) -> None:
    with Downstream(lab.ports[back]) as downstream:
        downstream.send(POST + framing + b"\r\n" + (b"%x\r\n" % SIZE if framing is CHUNKED else b"") + SMUGGLED[:-2])
        downstream.end()
        assert downstream.is_closed_by_peer()
    assert said(lab, back, NEXT) == ([200], [ENDS])


# Mutants

HARMFUL = [
    b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b"\x0b", b"\xff", b":", b",", b";", b"0", b"1", b"a", b"+", b"-", b"_", b"\r\n\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n", b"Host: b\r\n",
    b"Connection: close\r\n", b" HTTP/1.1", b"0\r\n\r\n", b"Expect: 100-continue\r\n", b"\r\n ",
]  # fmt: skip
MUTANTS = 400


def mutant(number: int) -> bytes:
    """One of TAKEN with one to three slips, and another request behind it; the same in every run."""
    chance = random.Random(number)
    data = bytearray(chance.choice(list(TAKEN.values()))[0].replace(b"/first", b"/mutant-%d" % number))
    for _ in range(chance.randint(1, 3)):
        at = chance.choice([chance.randrange(len(data)), data.find(b"\r\n", chance.randrange(len(data)))]) % len(data)
        match chance.randrange(4):
            case 0:
                del data[at : at + chance.randint(1, 3)]
            case 1:
                data[at:at] = data[at : at + chance.randint(1, 40)]
            case _:
                data[at:at] = chance.choice(HARMFUL)
    return bytes(data) + NEXT.replace(b"/next", b"/next-%d" % number)


def readings(data: bytes) -> list[Meaning]:
    """What h11 takes it for, up to the first fault or the end."""
    found: list[Meaning] = []
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(data)
    method = target = body = b""
    try:
        while (event := reader.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Request):
                method, target, body = event.method, event.target.removeprefix(b"http://a"), b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, target, body))
                rest = reader.trailing_data[0]
                reader = h11.Connection(h11.SERVER)
                reader.receive_data(rest)
            else:
                break
    except h11.RemoteProtocolError:
        pass
    return found


def test_mutants(lab: Lab, back: str) -> None:
    """Whatever reaches the origin was sent by somebody, by h11's reading, and once. Fixed seeds."""
    mutants = [mutant(number) for number in range(MUTANTS)]

    def send(data: bytes) -> None:
        with Downstream(lab.ports[f"hasty {back}"]) as downstream, contextlib.suppress(OSError):
            downstream.send(data)
            while downstream.sock.recv(1 << 16):
                pass

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(send, mutants))
    seen = Counter(lab.origin(back).meanings())
    assert seen.total() > MUTANTS // 4  # some are taken
    assert seen - Counter(meaning for data in mutants for meaning in readings(data)) == Counter()


# Requests of HTTP/2

GET2: Fields = [(":method", "GET"), (":scheme", "http"), (":path", "/first"), (":authority", "a")]
POST2: Fields = [(":method", "POST"), *GET2[1:]]
GREETING = PREFACE + settings() + raw(SETTINGS, ACK, 0)
ASK_NEXT = raw(HEADERS, 5, 3, block([*GET2[:2], (":path", "/next"), GET2[3]]))


def swapped(name: str, value: str | bytes) -> Fields:
    return [(key, value if key == name else old) for key, old in GET2]


def request(fields: Fields, *bodies: bytes, trailers: Fields | None = None) -> bytes:
    """On stream 1; the last of `bodies`, or the trailers, end it."""
    frames = [raw(HEADERS, END_HEADERS | (0 if bodies or trailers else END_STREAM), 1, block(fields))]
    for index, body in enumerate(bodies):
        frames.append(raw(DATA, END_STREAM if index == len(bodies) - 1 and trailers is None else 0, 1, body))
    if trailers is not None:
        frames.append(raw(HEADERS, END_HEADERS | END_STREAM, 1, block(trailers)))
    return b"".join(frames)


SPLIT = b"x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED2: dict[str, bytes] = {
    "a length below the body": request([*POST2, ("content-length", "3")], SMUGGLED),
    "a length above the body": request([*POST2, ("content-length", "99")], SMUGGLED),
    "a length and no body": request([*POST2, ("content-length", "3")]),
    "a length of nothing and a body": request([*POST2, ("content-length", "0")], SMUGGLED),
    "two lengths": request([*POST2, ("content-length", "3"), ("content-length", str(SIZE))], SMUGGLED[:3]),
    "a length with a plus": request([*POST2, ("content-length", "+3")], b"abc"),
    "a length in a list": request([*POST2, ("content-length", "3, 4")], b"abc"),
    "a coding": request([*POST2, ("transfer-encoding", "chunked")], b"0\r\n\r\n" + SMUGGLED),
    "a coding, in a list": request([*POST2, ("transfer-encoding", "gzip, chunked")], b"0\r\n\r\n" + SMUGGLED),
    "connection": request([*GET2, ("connection", "close")]),
    "keep-alive": request([*GET2, ("keep-alive", "1")]),
    "proxy-connection": request([*GET2, ("proxy-connection", "close")]),
    "upgrade": request([*GET2, ("upgrade", "h2c")]),
    "te that says more": request([*GET2, ("te", "trailers, chunked")]),
    "CRLF in a value": request([*GET2, ("x", SPLIT)]),
    "LF in a value": request([*GET2, ("x", b"1\nY: 2")]),
    "CR in a value": request([*GET2, ("x", b"1\rY: 2")]),
    "NUL in a value": request([*GET2, ("x", b"1\x002")]),
    "a space before a value": request([*GET2, ("x", " 1")]),
    "a tab behind a value": request([*GET2, ("x", "1\t")]),
    "CRLF in a name": request([*GET2, ("x\r\ny", "1")]),
    "a colon in a name": request([*GET2, ("x: 1\r\ny", "1")]),
    "a space in a name": request([*GET2, ("x y", "1")]),
    "an empty name": request([*GET2, ("", "1")]),
    "a name in capitals": request([*GET2, ("Transfer-Encoding", "chunked")]),
    "a coding with a space behind": request([*GET2, ("transfer-encoding ", "chunked")]),
    "CRLF in the path": request(swapped(":path", b"/ HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled")),
    "a space in the path": request(swapped(":path", b"/first HTTP/1.1")),
    "a fragment in the path": request(swapped(":path", b"/first#x")),
    "a raw byte in the path": request(swapped(":path", b"/\xc3\xa4")),
    "an empty path": request(swapped(":path", b"")),
    "a path without a slash": request(swapped(":path", b"first")),
    "absolute-form for a path": request(swapped(":path", b"http://b/first")),
    "* for a path": request(swapped(":path", b"*")),
    "CRLF in the authority": request(swapped(":authority", b"a\r\nX: 1")),
    "a user in the authority": request(swapped(":authority", b"u@a")),
    "an empty authority": request(swapped(":authority", b"")),
    "a path in the authority": request(swapped(":authority", b"a/b")),
    "another Host": request([*GET2, ("host", "b")]),
    "two Hosts": request([*GET2[:3], ("host", "a"), ("host", "b")]),
    "a method that is a request": request(swapped(":method", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET")),
    "an empty method": request(swapped(":method", b"")),
    "CRLF in the scheme": request(swapped(":scheme", b"http\r\nX: 1")),
    "another scheme": request(swapped(":scheme", b"ftp")),
    "no method": request(GET2[1:]),
    "no path": request([*GET2[:2], GET2[3]]),
    "two paths": request([*GET2, (":path", "/smuggled")]),
    "a pseudo-header behind a field": request([*GET2[:3], ("x", "1"), GET2[3]]),
    "a pseudo-header that nobody knows": request([*GET2, (":x", "1")]),
    "a status": request([*GET2, (":status", "200")]),
    "CONNECT": request([(":method", "CONNECT"), (":authority", "a:443")]),
    "CONNECT to a protocol that is not served": request([(":method", "CONNECT"), *GET2[1:], (":protocol", "tcp")]),
    ":protocol without CONNECT": request([*GET2, (":protocol", "websocket")]),
    "a pseudo-header among trailers": request(POST2, SMUGGLED, trailers=[(":path", "/smuggled")]),
    "CRLF in a trailer": request(POST2, SMUGGLED, trailers=[("x", SPLIT)]),
    "connection among trailers": request(POST2, SMUGGLED, trailers=[("connection", "close")]),
    "trailers that do not end it": request(POST2, SMUGGLED[:4])[:-13] + raw(HEADERS, END_HEADERS, 1, block([("x", "1")])),
}
TAKEN2: dict[str, tuple[bytes, Meaning]] = {
    "a request in the body": (request(POST2, SMUGGLED), BODY),
    "chunks in the body": (request(POST2, b"0\r\n\r\n", SMUGGLED), (b"POST", b"/first", b"0\r\n\r\n" + SMUGGLED)),
    "the length of the body": (request([*POST2, ("content-length", str(SIZE))], SMUGGLED), BODY),
    "the same length twice": (request([*POST2, ("content-length", str(SIZE)), ("content-length", str(SIZE))], SMUGGLED), BODY),
    "a frame for each byte": (request(POST2, *[bytes([byte]) for byte in SMUGGLED]), BODY),
    "an empty body": (request(POST2, b""), (b"POST", b"/first", b"")),
    "a GET with a body": (request(GET2, SMUGGLED), (b"GET", b"/first", SMUGGLED)),
    "Host, as :authority": (request([*GET2, ("host", "a")]), (b"GET", b"/first", b"")),
    "Host in place of :authority": (request([*GET2[:3], ("host", "a")]), (b"GET", b"/first", b"")),
    "te": (request([*GET2, ("te", "trailers")]), (b"GET", b"/first", b"")),
    "names with underscores": (request([*POST2, ("content_length", "3"), ("transfer_encoding", "chunked")], SMUGGLED), BODY),
    "trailers that would frame": (request(POST2, SMUGGLED, trailers=[("content-length", "3"), ("host", "b"), ("x", "1")]), BODY),
    "Expect": (request([*POST2, ("expect", "100-continue")], SMUGGLED), BODY),
}


def said2(lab: Lab, back: str, data: bytes) -> list[Meaning]:
    """Behind the data another request asks; when that is answered, or the connection is over, this is what the origin understood."""
    with socket.create_connection(("127.0.0.1", lab.ports[back]), PATIENCE) as sock:
        sock.sendall(GREETING + data + ASK_NEXT)
        got = b""
        with contextlib.suppress(ConnectionResetError):
            while b"/next" not in got and (more := sock.recv(1 << 16)):
                got += more
    return lab.origin(back).meanings()


@pytest.mark.parametrize("name", REFUSED2)
def test_what_is_refused_over_http2_reaches_nobody(lab: Lab, back: str, name: str) -> None:
    """Other streams of the connection do."""
    assert said2(lab, back, REFUSED2[name]) == [ENDS]


@pytest.mark.parametrize("name", TAKEN2)
def test_what_is_taken_over_http2_means_what_it_meant(lab: Lab, back: str, name: str) -> None:
    data, meaning = TAKEN2[name]
    said2(lab, back, data)
    wait_until(lambda: sorted(lab.origin(back).meanings()) == sorted([meaning, ENDS]), f"{meaning} and the next")
    names = {name.lower() for seen in lab.origin(back).seen for name, _ in seen.fields}
    assert not {b"content_length", b"transfer_encoding"} & names


# Responses. POISON is what must never reach anybody: nobody asked for it.

POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled"
OK, HONEST = b"HTTP/1.1 200 OK\r\n", b"Content-Length: 6\r\n\r\nhonest"
CHUNKS = b"Transfer-Encoding: chunked\r\n\r\n6\r\nhonest\r\n0\r\n\r\n"
SOON = 0.05  # seconds: the connection lies in the pool by then


def late(rest: bytes) -> list[Step]:
    """What is wrong comes when the head has been relayed, and only a cut can tell."""
    fields, end, body = rest.partition(b"\r\n\r\n")
    return [OK + fields + end, SOON, body]


# What is answered, and whether the one who asked gets it, a failure (502), or the beginning and then a cut.
GOOD, BAD, CUT = "honest", "a failure", "a cut"
ANSWERS: dict[str, tuple[list[Step], str]] = {
    "a response behind it": ([OK + HONEST + POISON], GOOD),
    "a response behind it, soon": ([OK + HONEST, SOON, POISON], GOOD),
    "a response behind it, in two pieces": ([OK + HONEST + POISON[:5], SOON, POISON[5:]], GOOD),
    "a response behind the last chunk": ([OK + CHUNKS + POISON], GOOD),
    "a line behind it": ([OK + HONEST + b"\r\n"], GOOD),
    "a byte behind it, soon": ([OK + HONEST, SOON, b"H"], GOOD),
    "a length and a coding": ([OK + b"Content-Length: 6\r\n" + CHUNKS], BAD),
    "a coding and a length": ([OK + b"Transfer-Encoding: chunked\r\n" + HONEST + POISON], BAD),
    "two lengths": ([OK + b"Content-Length: 0\r\n" + HONEST + POISON], BAD),
    "a length with a plus": ([OK + HONEST.replace(b" 6", b" +6") + POISON], BAD),
    "a length in hex": ([OK + HONEST.replace(b" 6", b" 0x6") + POISON], BAD),
    "another coding": ([OK + b"Transfer-Encoding: xchunked\r\n" + b"\r\n0\r\n\r\n" + POISON], BAD),
    "chunked twice": ([OK + b"Transfer-Encoding: chunked\r\n" + CHUNKS + POISON], BAD),
    "a coding behind a vertical tab": ([OK + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + POISON], BAD),
    "a folded length": ([OK + b"Content-Length:\r\n 6\r\n\r\nhonest" + POISON], BAD),
    "a folded field": ([OK + b"X: 1\r\n 2\r\n" + HONEST + POISON], BAD),
    "a space before the colon": ([OK + b"Transfer-Encoding : chunked\r\n" + HONEST + POISON], BAD),
    "CR in a value": ([OK + b"X: 1\rY: 2\r\n" + HONEST + POISON], BAD),
    "LF in a value": ([OK + b"X: 1\nTransfer-Encoding: chunked\r\n" + HONEST + POISON], BAD),
    "NUL in a value": ([OK + b"X: \0\r\n" + HONEST + POISON], BAD),
    "lines that end with LF": ([(OK + HONEST).replace(b"\r\n", b"\n") + POISON], BAD),
    "no status line": ([b"honest" + POISON], BAD),
    "another protocol": ([b"ICY 200 OK\r\n" + HONEST + POISON], BAD),
    "a later version": ([b"HTTP/2.0 200 OK\r\n" + HONEST + POISON], BAD),
    "a status of two digits": ([b"HTTP/1.1 20 OK\r\n" + HONEST + POISON], BAD),
    "a status below 100": ([b"HTTP/1.1 099 OK\r\n" + HONEST + POISON], BAD),
    "a head without end": ([OK + b"X: 1\r\n" * 20_000], BAD),
    "a field without end": ([OK + b"X: " + b"1" * 100_000], BAD),
    "nothing": ([CLOSE], BAD),
    "half a head": ([OK, CLOSE], BAD),
    "half a body": ([*late(HONEST[:-3]), CLOSE], CUT),
    "half a chunk": ([*late(CHUNKS[:-9]), CLOSE], CUT),
    "no last chunk": ([*late(CHUNKS[:-5]), CLOSE], CUT),
    "chunks that are none": ([*late(CHUNKS[:-5] + POISON)], CUT),
    "a chunk longer than it says": ([*late(CHUNKS.replace(b"\r\n6\r", b"\r\n5\r") + POISON)], CUT),
    "a size that wraps": ([*late(CHUNKS.replace(b"\r\n6\r", b"\r\n10000000000000006\r") + POISON)], CUT),
    "a trailer that is none": ([*late(CHUNKS[:-2] + b"X\r\n\r\n" + POISON)], CUT),
    "close, and one more": ([OK + b"Connection: close\r\n" + HONEST + POISON], GOOD),
    "keep-alive and close": ([OK + b"Connection: keep-alive, close\r\n" + HONEST, SOON, POISON], GOOD),
    "HTTP/1.0": ([b"HTTP/1.0 200 OK\r\n" + HONEST + POISON], GOOD),
    "the end of the connection is its end": ([OK + b"\r\nhonest", CLOSE], GOOD),
    "hints": ([b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 5 + OK + HONEST], GOOD),
    "hints with a length": ([b"HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\n" + OK + HONEST], GOOD),
    "hints with a body": ([b"HTTP/1.1 103 Early Hints\r\nContent-Length: 6\r\n\r\nhonest" + OK + HONEST], BAD),
    "a 100 that nobody waits for": ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK + HONEST], GOOD),
    "1xx without end": ([b"HTTP/1.1 102 Processing\r\n\r\n" * 100 + OK + HONEST], BAD),
    "a 101 that nobody asked for": (
        [b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n" + POISON],
        BAD,
    ),
    "a 101 without a protocol": ([b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + POISON], BAD),
}


def own(lab: Lab, back: str) -> None:
    """Two others ask, twice each and in turn, and one of HTTP/2: each gets its own."""
    with Downstream(lab.ports[back]) as first, Downstream(lab.ports[back]) as second, Http2Socket(lab.ports[back]) as third:
        for turn in range(2):
            for index, downstream in enumerate((first, second)):
                target = f"/own/{turn}/{index}"
                answer = downstream.ask("GET", target)
                assert (answer.status, answer.body) == (200, target.encode())
                assert not downstream.reader.buffer
            answered = third.answer(third.get(f"/own/{turn}/2"))
            assert (answered.status, answered.body) == (200, f"/own/{turn}/2".encode())


def outcome(lab: Lab, back: str, front: str, target: str, method: str = "GET") -> tuple[str, int, bytes]:
    """GOOD, BAD or CUT; the status; and every byte that came."""
    if front == "h2":
        with Http2Socket(lab.ports[back]) as them:
            answered = them.answer(them.get(target, method=method.encode()))
            got = answered.body + b"".join(name + value for name, value in answered.fields + answered.trailers)
            how = CUT if answered.reset >= 0 else GOOD
            return (BAD if answered.status == 502 else how), answered.status, got
    with Downstream(lab.ports[back]) as downstream:
        downstream.send(f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        try:
            answer = downstream.final(method)
        except (Ended, ConnectionResetError):
            return CUT, 0, bytes(downstream.reader.raw) + downstream.reader.buffer
        assert downstream.is_closed_by_peer()
        return (BAD if answer.status == 502 else GOOD), answer.status, answer.raw


@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize("name", ANSWERS)
def test_what_an_endpoint_says_beyond_its_answer_reaches_nobody(lab: Lab, name: str, front: str) -> None:
    lab.one.forget()
    steps, expected = ANSWERS[name]
    lab.one.answers[b"/poison"] = steps
    how, _, got = outcome(lab, "h1", front, "/poison")
    assert (how, b"smuggled" in got) == (expected, False), got
    if SOON in steps:
        time.sleep(2 * SOON)  # until it is in the pool: with the next question on its way, nothing would tell it from an answer
    own(lab, "h1")
    assert lab.one.faults == []


# To be answered without a body, whatever stands behind the head.
@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize("framing", [b"Content-Length: 8\r\n\r\nsmuggled", b"Transfer-Encoding: chunked\r\n\r\n8\r\nsmuggled\r\n0\r\n\r\n"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204)])
def test_a_body_that_must_not_be_there(lab: Lab, front: str, framing: bytes, method: str, status: int) -> None:
    lab.one.forget()
    lab.one.answers[b"/poison"] = [b"HTTP/1.1 %d Fine\r\n" % status + framing]
    how, got_status, got = outcome(lab, "h1", front, "/poison", method)
    assert (how, got_status, b"smuggled" in got) == (GOOD, status, False)
    own(lab, "h1")


def test_an_answer_before_the_question(lab: Lab) -> None:
    """Who asked first gets it, for nothing tells it from a quick answer; the real one then is nobody's."""
    lab.greeter.greeting = OK + HONEST
    lab.greeter.answers[b"/poison"] = [POISON]
    with Downstream(lab.ports["greeter"]) as downstream:
        assert downstream.ask("POST", "/poison", body=b"new").body == b"honest"
        lab.greeter.greeting = b""
        wait_until(lambda: len(lab.greeter.seen) == 1, "the real answer")
        time.sleep(SOON)
    own(lab, "greeter")


@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize("is_kept", [True, False])
def test_an_answer_before_the_body(lab: Lab, front: str, is_kept: bool) -> None:
    """The rest of the body is neither a request upstream, nor the next one here."""
    lab.one.forget()
    lab.one.answers[b"/early"] = [
        b"HTTP/1.1 413 Too much\r\nContent-Length: 6\r\n" + (b"" if is_kept else b"Connection: close\r\n") + b"\r\nhonest"
    ]
    lab.one.answers_early.add(b"/early")
    try:
        if front == "h1":
            with Downstream(lab.ports["h1"]) as downstream:
                downstream.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + SMUGGLED)
                assert downstream.final().status == 413
                with contextlib.suppress(OSError):
                    downstream.send(SMUGGLED * 3)
        else:
            with Http2Socket(lab.ports["h1"]) as them:
                number = them.post("/early")
                them.send(number, SMUGGLED)
                assert them.answer(number).status == 413
        own(lab, "h1")
        assert b"/smuggled" not in [seen.target for seen in lab.one.seen]
    finally:
        lab.one.answers_early.clear()


# Responses of HTTP/2

N = Http2Recorder.NUMBER
END2, MORE2 = END_HEADERS | END_STREAM, END_HEADERS


def frame(kind: int, flags: int, payload: bytes = b"") -> bytes:
    """On the stream of the request."""
    return raw(kind, flags, 0, payload)[:5] + N + payload


def head(status: str, *more: tuple[str, str | bytes], ends: bool = False) -> bytes:
    return frame(HEADERS, END2 if ends else MORE2, block([(":status", status), *more]))


LAST, HONEST2 = frame(DATA, END_STREAM), frame(DATA, END_STREAM, b"honest")
PUSH = (2).to_bytes(4, "big") + block([*GET2[:2], (":path", "/own/0/0"), GET2[3]])
ANSWERS2: dict[str, tuple[list[Step], str]] = {
    "as it should be": ([head("200"), HONEST2], GOOD),
    "hints": ([head("103", ("link", "</a>")) * 5 + head("200"), HONEST2], GOOD),
    "1xx without end": ([head("103") * 100 + head("200"), HONEST2], BAD),
    "hints that end it": ([head("103", ends=True)], BAD),
    "101": ([head("101")], BAD),
    "CRLF in a value": ([head("200", ("x", b"1\r\nContent-Length: 0\r\n\r\nsmuggled")), HONEST2], BAD),
    "LF in a name": ([head("200", ("x\ny", "1")), HONEST2], BAD),
    "NUL in a value": ([head("200", ("x", b"\0")), HONEST2], BAD),
    "a name in capitals": ([head("200", ("Set-Cookie", "1")), HONEST2], BAD),
    "a coding": ([head("200", ("transfer-encoding", "chunked")), HONEST2], BAD),
    "connection": ([head("200", ("connection", "close")), HONEST2], BAD),
    "no status": ([frame(HEADERS, MORE2, block([("x", "1")])), HONEST2], BAD),
    "a status of four digits": ([head("2000"), HONEST2], BAD),
    "a status with a phrase": ([head("200 OK"), HONEST2], BAD),
    "two statuses": ([head("200", (":status", "404")), HONEST2], BAD),
    "a pseudo-header of requests": ([head("200", (":path", "/")), HONEST2], BAD),
    "two lengths": ([head("200", ("content-length", "6"), ("content-length", "7")), HONEST2], BAD),
    "a length with a plus": ([head("200", ("content-length", "+6")), HONEST2], BAD),
    "a length and no body": ([head("200", ("content-length", "6"), ends=True)], BAD),
    "a length below the body": ([head("200", ("content-length", "3")), SOON, frame(DATA, END_STREAM, b"honsmuggled")], CUT),
    "a length above the body": ([head("200", ("content-length", "9")), SOON, HONEST2], CUT),
    "a body before the head": ([HONEST2], BAD),
    "trailers that do not end it": ([head("200"), SOON, frame(DATA, 0, b"hon"), frame(HEADERS, MORE2, block([("x", "1")]))], CUT),
    "a status among trailers": ([head("200"), SOON, frame(DATA, 0, b"hon"), head("200", ends=True)], CUT),
    "CRLF in a trailer": ([head("200"), SOON, frame(DATA, 0, b"hon"), frame(HEADERS, END2, block([("x", b"1\r\n\r\nsmuggled")]))], CUT),
    "a second answer behind it": ([head("200"), HONEST2 + head("200") + frame(DATA, END_STREAM, b"smuggled")], GOOD),
    "a body behind it": ([head("200"), HONEST2 + frame(DATA, 0, b"smuggled")], GOOD),
    "a reset": ([frame(3, 0, bytes(4))], BAD),
    "a reset in the middle": ([head("200"), SOON, frame(3, 0, (2).to_bytes(4, "big"))], CUT),
    "the end": ([CLOSE], BAD),
    "the end in the middle": ([head("200"), SOON, CLOSE], CUT),
    "a push": ([frame(PUSH_PROMISE, END_HEADERS, PUSH), CLOSE], BAD),
    "an answer on a stream of its own": ([raw(HEADERS, END2, 2, block([(":status", "200")])), CLOSE], BAD),
    "an answer on a stream that is not open": ([raw(HEADERS, END2, 9999, block([(":status", "200")])), CLOSE], BAD),
    "another frame within a head": ([frame(HEADERS, 0, block([(":status", "200")])) + HONEST2, CLOSE], BAD),
    "a head that cannot be decoded": ([frame(HEADERS, MORE2, b"\xff\xff\xff\xff\xff"), CLOSE], BAD),
    "a head without end": ([frame(HEADERS, 0, b""), frame(CONTINUATION, 0, bytes(16000)) * 20, CLOSE], BAD),
    "another protocol": ([OK + HONEST + POISON, CLOSE], BAD),
}  # fmt: skip


@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize("name", ANSWERS2)
def test_what_an_endpoint_of_http2_says_beyond_its_answer_reaches_nobody(lab: Lab, name: str, front: str) -> None:
    lab.two.forget()
    steps, expected = ANSWERS2[name]
    lab.two.answers[b"/poison"] = steps
    how, _, got = outcome(lab, "h2", front, "/poison")
    assert (how, b"smuggled" in got) == (expected, False), got
    own(lab, "h2")


@pytest.mark.parametrize("front", ["h1", "h2"])
@pytest.mark.parametrize(("method", "status"), [("HEAD", "200"), ("GET", "304"), ("GET", "204")])
def test_a_body_that_must_not_be_there_over_http2(lab: Lab, front: str, method: str, status: str) -> None:
    lab.two.forget()
    lab.two.answers[b"/poison"] = [head(status, ("content-length", "8")), frame(DATA, END_STREAM, b"smuggled")]
    _, _, got = outcome(lab, "h2", front, "/poison", method)
    assert b"smuggled" not in got
    own(lab, "h2")
