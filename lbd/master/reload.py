"""What a reload changes: two configurations compared, nothing done.

The report answers the operator's three questions: what is different now, what has been kept (and with it connections, health and
counts), and what still runs out. It is logged in one line and returned by the admin API as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from lbd.config.schema import Config
    from lbd.master.binds import BindPolicy

__all__ = ["Changes", "ReloadReport", "as_it_runs", "compare", "would_end_all"]

# What only a new start can change. A worker's place has its sockets and its segment of the board; who the workers are is decided
# when they start; the admin listener must still answer who asked it for the reload.
NEEDS_RESTART = (("lbd", ("workers", "user", "group", "state_directory")), ("admin", ("bind", "control", "token")))


@dataclass(frozen=True, slots=True)
class Changes:
    """Names of one kind of thing; `changed` says which keys."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: dict[str, tuple[str, ...]] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def words(self) -> str:
        """`+new -old ~web (timeouts)`."""
        changed = [f"~{name} ({', '.join(keys)})" if keys else f"~{name}" for name, keys in self.changed.items()]
        return " ".join([*(f"+{name}" for name in self.added), *(f"-{name}" for name in self.removed), *changed])

    def to_json(self) -> dict[str, Any]:
        return {
            "added": list(self.added),
            "removed": list(self.removed),
            "changed": {name: list(keys) for name, keys in self.changed.items()},
            "kept": list(self.kept),
        }


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What came of a reload. After a failed one the configuration is what it was, and `errors` says why."""

    generation: int  # in force now
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    kinds: dict[str, Changes] = field(default_factory=dict)  # listeners, binds, routes, clusters, endpoints
    settings: tuple[str, ...] = ()  # of [lbd], [log] and [admin]
    drains: tuple[str, ...] = ()  # sentences' subjects: what is gone from the configuration but may still have requests
    needs_restart: tuple[str, ...] = ()

    @property
    def is_ok(self) -> bool:
        return not self.errors

    @property
    def result(self) -> str:
        """The label of lbd_reloads_total."""
        return "ok" if self.is_ok else "failed"

    def renewed(self, binds: Collection[BindPolicy], config: Config) -> ReloadReport:
        """With unix sockets that could not be kept, since nobody would have found them."""
        if not binds:
            return self
        names = [policy.bind for policy in binds]
        gone = [
            EnvironmentFault(f"the file of {bind} had gone, or was another's: lbd listens there anew", path) for bind, path, *_ in binds
        ]
        warnings = tuple(sentence for fault in gone for sentence in config.describe(fault))
        before = self.kinds["binds"]
        changed = {**before.changed, **{name: (*before.changed.get(name, ()), "file") for name in names}}
        kept = tuple(name for name in before.kept if name not in names)
        return replace(self, kinds={**self.kinds, "binds": replace(before, changed=changed, kept=kept)}, warnings=self.warnings + warnings)

    def line(self) -> str:
        """For the log."""
        if not self.is_ok:
            return f"reload refused, generation {self.generation} stays in force: {_count(len(self.errors), 'errors')}"
        parts = [f"{kind} {changes.words()}" for kind, changes in self.kinds.items() if changes]
        parts += [f"settings {', '.join(self.settings)}"] if self.settings else []
        kept = ", ".join(_count(len(changes.kept), kind) for kind, changes in self.kinds.items() if changes.kept)
        text = f"reloaded, generation {self.generation}: {'; '.join(parts) or 'nothing has changed'}"
        text += f"; kept {kept}" if kept else ""
        text += f"; draining {', '.join(self.drains)}" if self.drains else ""
        return text + (f"; in force only after a restart: {', '.join(self.needs_restart)}" if self.needs_restart else "")

    def to_json(self) -> dict[str, Any]:
        """For the admin API."""
        return {
            "result": self.result,
            "generation": self.generation,
            "errors": list(self.errors),
            "warnings": list(self.warnings),
            **{kind: changes.to_json() for kind, changes in self.kinds.items()},
            "settings": list(self.settings),
            "drains": list(self.drains),
            "needs_restart": list(self.needs_restart),
        }


def as_it_runs(running: Config, new: Config) -> Config:
    """`new`, as it can be in force in this process: what only a new start can change stays as it runs. So the next reload says again what
    waits for one, and a file that goes back to what runs has nothing to say."""
    daemon, admin = (
        replace(getattr(new, section), **{key: getattr(getattr(running, section), key) for key in keys}) for section, keys in NEEDS_RESTART
    )
    return replace(new, lbd=daemon, admin=admin)


def compare(old: Config, new: Config, generation: int) -> ReloadReport:
    """The report of a reload from `old`, in force, to `new`, the file, that has succeeded."""
    before, after = _things(old), _things(new)
    kinds = {kind: _changes(before[kind], after[kind]) for kind in after}
    sections = {name: _changed_keys(getattr(old, name), getattr(new, name)) for name in ("lbd", "log", "admin")}
    needs = tuple(f"{section}.{key}" for section, keys in NEEDS_RESTART for key in keys if key in sections[section])
    return ReloadReport(
        generation,
        kinds=kinds,
        settings=tuple(f"{name}.{key}" for name, keys in sections.items() for key in keys if f"{name}.{key}" not in needs),
        drains=tuple(f"{kind[:-1]} {name}" for kind in ("listeners", "binds", "endpoints") for name in kinds[kind].removed),
        needs_restart=needs,
    )


def would_end_all(old: Config, new: Config) -> str:
    """Why a valid configuration is not put in force by a reload; "" when it may be. A file that is read while somebody writes it may be
    empty, and nobody empties it to have lbd serve nothing."""
    if new.listeners or not old.listeners:
        return ""
    return f"{new.file}: there is no listener, so that all that serve now would be closed; is the file complete? To serve nothing, stop lbd"


def _things(config: Config) -> dict[str, dict[str, object]]:
    """Everything that has a name, by kind. A bind belongs to whom it is named by: it may change hands without being closed."""
    return {
        "listeners": {listener.name: listener for listener in config.listeners},
        "binds": {bind: listener.name for listener in config.listeners for bind in listener.bind},
        "routes": {f"{listener.name}/{route.name}": route for listener in config.listeners for route in listener.routes},
        "clusters": {cluster.name: cluster for cluster in config.clusters},
        "endpoints": {f"{cluster.name}/{endpoint.address}": endpoint for cluster in config.clusters for endpoint in cluster.endpoints},
    }


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Changes:
    both = [name for name in after if name in before]
    return Changes(
        added=tuple(name for name in after if name not in before),
        removed=tuple(name for name in before if name not in after),
        changed={name: _changed_keys(before[name], after[name]) for name in both if before[name] != after[name]},
        kept=tuple(name for name in both if before[name] == after[name]),
    )


def _changed_keys(before: object, after: object) -> tuple[str, ...]:
    """The fields in which two policies differ; nothing for what is no policy."""
    names = [item.name for item in fields(after)] if hasattr(after, "__dataclass_fields__") else []  # type: ignore[arg-type]
    return tuple(name for name in names if getattr(before, name) != getattr(after, name))


def _count(number: int, plural: str) -> str:
    return f"{number} {plural[:-1] if number == 1 else plural}"
