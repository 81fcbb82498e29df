"""`lbd reload` and `lbd status`: what the running daemon answers, for people."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from lbd.cli.ask import ask
from lbd.config.addresses import Address, parse_bind
from lbd.config.schema import load_config
from lbd.errors import EnvironmentFault, Exit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from lbd.cli.ask import Answer

__all__ = ["describe_clusters", "describe_reload", "describe_status", "reload_daemon", "show_status"]

STATUS_TIMEOUT = 10.0
RELOAD_TIMEOUT = 120.0  # names are resolved, and every worker builds its tables
TOKEN_VARIABLE = "LBD_ADMIN_TOKEN"
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


def show_status(file: Path, admin: str, environ: Mapping[str, str], *, as_json: bool) -> int:
    address, token = find_admin(file, admin, environ)

    async def both() -> tuple[Tree, Tree]:
        daemon = await ask(address, "GET", "/api/v1/status", token=token, timeout=STATUS_TIMEOUT)
        clusters = await ask(address, "GET", "/api/v1/clusters", token=token, timeout=STATUS_TIMEOUT)
        return content_of(daemon), content_of(clusters)

    daemon, clusters = trio.run(both)
    if as_json:
        print(json.dumps({**daemon, "clusters": clusters}, indent=2))
    else:
        print("\n".join([*describe_status(daemon), *describe_clusters(clusters)]))
    return Exit.OK


def find_admin(file: Path, admin: str, environ: Mapping[str, str]) -> tuple[Address, str]:
    """(address, token), from the command or from the configuration."""
    token = environ.get(TOKEN_VARIABLE, "")
    where = f"--admin {admin}"
    if not admin:
        policy = load_config(file, environ).admin
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
    if answer.status != 200 and "errors" not in content:
        raise EnvironmentFault(f"the admin listener answers {answer.status}: {content.get('error', '')}")
    return content


def describe_reload(report: Tree) -> Iterator[str]:
    """What changed, a line for each kind of thing; or why nothing did."""
    errors = report.get("errors", [])
    if errors:
        yield from errors
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
    last = status.get("last_reload") or {}
    if last.get("errors"):
        yield f"  the last reload was refused: {last['errors'][0]}"
    for worker in status.get("workers", []):
        place = f"worker {worker.get('slot')}: {worker.get('state')}, pid {worker.get('pid')}, {span(worker.get('since_seconds', 0))}"
        lag = worker.get("unanswered_pings", 0)
        yield f"  {place}" + (f", has not answered {lag} pings" if lag else "")
    if restarts := status.get("worker_restarts"):
        yield f"  workers restarted: {restarts}"
    for host, name in (status.get("names") or {}).items():
        if name.get("failures"):
            kept = "the last addresses stay" if name.get("addresses") else "its clusters go without it"
            yield f"  {host} does not resolve (failed lookups: {name['failures']}): {kept}"


def describe_clusters(clusters: Tree) -> Iterator[str]:
    """A line for each cluster, and one for each of its endpoints."""
    for name, cluster in clusters.items():
        endpoints = cluster.get("endpoints", [])
        up = sum(1 for endpoint in endpoints if endpoint.get("up"))
        panic = "; PANIC: too few are up, so health is ignored" if cluster.get("panic") else ""
        yield f"cluster {name}: {up} of {len(endpoints)} endpoints up, {cluster.get('balance')}{panic}"
        for endpoint in endpoints:
            address, own = endpoint.get("address"), endpoint.get("name")
            words = ["up" if endpoint.get("up") else "DOWN", f"{endpoint.get('inflight', 0)} in flight"]
            words += [f"weight {endpoint['weight']}"] if endpoint.get("weight", 1) != 1 else []
            words += ["backup"] if endpoint.get("backup") else []
            words += [str(endpoint["last_reason"])] if endpoint.get("last_reason") and not endpoint.get("up") else []
            yield f"  {address}{f' ({own})' if own and own != address else ''}: {', '.join(words)}"


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
