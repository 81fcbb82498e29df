"""Who a process is: its name in `ps -o comm` and `top`, its user; a worker gives up root for good, once all that root must do for it
has been done."""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["become", "forbid_new_privileges", "name_process"]

PR_SET_NAME = 15
PR_SET_NO_NEW_PRIVS = 38


def become(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Changes user and groups, -1 keeps them. In this order: without the user's rights, groups cannot be changed any more."""
    if gid >= 0:
        os.setgroups(list(groups))
        os.setresgid(gid, gid, gid)
    if uid >= 0:
        os.setresuid(uid, uid, uid)


def name_process(name: str) -> None:
    """15 bytes at most. Best effort."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, name.encode(), 0, 0, 0)


def forbid_new_privileges() -> None:
    """No program this process may ever start gains rights by its set-user-ID bit or file capabilities."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS) failed")
