"""What holds for any bytes in a configuration file. AssertionError: a promise is broken.

A file is a configuration, or refused with sentences; and a configuration that is written down and read again is the same.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from lbd.config.dump import dump_tree, toml_text
from lbd.config.schema import Config, load_config
from lbd.errors import ConfigErrors

__all__ = ["check_config"]

ENVIRON = {"PORT": "8080"}


def check_config(data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="lbd-fuzz-") as scratch:
        path = Path(scratch) / "lb.toml"
        config = read(path, data)
        if not isinstance(config, Config):
            assert all(error.message and "\n" not in error.message for error in config.errors)
            return
        text = toml_text(dump_tree(config, with_secrets=True))
        again = read(path, text.encode())
        assert isinstance(again, Config), text
        assert (again.lbd, again.log, again.listeners, again.clusters) == (config.lbd, config.log, config.listeners, config.clusters)


def read(path: Path, data: bytes) -> Config | ConfigErrors:
    path.write_bytes(data)
    try:
        return load_config(path, ENVIRON)
    except ConfigErrors as errors:
        return errors
