"""What clusters with TLS need of files: who may vouch for endpoints, and what we show to them. As listener_certificates.py."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault
from lbd.master.certificates import read_authorities
from lbd.master.faults import Faults
from lbd.master.readings import NOTHING, Reader, Reading, Standing, Wanted, stamps_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.cluster.tls_policy import ClusterTlsPolicy
    from lbd.config.positions import KeyPath
    from lbd.config.schema import Config

__all__ = ["read_cluster", "read_clusters", "system_bundle", "wanted_by_clusters"]

# Where systems have those whom they trust, in one file; OpenSSL knows of it where it was built for the same system only.
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine, Arch
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",
)


def system_bundle() -> Path | None:
    """Of the files that there are, the first; SSL_CERT_FILE goes before all others."""
    known = ssl.get_default_verify_paths().cafile
    return next((Path(name) for name in (known, *BUNDLES) if name and Path(name).is_file()), None)


def wanted_by_clusters(config: Config) -> Iterator[Wanted]:
    base = Path(config.file).parent
    for cluster in config.clusters:
        tls = cluster.originates()
        if tls is not None:
            names = [name for name in (tls.ca, tls.client_cert, tls.client_key) if name]
            own = () if tls.ca or tls.insecure_skip_verify else (bundle,) if (bundle := system_bundle()) else ()
            yield Wanted(cluster.name, tls, (*own, *(base / name for name in names)))


def read_clusters(config: Config, now: float, standing: Standing = NOTHING) -> dict[str, Reading]:
    """By cluster. EnvironmentFault: everything that is wrong with any of the files, each with the key that names it."""
    found: dict[str, Reading] = {}
    faults = Faults()
    shared: dict[Path, str] = {}
    for wanted in wanted_by_clusters(config):
        with faults.gather():
            found[wanted.name] = read_cluster(wanted, Path(config.file).parent, now, standing, shared)
    faults.raise_all()
    return found


def read_cluster(wanted: Wanted, base: Path, now: float, standing: Standing, shared: dict[Path, str] | None = None) -> Reading:
    """EnvironmentFault: as read_clusters(). What clusters have in common is read once, and sent once, with `shared`."""
    stamps = stamps_of(wanted.files)
    policy: ClusterTlsPolicy = wanted.policy
    path: KeyPath = ("cluster", wanted.name, "tls")
    reader = Reader(now, standing, path, policy.ciphers)
    reader.read_authorities(partial(authorities_of, policy, base, path, {} if shared is None else shared))
    if policy.client_cert and policy.client_key:
        reader.read_pair(base / policy.client_cert, base / policy.client_key, path, "client_")
    return reader.reading(stamps)


def authorities_of(policy: ClusterTlsPolicy, base: Path, path: KeyPath, shared: dict[Path, str]) -> str:
    if policy.insecure_skip_verify:
        return ""
    file = base / policy.ca if policy.ca else system_bundle()
    if file is None:
        raise EnvironmentFault(
            "the system has no file of authorities that it trusts; install ca-certificates, or name a file with `ca`", path
        )
    if file not in shared:
        shared[file] = read_authorities(file, (*path, "ca"))
    return shared[file]
