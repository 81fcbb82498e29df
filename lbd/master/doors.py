"""Where the daemon is asked and told: the admin listener, and the control socket.

Both answer the same questions. By the admin listener ([admin] bind) who asks is a stranger, unless a token says otherwise; it is for
scrapers, probes and dashboards. By the control socket ([admin] control) the file's mode has said already who may come: it is for
operators, and what they send needs no token. Each has its own connections, so that scrapers that hang keep no operator out.

Without a word about it the control socket is `control.sock` in the first of these that there is: systemd's RuntimeDirectory=, the
state directory. Both belong to one daemon alone, so that two on one machine are not at odds; elsewhere there is none.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault
from lbd.master.binds import PATH_LIMIT, BindPolicy
from lbd.master.state_directory import state_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lbd.config.schema import Config
    from lbd.master.binds import Bound, FileId
    from lbd.master.faults import Faults
    from lbd.master.sockets import Sockets

__all__ = ["Doors", "control_bind"]

VARIABLE = "RUNTIME_DIRECTORY"  # systemd.exec(5); of several the first
FILE = "control.sock"
MODE = "0600"  # whoever is the daemon's user, or root

log = logging.getLogger("lbd.master")


def control_bind(config: Config, environ: Mapping[str, str]) -> str:
    """ "unix:/run/lbd/control.sock"; "" for none."""
    if config.admin.control != "auto":
        return "" if config.admin.control == "off" else config.admin.control
    runtime = environ.get(VARIABLE, "").partition(":")[0]
    directory = Path(runtime) if runtime else state_path(config.lbd.state_directory, environ)
    return f"unix:{directory / FILE}" if directory else ""


class Doors:
    """Their listening sockets; None: there is none, or none yet."""

    def __init__(self) -> None:
        self.admin: Bound | None = None
        self.control: Bound | None = None

    async def open(self, sockets: Sockets, config: Config, environ: Mapping[str, str], faults: Faults) -> None:
        """What cannot be opened is one of `faults`; but that nobody has asked for a control socket in so many words ends no start."""
        if config.admin.bind != "off":
            with faults.gather():
                self.admin = await sockets.open(BindPolicy(config.admin.bind, ("admin", "bind")), 1)
        bind = control_bind(config, environ)
        if not bind:
            return
        policy = BindPolicy(bind, ("admin", "control"), mode=MODE)
        if config.admin.control != "auto":
            with faults.gather():
                self.control = await sockets.open(policy, 1)
            return
        if len(os.fsencode(bind)) - len("unix:") > PATH_LIMIT:
            log.warning("no control socket: the path %s is too long for one; name a shorter place with [admin] control", bind)
            return
        try:
            self.control = await sockets.open(policy, 1)
        except EnvironmentFault as fault:
            log.warning("no control socket: %s", fault)

    @property
    def bounds(self) -> list[Bound]:
        """Those that there are."""
        return [bound for bound in (self.admin, self.control) if bound is not None]

    def handed(self) -> dict[str, list[int]]:
        """For a successor: bind -> descriptors."""
        return {bound.policy.bind: [sock.fileno() for sock in bound.sockets] for bound in self.bounds}

    def files(self) -> dict[str, FileId]:
        """Likewise: those of unix sockets."""
        return {bound.policy.bind: bound.file for bound in (self.admin, self.control) if bound is not None and bound.file is not None}

    def close(self, *, keep_files: bool) -> None:
        """A successor keeps the files of unix sockets."""
        for bound in self.bounds:
            bound.close(keep_file=keep_files)
