"""Who is believed when it says for whom it connects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.proxy.forwarding import maybe_address, parse_network

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Introducers"]

UNIX = "unix:"
MAX_REMEMBERED = 1024  # addresses; proxies are few, but anybody may connect


class Introducers:
    """A list of addresses, networks and "unix:", ready for use; ValueError for an entry that is none of them."""

    __slots__ = ("_networks", "_remembered", "_trusts_unix")

    def __init__(self, trusted: Iterable[str]) -> None:
        entries = tuple(trusted)
        self._networks = tuple(parse_network(text) for text in entries if text != UNIX)
        self._trusts_unix = UNIX in entries
        self._remembered: dict[str, bool] = {}

    def __contains__(self, peer: str) -> bool:
        if peer.startswith(UNIX):
            return self._trusts_unix
        if peer not in self._remembered:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            address = maybe_address(peer)
            self._remembered[peer] = address is not None and any(address in network for network in self._networks)
        return self._remembered[peer]
