"""Maglev: a table in which every endpoint owns its share of the entries (Eisenbud et al., NSDI 2016, section 3.4).

Each endpoint has a permutation of the entries, made from its name, and they take turns, the heavier ones more often: whose turn it is
takes the next entry of its permutation that is still free. A look-up is one crc32 and one index: quicker than the ring, and more
even, since shares differ by an entry at most; in return a few more keys move than must when endpoints come or go.

The table has 65537 entries, as Envoy's; with more than 655 endpoints at least a hundred for each, which keeps shares within 1 %. A table
of another size is another table, in which every key lies elsewhere. So it does not grow with each endpoint, but doubles when there are too
many for it: whoever comes or goes moves its share of the keys, but for the 656th, the 1312th and so on, with whom all of them move.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import cycle, islice
from typing import TYPE_CHECKING
from zlib import crc32

from lbd.cluster.hashed import Hashed, standing_names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from random import Random

    from lbd.cluster.endpoint import Endpoint

__all__ = ["SIZES", "MaglevTable", "fill_table", "table_size"]

# Primes, so that any step from entry to entry comes by all of them: the first above each power of two. 4 bytes an entry; ten thousand
# endpoints have 4 MB, which plain Python fills in 0.7 s. The last one is for more than anybody has, and then shares are less even.
SIZES = (65537, 131101, 262147, 524309, 1048583, 2097169, 4194319, 8388617, 16777259)
EACH = 100  # entries for each endpoint
FREE = 0xFFFFFFFF


def table_size(count: int) -> int:
    """The smallest with enough entries for so many endpoints."""
    return next((size for size in SIZES if size >= count * EACH), SIZES[-1])


def turns(names: Sequence[str], weights: Sequence[int]) -> Iterator[int]:
    """Whose turn it is, without end, as in round_robin.py: rings of equal weight, by earliest deadline.

    Names settle the order, not places in the configuration: the table is the same whatever order the endpoints come in.
    """
    groups: dict[int, list[int]] = {}
    for number in sorted(range(len(names)), key=names.__getitem__):
        groups.setdefault(weights[number], []).append(number)
    if len(groups) == 1:
        yield from cycle(*groups.values())
    strides = {weight: 1.0 / (weight * len(group)) for weight, group in groups.items()}
    due = [(strides[weight], weight, cycle(group)) for weight, group in groups.items()]
    heapify(due)
    while True:
        deadline, weight, members = due[0]
        heapreplace(due, (deadline + strides[weight], weight, members))
        yield next(members)


def fill_table(names: Sequence[str], weights: Sequence[int], size: int) -> array[int]:
    """The number of each entry's owner."""
    table = array("I", [FREE]) * size
    starts, steps = array("I"), array("I")
    for name in names:
        digest = blake2b(name.encode(), digest_size=16).digest()
        starts.append(int.from_bytes(digest[:8], "little") % size)
        steps.append(int.from_bytes(digest[8:], "little") % (size - 1) + 1)
    entries, nexts, skips = table, starts, steps  # typed in the .pxd
    for number in islice(turns(names, weights), size):
        entry, skip = nexts[number], skips[number]
        while entries[entry] != FREE:
            entry += skip
            if entry >= size:
                entry -= size
        entries[entry] = number
        nexts[number] = entry
    return table


class MaglevTable(Hashed):
    __slots__ = ("table",)

    def __init__(self, endpoints: Sequence[Endpoint], random: Random) -> None:
        super().__init__(endpoints, random)
        weights = [endpoint.weight for endpoint in endpoints]
        self.places = table_size(len(weights))
        self.table = fill_table(standing_names(endpoints), weights, self.places)

    def place(self, key: bytes) -> int:
        return crc32(key) % self.places

    def owner(self, place: int) -> Endpoint:
        return self.endpoints[self.table[place]]
