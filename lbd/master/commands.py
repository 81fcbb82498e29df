"""What comes of an operator's command: decided here, from what is known, and done by control.py.

A command that would leave a cluster without an endpoint to take a request is refused, unless it is forced: it is nearly always
a slip, made at night. One that asks for what is so already is no error: it changes nothing and says so.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from lbd.admin.command import Fault
from lbd.config.suggest import unknown_name
from lbd.master.overlay import DRAIN, WEIGHT, Named, Overlay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lbd.admin.command import Command
    from lbd.master.overlay import Overlays

__all__ = ["Decision", "Member", "clock_text", "decide"]


class Member(NamedTuple):
    """An endpoint as it is now."""

    named: Named
    up: bool = True  # its health alone
    backup: bool = False
    inflight: int = 0
    why: str = ""  # it is not up


class Decision(NamedTuple):
    """`put` and `drop` are to be done; nothing of either: nothing changes. `sentence` says what is so then."""

    sentence: str
    put: Overlay | None = None
    drop: tuple[Overlay, ...] = ()
    addresses: tuple[str, ...] = ()  # of whom it was about


def decide(command: Command, clusters: Mapping[str, Sequence[Member]], overlays: Overlays) -> Decision:
    """Fault: 404 for what there is not, 409 for what would do harm."""
    members = clusters.get(command.cluster, ())
    chosen = [member for member in members if command.endpoint in (member.named.name, member.named.address)]
    if not chosen:
        return _of_nobody(command, clusters, overlays)
    addresses = tuple(member.named.address for member in chosen)
    match command.verb:
        case "drain":
            decision = _drain(command, members, chosen, overlays)
        case "enable":
            decision = _enable(command, chosen, overlays)
        case _:
            decision = _weigh(command, members, chosen, overlays)
    return decision._replace(addresses=addresses)


def _of_nobody(command: Command, clusters: Mapping[str, Sequence[Member]], overlays: Overlays) -> Decision:
    """An endpoint that the configuration does not have; there may be overlays that wait for it."""
    kind = DRAIN if command.verb == "enable" else WEIGHT
    dormant = tuple(each for each in overlays.of(command.cluster) if (each.endpoint, each.kind) == (command.endpoint, kind))
    is_taking_back = command.verb == "enable" or (command.verb == "weight" and not command.weight)
    if dormant and is_taking_back:
        return Decision(f"the {kind} of {command.place} is taken back; the endpoint is not in the configuration", drop=dormant)
    if command.cluster not in clusters:
        raise Fault(404, unknown_name(command.cluster, clusters, "cluster"))
    named = [member.named for member in clusters[command.cluster]]
    words = list(dict.fromkeys([each.name for each in named] + [each.address for each in named]))
    same_host = [word for word in words if word.rpartition(":")[0].strip("[]") == command.endpoint.strip("[]")]
    if len(same_host) == 1:
        raise Fault(404, f'{command.cluster}: there is no endpoint "{command.endpoint}"; did you mean "{same_host[0]}"?')
    if not words:
        raise Fault(404, f"{command.cluster} has no endpoints: no name has resolved to an address yet")
    raise Fault(404, f"{command.cluster}: {unknown_name(command.endpoint, words, 'endpoint')}")


def _drain(command: Command, members: Sequence[Member], chosen: Sequence[Member], overlays: Overlays) -> Decision:
    def is_drained(member: Member) -> bool:
        return overlays.held(command.cluster, member.named, DRAIN) is not None

    others = [member for member in members if member not in chosen and not is_drained(member)]
    remaining = sum(member.up for member in others)
    leaving = [member for member in chosen if not is_drained(member)]
    is_last = not others or (any(member.up for member in leaving) and not remaining)
    if leaving and is_last and not command.force:
        raise Fault(409, _last(command, members, chosen, others))
    put = _overlay(command, DRAIN, overlays)
    inflight = sum(member.inflight for member in chosen)
    requests = "1 request in flight finishes" if inflight == 1 else f"{inflight} requests in flight finish"
    requests = requests if inflight else "nothing is in flight there"
    sentence = f"{_place(command, chosen)} is drained{_until(put)}; {requests}; {remaining} of {len(members)} endpoints remain"
    if not remaining:
        sentence += f": requests for {command.cluster} are answered with 503" if not others else ", and those left are down"
    return Decision(sentence, put)


def _last(command: Command, members: Sequence[Member], chosen: Sequence[Member], others: Sequence[Member]) -> str:
    drained, down = sum(member not in chosen for member in members) - len(others), len(others)
    rest = [f"{count} {word}" for count, word in ((drained, "drained"), (down, "down")) if count > 0]
    of_others = f" (of the others, {' and '.join(rest)})" if rest else ""
    return (
        f"without {command.place} no endpoint of {command.cluster} would be left to take requests{of_others}; "
        "bring another back first, or say force (lbd drain --force) if an outage is meant"
    )


def _enable(command: Command, chosen: Sequence[Member], overlays: Overlays) -> Decision:
    drop = _own(command, DRAIN, chosen, overlays)
    keys = {each.key for each in drop}
    for name in {member.named.name for member in chosen}:
        by_name = overlays.held(command.cluster, Named(name, name), DRAIN)
        if by_name is not None and by_name.key not in keys:
            raise Fault(409, f"{command.place} is drained with all addresses of {by_name.place}; enable {by_name.place}")
    place = _place(command, chosen)
    sentence = f"{place} takes requests again" if drop else f"{place} was not drained; nothing has changed"
    down = [member for member in chosen if not member.up]
    if down:
        why = f": {down[0].why}" if down[0].why else ""
        sentence += f", once it is up; it is down{why}" if len(chosen) == 1 and drop else f"; {len(down)} of {len(chosen)} down{why}"
    for member in chosen:
        if weight := overlays.held(command.cluster, member.named, WEIGHT):
            sentence += f"; its weight is still {weight.weight}{_until(weight)}, not the configured {member.named.weight}"
            break
    return Decision(sentence, drop=drop)


def _weigh(command: Command, members: Sequence[Member], chosen: Sequence[Member], overlays: Overlays) -> Decision:
    place, configured = _place(command, chosen), chosen[0].named.weight
    if not command.weight:
        drop = _own(command, WEIGHT, chosen, overlays)
        if not drop:
            return Decision(f"{place} has its configured weight, {configured}; nothing has changed")
        return Decision(f"{place} has its configured weight again, {configured}", drop=drop)
    put = _overlay(command, WEIGHT, overlays)
    weights = {
        member: command.weight if member in chosen else overlays.standing(command.cluster, member.named).weight
        for member in members
        if member.up and not member.backup and overlays.held(command.cluster, member.named, DRAIN) is None
    }
    sentence = f"{place} has weight {command.weight}{_until(put)} instead of {configured}"
    own = sum(weight for member, weight in weights.items() if member in chosen)
    if own:
        sentence += f"; that is {100 * own / sum(weights.values()):.3g} % of the weight of all that are up"
    else:
        sentence += "; it takes no requests now"
    return Decision(sentence, put)


def _own(command: Command, kind: str, chosen: Sequence[Member], overlays: Overlays) -> tuple[Overlay, ...]:
    """Those that were laid on just this; on a name, those on its addresses too."""
    words = {command.endpoint} | {member.named.address for member in chosen if member.named.name == command.endpoint}
    return tuple(each for each in overlays.of(command.cluster) if each.kind == kind and each.endpoint in words)


def _overlay(command: Command, kind: str, overlays: Overlays) -> Overlay:
    now = overlays.clock()
    until = now + command.seconds if command.seconds else 0.0
    return Overlay(command.cluster, command.endpoint, kind, now, until, command.weight, command.who, command.reason)


def _place(command: Command, chosen: Sequence[Member]) -> str:
    return command.place if len(chosen) == 1 else f"{command.place} ({len(chosen)} addresses)"


def _until(overlay: Overlay) -> str:
    return f" until {clock_text(overlay.until)}" if overlay.until else ""


def clock_text(seconds: float) -> str:
    """2026-11-28 14:00:05 UTC."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
