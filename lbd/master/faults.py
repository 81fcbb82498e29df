"""What the machine refuses, gathered: whoever is called at night wants to mend all of it before the next try."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault, EnvironmentFaults

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Faults"]


class Faults:
    """`with faults.gather(): ...` for each thing that can fail by itself, then raise_all()."""

    def __init__(self) -> None:
        self.found: list[EnvironmentFault] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        try:
            yield
        except EnvironmentFault as fault:
            self.found += fault.each()

    def raise_all(self) -> None:
        if self.found:
            raise EnvironmentFaults(self.found) if len(self.found) > 1 else self.found[0]
