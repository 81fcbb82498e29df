"""Every key there is: the policies put together, and the way from a file to them.

    load_config(path, environ) -> Config        or ConfigErrors, with every fault of every file

Text becomes a tree (text.py), the tree becomes policies (fill.py), and then what they mean together is judged (rules.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy
from lbd.config.daemon import AdminPolicy, DaemonPolicy
from lbd.config.fill import fill
from lbd.config.grammar import check_name
from lbd.config.positions import KeyPath, dotted
from lbd.config.report import Report
from lbd.config.rules import check
from lbd.config.suggest import unknown_key
from lbd.config.text import Document, read_document
from lbd.config.units import kind_of
from lbd.errors import ConfigError, ConfigErrors
from lbd.proxy.listener import ListenerPolicy
from lbd.worker.log import LogPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lbd.errors import EnvironmentFault

__all__ = ["AdminPolicy", "Config", "DaemonPolicy", "load_config", "load_doors"]

DOORS = ("", "include", "lbd", "admin", "lbd.state_directory", "admin.bind", "admin.control")
SECTIONS = ("lbd", "log", "admin", "listener", "cluster")


@dataclass(frozen=True, slots=True)
class Config:
    """A whole valid configuration. Equal when it means the same, wherever it was read from."""

    file: str = field(compare=False)
    lbd: DaemonPolicy = field(default_factory=DaemonPolicy)
    log: LogPolicy = field(default_factory=LogPolicy)
    admin: AdminPolicy = field(default_factory=AdminPolicy)
    listeners: tuple[ListenerPolicy, ...] = ()
    clusters: tuple[ClusterPolicy, ...] = ()
    warnings: tuple[ConfigError, ...] = field(default=(), compare=False)
    places: dict[KeyPath, str] = field(default_factory=dict, compare=False, repr=False)  # of what a machine may refuse

    def describe(self, fault: EnvironmentFault) -> tuple[str, ...]:
        """Each as if it were an error of the file: place, key, sentence."""
        return tuple(f"{self.place_of(each.path)}: {dotted(each.path)}: {each}" if each.path else str(each) for each in fault.each())

    def place_of(self, path: KeyPath) -> str:
        """Where a key stands, or the table it would stand in."""
        return next((self.places[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.places), self.file)


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """ConfigErrors for a file that is wrong. What is merely odd is in `warnings`."""
    document = read_document(path, environ)
    report = Report(document)
    config = fill_config(str(path), document, report)
    if not document.errors:  # half a text would be blamed for what is in the other half
        check(config, report)
    report.raise_errors()
    places = {path: str(place) for path, place in document.places.items() if is_refusable(path)}
    return replace(config, warnings=report.warnings(), places=places)


def load_doors(path: Path, environ: Mapping[str, str]) -> Config:
    """[lbd] and [admin] alone, for whoever looks for the running daemon: at night the file may be half edited, or have variables that only
    the daemon's environment has. ConfigErrors: what tells where it is asked (DOORS) cannot be read."""
    document = read_document(path, environ)
    report = Report(document)
    daemon = fill(DaemonPolicy, document.tree.get("lbd", {}), ("lbd",), report)
    admin = fill(AdminPolicy, document.tree.get("admin", {}), ("admin",), report)
    try:
        report.raise_errors()
    except ConfigErrors as faults:
        if errors := [error for error in faults.errors if error.key in DOORS]:
            raise ConfigErrors(errors) from None
    return Config(str(path), daemon, admin=admin if report.is_sound(("admin", "token")) else replace(admin, token=""))


def is_refusable(path: KeyPath) -> bool:
    """Users, files, ports: the places of these few are kept to be told by; endpoints and routes may be very many."""
    return (
        path[0] in ("lbd", "log", "admin")
        or path[2:3] in (("tls",), ("passthrough",))
        or (path[0] == "listener" and path[2:3] in ((), ("bind",)))
    )


def fill_config(file: str, document: Document, report: Report) -> Config:
    tree = document.tree
    for key in tree:
        if key not in SECTIONS:
            report.error((key,), unknown_key(key, (), SECTIONS))
    daemon = fill(DaemonPolicy, tree.get("lbd", {}), ("lbd",), report)
    return Config(
        file,
        daemon,
        fill(LogPolicy, tree.get("log", {}), ("log",), report),
        fill(AdminPolicy, tree.get("admin", {}), ("admin",), report),
        tuple(
            with_route_names(fill(ListenerPolicy, table, path, report, name=name))
            for name, path, table in named_tables(tree.get("listener", {}), "listener", report)
        ),
        tuple(
            fill(ClusterPolicy, table, path, report, name=name, zone=daemon.zone)
            for name, path, table in named_tables(tree.get("cluster", {}), "cluster", report)
        ),
    )


def named_tables(tables: object, kind: str, report: Report) -> Iterator[tuple[str, KeyPath, object]]:
    """[listener.NAME], [cluster.NAME]: (name, path, table)."""
    if not isinstance(tables, dict):
        report.error((kind,), f"must be tables with names, like [{kind}.web], not {kind_of(tables)}")
        return
    for name, table in tables.items():
        path = (kind, name)
        if not isinstance(table, dict):
            report.error(path, f"must be a table, not {kind_of(table)}; a {kind} has a name of its own, as in [{kind}.web]")
            continue
        try:
            check_name(name)
        except ValueError as error:
            report.error(path, str(error))
        yield name, path, table


def with_route_names(listener: ListenerPolicy) -> ListenerPolicy:
    """route-1, route-2, ... in the order of the file, for those without a name."""
    routes = tuple(replace(route, name=route.name or f"route-{number}") for number, route in enumerate(listener.routes, 1))
    passthrough = tuple(replace(each, name=each.name or f"passthrough-{number}") for number, each in enumerate(listener.passthrough, 1))
    return replace(listener, routes=routes, passthrough=passthrough)
