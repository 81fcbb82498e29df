"""The master's own bugs, counted: `lbd_faults_total` says that each is an exception with a trace in the log, so the log is where they
are counted. Whoever catches one, in the prober, a lookup or the admin listener, has but to log it."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from lbd.metrics import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.admin.view import OwnMetric

__all__ = ["Bugs"]


class Bugs(logging.Handler):
    """Of the `lbd` logger, beside the one that writes."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._counts: Counter[str] = Counter()  # by the part of lbd that speaks: "master", "health", "discovery", "admin"

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self._counts[record.name.rpartition(".")[2]] += 1

    def metrics(self) -> Iterator[OwnMetric]:
        for where, count in self._counts.items():
            yield FAULTS.name, {"where": where}, float(count)
