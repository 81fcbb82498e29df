"""What the new master of an upgrade knows of endpoints from the old one. On virtual time."""

from __future__ import annotations

import json
import os
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.cluster.health import HealthPolicy
from lbd.cluster.outlier import OutlierPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.cluster.witness import GATEWAY
from lbd.discovery.resolve import Resolver
from lbd.master.control import Control
from lbd.master.ejections import Ejections
from lbd.master.heritage import Estate, bequeath, inherit, open_will
from lbd.master.overlay import DRAIN, Overlay
from lbd.master.probe import Outcome
from lbd.master.probes import Prober
from lbd.master.state_directory import StateDirectory
from lbd.master.sticky_key import StickyKey
from lbd.worker.messages import Suspect

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.usefixtures("autojump_clock", "no_leaked_fds")

A, B, C = "10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"
DRAINED = Overlay("web", A, DRAIN, 1.0, 1000.0, who="root", reason="disk")
CHECK = HealthPolicy(interval=1.0, fall=2, rise=2)


class Probe:
    """B is dead, and has not heard of it."""

    def __init__(self, policy: HealthPolicy, address: str) -> None:
        self._address = address

    async def run(self) -> Outcome:
        await trio.lowlevel.checkpoint()
        return Outcome("connect", "refused") if self._address == B else Outcome("ok", "")


class Life:
    """One master's knowledge of a cluster of three."""

    def __init__(self) -> None:
        self.prober = Prober(lambda *flip: None, random=Random(1), make_probe=Probe)  # type: ignore[arg-type]
        self.control = Control(StateDirectory(None), lambda cluster: None, lambda: 100.0)
        self.ejections = Ejections(lambda cluster, addresses: None, self.prober.is_up, dict, lambda: 0.0)
        self.answers = {"app.internal": ["10.0.0.2", "10.0.0.1"]}  # of the name server; without any it is away
        self.resolver = Resolver(lambda cluster, endpoints: None, self.look_up)
        self.sticky_key = StickyKey(StateDirectory(None))

    @property
    def estate(self) -> Estate:
        return Estate(self.prober, self.ejections, self.control, self.resolver, self.sticky_key)

    async def look_up(self, host: str) -> list[str]:
        await trio.lowlevel.checkpoint()
        if host not in self.answers:
            raise OSError("the name server is away")
        return self.answers[host]

    def settle(self, policy: OutlierPolicy | None = None, addresses: tuple[str, ...] = (A, B, C)) -> None:
        self.prober.update({"web": (CHECK, addresses)})
        self.ejections.update({"web": (policy or OutlierPolicy(), True, addresses)})

    def hand_on(self, change: Mapping[str, Any] | None = None) -> tuple[Life, int]:
        """The next one, before it is settled; and what it says of upgrades."""
        content = bequeath(self.estate, 3) | dict(change or {})
        fd = open_will(content)
        heir = Life()
        return heir, inherit(fd, heir.estate)


async def lived() -> Life:
    """B was found dead, C is ejected for 30 seconds, 10 of which are over."""
    life = Life()
    life.settle()
    life.control.overlays.put(DRAINED)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(life.prober.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert not life.prober.is_up("web", B)
    life.ejections.hear(Suspect("web", C, GATEWAY, "5 failures in a row"))
    assert life.ejections.is_ejected("web", C)
    await trio.sleep(10)
    return life


async def test_who_was_out_stays_out() -> None:
    heir, upgrades = (await lived()).hand_on()
    assert upgrades == 3
    heir.settle()
    assert [heir.prober.is_up("web", address) for address in (A, B, C)] == [True, False, True]
    assert heir.prober.why("web", B) == "its health check has failed: refused"
    assert [heir.ejections.is_ejected("web", address) for address in (A, B, C)] == [False, False, True]
    assert "5 failures in a row" in heir.ejections.why("web", C)
    assert list(heir.control.overlays) == [DRAINED]


async def test_an_ejection_ends_when_it_would_have_ended() -> None:
    heir, _ = (await lived()).hand_on()
    heir.settle()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heir.ejections.run)
        await trio.sleep(19)
        assert heir.ejections.is_ejected("web", C)
        await trio.sleep(2)
        assert not heir.ejections.is_ejected("web", C)
        assert heir.ejections.trial("web", C) > 0
        nursery.cancel_scope.cancel()


async def test_the_next_checks_may_say_otherwise() -> None:
    heir, _ = (await lived()).hand_on()
    heir.prober.inherit({"web": {A: (False, "it was dead then")}})
    heir.settle()
    assert not heir.prober.is_up("web", A)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heir.prober.run)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert heir.prober.is_up("web", A)


async def test_what_the_new_configuration_does_not_want_is_forgotten() -> None:
    heir, _ = (await lived()).hand_on()
    heir.settle(OutlierPolicy(enabled=False), (A, C))
    assert not heir.ejections.is_ejected("web", C)
    heir.settle()
    assert heir.prober.is_up("web", B), "it came later, when nobody remembered"
    assert not heir.ejections.is_ejected("web", C)


@pytest.mark.parametrize(
    "change",
    [
        {"checks": [1]},
        {"checks": {"web": {B: 7}}},
        {"ejections": {"web": {C: ["x"]}}},
        {"overlays": "{}"},
        {"upgrades": None},
        {"names": {"app.internal": ["no address"]}},
        {"names": ["app.internal"]},
        {"sticky_key": "no key"},
        {"sticky_key": 7},
    ],
)
async def test_what_cannot_be_read_is_left(change: dict[str, Any]) -> None:
    heir, upgrades = (await lived()).hand_on(change)
    heir.settle()
    assert heir.prober.is_up("web", A)
    assert upgrades in (1, 3)


async def test_a_name_server_that_is_away_leaves_the_old_answers() -> None:
    named = ClusterPolicy("web", (EndpointPolicy("app.internal:80"), EndpointPolicy("new.internal:80")))
    life = Life()
    await life.resolver.first([named])
    heir, _ = life.hand_on()
    heir.answers.clear()
    found = await heir.resolver.first([named])
    assert [endpoint.address for endpoint in found["web"]] == [A, B]
    heir.answers["app.internal"] = ["10.0.0.3"]
    assert [endpoint.address for endpoint in (await heir.resolver.first([named]))["web"]] == [C]
    heir, _ = life.hand_on({"names": {}})
    heir.answers.clear()
    assert (await heir.resolver.first([named]))["web"] == []


async def test_names_that_nobody_has_any_more_are_forgotten() -> None:
    life = Life()
    await life.resolver.first([ClusterPolicy("web", (EndpointPolicy("app.internal:80"),))])
    heir, _ = life.hand_on()
    await heir.resolver.first([ClusterPolicy("web", (EndpointPolicy(A),))])
    assert heir.resolver.heritage() == {}


async def test_no_json_is_no_heritage() -> None:
    fd = os.memfd_create("test")
    os.write(fd, b"not " + json.dumps({}).encode())
    life = Life()
    assert inherit(fd, life.estate) == 1


async def test_sticky_sessions_stay_where_they_are_also_without_a_state_directory() -> None:
    sticky, plain = ClusterPolicy("web", (), sticky=StickyPolicy()), ClusterPolicy("web", ())
    life = Life()
    key = life.sticky_key.given_to([sticky])
    heir, _ = life.hand_on()
    assert heir.sticky_key.given_to([plain]) == "", "nobody needs it now"
    heir, _ = heir.hand_on()
    assert heir.sticky_key.given_to([sticky]) == key
    heir, _ = life.hand_on({"sticky_key": ""})
    assert heir.sticky_key.given_to([sticky]) != key, "of a master that had none"
