"""The key of sticky cookies, for clusters whose configuration gives none: one for this lbd, made once.

It is in the state directory, so that sessions stay where they are when lbd is started anew. A key that cannot be written is tried again
until it is, as all state is. Where there is no such directory the key lives as long as lbd does: a restart sends every session to an
endpoint chosen anew, an upgrade hands the key on (heritage.py). What the file says comes before what was handed on.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from lbd.master.state_directory import RETRY

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
        self._inherited = ""
        self._is_unwritten = False
        self._is_retired = False

    def __repr__(self) -> str:
        return f"<StickyKey {'made' if self._text else 'none'}{', not on the disk' if self._is_unwritten else ''}>"

    def given_to(self, clusters: Iterable[ClusterPolicy]) -> str:
        """The key; "" while none of them needs it."""
        if not self._text and any(cluster.sticky is not None and not cluster.sticky.secret for cluster in clusters):
            self._text = self._found()
            if not self._text:
                self._text = self._inherited or secrets.token_hex(BYTES)
                self._keep()
        return self._text

    def heritage(self) -> str:
        """For inherit() of another process, which need not have a state directory; "" while there is none."""
        return self._text or self._inherited

    def inherit(self, text: str) -> None:
        """Before the first given_to(). ValueError: that is not what heritage() gives."""
        if text and not KEY.fullmatch(text.encode()):
            raise ValueError("not a key")
        self._inherited = text

    def retire(self) -> None:
        """A successor has the state directory now."""
        self._is_retired = True

    async def run(self) -> None:
        """Until cancelled: a key that could not be written is tried again."""
        while self._directory.path is not None:
            await trio.sleep(RETRY)
            if self._is_unwritten and not self._is_retired:
                # Left behind when we are to end meanwhile: the disk may never answer. What it writes then is whole all the same.
                await trio.to_thread.run_sync(self._keep, abandon_on_cancel=True)

    def _found(self) -> str:
        content = self._directory.read(FILE)
        if content is None:
            return ""
        if not KEY.fullmatch(content):
            self._directory.set_aside(FILE, "not a key")
            return ""
        return content.decode().strip()

    def _keep(self) -> None:
        self._is_unwritten = not self._directory.write(FILE, self._text.encode() + b"\n")
        if self._directory.path is None:
            log.warning("sticky sessions will not survive a restart: give their cluster a `secret`, or lbd a state_directory")


def with_secret(clusters: Iterable[ClusterPolicy], key: str) -> tuple[ClusterPolicy, ...]:
    """As workers get them."""
    return tuple(
        replace(cluster, sticky=replace(cluster.sticky, secret=key))
        if cluster.sticky is not None and not cluster.sticky.secret
        else cluster
        for cluster in clusters
    )
