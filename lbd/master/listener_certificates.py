"""What listeners with TLS need of files: who they are, and who may vouch for clients."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault
from lbd.master.certificates import read_authorities
from lbd.master.faults import Faults
from lbd.master.readings import NOTHING, Reader, Reading, Standing, Wanted, stamps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.config.positions import KeyPath
    from lbd.config.schema import Config
    from lbd.proxy.listener import ListenerPolicy
    from lbd.proxy.tls_material import TlsMaterial
    from lbd.proxy.tls_policy import ListenerTlsPolicy

__all__ = ["read_listener", "read_listeners", "wanted_by_listeners"]


def wanted_by_listeners(config: Config) -> Iterator[Wanted]:
    """Each listener with TLS. Names of files are relative to the configuration's."""
    base = Path(config.file).parent
    for listener in config.listeners:
        tls = listener.tls
        if tls is not None:
            names = [name for pair in tls.pairs() for name in (pair.cert, pair.key)] + [tls.client_ca] * bool(tls.client_ca)
            yield Wanted(listener.name, tls, tuple(base / name for name in names))


def read_listeners(config: Config, now: float, standing: Standing = NOTHING) -> dict[str, Reading]:
    """By listener. EnvironmentFault: everything that is wrong with any of the files, each with the key that names it."""
    found: dict[str, Reading] = {}
    faults = Faults()
    for wanted in wanted_by_listeners(config):
        with faults.gather():
            found[wanted.name] = read_listener(wanted, Path(config.file).parent, now, standing)
    faults.raise_all()
    for listener in config.listeners:
        if reading := found.get(listener.name):
            found[listener.name] = replace(reading, doubts=(*reading.doubts, *handed_on(listener, reading.material)))
    return found


def handed_on(listener: ListenerPolicy, material: TlsMaterial) -> Iterator[EnvironmentFault]:
    """Names that a certificate is for and that never come to it."""
    known = [name for pair in material.pairs for name in pair.names]
    for index, passthrough in enumerate(listener.passthrough):
        for asked in () if passthrough.alpn else passthrough.sni:
            pattern = asked.lower()
            for name in known:
                if name == pattern or (pattern.startswith("*.") and not name.startswith("*.") and name.endswith(pattern[1:])):
                    sentence = f"a certificate of this listener is for {name}, but who asks for it is handed on; one of the two has no use"
                    yield EnvironmentFault(sentence, ("listener", listener.name, "passthrough", index, "sni"))


def read_listener(wanted: Wanted, base: Path, now: float, standing: Standing) -> Reading:
    """EnvironmentFault: as read_listeners()."""
    stamps = stamps_of(wanted.files)
    policy: ListenerTlsPolicy = wanted.policy
    path: KeyPath = ("listener", wanted.name, "tls")
    reader = Reader(now, standing, path, policy.ciphers)
    offset = 1 if policy.cert or policy.key else 0
    for index, pair in enumerate(policy.pairs()):
        own = path if index < offset else (*path, "certificates", index - offset)
        reader.read_pair(base / pair.cert, base / pair.key, own)
    if policy.client_ca:
        reader.read_authorities(partial(read_authorities, base / policy.client_ca, (*path, "client_ca")))
    reader.keep_names_apart()
    return reader.reading(stamps)
