"""Stories whose end is known from other people's outages, with lbd's defaults and without them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from random import Random
from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy
from lbd.cluster.outlier import OutlierPolicy
from tests.simulation.balancer import Balancer
from tests.simulation.model import Server, World

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Site", "ejections_of", "flapping", "panic", "retry_storm", "slow_start"]

# Of one server: 80 requests a second. What waits there longer than its client does is answered to nobody.
SLOTS, SERVICE, QUEUE = 4, 0.05, 100


@dataclass(slots=True)
class Site:
    """A cluster and who asks it."""

    world: World
    balancer: Balancer
    servers: list[Server]
    random: Random

    @property
    def capacity(self) -> float:
        """Requests a second that all servers together can serve."""
        return sum(server.slots / server.seconds for server in self.servers)

    def traffic(self, share: Callable[[float], float]) -> None:
        """Requests come by chance, `share(now)` of the capacity on the average."""

        world, ask, chance, capacity = self.world, self.balancer.ask, self.random.random, self.capacity

        def come(_: None) -> None:
            ask()
            world.push(world.now - log(1.0 - chance()) / max(1e-9, share(world.now) * capacity), come, None)

        world.push(world.now, come, None)


def built(
    count: int, policy: ClusterPolicy | None = None, *,
    seed: int = 1, patience: float = 1.0, budgeted: bool = True, slots: int = SLOTS, service: float = SERVICE,
) -> Site:  # fmt: skip
    world, random = World(), Random(seed)
    names = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}:80" for number in range(count)]
    servers = {name: Server(world, random, slots=slots, seconds=service, queue=QUEUE) for name in names}
    policy = policy or ClusterPolicy("web", ())
    policy = replace(policy, endpoints=tuple(map(EndpointPolicy, names)))
    return Site(world, Balancer(world, policy, servers, random, patience=patience, budgeted=budgeted), list(servers.values()), random)


def retry_storm(count: int = 8, *, budgeted: bool, ejecting: bool = False, until: float = 120.0, seed: int = 1) -> Site:
    """At three quarters of its capacity everything is five times slower for 20 s, a stalled database; then it is well again.

    Usually without ejections: this is about retries alone.
    """
    policy = ClusterPolicy("web", (), balance="random", outlier=OutlierPolicy(enabled=ejecting))
    site = built(count, policy, seed=seed, budgeted=budgeted)

    def become(slowness: float) -> None:
        for server in site.servers:
            server.slowness = slowness

    site.world.at(30.0, lambda: become(5.0))
    site.world.at(50.0, lambda: become(1.0))
    site.traffic(lambda _: 0.75)
    site.world.run(until)
    return site


def panic(count: int = 10, *, threshold: float, until: float = 150.0, seed: int = 1) -> Site:
    """Health checks hold seven of ten servers for down that are perfectly well, for a minute, at three quarters of all capacity."""
    site = built(count, ClusterPolicy("web", (), panic=threshold), seed=seed)
    mistaken = list(site.balancer.servers)[: count * 7 // 10]

    def become(is_up: bool) -> None:
        for address in mistaken:
            site.balancer.set_checked(address, is_up)

    site.world.at(30.0, lambda: become(False))
    site.world.at(90.0, lambda: become(True))
    site.traffic(lambda _: 0.75)
    site.world.run(until)
    return site


def flapping(count: int = 100, *, hours: float = 1.0, rate: float = 40.0, seed: int = 1) -> Site:
    """One server in twenty fails three quarters of what it is asked: it must not come and go all the time, and no other one go."""
    site = built(count, ClusterPolicy("web", (), balance="random"), seed=seed)
    for server in site.servers[::20]:
        server.error_share = 0.75
    site.traffic(lambda _: rate / site.capacity)
    site.world.run(hours * 3600.0)
    return site


def slow_start(count: int = 5, *, ramp: float, until: float = 150.0, seed: int = 1) -> Site:
    """A server comes back with cold caches: eight times slower at first, and warmer with each request."""
    site = built(count, ClusterPolicy("web", (), slow_start=ramp, outlier=OutlierPolicy(enabled=False)), seed=seed)
    cold = site.servers[0]
    address = next(iter(site.balancer.servers))

    def warm() -> None:
        cold.slowness = max(1.0, 8.0 * 0.5 ** ((cold.served - served) / 50.0))
        site.world.after(0.1, warm)

    served = 0

    def come_back() -> None:
        nonlocal served
        served = cold.served
        site.balancer.set_checked(address, True)
        warm()

    site.world.at(10.0, lambda: site.balancer.set_checked(address, False))
    site.world.at(60.0, come_back)
    site.traffic(lambda _: 0.6)  # one less leaves the others enough
    site.world.run(until)
    return site


def ejections_of(site: Site) -> tuple[list[int], list[int]]:
    """How often each bad server was taken out, and each good one that ever was."""
    bad = {address for number, address in enumerate(site.balancer.servers) if number % 20 == 0}
    counts = {address: len(times) for address, times in site.balancer.ejections.items()}
    return [counts.get(address, 0) for address in sorted(bad)], [times for address, times in counts.items() if address not in bad]
