"""The daemon's own settings: `[lbd]` and `[admin]`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from lbd.policy import Count, Duration
from lbd.proxy.shedding import OverloadPolicy

__all__ = ["AdminPolicy", "DaemonPolicy"]


@dataclass(frozen=True, slots=True)
class DaemonPolicy:
    """`[lbd]`."""

    workers: Annotated[int, Count(1, 256)] = 0  # TOML: "auto" (one per usable CPU; 0 here) or a number
    # Whom workers become when lbd is started as root: they talk to strangers, and whoever breaks into one shall find no more rights than
    # a stranger has. "root" stays.
    user: str = "nobody"
    group: str = ""  # "" is the user's own
    drain_timeout: Annotated[float, Duration()] = 30.0  # how long a stop waits for what is being served
    # Where what must outlive a restart is kept (master/state_directory.py); "" is what systemd's StateDirectory= gives, else nowhere.
    state_directory: str = ""
    zone: str = ""  # where this lbd is: clusters with endpoints in the same zone prefer these
    # A worker that gives no sign of life for so long is replaced. A healthy one gives one every second; under a load that leaves it no time
    # for one in ten it serves nobody either.
    hang_timeout: Annotated[float, Duration(zero="never")] = 10.0
    # For the new master of an upgrade to get ready, or it is killed. Reading, resolving and starting workers takes seconds; a name server
    # that does not answer, half a minute.
    upgrade_timeout: Annotated[float, Duration(1.0)] = 60.0
    # Between /readyz turning 503 and the listeners closing: the time a load balancer in front needs to notice.
    ready_delay: Annotated[float, Duration(zero="close at once")] = 0.0
    overload: OverloadPolicy = field(default_factory=OverloadPolicy)


@dataclass(frozen=True, slots=True)
class AdminPolicy:
    """`[admin]`."""

    bind: str = "127.0.0.1:9901"  # "off" for none
    # A unix socket for those who may change things, by its file's mode; "auto" is in systemd's runtime directory, else in the state
    # directory, where there is one (master/doors.py), "off" none.
    control: str = "auto"
    token: str = ""  # required when bind is not loopback or a unix socket
