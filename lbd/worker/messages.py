"""What the master and a worker say to each other over the control channel.

Length-framed pickles on a socketpair, descriptors as SCM_RIGHTS beside them; both ends are the same program of the same version.
The master speaks first: Hello, then Configure; a worker answers each Configure with Applied, each Ping with Pong.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lbd.cluster.cluster import ClusterPolicy
from lbd.proxy.listener import ListenerPolicy
from lbd.proxy.shedding import OverloadPolicy
from lbd.proxy.tls_material import TlsMaterial
from lbd.worker.log import LogPolicy

__all__ = [
    "Applied",
    "Certificates",
    "ClusterCertificates",
    "Configure",
    "Drain",
    "Drained",
    "EndpointState",
    "Endpoints",
    "Health",
    "Hello",
    "Ping",
    "Pong",
    "ReopenLogs",
    "Suspect",
]


@dataclass(frozen=True, slots=True)
class EndpointState:
    """One endpoint as the master knows it. `address` is literal ("10.0.0.1:80", "[::1]:80", "unix:/run/app.sock")."""

    address: str
    weight: int  # in force: as configured, or as an operator wants it for now
    index: int  # its place in the board's in-flight table, the same in every worker
    up: bool = True
    name: str = ""  # as configured ("app.internal:80"), where that is not the address
    backup: bool = False
    max_requests: int = 0  # at once, over all workers; 0 is no limit
    drained: bool = False  # an operator has taken it out: no new request goes there, whatever its health, not even in panic
    priority: int = 0
    zone: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    trial: int = 0  # back from an ejection, it may have so many requests at once; 0: as ever
    max_connections: int = 0  # as max_requests


@dataclass(frozen=True, slots=True)
class Hello:
    """First message. Descriptors: the board, a file for dumps, the log, and the access log unless it is off."""

    slot: int
    slots: int
    uid: int = -1  # to become once everything is imported; -1 stays
    gid: int = -1
    has_access_log: bool = True
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Configure:
    """A whole configuration, to be applied at once. Descriptors: one listening socket for each of `sockets`.

    `sockets` are the binds that are new to this worker, or have another socket now; those that no listener names any more are to be closed.
    """

    generation: int
    listeners: tuple[ListenerPolicy, ...]
    clusters: tuple[ClusterPolicy, ...]
    log: LogPolicy
    endpoints: dict[str, tuple[EndpointState, ...]]  # by cluster
    sockets: tuple[str, ...] = ()
    drain_timeout: float = 30.0
    tls: dict[str, TlsMaterial] = field(default_factory=dict)  # by listener
    cluster_tls: dict[str, TlsMaterial] = field(default_factory=dict)  # by cluster
    overload: OverloadPolicy = field(default_factory=OverloadPolicy)
    places: dict[str, int] = field(default_factory=dict)  # on the board, by cluster: what its limits count


@dataclass(frozen=True, slots=True)
class Applied:
    """`error` is "" when the configuration is in force; otherwise nothing has changed."""

    generation: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """A cluster's endpoints have changed without a reload: a name resolves to other addresses, or an operator wants it so."""

    cluster: str
    endpoints: tuple[EndpointState, ...]


@dataclass(frozen=True, slots=True)
class Health:
    """Endpoints of a cluster that have flipped: address -> up; `trials` has those of them that are on trial (EndpointState.trial)."""

    cluster: str
    states: dict[str, bool] = field(default_factory=dict)
    trials: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Suspect:
    """From a worker: what it has noticed of an endpoint. `kind` is one of cluster/witness.py's; `sentence` is for people."""

    cluster: str
    address: str
    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Certificates:
    """A listener's certificates have been renewed."""

    listener: str
    material: TlsMaterial


@dataclass(frozen=True, slots=True)
class ClusterCertificates:
    """Who may vouch for a cluster's endpoints, or what we show to them, has been renewed."""

    cluster: str
    material: TlsMaterial


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting, end keep-alives, finish what runs, exit when done or after `timeout` seconds."""

    timeout: float


@dataclass(frozen=True, slots=True)
class Drained:
    """Nothing is left; `cut` exchanges were still running when time was up."""

    cut: int = 0


@dataclass(frozen=True, slots=True)
class ReopenLogs:
    """Descriptors: the log, and the access log unless it is off, opened anew."""

    has_access_log: bool = True


@dataclass(frozen=True, slots=True)
class Ping:
    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    number: int
