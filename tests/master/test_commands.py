"""What comes of commands: a table of what an operator says and what is answered."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from lbd.admin.command import Command, Fault
from lbd.master.commands import Member, clock_text, decide
from lbd.master.overlay import DRAIN, WEIGHT, Named, Overlay, Overlays

NOW = 1_795_888_800.0  # 2026-11-28 18:00:00 UTC


def member(
    address: str, name: str = "", *, weight: int = 1, up: bool = True, inflight: int = 0, why: str = "", backup: bool = False
) -> Member:
    return Member(Named(name or address, address, weight), up, backup, inflight, why)


def drained(endpoint: str, cluster: str = "web") -> Overlay:
    return Overlay(cluster, endpoint, DRAIN, NOW)


def weighed(endpoint: str, weight: int, until: float = 0.0) -> Overlay:
    return Overlay("web", endpoint, WEIGHT, NOW, until, weight)


def said(command: Command, members: list[Member], *overlays: Overlay) -> str:
    """The sentence, behind what is done: +key and -key, or the status of a refusal."""
    held = Overlays(lambda: NOW, overlays)
    try:
        decision = decide(command, {"web": members, "api": []}, held)
    except Fault as fault:
        return f"{fault.status} {fault}"
    done = [f"+{decision.put.endpoint}"] if decision.put else []
    done += [f"-{each.endpoint}" for each in decision.drop]
    return " ".join([*done, decision.sentence])


A, B, C = member("10.0.0.1:80"), member("10.0.0.2:80"), member("10.0.0.3:80")
DOWN = member("10.0.0.2:80", up=False, why="status 503")
APP = [member("10.0.0.8:80", "app:80", inflight=2), member("10.0.0.9:80", "app:80", inflight=1)]


def drain(endpoint: str, cluster: str = "web", **settings: object) -> Command:
    return Command("drain", cluster, endpoint, **settings)  # type: ignore[arg-type]


def enable(endpoint: str, cluster: str = "web") -> Command:
    return Command("enable", cluster, endpoint)


def weight(endpoint: str, number: int, **settings: object) -> Command:
    return Command("weight", "web", endpoint, weight=number, **settings)  # type: ignore[arg-type]


LAST = "409 without web/10.0.0.1:80 no endpoint of web would be left to take requests{}; bring another back first, or say force"

STORIES: list[tuple[Command, list[Member], list[Overlay], str]] = [
    (
        drain("10.0.0.1:80", seconds=3600.0), [A._replace(inflight=2), B, C], [],
        "+10.0.0.1:80 web/10.0.0.1:80 is drained until 2026-11-28 19:00:00 UTC; 2 requests in flight finish; 2 of 3 endpoints remain",
    ),
    (drain("10.0.0.1:80"), [A._replace(inflight=1), B], [], "+10.0.0.1:80 web/10.0.0.1:80 is drained; 1 request in flight finishes; 1"),
    (drain("10.0.0.1:80"), [A, B], [drained("10.0.0.1:80")], "+10.0.0.1:80 web/10.0.0.1:80 is drained; nothing is in flight there; 1 of 2"),
    (drain("app:80"), [A, *APP], [], "+app:80 web/app:80 (2 addresses) is drained; 3 requests in flight finish; 1 of 3 endpoints remain"),
    (drain("10.0.0.9:80"), APP, [], "+10.0.0.9:80 web/10.0.0.9:80 is drained; 1 request in flight finishes; 1 of 2 endpoints remain"),
    # The last one
    (drain("10.0.0.1:80"), [A], [], LAST.format("")),
    (drain("10.0.0.1:80"), [A, DOWN], [], LAST.format(r" (of the others, 1 down)")),
    (drain("10.0.0.1:80"), [A, B, DOWN], [drained("10.0.0.2:80")], LAST.format(" (of the others, 2 drained)")),
    (drain("10.0.0.1:80"), [A, DOWN, C], [drained("10.0.0.3:80")], LAST.format(" (of the others, 1 drained and 1 down)")),
    (drain("app:80"), APP, [], "409 without web/app:80 no endpoint of web would be left to take requests; bring"),
    (
        drain("10.0.0.1:80", force=True), [A, B], [drained("10.0.0.2:80")],
        "+10.0.0.1:80 web/10.0.0.1:80 is drained; nothing is in flight there; 0 of 2 endpoints remain: "
        "requests for web are answered with 503",
    ),
    (
        drain("10.0.0.1:80", force=True), [A, DOWN], [],
        "+10.0.0.1:80 web/10.0.0.1:80 is drained; nothing is in flight there; 0 of 2 endpoints remain, and those left are down",
    ),
    # Whoever is out already may stay out for longer
    (drain("10.0.0.1:80", seconds=60.0), [A], [drained("10.0.0.1:80")],
     "+10.0.0.1:80 web/10.0.0.1:80 is drained until 2026-11-28 18:01:00 UTC; nothing is in flight there; 0 of 1 endpoints remain: "),
    # One that is down takes nothing from anybody, not even when all are
    (drain("10.0.0.2:80"), [A, DOWN], [], "+10.0.0.2:80 web/10.0.0.2:80 is drained; nothing is in flight there; 1 of 2 endpoints remain"),
    (drain("10.0.0.1:80"), [A._replace(up=False), DOWN], [], "+10.0.0.1:80 web/10.0.0.1:80 is drained; nothing"),
    # Taking back
    (enable("10.0.0.1:80"), [A, B], [drained("10.0.0.1:80")], "-10.0.0.1:80 web/10.0.0.1:80 takes requests again"),
    (enable("10.0.0.1:80"), [A, B], [], "web/10.0.0.1:80 was not drained; nothing has changed"),
    (enable("10.0.0.2:80"), [A, DOWN], [drained("10.0.0.2:80")],
     "-10.0.0.2:80 web/10.0.0.2:80 takes requests again, once it is up; it is down: status 503"),
    (enable("10.0.0.1:80"), [A, B], [drained("10.0.0.1:80"), weighed("10.0.0.1:80", 9, NOW + 60)],
     "-10.0.0.1:80 web/10.0.0.1:80 takes requests again; its weight is still 9 until 2026-11-28 18:01:00 UTC, not the configured 1"),
    (enable("app:80"), [A, *APP], [drained("10.0.0.9:80"), drained("app:80")],
     "-10.0.0.9:80 -app:80 web/app:80 (2 addresses) takes requests again"),
    (enable("10.0.0.9:80"), [A, *APP], [drained("10.0.0.9:80"), drained("app:80")],
     "409 web/10.0.0.9:80 is drained with all addresses of web/app:80; enable web/app:80"),
    # Weights
    (weight("10.0.0.1:80", 1), [A, member("10.0.0.2:80", weight=9), DOWN], [],
     "+10.0.0.1:80 web/10.0.0.1:80 has weight 1 instead of 1; that is 10 % of the weight of all that are up"),
    (weight("10.0.0.1:80", 3, seconds=60.0), [A, B, C], [drained("10.0.0.3:80"), weighed("10.0.0.2:80", 5)],
     "+10.0.0.1:80 web/10.0.0.1:80 has weight 3 until 2026-11-28 18:01:00 UTC instead of 1; that is 37.5 % of"),
    (weight("10.0.0.2:80", 3), [A, DOWN], [], "+10.0.0.2:80 web/10.0.0.2:80 has weight 3 instead of 1; it takes no requests now"),
    (weight("10.0.0.1:80", 0), [A, B], [weighed("10.0.0.1:80", 9)], "-10.0.0.1:80 web/10.0.0.1:80 has its configured weight again, 1"),
    (weight("10.0.0.1:80", 0), [A, B], [], "web/10.0.0.1:80 has its configured weight, 1; nothing has changed"),
    # What there is not
    (drain("10.0.0.1:80", "wbe"), [A], [], '404 there is no cluster "wbe"; did you mean "web"?'),
    (drain("10.0.0.4:80"), [A, member("10.1.1.1:80")], [], '404 web: there is no endpoint "10.0.0.4:80"; did you mean "10.0.0.1:80"?'),
    (drain("10.0.0.2"), [A, B, C], [], '404 web: there is no endpoint "10.0.0.2"; did you mean "10.0.0.2:80"?'),
    (drain("::1"), [member("[::1]:80"), A], [], '404 web: there is no endpoint "::1"; did you mean "[::1]:80"?'),
    (drain("app"), [A, *APP], [], '404 web: there is no endpoint "app"; did you mean "app:80"?'),
    (drain("x", "api"), [A], [], "404 api has no endpoints: no name has resolved to an address yet"),
    # Overlays that wait for an endpoint
    (enable("gone:80"), [A], [drained("gone:80")],
     "-gone:80 the drain of web/gone:80 is taken back; the endpoint is not in the configuration"),
    (enable("gone:80", "old"), [A], [drained("gone:80", "old")], "-gone:80 the drain of old/gone:80 is taken back"),
    (weight("gone:80", 0), [A], [weighed("gone:80", 7)], "-gone:80 the weight of web/gone:80 is taken back"),
    (drain("gone:80"), [A], [drained("gone:80")], '404 web: there is no endpoint "gone:80"; the only one is 10.0.0.1:80'),
]  # fmt: skip


@pytest.mark.parametrize(("command", "members", "overlays", "answer"), STORIES)
def test_stories(command: Command, members: list[Member], overlays: list[Overlay], answer: str) -> None:
    found = said(command, members, *overlays)
    assert found.startswith(answer), found


def test_who_wants_it_and_why_is_kept() -> None:
    command = drain("10.0.0.1:80", seconds=60.0, reason="disk", who="root")
    decision = decide(command, {"web": [A, B]}, Overlays(lambda: NOW))
    assert decision.put == Overlay("web", "10.0.0.1:80", DRAIN, NOW, NOW + 60, who="root", reason="disk")
    assert decision.addresses == ("10.0.0.1:80",)


def test_times_are_told_in_utc() -> None:
    assert clock_text(NOW) == "2026-11-28 18:00:00 UTC"


PLACES = ("10.0.0.1:80", "app:80", "10.0.0.8:80", "10.0.0.9:80", "gone:80")
COMMANDS = st.one_of(
    st.builds(drain, st.sampled_from(PLACES), seconds=st.sampled_from((0.0, 5.0))),
    st.builds(enable, st.sampled_from(PLACES)),
    st.builds(weight, st.sampled_from(PLACES), st.integers(0, 9)),
)


@given(st.lists(COMMANDS, max_size=12), st.sets(st.sampled_from(PLACES)))
def test_no_command_that_is_not_forced_leaves_a_cluster_without_an_endpoint(commands: list[Command], down: set[str]) -> None:
    members = [each._replace(up=each.named.address not in down) for each in (A, *APP)]
    held = Overlays(lambda: NOW)

    def usable() -> int:
        return sum(each.up and not held.standing("web", each.named).drained for each in members)

    before = usable()
    for command in commands:
        try:
            decision = decide(command, {"web": members}, held)
        except Fault:
            continue
        if decision.put is not None:
            held.put(decision.put)
        held.drop(decision.drop)
        assert usable() or not before
        assert any(not held.standing("web", each.named).drained for each in members)
        if command.verb == "enable" and decision.addresses:
            assert not any(held.standing("web", each.named).drained for each in members if each.named.address in decision.addresses)
