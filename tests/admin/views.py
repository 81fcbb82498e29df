"""An AdminView without a master, for the tests of the admin floor."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from lbd.admin.command import Command, Fault
from lbd.admin.view import OwnMetric, Totals

__all__ = ["FakeBoard", "FakeView"]


async def reload_nothing() -> dict[str, Any]:
    return {"result": "ok", "changed": []}


@dataclass
class FakeBoard:
    cells: dict[tuple[int, tuple[str, ...]], list[int]] = field(default_factory=dict)
    lost: int = 0

    def totals(self) -> dict[tuple[int, tuple[str, ...]], list[int]]:
        return self.cells


@dataclass
class FakeView:
    board: Totals = field(default_factory=FakeBoard)
    state: str = "running"
    own: list[OwnMetric] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)
    fault: Fault | None = None  # what every command comes to
    on_reload: Callable[[], Awaitable[dict[str, Any]]] = reload_nothing

    def trouble(self) -> str:
        return "" if self.state == "running" else self.state

    def status(self) -> dict[str, Any]:
        return {"state": self.state, "generation": 3}

    def clusters(self, wanted: Collection[str] = ()) -> dict[str, Any]:
        return {name: {"endpoints": {}} for name in ("api", "web") if not wanted or name in wanted}

    def config_toml(self) -> str:
        return '[admin]\ntoken = "***"\n'

    def config_json(self) -> dict[str, Any]:
        return {"admin": {"token": "***"}}

    async def reload(self) -> dict[str, Any]:
        return await self.on_reload()

    def overlays(self) -> dict[str, Any]:
        return {"overlays": []}

    async def obey(self, command: Command) -> dict[str, Any]:
        self.commands.append(command)
        if self.fault is not None:
            raise self.fault
        return {"message": "done"}

    def own_metrics(self) -> list[OwnMetric]:
        return self.own

    def processes(self) -> dict[str, int]:
        return self.pids
