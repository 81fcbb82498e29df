"""`make chaos` in small: a few seconds of everything, and nothing that must not be seen; and that it does see it."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest
import trio

from tests.chaos.__main__ import chaos
from tests.chaos.clients import Clients
from tests.chaos.schedule import ENOUGH, KINDS, UNWELL, plan
from tests.chaos.tally import Tally, Troubles
from tests.support.certificates import Authority
from tests.support.ports import free_ports
from tests.support.processes import start_lbd
from tests.support.tcp import TcpOrigin

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.chaos.schedule import Event

SEED = 3
LISTENED = 2.0  # seconds of clients to whom everything goes wrong
NAMES = {
    "HTTP/1.1 GET", "HTTP/1.1 GET, TLS", "HTTP/1.1 POST", "HTTP/2 GET", "HTTP/2 GET, TLS", "HTTP/2 POST", "gRPC unary", "TCP",
    "WebSocket",
}  # fmt: skip


def kinds(events: list[Event]) -> set[tuple[str, str]]:
    return {(event.kind, "" if event.kind == "reload" else event.argument) for event in events}


@pytest.mark.alone
def test_everything_at_once(tmp_path: Path) -> None:
    """More patient with each try than `make chaos` is: a machine that is shared may be slow for a moment."""
    assert kinds(plan(SEED, ENOUGH, 5, 2)) == set(KINDS)
    assert chaos(tmp_path, ENOUGH, SEED, per_try="4s") == []


def test_the_seed_is_the_schedule() -> None:
    events = plan(SEED, ENOUGH, 5, 2)
    assert events == plan(SEED, ENOUGH, 5, 2) != plan(SEED + 1, ENOUGH, 5, 2)
    assert [event.at for event in events] == sorted(event.at for event in events)


def test_a_plan_that_has_time_for_it_has_every_kind_of_trouble() -> None:
    for seed in range(500):
        events = plan(seed, ENOUGH, 5, 2)
        assert kinds(events) == set(KINDS), seed
        unwell = [(event.at, event.at + event.lasts, event.target) for event in events if event.kind in UNWELL]
        for at, _, _ in unwell:
            assert len({target for begin, end, target in unwell if begin <= at < end}) <= 2, seed
    assert "names" not in {kind for kind, _ in kinds(plan(SEED, ENOUGH, 5, 2, without=frozenset({"names"})))}


def listen(clients: Clients) -> dict[str, Tally]:
    async def ask() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(clients.run)
            await trio.sleep(LISTENED)
            clients.troubles.over = True

    trio.run(ask)
    tallies = {tally.name: tally for tally in clients.tallies}
    assert tallies.keys() == NAMES
    return tallies


def test_clients_that_reach_nobody_do_not_call_it_well() -> None:
    port, tls_port, tcp_port = free_ports(3)
    for name, tally in listen(Clients(port, tls_port, tcp_port, Troubles(), SEED)).items():
        assert tally.verdict(), name
        assert tally.wrong, name


ALL_503 = """\
[lbd]
workers = 1
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
[[listener.web.route]]
respond = {{ status = 503, body = "no" }}
[listener.secure]
bind = "127.0.0.1:{tls_port}"
tls = {{ cert = "{cert}", key = "{key}" }}
[[listener.secure.route]]
respond = {{ status = 503, body = "no" }}
[listener.raw]
bind = "127.0.0.1:{tcp_port}"
protocol = "tcp"
cluster = "tcp"
[cluster.tcp]
endpoints = ["{half}"]
"""


def answer_half(connection: socket.socket) -> None:
    connection.sendall(connection.recv(1 << 18)[:5])


@pytest.mark.parametrize("excuse", ["", "kill"], ids=["nobody in trouble", "trouble all the time"])
def test_clients_that_are_answered_503_or_half_do_not_call_it_well(tmp_path: Path, excuse: str) -> None:
    """Not even where every failure has its excuse."""
    port, tls_port, tcp_port, admin = free_ports(4)
    cert, key = Authority(tmp_path).issue("site", "localhost")
    troubles = Troubles()
    if excuse:
        troubles.begin(excuse, time.monotonic())
    with TcpOrigin(answer_half) as half:
        text = ALL_503.format(admin=admin, port=port, tls_port=tls_port, tcp_port=tcp_port, cert=cert, key=key, half=half.address)
        with start_lbd(text, tmp_path):
            for name, tally in listen(Clients(port, tls_port, tcp_port, troubles, SEED)).items():
                assert tally.verdict(), name
                assert excuse or tally.wrong, name


def test_half_an_upload_that_the_origin_takes_for_all_of_it_is_wrong(tmp_path: Path) -> None:
    """As if lbd ended a session's upload early, and in good order."""

    def take_half(connection: socket.socket) -> None:
        taken = connection.recv(1 << 18)[:3]
        connection.sendall(taken + hashlib.sha256(taken).digest())
        while connection.recv(1 << 18):
            pass

    with TcpOrigin(take_half) as origin:
        troubles = Troubles()
        troubles.begin("kill", time.monotonic())
        port, tls_port = free_ports(2)
        tally = listen(Clients(port, tls_port, origin.port, troubles, SEED))["TCP"]
        assert "the origin took 3 of" in tally.wrong[0]


def test_an_error_is_excused_only_by_a_trouble_at_that_time() -> None:
    troubles, tally = Troubles(), Tally("POST", asked=2, ok=2)
    trouble = troubles.begin("status", 5.0)
    trouble.last = 7.0
    for begin, end, explained in ((1.0, 4.9, False), (1.0, 5.0, True), (6.0, 6.5, True), (7.0, 9.0, True), (7.1, 9.0, False)):
        assert troubles.may_fail(begin, end) is explained
    assert not troubles.may_end(6.0, 6.5)  # a WebSocket does not care for statuses
    tally.fail("POST 1", "reset", explained=True)
    assert tally.verdict() == []
    tally.fail("POST 2", "reset", explained=False)
    assert tally.verdict() == ["POST 2: reset, and nothing was wrong with anybody"]
    assert "only 2 of 9" in Tally("POST", asked=9, ok=2).verdict()[0]
