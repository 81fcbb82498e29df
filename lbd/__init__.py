"""lbd: a load-balancer daemon.

The plan of the house. Imports go down this list only (tests/test_layers.py walks them and fails otherwise):

    cli         the command: lbd -c, check, config, demo; exit codes
    master      one process: signals, sockets, workers' lives, probes, reload
    admin       /metrics, /healthz, /readyz and the JSON API, served by the master
    config      text (TOML with positions) -> schema (policies) -> build (live objects; the only factory)
    discovery   where endpoints come from: static, DNS
    worker      one worker process: listeners, applying a new table, drain
    filters     built-in filters on the hooks that users' filters use
    proxy       one request's life: exchange, retry (pure), HTTP/1 connection loop
    routing     a request -> a route: immutable, pure, indexed
    cluster     endpoints, selectors, hash rings, health state, connection pool
    wire        sans-io codecs: messages, HTTP/1
    core        reactor, timers, streams, signals, the board of shared numbers

`errors`, `policy` and `metrics` stand under all of them and import nothing of lbd.

The modules named by setup.py's COMPILED may lie beside their sources as compiled twins. LBD_PURE=1 in the environment makes
the import below prefer the sources; lbd.core.COMPILED tells which run.
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
