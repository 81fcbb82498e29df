"""Who holds a port or a socket file: for the sentence that says why we cannot have it. What /proc hides stays unsaid."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["holder_of_port", "holder_of_unix"]

LISTEN = "0A"


def holder_of_port(port: int, proc: Path = Path("/proc")) -> str:
    """`nginx (process 1234)`, or "" when /proc does not tell."""
    inodes = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    return next((_describe(proc, pid) for pid, target in _descriptors(proc) if target in inodes), "") if inodes else ""


def holder_of_unix(connected: socket.socket, proc: Path = Path("/proc")) -> str:
    """Of a socket connected to the file: the process that listens on it."""
    pid, _, _ = struct.unpack("3i", connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return _describe(proc, str(pid)) if pid > 0 else ""


def _listening(table: Path, port: int) -> Iterator[str]:
    """Inodes of the sockets listening on a port (proc_net_tcp in the kernel's documentation)."""
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            yield fields[9]


def _descriptors(proc: Path) -> Iterator[tuple[str, str]]:
    """(process, what a descriptor of it leads to), for the processes we may look into; parents before the children they share with."""
    for pid in sorted(filter(str.isdecimal, os.listdir(proc)), key=int):
        try:
            for fd in os.listdir(proc / pid / "fd"):
                yield pid, os.readlink(proc / pid / "fd" / fd)
        except OSError:
            continue  # somebody else's, or gone while we looked


def _describe(proc: Path, pid: str) -> str:
    try:
        return f"{(proc / pid / 'comm').read_text().strip()} (process {pid})"
    except OSError:
        return f"process {pid}"
