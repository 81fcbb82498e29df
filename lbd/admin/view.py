"""What the admin listener may ask of the master, and nothing more.

The admin floor stands under the master and so cannot import it; the master implements this. Everything but `reload` and `obey` answers at
once from memory: a scrape must never wait for a worker, or a sick worker would blind whoever looks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from lbd.admin.command import Command

__all__ = ["AdminView", "OwnMetric", "Totals"]

# A number of the master's own: the name of one of lbd/metrics.py, its labels, its value in the unit of its name.
OwnMetric = tuple[str, dict[str, str], float]


class Totals(Protocol):
    """The board, as far as a scrape reads it (lbd.core.board.Board)."""

    def totals(self) -> Mapping[tuple[int, tuple[str, ...]], list[int]]:
        """(metric number, label values) -> cells, summed over all workers."""

    @property
    def lost(self) -> int:
        """How many series found no room."""


class AdminView(Protocol):
    """The master, seen from the admin listener."""

    @property
    def board(self) -> Totals:
        """The workers' numbers."""

    def trouble(self) -> str:
        """Why a new connection should go elsewhere, as /readyz gives it; "" when it would be served. While starting and from the first
        stop signal on it is the master's state in a word."""

    def status(self) -> dict[str, Any]:
        """For /api/v1/status. "state" is the master's in a word ("starting", "running", "draining")."""

    def clusters(self, wanted: Collection[str] = ()) -> dict[str, Any]:
        """For /api/v1/clusters: cluster name -> its policy in short, its endpoints and their health. Of those `wanted` that there are; of
        all, if none is."""

    def config_toml(self) -> str:
        """The effective configuration, secrets masked."""

    def config_json(self) -> dict[str, Any]:
        """The same as JSON."""

    async def reload(self) -> dict[str, Any]:
        """Reads the configuration again and returns the report, in which "result" is "ok" or "failed" and "errors" lists sentences.

        The caller may be cancelled while it waits (its downstream went away): the reload itself must go on to its end.
        """

    def overlays(self) -> dict[str, Any]:
        """For /api/v1/overlays: what operators have changed at run time."""

    async def obey(self, command: Command) -> dict[str, Any]:
        """Does it, and says what has come of it; command.Fault: nothing has changed, and why."""

    def own_metrics(self) -> Iterable[OwnMetric]:
        """The master's numbers: reloads, generation, restarts, health checks, endpoints up and in flight."""

    def processes(self) -> Mapping[str, int]:
        """Pids for the process_* metrics: {"master": 10, "worker-0": 11, ...}."""
