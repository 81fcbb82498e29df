"""Names -> addresses, kept fresh.

Rules:
- Names are the master's business: workers get literal addresses only, and nothing on a request's way ever waits for DNS.
- The last good answer stands until a better one comes. A lookup that fails, takes too long or finds nothing is no outage of the
  endpoints it found before; it is logged once when it starts and once when it is over, counted, and tried again soon.
- A name that never resolved costs its cluster that endpoint, not the daemon its start.
- After an upgrade the old master's answers are the last good ones.
- A cluster is told of a change only when its set of endpoints has changed: resolvers rotate the order of their answers.
- A reload may be refused after the new names were looked up. So `first` only learns, and `update` takes the new clusters over.

The lookup is the system's (getaddrinfo: /etc/hosts, nsswitch, DNS; IPv4 and IPv6). It does not tell the records' TTL, and lbd
parses no DNS itself: where `resolve_interval` is 0 a name is looked up every 30 s.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from functools import partial
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING, NamedTuple

import trio

from lbd.discovery.address import host_of, is_literal, join_address, split_address
from lbd.metrics import RESOLUTIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy

__all__ = ["DEFAULT_INTERVAL", "LOOKUP_TIMEOUT", "ResolvedEndpoint", "Resolver", "SystemLookup"]

DEFAULT_INTERVAL = 30.0  # the TTL is not known: short enough for a failover by DNS, and a query in 30 s hurts no server
# glibc asks each name server for 5 s before it tries the next; a start must not hang longer on a dead one.
LOOKUP_TIMEOUT = 5.0
LOOKUPS_AT_ONCE = 100
FIRST_RETRY = 1.0  # after a failure, doubling up to the name's interval
JITTER = 0.1  # of the pause, either way: a fleet started at once must not ask at once for ever

logger = logging.getLogger("lbd.discovery")


class ResolvedEndpoint(NamedTuple):
    """An endpoint at a literal address."""

    name: str  # as configured: "app.internal:80"
    address: str  # "10.0.0.1:80", "[fd00::1]:80", "unix:/run/app.sock"
    weight: int = 1
    backup: bool = False
    max_requests: int = 0
    max_connections: int = 0
    priority: int = 0
    zone: str = ""
    metadata: tuple[tuple[str, str], ...] = ()

    @classmethod
    def at(cls, address: str, policy: EndpointPolicy) -> ResolvedEndpoint:
        """As it is configured, but for the name."""
        settings = (
            policy.weight,
            policy.backup,
            policy.max_requests,
            policy.max_connections,
            policy.priority,
            policy.zone,
            policy.metadata,
        )
        return cls(policy.address, address, *settings)


class SystemLookup:
    """getaddrinfo in a thread, left behind when it takes too long.

    The threads are limited apart from trio's others: a dead name server holds each of them for up to half a minute, and must not
    keep a reload from reading its file.
    """

    def __init__(self, at_once: int = LOOKUPS_AT_ONCE) -> None:
        self._limiter = trio.CapacityLimiter(at_once)

    async def __call__(self, host: str) -> Sequence[str]:
        ask = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
        found = await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._limiter)
        return [str(sockaddr[0]) for *_, sockaddr in found]


class _Name:
    """A host name being looked up, and the last good answer. It outlives reloads that keep it."""

    def __init__(self, host: str) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()  # sorted, each once; never replaced by nothing
        self.interval = DEFAULT_INTERVAL
        self.failures = 0  # in a row
        self.problem = ""  # of the last lookup, if it was one of them
        self.scope: trio.CancelScope | None = None  # of the task that keeps it fresh

    def pause(self, random: Random) -> float:
        """Until the next lookup."""
        seconds = min(self.interval, FIRST_RETRY * 2 ** min(self.failures - 1, 16)) if self.failures else self.interval
        return seconds * random.uniform(1 - JITTER, 1 + JITTER)


class Resolver:
    """Keeps the endpoints of all clusters resolved.

    `first` tells what the endpoints are now, `update` takes clusters over, `run` keeps them fresh and calls `on_change` with the
    whole set of a cluster whenever it has changed. The first `first` is an `update` too.
    """

    def __init__(
        self,
        on_change: Callable[[str, list[ResolvedEndpoint]], None],
        resolve: Callable[[str], Awaitable[Sequence[str]]] | None = None,
        random: Random | None = None,
    ) -> None:
        self._on_change = on_change
        self._resolve = resolve or SystemLookup()
        self._random = random or Random()
        self._names: dict[str, _Name] = {}
        self._clusters: tuple[ClusterPolicy, ...] = ()
        self._told: dict[str, frozenset[ResolvedEndpoint]] = {}  # what the master believes a cluster's endpoints are
        self._offered: dict[str, frozenset[ResolvedEndpoint]] = {}  # the answer of the last `first`, until `update`
        self._counts: Counter[tuple[str, str]] = Counter()  # (host, result)
        self._nursery: trio.Nursery | None = None

    def heritage(self) -> dict[str, list[str]]:
        """The last good answers, for inherit() of another process."""
        return {host: list(name.addresses) for host, name in self._names.items() if name.addresses}

    def inherit(self, known: Mapping[str, Sequence[str]]) -> None:
        """Before the first `first`. ValueError, TypeError or AttributeError: that is not what heritage() gives."""
        answers = {str(host): _sorted(map(str, addresses)) for host, addresses in known.items()}
        for host, addresses in answers.items():
            self._names.setdefault(host, _Name(host)).addresses = addresses

    async def first(self, clusters: Sequence[ClusterPolicy]) -> dict[str, list[ResolvedEndpoint]]:
        """The endpoints of these clusters, with names that are new looked up now, all at once, in LOOKUP_TIMEOUT at most."""
        async with trio.open_nursery() as nursery:
            for host in _hosts(clusters):
                name = self._names.setdefault(host, _Name(host))
                if name.scope is None:  # those with a task are as fresh as can be, and a dead one must not delay a reload
                    nursery.start_soon(self._refresh, name)
        found = {cluster.name: self._endpoints(cluster) for cluster in clusters}
        self._offered = {name: frozenset(endpoints) for name, endpoints in found.items()}
        if not self._clusters:
            self.update(clusters)
        return found

    def update(self, clusters: Sequence[ClusterPolicy]) -> None:
        """These clusters are in force now. Names that stay keep their answers and their rhythm; the others are forgotten."""
        self._clusters = tuple(clusters)
        intervals = _hosts(clusters)
        for host in self._names.keys() - intervals.keys():
            name = self._names.pop(host)
            if name.scope is not None:
                name.scope.cancel()
        for host, interval in intervals.items():
            name = self._names.setdefault(host, _Name(host))
            if name.interval != interval and name.scope is not None:
                name.scope.cancel()  # else a shorter interval would begin only after the longer one's pause
                name.scope = None
            name.interval = interval
            self._keep_fresh(name)
        self._counts = Counter({key: count for key, count in self._counts.items() if key[0] in self._names})
        self._told = {c.name: told for c in clusters if (told := self._offered.get(c.name, self._told.get(c.name))) is not None}
        self._offered = {}
        self._tell(clusters)  # what changed between `first` and now

    async def run(self) -> None:
        """Keeps every name fresh until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for name in self._names.values():
                    self._keep_fresh(name)
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def metrics(self) -> Iterable[tuple[str, dict[str, str], float]]:
        """For /metrics."""
        for (host, result), count in sorted(self._counts.items()):
            yield RESOLUTIONS.name, {"host": host, "result": result}, float(count)

    def snapshot(self) -> dict[str, dict[str, object]]:
        """For the admin API: host -> its addresses and how the lookups go."""
        return {
            host: {"addresses": list(name.addresses), "interval": name.interval, "failures": name.failures, "problem": name.problem}
            for host, name in sorted(self._names.items())
        }

    def missing(self, cluster: ClusterPolicy) -> list[tuple[EndpointPolicy, str]]:
        """The endpoints that a cluster does without, because no address of theirs is known, and why, in a sentence."""
        return [(policy, self._why_missing(policy)) for policy in cluster.endpoints if not self._addresses(policy)]

    def _why_missing(self, policy: EndpointPolicy) -> str:
        host, _ = split_address(policy.address)
        name = self._names.get(host)
        if name is None or not name.problem:
            return f"{host} has not been looked up yet"
        return f"{host} does not resolve: {name.problem}" + (f", {name.failures} times in a row" if name.failures > 1 else "")

    def _keep_fresh(self, name: _Name) -> None:
        """Starts the name's task, once there is a nursery and unless it runs."""
        if self._nursery is not None and name.scope is None:
            name.scope = trio.CancelScope()
            self._nursery.start_soon(self._follow, name, name.scope, name=f"resolve {name.host}")

    async def _follow(self, name: _Name, scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await trio.sleep(name.pause(self._random))
                if await self._refresh(name):
                    self._tell(self._clusters)

    async def _refresh(self, name: _Name) -> bool:
        """Looks the name up once; whether its addresses have changed. A bug in a lookup is a failure like any other, with a trace."""
        result, problem = "failed", ""
        addresses: tuple[str, ...] = ()
        try:
            with trio.fail_after(LOOKUP_TIMEOUT):
                addresses = _sorted(await self._resolve(name.host))
            result, problem = ("ok", "") if addresses else ("empty", "no address")
        except trio.TooSlowError:
            problem = f"no answer within {LOOKUP_TIMEOUT:g} s"
        except (OSError, UnicodeError) as error:
            problem = (error.strerror if isinstance(error, OSError) else "") or str(error)
        except Exception:
            logger.exception("%s: the lookup failed in lbd itself", name.host)
            problem = "a bug in lbd"
        self._counts[name.host, result] += 1
        self._log(name, problem)
        name.failures = name.failures + 1 if problem else 0
        name.problem = problem
        changed = bool(addresses) and addresses != name.addresses
        name.addresses = addresses or name.addresses
        return changed

    def _log(self, name: _Name, problem: str) -> None:
        """A run of failures is two lines: its first and its end."""
        if problem and not name.failures:
            kept = f"keeping {', '.join(name.addresses)}" if name.addresses else "its clusters go without it"
            logger.warning("%s does not resolve: %s; %s, and trying again", name.host, problem, kept)
        elif not problem and name.failures:
            logger.info("%s resolves again after %d failures", name.host, name.failures)

    def _endpoints(self, cluster: ClusterPolicy) -> list[ResolvedEndpoint]:
        """In the configuration's order, each address once: the first that names it wins."""
        found: dict[str, ResolvedEndpoint] = {}
        for policy in cluster.endpoints:
            for address in self._addresses(policy):
                found.setdefault(address, ResolvedEndpoint.at(address, policy))
        return list(found.values())

    def _addresses(self, policy: EndpointPolicy) -> list[str]:
        if is_literal(policy.address):
            return [policy.address]
        host, port = split_address(policy.address)
        name = self._names.get(host)
        return [join_address(ip, port) for ip in name.addresses] if name else []

    def _tell(self, clusters: Iterable[ClusterPolicy]) -> None:
        for cluster in clusters:
            endpoints = self._endpoints(cluster)
            new, old = frozenset(endpoints), self._told.get(cluster.name)
            self._told[cluster.name] = new
            if new != old:
                logger.info("cluster %s: its names now resolve to %s", cluster.name, ", ".join(e.address for e in endpoints) or "nothing")
                self._on_change(cluster.name, endpoints)


def _hosts(clusters: Iterable[ClusterPolicy]) -> dict[str, float]:
    """Each name to look up -> the shortest interval that a cluster asks for."""
    hosts: dict[str, float] = {}
    for cluster in clusters:
        interval = cluster.resolve_interval or DEFAULT_INTERVAL
        for host in filter(None, map(host_of, (endpoint.address for endpoint in cluster.endpoints))):
            hosts[host] = min(interval, hosts.get(host, interval))
    return hosts


def _sorted(addresses: Iterable[str]) -> tuple[str, ...]:
    """Each once, in an order that does not depend on the resolver's mood; scoped link-local addresses ("fe80::1%eth0") last."""
    return tuple(sorted(set(addresses), key=lambda text: ((ip := ip_address(text.partition("%")[0])).version, int(ip), text)))
