"""The key of sticky cookies, for clusters whose configuration gives none: one for this lbd, made once.

It is in the state directory, so that sessions stay where they are when lbd is started anew. Where there is none, or it cannot be
written, the key lives as long as the master, and a restart or an upgrade sends every session to an endpoint chosen anew.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.cluster.cluster import ClusterPolicy
    from lbd.master.state_directory import StateDirectory

__all__ = ["StickyKey", "with_secret"]

FILE = "sticky.key"
BYTES = 32  # as the digest has (RFC 2104, 3)
KEY = re.compile(rb"[0-9a-f]{%d}\n?" % (2 * BYTES))

log = logging.getLogger("lbd.master")


class StickyKey:
    """Read or made when somebody first needs it. Reading blocks: not in the master's loop once it serves."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory
        self._text = ""

    def given_to(self, clusters: Iterable[ClusterPolicy]) -> str:
        """The key; "" while none of them needs it."""
        if not self._text and any(cluster.sticky is not None and not cluster.sticky.secret for cluster in clusters):
            self._text = self._found() or self._made()
        return self._text

    def _found(self) -> str:
        content = self._directory.read(FILE)
        if content is None:
            return ""
        if not KEY.fullmatch(content):
            self._directory.set_aside(FILE, "not a key")
            return ""
        return content.decode().strip()

    def _made(self) -> str:
        key = secrets.token_hex(BYTES)
        if not self._directory.write(FILE, key.encode() + b"\n"):
            log.warning("sticky sessions will not survive a restart: give their cluster a `secret`, or lbd a state_directory")
        return key


def with_secret(clusters: Iterable[ClusterPolicy], key: str) -> tuple[ClusterPolicy, ...]:
    """As workers get them."""
    return tuple(
        replace(cluster, sticky=replace(cluster.sticky, secret=key))
        if cluster.sticky is not None and not cluster.sticky.secret
        else cluster
        for cluster in clusters
    )
