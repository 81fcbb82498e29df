"""Binds that are written differently and are one place: a name and its address, two words for one descriptor.

What can be seen without asking anybody is an error of the configuration (config/rules.py). The rest shows when names are resolved: our
sockets have SO_REUSEPORT, so the kernel would let two binds have one address, and send each connection to either by lot. So each bind
claims its place before it listens there; afterwards connections would be lost with the one that is refused. Unix sockets need no claim:
whoever comes second finds the file in use.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from lbd.config.positions import dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.master.binds import BindPolicy, Bound

__all__ = ["Claims"]

ANY = ("0.0.0.0", "::")
INHERITED = -1  # no family of addresses


class Place(NamedTuple):
    """What is one may be written in many ways."""

    family: int
    number: int  # the port, or the inode of a socket that is somebody else's
    host: str
    words: str


class Claims:
    """Who listens where."""

    def __init__(self, staying: Iterable[tuple[BindPolicy, Bound]] = ()) -> None:
        """Who is there, and stays as this policy."""
        self._held: dict[tuple[int, int], dict[str, BindPolicy]] = {}
        for policy, bound in staying:
            if not policy.bind.startswith("unix:"):
                self._hold(policy, place_of(policy, bound.sockets[0]))

    def claim_address(self, policy: BindPolicy, family: int, host: str, port: int) -> None:
        """EnvironmentFault: somebody has it."""
        self._claim(policy, place_at(family, host, port))

    def claim(self, policy: BindPolicy, sock: socket.socket) -> None:
        """For a socket that listens already."""
        self._claim(policy, place_of(policy, sock))

    def _claim(self, policy: BindPolicy, place: Place) -> None:
        hosts = self._held.get(place[:2], {})
        same = hosts.get(place.host)
        other = same or next((holder for host, holder in hosts.items() if host in ANY or place.host in ANY), None)
        if other is not None:
            name = f'"{other.bind}" of {dotted(other.path)}'
            relation = f"is where {name} listens already" if same else f"and {name} want the same port"
            raise policy.fault(f"{place.words} {relation}; take one of the two out, or change it")
        self._hold(policy, place)

    def _hold(self, policy: BindPolicy, place: Place) -> None:
        self._held.setdefault(place[:2], {})[place.host] = policy


def place_of(policy: BindPolicy, sock: socket.socket) -> Place:
    if policy.bind.startswith("fd:"):
        return Place(INHERITED, os.fstat(sock.fileno()).st_ino, "", "its socket")
    return place_at(sock.family, *sock.getsockname()[:2])


def place_at(family: int, host: str, port: int) -> Place:
    return Place(family, port, host, f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}")
