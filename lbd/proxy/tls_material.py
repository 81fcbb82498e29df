"""Certificates and keys as bytes: what the master has read from files, on its way to whoever speaks TLS with them.

OpenSSL, by Python's ssl module, takes them from files only. Workers have no business with files, so it gets one in memory, by the
name that it has among a process's own descriptors.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["VERSIONS", "KeyPair", "TlsMaterial", "load_pair"]

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}  # of `min_version`


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate with its chain, and its key: PEM. `names` are those that it is for, in lower case, with wildcards as they are."""

    chain: bytes
    key: bytes = field(repr=False)  # never into a log
    names: tuple[str, ...] = ()
    # Wall clock: when all of the chain is valid.
    not_before: float = 0.0
    not_after: float = 0.0


@dataclass(frozen=True, slots=True)
class TlsMaterial:
    """What one listener or cluster needs of files. `authorities` is PEM, "" for none."""

    pairs: tuple[KeyPair, ...] = ()
    authorities: str = ""


def load_pair(context: ssl.SSLContext, pair: KeyPair) -> None:
    """ssl.SSLError: not a pair."""
    with memory_file(pair.chain) as chain, memory_file(pair.key) as key:
        context.load_cert_chain(chain, key)


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """A name under which OpenSSL can read it. A process may always open its own descriptors, whoever it has become (proc(5))."""
    fd = os.memfd_create("pem", os.MFD_CLOEXEC)
    try:
        written = 0
        while written < len(content):
            written += os.write(fd, content[written:])
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
