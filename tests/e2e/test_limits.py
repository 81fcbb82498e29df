"""Limits and timeouts of a listener against the real daemon: what is within is served, what is beyond ends with a clear word."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.support.http import Downstream, Ended, get, request_bytes
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

# Listener -> its limits, its timeouts.
LISTENERS = {
    "plain": ("", ""),
    "head": ('head = "8KiB"', ""),
    "target": ("target = 1000", ""),
    "fields": ("fields = 10", ""),
    "body": ("body = 10000", ""),
    "connections": ("connections = 10", 'head = "120s"'),
    "requests": ("requests = 3", ""),
    "slow-head": ("", 'head = "500ms"'),
    "slow-heads": ("", 'head = "1s", keepalive = "1s"'),
    "idle": ("", 'keepalive = "400ms", head = "800ms"'),
    "no-keepalive": ("", 'keepalive = "0s"'),
    "slow-body": ("", 'body = "600ms"'),
    "linger": ("", 'linger = "300ms"'),
}


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    ports: dict[str, int]

    def rejected(self, reason: str = "") -> float:
        return self.lbd.metric("lbd_rejected_total", **({"reason": reason} if reason else {}))

    def connections(self, listener: str) -> float:
        return self.lbd.metric("lbd_downstream_connections", listener=listener)


@pytest.fixture(scope="module", params=[False, True], ids=["compiled", "pure"])
def lab(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    admin, *free = free_ports(len(LISTENERS) + 1)
    ports = dict(zip(LISTENERS, free, strict=True))
    with ScriptedOrigin() as origin:
        text = f'[lbd]\nworkers = 1\n[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{admin}"\n'
        for name, (limits, timeouts) in LISTENERS.items():
            text += f'[listener.{name}]\nbind = "127.0.0.1:{ports[name]}"\ncluster = "web"\nreason_header = true\n'
            text += f"limits = {{ {limits} }}\ntimeouts = {{ {timeouts} }}\n"
        text += '[[listener.body.route]]\npath = "/large"\nmax_body = 50000\ncluster = "web"\n'
        text += f'[cluster.web]\nendpoints = ["{origin.address}"]\n'
        with start_lbd(text, tmp_path_factory.mktemp("lbd"), pure=request.param) as lbd:
            yield Lab(lbd, origin, ports)
            assert lbd.metric("lbd_faults_total") == 0


# Sizes


def head_of(size: int) -> bytes:
    """A request whose line and fields, up to and with the empty line, are so long."""
    start = b"GET / HTTP/1.1\r\nHost: a\r\n"
    lines = [b"X: %b\r\n" % (b"x" * 500)] * ((size - len(start) - 600) // 505)
    rest = size - len(start) - sum(map(len, lines)) - len(b"Y: \r\n\r\n")
    return start + b"".join(lines) + b"Y: " + b"y" * rest + b"\r\n\r\n"


@pytest.mark.parametrize(("size", "status"), [(8000, 200), (8192, 200), (8193, 431), (20_000, 431)])
@pytest.mark.parametrize("step", [1 << 20, 700], ids=["at once", "in pieces"])
def test_heads(lab: Lab, size: int, status: int, step: int) -> None:
    port = lab.ports["head"]
    data = head_of(size)
    assert len(data) == size
    with Downstream(port) as downstream:
        try:
            for place in range(0, size, step):
                downstream.send(data[place : place + step])
        except (BrokenPipeError, ConnectionResetError):
            assert status == 431
        answer = downstream.final()
        assert answer.status == status
        assert (status == 200) or (answer.get("x-lbd-reason") == "head_too_large" and downstream.is_closed_by_peer())


@pytest.mark.parametrize(("length", "status"), [(1000, 200), (1001, 414)])
def test_targets(lab: Lab, length: int, status: int) -> None:
    port = lab.ports["target"]
    assert get(port, "/" + "t" * (length - 1)).status == status


@pytest.mark.parametrize(("count", "status"), [(10, 200), (11, 431)])
def test_fields(lab: Lab, count: int, status: int) -> None:
    port = lab.ports["fields"]
    assert get(port, "/", {f"x-{number}": "1" for number in range(count - 1)}).status == status  # Host is one too


def test_bodies(lab: Lab) -> None:
    port = lab.ports["body"]
    lab.origin.received.clear()

    def chunked(size: int) -> bytes:
        head = b"POST /large HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        return head + b"".join(b"%x\r\n%b\r\n" % (part, b"c" * part) for part in (size - 5000, 5000)) + b"0\r\n\r\n"

    for target, size, status in (("/", 10_000, 200), ("/", 10_001, 413), ("/large", 50_000, 200), ("/large", 50_001, 413)):
        with Downstream(port) as downstream:
            answer = downstream.ask("POST", target, {}, b"b" * size)
            assert (target, size, answer.status) == (target, size, status)
            assert status == 200 or answer.get("x-lbd-reason") == "request_too_large"
    for size, status in ((50_000, 200), (50_001, 413)):
        with Downstream(port) as downstream:
            assert downstream.send(chunked(size)).final().status == status
    assert {len(message.body) for message in lab.origin.requests} == {10_000, 50_000}


def test_a_refusal_is_heard_above_the_body(lab: Lab) -> None:
    """The answer comes while the client still sends: closing at once would reset the connection and destroy it (RFC 9112 9.6)."""
    port = lab.ports["body"]
    for _ in range(10):
        with Downstream(port) as downstream:
            answer = downstream.ask("POST", "/", {}, b"b" * 2_000_000)
            assert answer.status == 413
            assert answer.get("connection") == "close"


# Counts

HALF, REST = b"GET / HTTP/1.1\r\nHo", b"st: a\r\n\r\n"


def test_connections(lab: Lab) -> None:
    port, before = lab.ports["connections"], lab.rejected("too_many_connections")
    with ExitStack() as stack:
        held = [stack.enter_context(Downstream(port)) for _ in range(10)]
        assert {downstream.ask("GET", "/").status for downstream in held} == {200}
        for downstream in held:
            downstream.send(HALF)  # those that are idle would make room
        for _ in range(3):
            with Downstream(port) as beyond:
                assert beyond.is_closed_by_peer()
        assert lab.rejected("too_many_connections") == before + 3
        assert lab.connections("connections") == 10
        held[0].close()
        wait_until(lambda: lab.connections("connections") == 9, "room")
        assert get(port).status == 200
        assert {downstream.send(REST).final().status for downstream in held[1:]} == {200}


def test_who_comes_takes_the_place_of_who_was_idle_for_longest(lab: Lab) -> None:
    port, before = lab.ports["connections"], lab.lbd.metric("lbd_downstream_evictions_total")
    with ExitStack() as stack:
        held: list[Downstream] = []
        for _ in range(30):
            held.append(stack.enter_context(Downstream(port)))
            assert held[-1].ask("GET", "/").status == 200
        assert {downstream.is_closed_by_peer() for downstream in held[:20]} == {True}
        assert {downstream.ask("GET", "/").status for downstream in held[20:]} == {200}
        assert lab.lbd.metric("lbd_downstream_evictions_total") == before + 20


def test_requests_of_a_connection(lab: Lab) -> None:
    port = lab.ports["requests"]
    with Downstream(port) as downstream:
        assert [downstream.ask("GET", "/").get("connection") for _ in range(3)] == ["", "", "close"]
        assert downstream.is_closed_by_peer()
    with Downstream(port) as downstream:  # what is pipelined beyond is not answered, and the third answer says so
        downstream.send(request_bytes("GET", "/") * 5)
        assert [downstream.final().get("connection") for _ in range(3)] == ["", "", "close"]
        assert downstream.is_closed_by_peer()


@pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)
@pytest.mark.final
def test_clients_live_with_few_requests_a_connection(lab: Lab) -> None:
    port = lab.ports["requests"]
    with IdLoad(port, connections=8, requests=2_000, pipeline=30) as load:
        counts = load.wait().assert_clean(2_000)
    assert counts.reconnects >= 2_000 // 3 - 8


# Times


def test_a_slow_head_is_cut_off_as_a_whole(lab: Lab) -> None:
    """A byte now and then does not stretch it (slowloris)."""
    port = lab.ports["slow-head"]
    with Downstream(port) as downstream:
        begun = time.monotonic()
        downstream.sock.settimeout(0.05)
        answer = b""
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 1000:
            downstream.sock.send(bytes([byte]))
            try:
                answer = downstream.sock.recv(1000)
                break
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"x-lbd-reason: header_timeout\r\n" in answer
        assert 0.4 < time.monotonic() - begun < 3.0


@pytest.mark.alone
def test_many_slow_heads_hinder_nobody(lab: Lab) -> None:
    port, before = lab.ports["slow-heads"], lab.rejected("header_timeout")
    with ExitStack() as stack:
        slow = [stack.enter_context(Downstream(port)) for _ in range(300)]
        for downstream in slow:
            downstream.send(b"GET / HTTP/1.1\r\nHo")
        begun = time.monotonic()
        assert [get(port).status for _ in range(10)] == [200] * 10
        assert time.monotonic() - begun < 1.0
        assert {downstream.response().status for downstream in slow} == {408}
        assert all(downstream.is_closed_by_peer() for downstream in slow)
        assert lab.rejected("header_timeout") == before + 300


def test_an_idle_connection_ends_without_a_word(lab: Lab) -> None:
    port, before = lab.ports["idle"], lab.rejected()
    with Downstream(port) as used, Downstream(port) as unused:
        assert used.ask("GET", "/").status == 200
        time.sleep(0.2)
        assert used.ask("GET", "/").status == 200  # each request begins the time anew
        begun = time.monotonic()
        assert used.is_closed_by_peer()
        assert 0.3 < time.monotonic() - begun < 3.0
        assert unused.is_closed_by_peer()
    assert lab.rejected() == before


def test_no_keep_alive(lab: Lab) -> None:
    port = lab.ports["no-keepalive"]
    with Downstream(port) as downstream:
        assert downstream.ask("GET", "/").status == 200
        assert downstream.is_closed_by_peer()


def test_a_body_may_be_slow_but_must_move(lab: Lab) -> None:
    port = lab.ports["slow-body"]
    with Downstream(port) as downstream:
        downstream.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n")
        begun = time.monotonic()
        for _ in range(10):
            downstream.send(b"b")
            time.sleep(0.1)
        assert downstream.final().body == b"b" * 10
        assert time.monotonic() - begun > 0.9  # longer than the limit
        downstream.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nbbb")
        answer = downstream.final()
        assert (answer.status, answer.get("x-lbd-reason")) == (408, "body_timeout")


def test_a_client_that_never_closes_is_left_in_the_end(lab: Lab) -> None:
    """After a refusal lbd reads on for `linger`, and no longer, whatever still comes."""
    port = lab.ports["linger"]
    with Downstream(port) as downstream:
        downstream.send(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n")
        assert downstream.final().status == 505
        begun = time.monotonic()
        try:
            while time.monotonic() - begun < 5.0:
                downstream.send(b"more")
                time.sleep(0.02)
        except (ConnectionResetError, BrokenPipeError):
            pass
        assert 0.2 < time.monotonic() - begun < 3.0
    wait_until(lambda: lab.connections("linger") == 0, "the end of it")


def test_half_a_request_and_the_end(lab: Lab) -> None:
    port, before = lab.ports["plain"], lab.rejected("downstream_closed")
    with Downstream(port) as downstream:
        downstream.send(b"GET / HTTP/1.1\r\nHo")
        downstream.end()
        with pytest.raises(Ended):
            downstream.response()
    wait_until(lambda: lab.rejected("downstream_closed") == before + 1, "its reason")


def test_a_reset_of_an_idle_connection_is_no_event(lab: Lab) -> None:
    """Port scanners and load balancers' checks do that all day."""
    port, before = lab.ports["plain"], lab.rejected()
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", port)):
            pass
        Downstream(port).abort()
    assert get(port).status == 200
    wait_until(lambda: lab.connections("plain") == 0, "no connections")
    assert lab.rejected() == before
