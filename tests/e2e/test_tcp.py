"""Connections that lbd carries as they are: with real sockets, and much to carry."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port, free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until
from tests.support.tcp import TcpOrigin, config, dial, echo, hello, lines, read_all, sink, wait_for_line

LARGE = 96 << 20
PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Plain:
    """One listener for TCP before one origin."""

    lbd: LbdDaemon
    port: int
    directory: Path


def plain(directory: Path, endpoints: str, more: str = "", **settings: Any) -> Plain:  # noqa: ANN401
    port, admin = free_ports(2)
    text = config(
        directory, admin,
        f'[listener.tcp]\nbind = "127.0.0.1:{port}"\nprotocol = "tcp"\ncluster = "all"\n{more}\n[cluster.all]\nendpoints = [{endpoints}]\n',
        **settings,
    )  # fmt: skip
    return Plain(start_lbd(text, directory), port, directory)


def test_large_transfers_both_ways_at_once(tmp_path: Path) -> None:
    """Each end sends its own, as fast as it can; every byte arrives."""
    down, up = os.urandom(PIECE), os.urandom(PIECE)
    got: dict[str, str] = {}

    def serve(connection: socket.socket) -> None:
        receiving = threading.Thread(target=receive, args=("up", connection))
        receiving.start()
        for number in range(LARGE // PIECE):
            connection.sendall(number.to_bytes(4, "big") + down)
        connection.shutdown(socket.SHUT_WR)
        receiving.join()

    def receive(name: str, connection: socket.socket) -> None:
        digest = hashlib.sha256()
        while piece := connection.recv(PIECE):
            digest.update(piece)
        got[name] = digest.hexdigest()

    with TcpOrigin(serve) as origin:
        lab = plain(tmp_path, f'"{origin.address}"')
        with lab.lbd, dial(lab.port, timeout=60.0) as downstream:
            receiving = threading.Thread(target=receive, args=("down", downstream))
            receiving.start()
            for number in range(LARGE // PIECE):
                downstream.sendall(number.to_bytes(4, "big") + up)
            downstream.shutdown(socket.SHUT_WR)
            receiving.join(60.0)
            wait_until(lambda: len(got) == 2, "both ends")
            line = wait_for_line(tmp_path)
    for name, piece in (("down", down), ("up", up)):
        digest = hashlib.sha256()
        for number in range(LARGE // PIECE):
            digest.update(number.to_bytes(4, "big") + piece)
        assert got[name] == digest.hexdigest()
    size = LARGE // PIECE * (PIECE + 4)
    assert (line["protocol"], line["bytes_in"], line["bytes_out"], line["reason"]) == ("TCP", size, size, "")


def test_a_slow_reader_holds_the_writer_up(tmp_path: Path) -> None:
    """What lbd and the kernel hold for it is bounded; nothing is lost."""
    sent = 0

    def serve(connection: socket.socket) -> None:
        nonlocal sent
        for _ in range(LARGE // PIECE):
            connection.sendall(b"x" * PIECE)
            sent += PIECE

    with TcpOrigin(serve) as origin:
        lab = plain(tmp_path, f'"{origin.address}"')
        with lab.lbd, dial(lab.port, timeout=30.0) as downstream:
            wait_until(lambda: sent > 0, "the first piece")
            settled = -1
            while settled != sent:
                settled = sent
                threading.Event().wait(0.5)
            assert sent < LARGE // 2
            assert len(read_all(downstream)) == LARGE


def test_a_half_close(tmp_path: Path) -> None:
    data = os.urandom(5_000_000)
    with TcpOrigin(sink) as origin:
        lab = plain(tmp_path, f'"{origin.address}"')
        with lab.lbd, dial(lab.port) as downstream:
            downstream.sendall(data)
            downstream.shutdown(socket.SHUT_WR)
            assert read_all(downstream).decode() == hashlib.sha256(data).hexdigest()


def test_a_client_that_is_done_before_it_is_connected_upstream(tmp_path: Path) -> None:
    with TcpOrigin(sink) as origin:
        lab = plain(tmp_path, f'"{origin.address}"')
        with lab.lbd:
            for _ in range(20):
                with dial(lab.port) as downstream:
                    downstream.sendall(b"all")
                    downstream.shutdown(socket.SHUT_WR)
                    assert read_all(downstream).decode() == hashlib.sha256(b"all").hexdigest()


@pytest.mark.parametrize("who", ["downstream", "upstream"])
def test_a_reset_is_one_on_the_other_side(tmp_path: Path, who: str) -> None:
    """And not an end: what came is not whole."""
    saw: list[str] = []
    done = threading.Event()

    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    def look(connection: socket.socket) -> None:
        try:
            saw.append(f"end after {len(read_all(connection))}")
        except ConnectionResetError:
            saw.append("reset")
        done.set()

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"hello")
        if who == "upstream":
            assert connection.recv(10) == b"now"
            reset(connection)
        else:
            assert connection.recv(10) == b"now"
            look(connection)

    with TcpOrigin(serve) as origin:
        lab = plain(tmp_path, f'"{origin.address}"')
        with lab.lbd, dial(lab.port) as downstream:
            assert downstream.recv(10) == b"hello"
            downstream.sendall(b"now")
            if who == "downstream":
                threading.Event().wait(0.1)
                reset(downstream)
            else:
                look(downstream)
            assert done.wait(5.0)
            assert saw == ["reset"]
            assert wait_for_line(tmp_path)["reason"] == f"{who}_reset"


def test_connecting_is_tried_at_the_next_endpoint(tmp_path: Path) -> None:
    with TcpOrigin(hello(b"here")) as origin:
        lab = plain(tmp_path, f'"127.0.0.1:{free_port()}", "{origin.address}"')
        with lab.lbd:
            for _ in range(10):
                with dial(lab.port) as downstream:
                    assert downstream.recv(10) == b"here"
            wait_for_line(tmp_path, 10)
            attempts = [line["attempts"] for line in lines(tmp_path)]
            assert {2} <= set(attempts) <= {1, 2}  # how many begin with the other one is the turns' business
            assert lab.lbd.metric("lbd_retries_total", reason="connect_refused") == sum(attempts) - 10
            assert lab.lbd.metric("lbd_sessions_total", outcome="ok", cluster="all", route="default", listener="tcp") == 10
            assert lab.lbd.metric("lbd_endpoint_inflight") == 0


def test_nobody_is_there(tmp_path: Path) -> None:
    lab = plain(tmp_path, f'"127.0.0.1:{free_port()}"')
    with lab.lbd, dial(lab.port) as downstream:
        with pytest.raises(ConnectionResetError):
            downstream.recv(1)
        line = wait_for_line(tmp_path)
        assert (line["reason"], line["cluster"], line["status"]) == ("connect_refused", "all", 0)
        assert lab.lbd.metric("lbd_rejected_total", reason="connect_refused") == 1


def chat(connection: socket.socket) -> None:
    """Until it breaks."""
    while True:
        connection.sendall(b"x")
        assert connection.recv(10)
        threading.Event().wait(0.1)


def test_idle_and_lifetime(tmp_path: Path) -> None:
    with TcpOrigin(echo) as origin:
        more = 'timeouts = { tunnel_idle = "500ms", tunnel_lifetime = "2s" }'
        lab = plain(tmp_path, f'"{origin.address}"', more)
        with lab.lbd, dial(lab.port) as idle, dial(lab.port) as busy:
            with pytest.raises(ConnectionResetError):
                chat(busy)
            with pytest.raises(ConnectionResetError):
                idle.recv(1)
            wait_for_line(tmp_path, 2)
            reasons = {line["reason"]: line["duration"] for line in lines(tmp_path)}
            assert 0.4 < reasons["tunnel_idle"] < 1.5
            assert 1.9 < reasons["tunnel_lifetime"] < 3.0


def test_a_session_lives_through_reloads_and_until_the_drain_has_waited(tmp_path: Path) -> None:
    """Even when its listener's cluster leaves, and then the listener."""
    with TcpOrigin(echo) as origin, TcpOrigin(hello(b"other")) as other:
        lab = plain(tmp_path, f'"{origin.address}"', workers=2)
        with lab.lbd:
            with dial(lab.port) as downstream:
                downstream.sendall(b"one")
                assert downstream.recv(10) == b"one"
                lab.lbd.reload(lab.lbd.config.read_text().replace(origin.address, other.address))
                downstream.sendall(b"two")
                assert downstream.recv(10) == b"two"
                with dial(lab.port) as fresh:
                    assert fresh.recv(10) == b"other"
                lab.lbd.reload()
                downstream.sendall(b"three")
                assert downstream.recv(10) == b"three"
                lab.lbd.signal(signal.SIGTERM)
                lab.lbd.wait_for_log("drain|stop")
                downstream.sendall(b"four")
                assert downstream.recv(10) == b"four"
                with pytest.raises(ConnectionResetError):
                    downstream.recv(10)
            assert lab.lbd.wait() == 0
            assert {line["reason"] for line in lines(tmp_path)} == {"", "drain_timeout"}
