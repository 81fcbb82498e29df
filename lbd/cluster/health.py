"""Health: when does a run of probe results flip an endpoint?

Decided here, without probing anything: `fall` failures in a row take an endpoint down, `rise` successes in a row bring it back,
and one result of the other kind starts the count anew. master/probes.py makes the probes and tells the workers of flips.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Annotated

from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.policy import Choice, Count, Duration, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["HealthPolicy", "HealthState", "SecuredCheck", "parse_statuses", "secured"]


def parse_statuses(texts: Iterable[str]) -> Callable[[int], bool]:
    """("200-399", "404") -> whether a status is one of them. ValueError says what is wrong with a text."""
    wanted: set[int] = set()
    for text in texts:
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", text)
        if match is None:
            raise ValueError(f'"{text}" is no status code or range of them: write "200" or "200-399"')
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last:
            raise ValueError(f'"{text}" is an empty range: write "{last}-{first}"')
        wanted.update(range(first, last + 1))
    if not wanted:
        raise ValueError('no status would be healthy: write at least one, such as "200-399"')
    return frozenset(wanted).__contains__


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """An active health check, `[cluster.NAME.health]`. Run by the master, once for all workers."""

    protocol: Annotated[str, Choice(("http", "https", "h2", "grpc", "tcp"))] = "http"
    service: str = ""  # grpc: which one is asked for; "" is the server as a whole
    path: str = "/"
    method: Annotated[str, Choice(("GET", "HEAD", "OPTIONS"))] = "GET"
    host: str = ""  # the Host field; "" is the endpoint's address
    headers: tuple[tuple[str, str], ...] = ()  # TOML: a table
    port: Annotated[int, Count(0, 65535)] = 0  # 0 is the endpoint's own
    send_proxy: Annotated[str, Choice(("v1", "v2", "off"))] = ""  # a PROXY header first, in our own name; "" is as the cluster does
    interval: Annotated[float, Duration(0.01)] = 5.0
    interval_down: Annotated[float, Duration(0.0, zero="as interval")] = 0.0
    jitter: Annotated[float, Duration(0.0)] = -1.0  # -1: a tenth of the interval (not writable as such)
    timeout: Annotated[float, Duration(0.01)] = 2.0  # for the whole probe: connect, send, answer
    rise: Annotated[int, Count(1, 1000)] = 2
    fall: Annotated[int, Count(1, 1000)] = 3  # one failure never ejects: a lost SYN is not an outage
    expect_status: tuple[str, ...] = ("200-399",)
    expect_body: str = ""  # a regular expression searched for in the first `body_limit` bytes; "" is no check
    body_limit: Annotated[int, Size(0, 1 << 20)] = 16 * 1024
    initial: Annotated[str, Choice(("up", "down"))] = "up"


@dataclass(frozen=True, slots=True)
class SecuredCheck(HealthPolicy):
    """The check of a cluster with TLS. It is that cluster's alone: another one may trust somebody else."""

    tls: ClusterTlsPolicy = field(default_factory=ClusterTlsPolicy)
    cluster: str = ""
    plain: frozenset[str] = frozenset()  # the names of endpoints that speak none all the same


def secured(policy: HealthPolicy, tls: ClusterTlsPolicy, cluster: str, plain: frozenset[str]) -> HealthPolicy:
    """As a cluster's endpoints are to be checked that speak TLS: in the same way, unless it is another port that is asked."""
    if policy.protocol == "tcp" or (policy.protocol != "https" and policy.port):
        return policy
    settings = {each.name: getattr(policy, each.name) for each in fields(policy)}
    return SecuredCheck(**settings, tls=tls, cluster=cluster, plain=plain)


class HealthState:
    """One endpoint's standing; `reason` is the last failure's, and stays for whoever asks why it was down."""

    __slots__ = ("failures", "policy", "reason", "successes", "up")

    def __init__(self, policy: HealthPolicy) -> None:
        self.policy = policy
        self.up = policy.initial == "up"
        self.successes = 0  # in a row; one of the two is always 0
        self.failures = 0
        self.reason = ""

    def __repr__(self) -> str:
        run = f"{self.failures} failures" if self.failures else f"{self.successes} successes"
        return f"<HealthState {'up' if self.up else 'down'} after {run}{', ' + self.reason if self.reason else ''}>"

    def observe(self, ok: bool, reason: str = "") -> bool:
        """One more result; whether it has flipped `up`."""
        if ok:
            self.successes += 1
            self.failures = 0
            flips = not self.up and self.successes >= self.policy.rise
        else:
            self.failures += 1
            self.successes = 0
            self.reason = reason
            flips = self.up and self.failures >= self.policy.fall
        if flips:
            self.up = ok
        return flips
