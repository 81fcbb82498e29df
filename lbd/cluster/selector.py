"""Selectors: in what order would these endpoints be tried for this key?

A selector is built from endpoints and asked for candidates. It reads their weights and counts and knows neither health nor pools
nor limits: cluster.py filters its order. Retrying is taking the next candidate.

    first(key)        the first candidate, and nothing else: what the hot path asks
    candidates(key)   all of them in order, each once; begins with what first(key) would return

For selectors that take turns or draw lots each call moves on; for hashes the same key always gives the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["Selector"]

MOST_REPEATS = 8  # after so many turns that brought up nobody new, the rest are taken as they lie


class Selector:
    """`endpoints` is not empty. A subclass needs first() alone."""

    __slots__ = ("endpoints", "random")

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        self.endpoints = tuple(endpoints)
        self.random = random

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {len(self.endpoints)}>"

    def first(self, key: bytes) -> Endpoint:
        raise NotImplementedError

    def candidates(self, key: bytes) -> Iterator[Endpoint]:
        """first(), again and again while that brings up new ones; then those left, from a random one on, so that none inherits all."""
        seen: set[Endpoint] = set()
        repeats = 0
        while repeats < MOST_REPEATS and len(seen) < len(self.endpoints):
            endpoint = self.first(key)
            if endpoint in seen:
                repeats += 1
            else:
                seen.add(endpoint)
                yield endpoint
        if len(seen) < len(self.endpoints):
            start = self.random.randrange(len(self.endpoints))
            for endpoint in self.endpoints[start:] + self.endpoints[:start]:
                if endpoint not in seen:
                    yield endpoint
