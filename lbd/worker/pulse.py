"""A worker's signs of life, on the board, where its master looks for them (master/vigil.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from lbd import metrics

if TYPE_CHECKING:
    from lbd.core.board import Segment
    from lbd.core.fiber import Fiber
    from lbd.core.reactor import Reactor

__all__ = ["Pulse"]


class Pulse:
    """beat() is called by a task of trio, and a fiber writes the sign: so there is one only while both kinds get their turn."""

    def __init__(self, reactor: Reactor, segment: Segment, slot: int) -> None:
        self._reactor = reactor
        self._segment = segment
        self._labels = (str(slot),)
        self._fiber: Fiber | None = None

    def beat(self) -> None:
        if self._fiber is None or self._fiber.coroutine is None:
            self._fiber = self._reactor.spawn(self._live(), "pulse")
        self._gauge(metrics.WORKER_FIBERS, len(self._reactor.fibers) - 1)
        self._gauge(metrics.WORKER_TASKS, trio.lowlevel.current_statistics().tasks_living)

    async def _live(self) -> None:
        self._segment.beat()

    def _gauge(self, metric: metrics.Metric, value: int) -> None:
        self._segment.put(self._segment.series(metric.number, self._labels, 1), value)
