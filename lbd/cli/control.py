"""`lbd drain`, `lbd enable` and `lbd weight`: an operator's word to the running daemon, and what came of it."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import trio

from lbd.cli.ask import ask
from lbd.cli.remote import content_of, find_admin
from lbd.errors import EnvironmentFault, Exit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lbd.cli.ask import Answer
    from lbd.config.addresses import Address

__all__ = ["Waiting", "command_daemon", "path_of"]

TIMEOUT = 15.0  # seconds; the daemon answers at once, unless its disk hangs
REFUSALS = (400, 404, 409, 422, 503)
LOOK = 0.2  # seconds between two looks at what is in flight

Tree = dict[str, Any]


class Waiting(NamedTuple):
    """Until nothing is in flight, for so many seconds at most; 0 is no limit."""

    seconds: float = 0.0


def command_daemon(
    verb: str, place: str, settings: Mapping[str, object], find: tuple[Path, str, Mapping[str, str]], waiting: Waiting | None = None
) -> int:
    """`find` is for find_admin(). EnvironmentFault: it was refused, and why."""
    path = path_of(place, verb)
    address, token = find_admin(*find)
    # Of the control socket's other end the daemon knows the user, which is root for everybody who came by sudo.
    environ = find[2]
    by = environ.get("SUDO_USER", "") if address.kind == "unix" else environ.get("SUDO_USER") or environ.get("USER", "")
    settings = {**settings, "by": by if by.isprintable() else ""}
    body = json.dumps({key: value for key, value in settings.items() if value not in ("", False)}).encode()
    answer = trio.run(partial(ask, address, "POST", path, body=body, token=token, timeout=TIMEOUT))
    content = outcome_of(answer)
    print(content.get("message"))
    for warning in content.get("warnings", []):
        print(f"warning: {warning}", file=sys.stderr)
    if waiting is None:
        return Exit.OK
    sys.stdout.flush()  # whoever pipes us wants to read it while we wait
    left = trio.run(wait_until_quiet, address, token, content, waiting.seconds)
    if left:
        raise EnvironmentFault(f"{left} in flight at {place} still, after {waiting.seconds:g} s; it stays drained")
    print(f"nothing is in flight at {place} any more")
    return Exit.OK


def outcome_of(answer: Answer) -> Tree:
    """As content_of(); a command that was not obeyed is a Fault in the daemon's own words."""
    if answer.status in REFUSALS and answer.body.startswith(b"{"):
        raise EnvironmentFault(json.loads(answer.body).get("error", str(answer.status)))
    return content_of(answer)


def path_of(place: str, verb: str) -> str:
    """Of the API, for CLUSTER/ENDPOINT."""
    cluster, slash, endpoint = place.partition("/")
    if not (cluster and slash and endpoint):
        raise EnvironmentFault(f'"{place}": write CLUSTER/ENDPOINT, like web/10.0.0.1:9000; `lbd status` lists them')
    return f"/api/v1/clusters/{quote(cluster, safe='')}/endpoints/{quote(endpoint, safe=':')}/{verb}"


async def wait_until_quiet(address: Address, token: str, content: Tree, seconds: float) -> int:
    """How many requests are left in flight when the time is up."""
    left = -1
    with trio.move_on_after(seconds or float("inf")):
        while left:
            if left > 0:
                await trio.sleep(LOOK)
            answer = await ask(
                address, "GET", f"/api/v1/clusters?cluster={quote(content['cluster'], safe='')}", token=token, timeout=TIMEOUT
            )
            left = 0 if answer.status == 404 else inflight_of(content_of(answer), content)
    return max(left, 0)


def inflight_of(clusters: Tree, content: Tree) -> int:
    """At the addresses that the command was about."""
    endpoints = clusters[content["cluster"]]["endpoints"]
    return sum(endpoint["inflight"] for endpoint in endpoints if endpoint["address"] in content["addresses"])
