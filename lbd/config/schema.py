"""Every key there is: policies put together, and the loader that fills them from TOML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.cluster.cluster import ClusterPolicy
from lbd.policy import Count, Duration
from lbd.proxy.listener import ListenerPolicy
from lbd.worker.log import LogPolicy

__all__ = ["AdminPolicy", "Config", "DaemonPolicy"]


@dataclass(frozen=True, slots=True)
class DaemonPolicy:
    """`[lbd]`."""

    workers: Annotated[int, Count(0, 256)] = 0  # TOML: "auto" (one per usable CPU) or a number
    user: str = ""  # after binding, when started as root; "" keeps the user
    group: str = ""  # "" is the user's own
    drain_timeout: Annotated[float, Duration()] = 30.0


@dataclass(frozen=True, slots=True)
class AdminPolicy:
    """`[admin]`."""

    bind: str = "127.0.0.1:9901"  # "off" for none
    token: str = ""  # required when bind is not loopback or a unix socket


@dataclass(frozen=True, slots=True)
class Config:
    """A whole valid configuration."""

    file: str
    lbd: DaemonPolicy = field(default_factory=DaemonPolicy)
    log: LogPolicy = field(default_factory=LogPolicy)
    admin: AdminPolicy = field(default_factory=AdminPolicy)
    listeners: tuple[ListenerPolicy, ...] = ()
    clusters: tuple[ClusterPolicy, ...] = ()
