"""lbd: a load-balancer daemon.

The plan of the house. Imports go down this list only (tests/test_layers.py walks them and fails otherwise):

    cli         the command: run, check, config, reload, status, drain, demo; exit codes
    master      one process: signals, sockets, workers' lives, names and probes on their schedule, reload, upgrade
    admin       /metrics, /healthz, /readyz and the JSON API, served by the master
    config      text (TOML with positions) -> policies -> what they mean together; and back to TOML
    discovery   where endpoints come from: literal addresses, names that DNS knows
    worker      one worker process: applying a configuration, drain, logs; makes the live objects from policies
    filters     built-in filters on the hooks that users' filters use (none yet)
    proxy       a request's life: connection, exchange, retry (pure), both sides, bodies, forwarded fields, access log
    routing     a request -> a route: immutable, pure, indexed
    cluster     endpoints, selectors, health state, panic, connection pool
    wire        sans-io codecs: messages, HTTP/1, HTTP/2, PROXY headers, TLS ClientHello
    core        reactor, fibers, timers, streams, TLS, splice, the board of shared numbers

`errors`, `policy` and `metrics` stand under all of them and import nothing of lbd.

Modules with a .pxd beside them may be compiled (setup.py). LBD_PURE=1 in the environment makes the import below prefer the sources;
lbd.core.COMPILED tells which run.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["__version__"]

__version__ = "0.1.0"


class _SourcesOnly:
    """A finder of lbd's modules that sees no extension modules."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith("lbd."):
            return None
        finders = (FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES)) for directory in path or ())
        return next((spec for finder in finders if (spec := finder.find_spec(name, target))), None)


if os.environ.get("LBD_PURE", "0") not in ("", "0"):
    sys.meta_path.insert(0, _SourcesOnly)
