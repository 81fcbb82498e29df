"""Who is connected, by address: one of them may hold many of a listener's connections, but not all.

An address of IPv6 stands for its network of 64 bits, of which one customer has all, and more addresses than any table. A whole office
or a provider's NAT is one address too, so the limit is generous. Those it would hurt for no gain are not held to it: trusted proxies,
behind which everybody has the same address, and this machine itself, where they stand who end TLS or make tunnels for others.

The table has an entry for each address that is connected, none for one that was: it is never larger than the number of connections.
Each worker counts its own, as for `limits.connections`.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from lbd.proxy.forwarding import without_mapping
from lbd.proxy.introducers import UNIX, Introducers

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Crowd", "group_of"]

OURSELVES = ("127.0.0.0/8", "::1", UNIX)
NETWORK = 8  # bytes of an IPv6 address


def group_of(peer: str) -> str | bytes:
    """What counts as one: an IPv4 address, or the network of an IPv6 one."""
    if ":" not in peer or peer.startswith(UNIX):
        return peer
    try:
        return socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])[:NETWORK]
    except OSError:
        return peer


class Crowd:
    """A listener's connections by address. `limit` of each; 0: none."""

    __slots__ = ("_exempt", "_present", "limit")

    def __init__(self) -> None:
        self._present: dict[str | bytes, int] = {}
        self._exempt = Introducers(OURSELVES)
        self.limit = 0

    def __len__(self) -> int:
        return len(self._present)

    def obey(self, limit: int, trusted: Iterable[str]) -> None:
        """A new configuration; who is here stays."""
        self.limit = limit
        self._exempt = Introducers((*OURSELVES, *trusted))

    def is_full_for(self, peer: str) -> bool:
        """Whether this address has all that it may."""
        if not self.limit:
            return False
        peer = without_mapping(peer)
        return self._present.get(group_of(peer), 0) >= self.limit and peer not in self._exempt

    def enter(self, peer: str) -> str | bytes:
        """A connection from there has come; what it gives is for leave()."""
        group = group_of(without_mapping(peer))
        self._present[group] = self._present.get(group, 0) + 1
        return group

    def leave(self, group: str | bytes) -> None:
        left = self._present[group] - 1
        if left:
            self._present[group] = left
        else:
            del self._present[group]
