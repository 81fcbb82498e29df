"""What every client has: where to ask, an identity for each request, and when to stop."""

from __future__ import annotations

import ssl
from itertools import count
from typing import TYPE_CHECKING

from tests.chaos.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.tally import Troubles

__all__ = ["PATIENCE", "SIZES", "Asking"]

PATIENCE = 20.0  # seconds: an answer that takes longer is none
SIZES = (0, 1, 126, 4_000, 60_000, 300_000)
NAP = 0.05  # seconds after a connection that could not be made: nobody asks in a tight loop


class Asking:
    """`tallies` is what clients have seen."""

    def __init__(self, port: int, tls_port: int, tcp_port: int, troubles: Troubles, seed: int, prefix: str = "") -> None:
        self.port, self.tls_port, self.tcp_port = port, tls_port, tcp_port
        self.troubles = troubles
        self.seed = seed
        self.prefix = prefix
        self.numbers = count(1)
        self.tallies: list[Tally] = []

    def identity(self, who: str) -> str:
        return f"{self.prefix}{who}-{next(self.numbers)}"

    def is_over(self) -> bool:
        return self.troubles.over

    def tally(self, name: str) -> Tally:
        tally = next((tally for tally in self.tallies if tally.name == name), None)
        if tally is None:
            self.tallies.append(tally := Tally(name))
        return tally

    def context(self, protocols: Sequence[str]) -> ssl.SSLContext:
        context = ssl._create_unverified_context()
        context.set_alpn_protocols(list(protocols))
        return context
