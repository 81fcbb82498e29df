"""The tests' own tools: an origin that misbehaves as asked, and the raw HTTP that sees it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from lbd.config.schema import load_config
from lbd.master.reload import compare
from tests.support.chaos import SHAPE, ChangingText
from tests.support.http import Downstream, Ended, get
from tests.support.origins import NginxOrigin, ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, begin_with, find_program, start_lbd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def origin() -> Iterator[ScriptedOrigin]:
    with ScriptedOrigin("one") as started:
        yield started


def test_it_answers_and_records(origin: ScriptedOrigin) -> None:
    with Downstream(origin.port) as downstream:
        first = downstream.ask("GET", "/", {"x-id": "7"})
        second = downstream.ask("POST", "/echo", body=b"some body")
    assert (first.status, first.body, first.get("x-origin"), first.get("x-id")) == (200, b"7", "one", "7")
    assert second.body == b"some body"
    assert [(r.message.method, r.message.target, r.connection) for r in origin.received] == [("GET", "/", 1), ("POST", "/echo", 1)]
    assert origin.requests[0].raw == b"GET / HTTP/1.1\r\nHost: test\r\nx-id: 7\r\n\r\n"
    assert origin.requests[1].raw.endswith(b"\r\n\r\nsome body")


@pytest.mark.parametrize(("path", "status", "body"), [
    ("/status/503", 503, b"status 503\n"), ("/bytes/100000", 200, b"b" * 100_000), ("/slow/0.01", 200, b"slow\n"),
    ("/stream/3/0", 200, b"chunk 0\nchunk 1\nchunk 2\n"), ("/until-close/9", 200, b"u" * 9), ("/last", 200, b"last\n"),
    ("/status/204", 204, b""), ("/hints", 200, b"hinted\n"),
])  # fmt: skip
def test_it_answers_as_the_path_says(origin: ScriptedOrigin, path: str, status: int, body: bytes) -> None:
    answer = get(origin.port, path)
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.parametrize("path", ["/close", "/half", "/half-head"])
def test_it_breaks_off(origin: ScriptedOrigin, path: str) -> None:
    with pytest.raises(Ended):
        get(origin.port, path)


def test_it_resets(origin: ScriptedOrigin) -> None:
    with pytest.raises(ConnectionResetError):
        get(origin.port, "/reset")


def test_interim_responses_can_be_seen(origin: ScriptedOrigin) -> None:
    with Downstream(origin.port) as downstream:
        downstream.send(b"GET /hints HTTP/1.1\r\nHost: a\r\n\r\n")
        assert [downstream.response().status for _ in range(2)] == [103, 200]


def test_it_answers_early(origin: ScriptedOrigin) -> None:
    with Downstream(origin.port) as downstream:
        downstream.send(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
        assert downstream.response().status == 413


def test_it_can_be_killed_and_restarted(origin: ScriptedOrigin) -> None:
    with Downstream(origin.port) as downstream:
        assert downstream.ask("GET", "/").status == 200
        origin.stop()
        assert downstream.is_closed_by_peer()
    with pytest.raises(ConnectionRefusedError):
        get(origin.port)
    origin.start()
    assert get(origin.port).status == 200


@pytest.mark.skipif(not find_program("nginx"), reason="needs nginx")
def test_the_fast_one(tmp_path: Path) -> None:
    with NginxOrigin(tmp_path, 2) as origin:
        first, second = (get(port, "/id", {"x-id": "5"}) for port in origin.ports)
        assert (first.body, first.get("x-origin"), second.get("x-origin")) == (b"5", "origin-0", "origin-1")
        assert [len(get(origin.port, path).body) for path in ("/", "/126", "/10k", "/1m")] == [126, 126, 10_240, 1 << 20]
        with Downstream(origin.port) as downstream:
            assert [downstream.ask("POST", "/sink", body=b"p" * 65_536).body for _ in range(2)] == [b"taken\n"] * 2


def test_every_change_of_a_changing_text_is_one_of_endpoints_routes_or_binds(tmp_path: Path) -> None:
    file = tmp_path / "lb.toml"
    for seed in range(10):
        text = ChangingText([1, 2, 3], fewest=2, seed=seed)
        file.write_text(str(text))
        before = load_config(file, {})
        for _ in range(30):
            text.change()
            file.write_text(str(text))
            after = load_config(file, {})
            report = compare(before, after, 1)
            assert any(report.kinds[kind] for kind in SHAPE), report.line()
            before = after


LEAKY = """
import sys
if "lbd.worker" in sys.orig_argv:
    import trio
    import lbd.proxy.exchange as exchange
    kept, finish = [], exchange.Exchange.finish

    def leak(self):
        finish(self)
        {leak}

    exchange.Exchange.finish = leak
"""
LEAKS = {
    "a task for each request": ("trio.lowlevel.spawn_system_task(trio.sleep_forever)", "tasks, more than 14"),
    "memory": ("kept.append(b'x' * (1 << 20))", "KiB, more than"),
    "descriptors": ("kept.append(open('/dev/null'))", "other descriptors, more than"),
    "sockets": ("import socket; kept.append(socket.socket())", "sockets, more than"),
}


def leaky(directory: Path, leak: str, origin: ScriptedOrigin, port: int, admin: int, token: str = "") -> LbdDaemon:
    text = f"""
[lbd]
workers = 1
[admin]
bind = "127.0.0.1:{admin}"
{token}
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = ["{origin.address}"]
"""
    program = LEAKY.format(leak=leak)
    return start_lbd(text, directory, pure=True, environment=begin_with(directory, program))


@pytest.mark.parametrize("leak", LEAKS)
def test_a_daemon_that_leaks_fails_its_test(origin: ScriptedOrigin, tmp_path: Path, leak: str) -> None:
    """Also where a token guards what is asked of it, and after an upgrade."""
    port, admin = free_ports(2)
    program, told = LEAKS[leak]
    lbd = leaky(tmp_path, program, origin, port, admin, 'token = "secret"' if leak == "sockets" else "")
    if leak == "descriptors":
        lbd.signal(signal.SIGUSR2)
        assert lbd.wait() == 0
    for _ in range(30):
        assert get(port).status == 200
    lbd.quiet = 2.0  # a leak does not go away
    with pytest.raises(TimeoutError, match=told):
        lbd.stop()
    assert not lbd.is_running()
    assert not lbd.successor()
