"""Standings: what a health check and the ejections say of an endpoint, put together."""

from __future__ import annotations

import re

import pytest
import trio

from lbd.cluster.health import HealthPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.master.ejections import Ejections
from lbd.master.probe import Outcome
from lbd.master.probes import Prober
from lbd.master.standings import Standings
from lbd.worker.messages import EndpointState, Suspect

pytestmark = pytest.mark.usefixtures("autojump_clock")

CHECK = HealthPolicy(interval=1.0, jitter=0.0, rise=1, fall=2)


class Answering:
    """What probes of it find is what `outcome` is."""

    def __init__(self) -> None:
        self.outcome = Outcome("ok", "status 200")

    def __call__(self, _policy: HealthPolicy, _address: str) -> Answering:
        return self

    async def run(self) -> Outcome:
        return self.outcome


async def test_neither_hides_the_other() -> None:
    seen: list[tuple[bool, str, str]] = []
    origin = Answering()
    began = trio.current_time()

    def flipped(cluster: str, address: str, is_up: bool, _reason: str) -> None:
        if is_up:
            ejections.risen(cluster, address)

    prober = Prober(flipped, make_probe=origin)  # type: ignore[arg-type]
    ejections = Ejections(lambda _cluster, _addresses: None, prober.is_up, dict, lambda: trio.current_time() - began)
    standings = Standings(prober, ejections)

    def look() -> None:
        seen.append((standings.is_up("web", "a"), standings.state("web", "a"), standings.why("web", "a")))

    async with trio.open_nursery() as nursery:
        prober.update({"web": (CHECK, ["a", "b"])})
        ejections.update({"web": (OutlierPolicy(ejection=10.0, probes=1), True, ["a", "b"])})
        nursery.start_soon(prober.run)
        nursery.start_soon(ejections.run)
        await trio.sleep(1.5)
        look()
        ejections.hear(Suspect("web", "a", "gateway", "it fails"))
        await trio.sleep(5)  # its check goes on succeeding all the while
        look()
        origin.outcome = Outcome("status", "status 500")
        await trio.sleep(6)  # the ejection is over, but now the check has it for down
        look()
        told = standings.why("web", "a", "drained by root since yesterday: disk")
        labels = {(labels["endpoint"], labels.get("state", "")): value for _, labels, value in standings.metrics([("web", STATES)])}
        origin.outcome = Outcome("ok", "status 200")
        await trio.sleep(1.1)
        look()
        ejections.hear(Suspect("web", "a", "proved", ""))
        look()
        nursery.cancel_scope.cancel()
    assert [(up, state) for up, state, _ in seen] == [(True, "up"), (False, "ejected"), (False, "down"), (True, "half_open"), (True, "up")]
    assert seen[0][2] == seen[4][2] == ""
    assert seen[1][2] == "ejected for 10 s since 00:00:01 UTC: it fails"
    assert seen[2][2].startswith("on trial since")
    assert re.search(
        r"was ejected for: it fails, and its health check has failed \d times in a row, the last time: status 500$", seen[2][2]
    )
    assert told == f"drained by root since yesterday: disk, and {seen[2][2]}", "one sentence, the operator's word first"
    assert labels == {("a", ""): 0.0, ("a", "down"): 1.0, ("b", ""): 1.0, ("b", "down"): 1.0}


STATES = (EndpointState("a", 1, 0, up=False), EndpointState("b", 1, 1))


async def test_who_rises_need_not_wait() -> None:
    origin = Answering()

    def flipped(cluster: str, address: str, is_up: bool, _reason: str) -> None:
        if is_up:
            ejections.risen(cluster, address)

    prober = Prober(flipped, make_probe=origin)  # type: ignore[arg-type]
    ejections = Ejections(lambda _cluster, _addresses: None, prober.is_up, dict, lambda: 0.0)
    standings = Standings(prober, ejections)
    async with trio.open_nursery() as nursery:
        prober.update({"web": (CHECK, ["a"]), "other": (None, ["b"])})
        ejections.update({"web": (OutlierPolicy(ejection=60.0), True, ["a", "b"])})
        nursery.start_soon(prober.run)
        ejections.hear(Suspect("web", "a", "gateway", "it fails"))
        origin.outcome = Outcome("connect", "refused")
        await trio.sleep(5)
        assert standings.state("web", "a") == "ejected"
        origin.outcome = Outcome("ok", "status 200")
        await trio.sleep(2)
        assert standings.state("web", "a") == "half_open"
        nursery.cancel_scope.cancel()
