"""Certificates for tests: an authority of our own, and everything that can be wrong with what it issues."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtensionOID

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Authority", "Signer", "authority", "client_context", "downstream_context", "encrypted", "issue", "upstream_context"]


class Authority:
    """Writes NAME.pem and NAME.key into `directory`, and its own certificate as ca.pem."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ca = trustme.CA()
        self.file = directory / "ca.pem"
        directory.mkdir(parents=True, exist_ok=True)
        self.ca.cert_pem.write_to_path(str(self.file))

    def issue(self, file: str, *names: str, days: float = 30.0, begins: float = -60.0) -> tuple[Path, Path]:
        """(certificate, key); of the past when `days` is negative. `begins`: days from now."""
        now = datetime.now(UTC)
        issued = self.ca.issue_cert(*names, not_before=now + timedelta(days=begins), not_after=now + timedelta(days=days))
        return self.write(file, b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes())

    def write(self, file: str, chain: bytes, private: bytes) -> tuple[Path, Path]:
        """Both at once for whoever watches: each is replaced, the key first."""
        cert, key = self.directory / f"{file}.pem", self.directory / f"{file}.key"
        for path, content in ((key, private), (cert, chain)):
            fresh = path.with_suffix(path.suffix + ".new")
            fresh.write_bytes(content)
            fresh.rename(path)
        return cert, key

    def server_context(self, file: str) -> ssl.SSLContext:
        """For an origin, with what issue() wrote."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / f"{file}.pem", self.directory / f"{file}.key")
        return context


Names = Sequence[str | bytes | x509.GeneralName]


class Signer:
    """A certificate made by hand, of anybody, and what it signs: for chains that no authority would issue."""

    def __init__(self, subject: str | x509.Name, above: Signer | None = None, *, days: float = 30.0, names: Names = ()) -> None:
        """`names` are of DNS if nothing else is said, or the bytes of the extension that should have them. `days`: until its end."""
        now = datetime.now(UTC)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]) if isinstance(subject, str) else subject
        builder = x509.CertificateBuilder(above.subject if above else self.subject, self.subject, self.key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=60)).not_valid_after(now + timedelta(days=days))
        if not names:
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        for raw in (name for name in names if isinstance(name, bytes)):
            oid = ExtensionOID.SUBJECT_ALTERNATIVE_NAME
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, raw), critical=False)
        if listed := [x509.DNSName(name) if isinstance(name, str) else name for name in names if not isinstance(name, bytes)]:
            builder = builder.add_extension(x509.SubjectAlternativeName(listed), critical=False)
        self.certificate = builder.sign((above or self).key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def private(self) -> bytes:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return self.key.private_bytes(*form)


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
