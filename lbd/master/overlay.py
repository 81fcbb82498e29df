"""What an operator has changed at run time, laid over the configuration: endpoints that are drained, weights that are not the file's.

Rules:
- The configuration stays what it is. An overlay says who wants what, since when, until when and why; while it lasts it wins.
- It is keyed by (cluster, endpoint, kind). The endpoint is written as the configuration has it, a name with all its addresses, or as one
  address; a drain by either holds, and of two weights that of the address wins.
- It ends by itself where it has an end. Ends are on the wall clock, because they must outlive the process; so a step of that clock
  moves them, as it moves everything that people have written on a wall.
- One whose endpoint has left the configuration is dormant: it is kept and shown, and holds again when the endpoint comes back. Who
  takes a machine out, and then takes it out of the file too, does not want it to come back into traffic by a typing error.

Nothing here knows workers, files or tasks: control.py acts.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["DRAIN", "WEIGHT", "Named", "Overlay", "Overlays", "Standing", "dump_overlays", "parse_overlays"]

DRAIN, WEIGHT = "drain", "weight"
VERSION = 1
LIMIT = 10_000  # overlays; nobody has as many by hand
LEAST_WEIGHT, GREATEST_WEIGHT = 1, 65535  # as EndpointPolicy has it
LAST_TIME = 2.5e11  # seconds: the calendar ends soon after, with the year 9999
TEXT_LIMIT = 1000  # characters of one text

Key = tuple[str, str, str]


class Named(NamedTuple):
    """An endpoint, by what it may be called."""

    name: str  # as configured
    address: str
    weight: int = 1  # as configured


class Standing(NamedTuple):
    """What holds for an endpoint in the end."""

    drained: bool
    weight: int


@dataclass(frozen=True, slots=True)
class Overlay:
    """Times are seconds since 1970."""

    cluster: str
    endpoint: str  # as the operator wrote it
    kind: str  # DRAIN or WEIGHT
    since: float
    until: float = 0.0  # 0: until it is taken back
    weight: int = 0  # of kind WEIGHT
    who: str = ""
    reason: str = ""

    @property
    def key(self) -> Key:
        return self.cluster, self.endpoint, self.kind

    @property
    def place(self) -> str:
        return f"{self.cluster}/{self.endpoint}"

    def is_over(self, now: float) -> bool:
        return 0.0 < self.until <= now


class Overlays:
    """All that are in force, by key. `clock` is the wall's."""

    def __init__(self, clock: Callable[[], float], overlays: Iterable[Overlay] = ()) -> None:
        self.clock = clock
        self._by_key = {overlay.key: overlay for overlay in overlays}

    def __repr__(self) -> str:
        return f"<Overlays {', '.join(f'{each.kind} {each.place}' for each in self)}>"

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Overlay]:
        return iter(tuple(self._by_key.values()))

    def put(self, overlay: Overlay) -> None:
        """In the place of the one with the same key, if there is one. ValueError: there are too many."""
        if overlay.key not in self._by_key and len(self) >= LIMIT:
            raise ValueError(f"there are {LIMIT} overlays already; take some back first: GET /api/v1/overlays has them all")
        self._by_key[overlay.key] = overlay

    def drop(self, overlays: Iterable[Overlay]) -> None:
        for overlay in overlays:
            self._by_key.pop(overlay.key, None)

    def expire(self) -> list[Overlay]:
        """Those that are over, and are no more."""
        now = self.clock()
        over = [overlay for overlay in self if overlay.is_over(now)]
        self.drop(over)
        return over

    def next_end(self) -> float:
        """Seconds until one is over; infinite where none has an end."""
        ends = [overlay.until for overlay in self if overlay.until]
        return max(0.0, min(ends) - self.clock()) if ends else float("inf")

    def of(self, cluster: str) -> list[Overlay]:
        return [overlay for overlay in self if overlay.cluster == cluster]

    def held(self, cluster: str, endpoint: Named, kind: str) -> Overlay | None:
        """The one that holds for an endpoint: that of its address before that of its name."""
        return self._by_key.get((cluster, endpoint.address, kind)) or self._by_key.get((cluster, endpoint.name, kind))

    def standing(self, cluster: str, endpoint: Named) -> Standing:
        """The effective state."""
        weight = self.held(cluster, endpoint, WEIGHT)
        return Standing(self.held(cluster, endpoint, DRAIN) is not None, weight.weight if weight is not None else endpoint.weight)


# On disk


def dump_overlays(overlays: Iterable[Overlay]) -> bytes:
    """JSON, to be read by people too."""
    return json.dumps({"version": VERSION, "overlays": [asdict(overlay) for overlay in overlays]}, indent=1).encode() + b"\n"


def parse_overlays(content: bytes) -> list[Overlay]:
    """What dump_overlays() has written. ValueError: it is something else; half of it is none of it."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(tree, dict) or tree.get("version") != VERSION:
        raise ValueError(f"not of version {VERSION}")
    items = tree.get("overlays")
    if not isinstance(items, list) or len(items) > LIMIT:
        raise ValueError(f"its overlays are no list of {LIMIT} at most")
    return [_overlay(number, item) for number, item in enumerate(items, 1)]


def _overlay(number: int, item: object) -> Overlay:
    kinds = {"since": (int, float), "until": (int, float), "weight": (int,)}
    names = {field.name for field in fields(Overlay)}
    if not isinstance(item, dict) or item.keys() != names:
        raise ValueError(f"overlay {number} has other keys than {', '.join(sorted(names))}")
    for name, value in item.items():
        if isinstance(value, bool) or not isinstance(value, kinds.get(name, (str,))):
            raise ValueError(f"overlay {number}: {name} is of the wrong kind")
        if isinstance(value, str) and (len(value) > TEXT_LIMIT or not value.isprintable()):
            raise ValueError(f"overlay {number}: {name} is too long, or cannot be printed")
        if isinstance(value, float | int) and not 0 <= value < LAST_TIME:
            raise ValueError(f"overlay {number}: {name} is out of range")
    overlay = Overlay(**item)
    if overlay.kind not in (DRAIN, WEIGHT):
        raise ValueError(f'overlay {number} is of kind "{overlay.kind}"')
    if overlay.kind == WEIGHT and not LEAST_WEIGHT <= overlay.weight <= GREATEST_WEIGHT:
        raise ValueError(f"overlay {number} has a weight that cannot be")
    return overlay
