"""What a successor inherits of what was learned, and of what operators want: so that after an upgrade nothing gets requests that was
known to be dead before, or was taken out, and a name server that is away just then does not leave a cluster without endpoints.

A file of JSON in memory, whose descriptor the new master gets with the sockets. It may be of another version: what cannot be read is left,
and the new one begins with what its configuration says, as after a restart. Times are seconds from now, since each master has a clock of
its own.
"""

from __future__ import annotations

import json
import logging
import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lbd.discovery.resolve import Resolver
    from lbd.master.control import Control
    from lbd.master.ejections import Ejections
    from lbd.master.probes import Prober
    from lbd.master.sticky_key import StickyKey

__all__ = ["Estate", "bequeath", "inherit", "open_will"]

log = logging.getLogger("lbd.master")


class Estate(NamedTuple):
    """What of a master is handed on: each of these has heritage() and inherit()."""

    prober: Prober
    ejections: Ejections
    control: Control
    resolver: Resolver
    sticky_key: StickyKey


def bequeath(estate: Estate, upgrades: int) -> dict[str, Any]:
    """`upgrades` with the one that is under way."""
    return {
        "checks": estate.prober.heritage(),
        "ejections": estate.ejections.heritage(),
        "overlays": estate.control.heritage(),
        "names": estate.resolver.heritage(),
        "sticky_key": estate.sticky_key.heritage(),
        "upgrades": upgrades,
    }


def open_will(content: dict[str, Any]) -> int:
    """A descriptor to hand over, the caller's to close."""
    fd = os.memfd_create("lbd-heritage", os.MFD_CLOEXEC)
    os.pwrite(fd, json.dumps(content).encode(), 0)
    return fd


def inherit(fd: int, estate: Estate) -> int:
    """Before the first configuration is in force; closes the descriptor. How many upgrades there have been, with this one."""
    try:
        with open(fd, "rb") as file:
            file.seek(0)
            content = json.load(file)
        estate.prober.inherit(content["checks"])
        estate.ejections.inherit(content["ejections"])
        estate.control.inherit(content["overlays"])
        estate.resolver.inherit(content.get("names", {}))  # the first lbd did not know of them
        estate.sticky_key.inherit(content.get("sticky_key", ""))  # nor of it
        return int(content["upgrades"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        log.warning(
            "what the old master knew of endpoints cannot be read (%r): they begin as the configuration and the state directory say", error
        )
        return 1
