"""Ports for tests: free now, and not taken by an outgoing connection a moment later."""

from __future__ import annotations

import array
import os
import random
import socket
import struct
import time

import pytest

from tests.support.patience import PATIENCE

__all__ = ["free_port", "free_ports", "is_listening", "may_filter", "needs_filters", "wait_for_port"]

# Below the range the kernel gives to outgoing connections (ip_local_port_range starts at 32768): a port found free there can be
# taken by any connection before its daemon binds it, which fails one test in some thousands.
LOWEST, HIGHEST = 10_240, 32_000

# Test programs that run side by side pick from shares of their own: lbd shares its ports (SO_REUSEPORT), so that two daemons that were
# given the same one, a moment before either bound it, would both start and answer each other's clients.
SHARES = 7
SHARE = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES


def may_filter() -> bool:
    """Whether the kernel lets us put a filter on a socket: Linux does, but not every sandbox, unless we are root."""
    program = array.array("B", struct.pack("HBBI", 0x06, 0, 0, 0xFFFFFFFF))  # pass
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", 1, program.buffer_info()[0]))  # SO_ATTACH_FILTER
        except OSError:
            return False
    return True


needs_filters = pytest.mark.skipif(not may_filter(), reason="this kernel lets only root put filters on sockets")


def free_port(host: str = "127.0.0.1") -> int:
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Distinct ports that nobody listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found: list[int] = []
    for port in random.sample(range(LOWEST + SHARE, HIGHEST, SHARES), 2000):
        with socket.socket(family) as probe:
            # Without SO_REUSEADDR: a port with connections in TIME_WAIT counts as taken, which suits daemons that lack it.
            try:
                probe.bind((host, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports among 2000 tried")


def is_listening(port: int, host: str = "127.0.0.1") -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def wait_for_port(port: int, timeout: float = PATIENCE, host: str = "127.0.0.1") -> None:
    """Returns as soon as something accepts there."""
    deadline = time.monotonic() + timeout
    while not is_listening(port, host):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on {host}:{port} after {timeout} s")
        time.sleep(0.01)
