"""`lbd reload` and `lbd status`: what the running daemon answers, for people."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import trio

from lbd.cli.ask import ask
from lbd.cli.main import DEFAULT_FILE
from lbd.config.addresses import Address, parse_bind
from lbd.config.schema import load_doors
from lbd.errors import EnvironmentFault, Exit
from lbd.master.doors import control_bind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lbd.cli.ask import Answer
    from lbd.config.schema import Config

__all__ = ["describe_clusters", "describe_reload", "describe_status", "reload_daemon", "show_status"]

STATUS_TIMEOUT = 10.0
RELOAD_TIMEOUT = 120.0  # names are resolved, and every worker builds its tables
TOKEN_VARIABLE = "LBD_ADMIN_TOKEN"
PACKAGED_CONTROL = "unix:/run/lbd/control.sock"  # RuntimeDirectory=lbd, in systemd/lbd.service
TITLES = ("ENDPOINT", "STATE", "WEIGHT", "IN FLIGHT", "")
NUMBERS = TITLES[2:4]
STATES = {"up": "up", "down": "DOWN", "ejected": "EJECTED", "half_open": "on trial", "unresolved": "NO ADDRESS"}
KINDS = ("listeners", "binds", "routes", "clusters", "endpoints")

Tree = dict[str, Any]


def reload_daemon(file: Path, admin: str, environ: Mapping[str, str], *, as_json: bool) -> int:
    """The daemon reads its own file; `file` only tells where the daemon is."""
    address, token = find_admin(file, admin, environ)
    answer = trio.run(partial(ask, address, "POST", "/api/v1/reload", token=token, timeout=RELOAD_TIMEOUT))
    report = content_of(answer)
    is_ok = answer.status == 200
    if as_json:
        print(answer.body.decode().rstrip())
    else:
        for line in describe_reload(report):
            print(line, file=sys.stdout if is_ok else sys.stderr)
    return Exit.OK if is_ok else Exit.FAULT


def show_status(file: Path, admin: str, environ: Mapping[str, str], wanted: Sequence[str] = (), *, as_json: bool) -> int:
    """Of all clusters, or of those that are wanted."""
    query = f"?{urlencode([('cluster', name) for name in wanted])}" if wanted else ""
    address, token = find_admin(file, admin, environ)

    async def both() -> tuple[Tree, Tree]:
        daemon = await ask(address, "GET", "/api/v1/status", token=token, timeout=STATUS_TIMEOUT)
        clusters = await ask(address, "GET", f"/api/v1/clusters{query}", token=token, timeout=STATUS_TIMEOUT)
        overlays = await ask(address, "GET", "/api/v1/overlays", token=token, timeout=STATUS_TIMEOUT)
        return {**content_of(daemon), **content_of(overlays)}, content_of(clusters)

    daemon, clusters = trio.run(both)
    if as_json:
        print(json.dumps({**daemon, "clusters": clusters}, indent=2))
    else:
        print("\n".join([*describe_status(daemon), *describe_clusters(clusters), *describe_dormant(daemon.get("overlays", []))]))
    return Exit.OK


def show_effective(file: Path, environ: Mapping[str, str]) -> int:
    """The configuration that the daemon has in force."""
    address, token = find_admin(file, "", environ)
    answer = trio.run(partial(ask, address, "GET", "/api/v1/config?format=toml", token=token, timeout=STATUS_TIMEOUT))
    if answer.status != 200:
        content_of(answer)
    print(answer.body.decode(), end="")
    return Exit.OK


def find_admin(file: Path, admin: str, environ: Mapping[str, str]) -> tuple[Address, str]:
    """(address, token), from the command or from the configuration: the control socket where we may use it, else the listener."""
    token = environ.get(TOKEN_VARIABLE, "")
    where = f"--admin {admin}"
    if not admin:
        config = load_doors(file, environ)
        if control := find_control(config, file, environ):
            return control, ""
        policy = config.admin
        admin, token, where = policy.bind, token or policy.token, f"{file}: admin.bind"
    if admin == "off":
        raise EnvironmentFault(f'{where} is "off": there is nobody to ask; send SIGHUP to the master to reload')
    try:
        address = parse_bind(admin)
    except ValueError as error:
        raise EnvironmentFault(f"{where}: {error}") from None
    if address.kind == "fd":
        raise EnvironmentFault(f'{where} is "{admin}", which does not tell where it listens; name the place with --admin')
    return address, token


def find_control(config: Config, file: Path, environ: Mapping[str, str]) -> Address | None:
    """The control socket, when there is one that we have a right to. A daemon under systemd knows its runtime directory from its
    environment, which we do not share; so for the configuration of the packaged unit its place is tried too."""
    binds = [control_bind(config, environ)]
    if config.admin.control == "auto" and file == DEFAULT_FILE:
        binds.append(PACKAGED_CONTROL)
    for bind in filter(None, binds):
        path = Path(bind.removeprefix("unix:"))
        if path.is_socket() and os.access(path, os.W_OK):
            return Address("unix", str(path))
    return None


def content_of(answer: Answer) -> Tree:
    """The JSON object; EnvironmentFault for a refusal, with what it says."""
    try:
        content = json.loads(answer.body)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise EnvironmentFault(f"the admin listener answers {answer.status} without JSON; is it lbd's?")
    if answer.status in (401, 403):
        hint = f"; the environment's {TOKEN_VARIABLE} may hold the token" if answer.status == 401 else ""
        raise EnvironmentFault(f"the admin listener refuses: {content.get('error', answer.status)}{hint}")
    if answer.status == 404:  # there is no such cluster
        raise EnvironmentFault(content.get("error", "404"))
    if answer.status != 200 and "errors" not in content:
        raise EnvironmentFault(f"the admin listener answers {answer.status}: {content.get('error', '')}")
    return content


def describe_reload(report: Tree) -> Iterator[str]:
    """What changed, a line for each kind of thing; or why nothing did."""
    errors = report.get("errors", [])
    if errors:
        yield from errors
        if report.get("generation"):  # else it is about to leave
            yield f"reload refused, nothing has changed: generation {report.get('generation')} stays in force"
        return
    yield f"reloaded: generation {report.get('generation')} is in force"
    yield from (f"warning: {warning}" for warning in report.get("warnings", []))
    for kind in KINDS:
        changes = report.get(kind, {})
        words = [f"+{name}" for name in changes.get("added", [])] + [f"-{name}" for name in changes.get("removed", [])]
        words += [f"~{name} ({', '.join(keys)})" if keys else f"~{name}" for name, keys in changes.get("changed", {}).items()]
        kept = len(changes.get("kept", []))
        if words or kept:
            yield f"  {kind:<10} {' '.join([*words, f'({kept} kept)'] if kept else words)}"
    for title, key in (("settings", "settings"), ("draining", "drains"), ("in force only after a restart", "needs_restart")):
        if names := report.get(key):
            yield f"  {title}: {', '.join(names)}"


def describe_status(status: Tree) -> Iterator[str]:
    core = "compiled core" if status.get("compiled") else "pure Python"
    uptime = span(status.get("uptime_seconds", 0))
    yield f"lbd {status.get('version')} ({core}): {status.get('state')}, pid {status.get('pid')}, up {uptime}"
    yield f"  configuration {status.get('config')}, generation {status.get('generation')}; on {', '.join(status.get('binds', []))}"
    if control := status.get("control"):
        yield f"  commands by {control}"
    last = status.get("last_reload") or {}
    if last.get("errors"):
        yield f"  the last reload was refused: {last['errors'][0]}"
    if waiting := status.get("needs_restart"):
        yield f"  in the file, but in force only after a restart: {', '.join(waiting)}"
    for worker in status.get("workers", []):
        place = f"worker {worker.get('slot')}: {worker.get('state')}, pid {worker.get('pid')}, {span(worker.get('since_seconds', 0))}"
        lag = worker.get("unanswered_pings", 0)
        shed = worker.get("shed_level", 0)
        overload = f", OVERLOADED: {shed:.2g} of 3 priorities are refused, lag {worker.get('lag_seconds', 0):.2g} s" if shed else ""
        yield f"  {place}{overload}" + (f", has not answered {lag} pings" if lag else "")
    if restarts := status.get("worker_restarts"):
        yield f"  workers restarted: {restarts}"
    for host, name in (status.get("names") or {}).items():
        if name.get("failures"):
            kept = "the last addresses stay" if name.get("addresses") else "its clusters go without it"
            yield f"  {host} does not resolve: {name.get('problem')} (failed lookups: {name['failures']}); {kept}"


def describe_clusters(clusters: Tree) -> Iterator[str]:
    """A line for each cluster, and a table of its endpoints."""
    for name, cluster in clusters.items():
        endpoints = cluster.get("endpoints", [])
        up = sum(1 for endpoint in endpoints if endpoint.get("up") and not endpoint.get("drained"))
        drained = sum(1 for endpoint in endpoints if endpoint.get("drained"))
        words = [f"{up} of {len(endpoints)} endpoints up", f"{drained} drained" if drained else "", str(cluster.get("balance"))]
        panic = "; PANIC: too few are up, so health is ignored" if cluster.get("panic") else ""
        yield f"cluster {name}: {', '.join(filter(None, [*words, *describe_load(cluster)]))}{panic}"
        if (why := cluster.get("why")) and not panic:
            yield f"  {why}"
        yield from describe_levels(cluster.get("levels", []))
        if endpoints:
            yield from in_columns([TITLES, *map(describe_endpoint, endpoints)])


def describe_load(cluster: Tree) -> Iterator[str]:
    """Of a cluster that is limited as a whole."""
    if most := cluster.get("max_requests"):
        yield f"{cluster.get('inflight', 0)} of {most} requests"
    if queued := cluster.get("queued"):
        yield f"{queued} queued"
    retry = cluster.get("retry") or {}
    if retry.get("budget_left") == 0 and (denied := retry.get("denied", {}).get("budget")):
        yield f"retry budget used up ({denied} attempts not made so far)"


def describe_levels(levels: Sequence[Tree]) -> Iterator[str]:
    """Which part of the requests goes where; nothing where all go to one level."""
    for level in levels if len(levels) > 1 else ():
        name = "backups" if level["level"] == "backup" else f"level {level['level']}"
        panic = ", in panic" if level.get("panic") else ""
        yield f"  {name}: {level['up']} of {level['endpoints']} up{panic}, {100 * level['share']:.3g} % of the requests"


def describe_endpoint(endpoint: Tree) -> tuple[str, ...]:
    """Its row of the table, below TITLES."""
    address, own = endpoint.get("address"), endpoint.get("name")
    state = STATES[endpoint.get("state") or ("up" if endpoint.get("up") else "down")]
    if endpoint.get("drained"):
        state = "drained" if endpoint.get("up") else f"drained, {state}"
    notes = ["backup"] if endpoint.get("backup") else []
    notes += [f"level {endpoint['priority']}"] if endpoint.get("priority") else []
    notes += [f"zone {endpoint['zone']}"] if endpoint.get("zone") else []
    notes += ["its share grows (slow start)"] if endpoint.get("slow_start") else []
    if why := endpoint.get("why"):
        notes.append(str(why))
    if endpoint.get("weight", 1) != endpoint.get("configured_weight", endpoint.get("weight", 1)):
        notes.append(f"configured weight {endpoint['configured_weight']}")
    notes += [describe_overlay(overlay) for overlay in endpoint.get("overlays", []) if overlay.get("kind") != "drain"]  # `why` has those
    place = f"{address} ({own})" if own and address and own != address else str(address or own)
    return place, state, str(endpoint.get("weight", 1)), str(endpoint.get("inflight", 0)), "; ".join(notes)


def describe_overlay(overlay: Tree) -> str:
    """ "drained by root until 2026-11-28 14:00:05 UTC: disk"."""
    what = "drained" if overlay.get("kind") == "drain" else f"weight {overlay.get('weight')}"
    until = f" until {overlay['until']}" if overlay.get("until") else ""
    reason = f": {overlay['reason']}" if overlay.get("reason") else ""
    return f"{what} by {overlay.get('who')}{until}{reason}"


def describe_dormant(overlays: Iterable[Tree]) -> Iterator[str]:
    """Those that hold for no endpoint now."""
    for overlay in overlays:
        if overlay.get("dormant"):
            yield f"waiting for {overlay.get('cluster')}/{overlay.get('endpoint')}, which is not there: {describe_overlay(overlay)}"


def in_columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """As wide as need be; the numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            text.rjust(width) if title in NUMBERS else text.ljust(width) for text, width, title in zip(row, widths, TITLES, strict=True)
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def span(seconds: float) -> str:
    """ "3 d 4 h", "12 min", "5 s": as much as a person wants to know."""
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{whole} s"
