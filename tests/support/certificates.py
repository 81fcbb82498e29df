"""Certificates for tests: an authority of our own, and everything that can be wrong with what it issues."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import trustme
from cryptography.hazmat.primitives import serialization

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority", "authority", "client_context", "downstream_context", "encrypted", "issue", "upstream_context"]


class Authority:
    """Writes NAME.pem and NAME.key into `directory`, and its own certificate as ca.pem."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        directory.mkdir(parents=True, exist_ok=True)
        self.ca.cert_pem.write_to_path(str(self.file))

    def issue(self, file: str, *names: str, days: float = 30.0) -> tuple[Path, Path]:
        """(certificate, key); of the past when `days` is negative."""
        now = datetime.now(UTC)
        issued = self.ca.issue_cert(*names, not_before=now - timedelta(days=60), not_after=now + timedelta(days=days))
        cert, key = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        # Both at once for whoever watches: each is replaced, the key first.
        for path, blobs in ((key, [issued.private_key_pem]), (cert, issued.cert_chain_pems)):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(b"".join(blob.bytes() for blob in blobs))
            fresh.rename(path)
        return cert, key

    def server_context(self, file: str) -> ssl.SSLContext:
        """For an origin, with what issue() wrote."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        return context


def encrypted(key: Path) -> Path:
    """The same key with a password."""
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    path = key.with_suffix(".encrypted")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret"))
    path.write_bytes(loaded.private_bytes(*form))
    return path


def client_context(ca: Path, *, alpn: tuple[str, ...] = (), pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca))
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


# One authority for each run, where no files are needed


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def issue(*names: str) -> trustme.LeafCert:
    return authority().issue_cert(*names)


def upstream_context(*names: str) -> ssl.SSLContext:
    """Of who is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issue(*(names or ("localhost",))).configure_cert(context)
    return context


def downstream_context() -> ssl.SSLContext:
    """Of who asks, and trusts authority()."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context
