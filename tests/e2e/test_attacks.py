"""Clients that mean harm, over HTTP/1 and before it, against the real daemon: memory stays bounded, each gets the right answer, and others
are served meanwhile.

What is said of time is said of conditions that come in the end; what must be quick is measured by `make bench` (slowloris).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import procfs
from tests.support.disks import tiny_disk
from tests.support.http import Answer, Downstream, Ended, get, request_bytes
from tests.support.origins import ScriptedOrigin
from tests.support.patience import PATIENCE
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until, whole_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KIB = 1024
# Listener -> its limits, its timeouts.
LISTENERS = {
    "plain": ("", ""),
    "heads": ("", 'head = "4s"'),
    "rates": ('min_upload_rate = "64KiB", min_download_rate = "64KiB", rate_grace = "1s"', ""),
    "address": ("connections_per_address = 20", ""),
    "hoard": ("connections = 50", ""),
    "crowded": ("connections = 30", 'head = "4s"'),
}


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: ScriptedOrigin
    ports: dict[str, int]
    access: Path

    def rejected(self, reason: str) -> float:
        return self.lbd.metric("lbd_rejected_total", reason=reason)

    def memory(self) -> int:
        """Of the one worker, in KiB."""
        (worker,) = self.lbd.workers()
        return procfs.rss_of(worker) // KIB

    @contextmanager
    def bounded(self, kib: int) -> Iterator[None]:
        """What happens here costs the worker no more than that, and a stranger is served before and after."""
        assert get(self.ports["plain"]).status == 200
        before = self.memory()
        yield
        assert self.memory() - before <= kib
        assert get(self.ports["plain"]).status == 200

    def lines(self, reason: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in whole_lines(self.access)]
        return [line for line in lines if line["reason"] == reason]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    admin, *free = free_ports(len(LISTENERS) + 1)
    ports = dict(zip(LISTENERS, free, strict=True))
    directory = tmp_path_factory.mktemp("lbd")
    access = directory / "access.log"
    with ScriptedOrigin() as origin:
        text = f'[lbd]\nworkers = 1\n[log]\naccess = "{access}"\n[admin]\nbind = "127.0.0.1:{admin}"\n'
        for name, (limits, timeouts) in LISTENERS.items():
            text += f'[listener.{name}]\nbind = "127.0.0.1:{ports[name]}"\ncluster = "web"\nreason_header = true\n'
            text += f"limits = {{ {limits} }}\ntimeouts = {{ {timeouts} }}\n"
        text += '[listener.address.proxy_protocol]\ntrusted = ["127.0.0.1"]\n'
        text += f'[cluster.web]\nendpoints = ["{origin.address}"]\n'
        with start_lbd(text, directory) as lbd:
            yield Lab(lbd, origin, ports, access)
            assert lbd.metric("lbd_faults_total") == 0


def refusal(downstream: Downstream) -> tuple[int, str]:
    answer: Answer = downstream.final()
    return answer.status, answer.get("x-lbd-reason")


def flood(downstream: Downstream, piece: bytes, times: int) -> int:
    """Sends for as long as it is taken; how many bytes that were."""
    sent = 0
    with suppress(ConnectionError):
        for _ in range(times):
            sent += downstream.sock.send(piece)
    return sent


# Heads


def test_slowloris(lab: Lab) -> None:
    """A thousand heads that never come to an end."""
    port, before = lab.ports["heads"], lab.rejected("header_timeout")
    with ExitStack() as stack, lab.bounded(20 * 1024):
        slow = [stack.enter_context(Downstream(port)).send(b"GET / HTTP/1.1\r\nHost: a\r\n") for _ in range(1000)]
        for number in range(10):
            assert get(port).status == 200
            for downstream in slow[number::100]:
                downstream.send(b"X-Later: 1\r\n")
        assert {refusal(downstream) for downstream in slow} == {(408, "header_timeout")}
        assert all(downstream.is_closed_by_peer() for downstream in slow)
        assert lab.rejected("header_timeout") == before + 1000


def test_slow_heads_fill_a_listener(lab: Lab) -> None:
    """For half of the time that a head may take; then those who come are served, however many slow ones come with them."""
    port = lab.ports["crowded"]

    def is_served() -> bool:
        try:
            return get(port).status == 200
        except (ConnectionError, Ended):
            return False

    with ExitStack() as stack, lab.bounded(8 * 1024):
        for _ in range(30):
            stack.enter_context(Downstream(port)).send(b"GET / HTTP/1.1\r\nHo")
        wait_until(is_served, "an answer")
        assert lab.rejected("head_displaced") >= 1


@pytest.mark.parametrize(
    ("piece", "what"),
    [
        (b"X-Bomb: " + b"x" * 60 + b"\r\n", "many fields"),
        (b"x" * 1000, "one that does not end"),
        (b"Cookie: " + b"c=1; " * 2000 + b"\r\n", "cookies"),
    ],
    ids=["fields", "one without end", "cookies"],
)
def test_header_bombs(lab: Lab, piece: bytes, what: str) -> None:
    with lab.bounded(8 * 1024):
        for _ in range(20):
            with Downstream(lab.ports["plain"]) as downstream:
                downstream.send(b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " if what == "one that does not end" else b""))
                flood(downstream, piece, 10_000)
                with suppress(ConnectionResetError):  # it sends still when the answer has been waiting for long
                    assert refusal(downstream) == (431, "head_too_large")
    assert lab.rejected("head_too_large") >= 20
    assert not any(message.get("x-bomb") or message.get("cookie") for message in lab.origin.requests)


def test_requests_without_end_whose_answers_nobody_reads(lab: Lab) -> None:
    port, before = lab.ports["rates"], lab.rejected("download_too_slow")
    with lab.bounded(8 * 1024), Downstream(port, 60.0) as downstream:
        sent = flood(downstream, request_bytes("GET", "/bytes/20000") * 100, 100_000)
        assert sent < 50_000_000
    wait_until(lambda: lab.rejected("download_too_slow") == before + 1, "its end")


# Bodies


CHUNKED = b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("start", "piece", "verdict"),
    [
        (CHUNKED, b"1;" + b"e" * 900 + b"\r\nx\r\n", (400, "bad_chunk")),
        (CHUNKED + b"1;", b"e" * 1000, (400, "bad_chunk")),
        (CHUNKED + b"1", b"0" * 1000, (400, "bad_chunk")),
        (CHUNKED + b"1\r\nx\r\n0\r\n", b"Trailer: " + b"t" * 50 + b"\r\n", (431, "bad_trailers")),
        (CHUNKED + b"1\r\nx\r\n0\r\nT: ", b"t" * 1000, (431, "bad_trailers")),
    ],
    ids=["extensions", "an extension without end", "a size without end", "trailers", "a trailer without end"],
)
def test_chunks_that_are_nothing_but_border(lab: Lab, start: bytes, piece: bytes, verdict: tuple[int, str]) -> None:
    before = lab.rejected(verdict[1])
    with lab.bounded(8 * 1024):
        for _ in range(10):
            with Downstream(lab.ports["plain"]) as downstream:
                downstream.send(start)
                flood(downstream, piece, 5000)
                with suppress(ConnectionResetError):
                    assert refusal(downstream) == verdict
        wait_until(lambda: lab.rejected(verdict[1]) == before + 10, "the reasons")


def test_slow_bodies(lab: Lab) -> None:
    port, before = lab.ports["rates"], lab.rejected("upload_too_slow")
    with ExitStack() as stack, lab.bounded(16 * 1024):
        slow = [stack.enter_context(Downstream(port)) for _ in range(100)]
        for number, downstream in enumerate(slow):
            head = b"POST /echo HTTP/1.1\r\nHost: a\r\n"
            downstream.send(head + (b"Content-Length: 1000000\r\n\r\n" if number % 2 else b"Transfer-Encoding: chunked\r\n\r\nfffff\r\n"))
        deadline = time.monotonic() + 60.0
        while lab.rejected("upload_too_slow") < before + 100:
            assert time.monotonic() < deadline
            for downstream in slow:
                with suppress(ConnectionError):
                    downstream.sock.send(b"b")
            time.sleep(0.1)
        with Downstream(port) as honest:
            assert honest.ask("POST", "/echo", body=b"b" * 500_000).body == b"b" * 500_000


def test_slow_readers(lab: Lab) -> None:
    port, before = lab.ports["rates"], lab.rejected("download_too_slow")
    with ExitStack() as stack, lab.bounded(32 * 1024):
        for number in range(50):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", port))
            sock.sendall(request_bytes("GET", "/bytes/20000000" if number % 2 else "/until-close/20000000"))
        wait_until(lambda: lab.rejected("download_too_slow") == before + 50, "their ends", 60.0)


def test_a_service_that_says_little_is_no_slow_client(lab: Lab) -> None:
    """Pauses three times as long as the grace: it is the service that is waited for."""
    with Downstream(lab.ports["rates"]) as downstream:
        assert downstream.ask("GET", "/stream/2/3").body == b"chunk 0\nchunk 1\n"


# Connections


def proxied(port: int, source: str, stack: ExitStack) -> Downstream:
    """A connection that begins as one of this client's, by way of a proxy that is trusted."""
    family = "TCP6" if ":" in source else "TCP4"
    own = "2001:db8::99" if ":" in source else "192.0.2.99"
    return stack.enter_context(Downstream(port)).send(f"PROXY {family} {source} {own} 1000 80\r\n".encode())


@pytest.mark.parametrize(
    ("attackers", "other"),
    [(["203.0.113.9"], "203.0.113.10"), ([f"2001:db8::{number:x}" for number in range(1, 51)], "2001:db8:0:1::1")],
    ids=["IPv4", "IPv6"],
)
def test_one_address_floods(lab: Lab, attackers: list[str], other: str) -> None:
    port, before = lab.ports["address"], lab.rejected("too_many_from_address")
    with ExitStack() as stack:
        flood = [proxied(port, attackers[number % len(attackers)], stack) for number in range(200)]
        wait_until(lambda: lab.rejected("too_many_from_address") == before + 180, "the refusals")
        assert proxied(port, other, stack).ask("GET", "/").status == 200
        served = [downstream for downstream in flood if not downstream.is_closed_by_peer(0.01)]
        assert len(served) == 20
        for downstream in served:
            downstream.sock.settimeout(PATIENCE)
        assert {downstream.ask("GET", "/").status for downstream in served} == {200}
    wait_until(lambda: bool(lab.lines("too_many_from_address")), "a line in the access log")
    assert lab.lines("too_many_from_address")[0]["client"] == attackers[0] or len(attackers) > 1
    wait_until(lambda: lab.lbd.metric("lbd_downstream_connections", listener="address") == 0, "their ends")


def test_hoarders(lab: Lab) -> None:
    """Who holds connections without using them loses them, those first that were idle for longest."""
    port, before = lab.ports["hoard"], lab.lbd.metric("lbd_downstream_evictions_total", listener="hoard")
    refused = lab.rejected("too_many_connections")
    with ExitStack() as stack, lab.bounded(8 * 1024):
        for number in range(500):
            stack.enter_context(Downstream(port))
            if number % 50 == 0:
                assert get(port).status == 200
        assert lab.rejected("too_many_connections") == refused
        assert lab.lbd.metric("lbd_downstream_evictions_total", listener="hoard") >= before + 450
        assert lab.lbd.metric("lbd_downstream_connections", listener="hoard") <= 51
    said = "listener hoard has no room for more connections"
    lab.lbd.wait_for_log(said)
    assert lab.lbd.log().count(said) == 1


def test_descriptors_are_hoarded(tmp_path: Path) -> None:
    """The limit on open files, and nobody who lets go: idle ones are closed; those that are busy make others wait, and are waited for."""
    admin, port = free_ports(2)
    text = f'[lbd]\nworkers = 1\n[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{admin}"\n[listener.web]\nbind = "127.0.0.1:{port}"\n'
    text += '[[listener.web.route]]\nrespond = { body = "x" }\n'
    with ExitStack() as stack:
        lbd = stack.enter_context(LbdDaemon(text, tmp_path, under=("prlimit", "--nofile=64"))).wait_ready()
        for number in range(200):
            stack.enter_context(Downstream(port))
            if number % 20 == 0:
                assert get(port).status == 200
        assert lbd.metric("lbd_accept_pauses_total") == 0
        assert lbd.metric("lbd_downstream_connections", listener="web") <= 38
        busy = [stack.enter_context(Downstream(port)).send(b"GET / HTTP/1.1\r\nHo") for _ in range(45)]
        lbd.wait_for_log("listener web cannot accept: 38 connections are here")
        for downstream in busy:
            downstream.close()
        lbd.wait_for_log("listener web accepts again, after")
        assert get(port).status == 200
        assert lbd.metric("lbd_accept_pauses_total", cause="descriptors") >= 1
        assert lbd.metric("lbd_faults_total") == 0


# A full disk


def log_goes_on(lab: Lab, directory: Path, path: Path, make_room: Callable[[], None], *, is_reopened: bool = False) -> None:
    """Requests are answered while no line can be written, lines are counted then, and written again once there is room."""
    admin, port = free_ports(2)
    text = f'[lbd]\nworkers = 1\n[log]\naccess = "{path}"\n[admin]\nbind = "127.0.0.1:{admin}"\n[listener.web]\n'
    text += f'bind = "127.0.0.1:{port}"\ncluster = "web"\n[cluster.web]\nendpoints = ["{lab.origin.address}"]\n'
    with start_lbd(text, directory / "lbd") as lbd, Downstream(port) as downstream:

        def ask(target: str) -> None:
            assert downstream.ask("GET", target).status == 200

        def lost() -> float:
            ask("/x")
            return lbd.metric("lbd_log_lines_dropped_total", log="access")

        for number in range(500):
            ask(f"/{number}")
        wait_until(lambda: lost() > 0, "lines that are lost")
        lbd.wait_for_log("the access log lost .* No space left on device")
        make_room()
        if is_reopened:
            lbd.signal(signal.SIGUSR1)

        def is_written() -> bool:
            ask("/again")
            return path.is_file() and "/again" in path.read_text()

        wait_until(is_written, "lines in the log")
        assert lbd.metric("lbd_faults_total") == 0


def test_a_full_disk_costs_lines_and_nothing_else(lab: Lab, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with tiny_disk(disk):
        log_goes_on(lab, tmp_path, disk / "access.log", lambda: os.truncate(disk / "access.log", 0))


def test_a_device_that_is_always_full_until_the_log_is_reopened(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    path.symlink_to("/dev/full")
    log_goes_on(lab, tmp_path, path, path.unlink, is_reopened=True)
