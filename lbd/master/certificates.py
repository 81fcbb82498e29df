"""Certificates and keys: read by the master, looked at before anybody uses them, and read again when their files change.

A pair that is new on disk is used when it is whole: the key fits, nothing has expired, the chain leads from the first certificate
on. Otherwise the pair in use stays, and the log says what is wrong with the new one. Certificate and key are two files, and whoever
renews them writes one after the other: a pair that does not fit is read again a moment later before it is a fault.
"""

from __future__ import annotations

import ssl
import warnings
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from lbd.errors import EnvironmentFault
from lbd.master.faults import Faults
from lbd.proxy.tls_material import KeyPair, TlsMaterial, load_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lbd.config.positions import KeyPath
    from lbd.config.schema import Config
    from lbd.proxy.tls_policy import ListenerTlsPolicy

__all__ = ["Stamp", "Wanted", "day_of", "is_expired", "read_listener", "read_listeners", "read_pair", "stamps_of", "wanted_by"]

LARGEST = 1 << 20  # bytes of a PEM file; the largest bundle of authorities has a quarter of that


class Stamp(NamedTuple):
    """What tells that a file has been written anew, or replaced; all zero where it cannot be read."""

    device: int = 0
    inode: int = 0
    modified: int = 0
    size: int = 0


class Wanted(NamedTuple):
    """Files that a part of the configuration names, and the keys that name them."""

    name: str  # of the listener, or cluster
    policy: Any
    files: tuple[Path, ...]


def wanted_by(config: Config) -> Iterator[Wanted]:
    """Each listener with TLS. Names of files are relative to the configuration's."""
    base = Path(config.file).parent
    for listener in config.listeners:
        tls = listener.tls
        if tls is not None:
            names = [name for pair in tls.pairs() for name in (pair.cert, pair.key)] + [tls.client_ca] * bool(tls.client_ca)
            yield Wanted(listener.name, tls, tuple(base / name for name in names))


def stamps_of(files: tuple[Path, ...]) -> tuple[Stamp, ...]:
    return tuple(map(stamp_of, files))


def stamp_of(file: Path) -> Stamp:
    try:
        found = file.stat()
    except OSError:
        return Stamp()
    return Stamp(found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)


def read_listeners(config: Config, now: float) -> dict[str, TlsMaterial]:
    """By listener. EnvironmentFault: everything that is wrong with any of the files, each with the key that names it."""
    found: dict[str, TlsMaterial] = {}
    faults = Faults()
    for wanted in wanted_by(config):
        with faults.gather():
            found[wanted.name] = read_listener(wanted.name, wanted.policy, Path(config.file).parent, now)
    faults.raise_all()
    return found


def read_listener(name: str, policy: ListenerTlsPolicy, base: Path, now: float) -> TlsMaterial:
    """EnvironmentFault: as read_listeners()."""
    path: KeyPath = ("listener", name, "tls")
    faults = Faults()
    pairs: list[KeyPair] = []
    offset = 1 if policy.cert or policy.key else 0
    for index, pair in enumerate(policy.pairs()):
        own = path if index < offset else (*path, "certificates", index - offset)
        with faults.gather():
            pairs.append(read_pair(base / pair.cert, base / pair.key, own, now))
    authorities = ""
    with faults.gather():
        if policy.client_ca:
            authorities = read_authorities(base / policy.client_ca, (*path, "client_ca"))
    with faults.gather():
        check_ciphers(policy.ciphers, path)
    with faults.gather():
        check_names(pairs, path)
    faults.raise_all()
    return TlsMaterial(tuple(pairs), authorities)


def check_names(pairs: list[KeyPair], path: KeyPath) -> None:
    """Which of two certificates would a name get?"""
    seen: dict[str, int] = {}
    for index, pair in enumerate(pairs):
        for name in pair.names:
            if seen.setdefault(name, index) != index:
                raise EnvironmentFault(f"two certificates are for {name}, number {seen[name] + 1} and number {index + 1}; keep one", path)


def check_ciphers(ciphers: str, path: KeyPath) -> None:
    """By the library that will have to use them."""
    if ciphers:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
        except ssl.SSLError:
            sentence = f'OpenSSL knows no cipher "{ciphers}"; `openssl ciphers` lists them, separated by colons'
            raise EnvironmentFault(sentence, (*path, "ciphers")) from None


def read_pair(cert: Path, key: Path, path: KeyPath, now: float, prefix: str = "") -> KeyPair:
    """`prefix` is that of the two keys in the table at `path`. EnvironmentFault: what is wrong with it, in a sentence."""
    cert_path, key_path = (*path, f"{prefix}cert"), (*path, f"{prefix}key")
    chain_pem = read_file(cert, cert_path)
    key_pem = read_file(key, key_path)
    chain = parsed_chain(cert, chain_pem, cert_path)
    check_key(key, key_pem, cert, chain[0], key_path)
    check_chain(cert, chain, cert_path)
    leaf = chain[0]
    not_after = leaf.not_valid_after_utc.timestamp()
    if is_expired(not_after, now):
        raise EnvironmentFault(f"the certificate in {cert} has expired on {day_of(not_after)}; renew it", cert_path)
    if leaf.not_valid_before_utc.timestamp() > now:
        raise EnvironmentFault(
            f"the certificate in {cert} is not valid before {day_of(leaf.not_valid_before_utc.timestamp())}; is the clock right?",
            cert_path,
        )
    pair = KeyPair(chain_pem, key_pem, names_of(leaf), not_after)
    try:
        load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), pair)
    except ssl.SSLError as error:  # a key too short for OpenSSL's level of security, for instance
        raise EnvironmentFault(f"OpenSSL does not take {cert}: {(error.reason or str(error)).lower().replace('_', ' ')}", path) from None
    return pair


def read_file(file: Path, path: KeyPath) -> bytes:
    if file.name == "" or file.is_dir():
        raise EnvironmentFault("missing; name a PEM file", path)
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise EnvironmentFault(f"{file} cannot be read: {(error.strerror or str(error)).lower()}", path) from None
    if len(content) > LARGEST:
        raise EnvironmentFault(f"{file} has more than {LARGEST >> 10} KiB; that is no PEM file of certificates", path)
    return content


def parsed_chain(file: Path, pem: bytes, path: KeyPath) -> list[x509.Certificate]:
    try:
        with warnings.catch_warnings():
            # Of serial numbers that are not positive, which some of those have whom every system trusts: nobody here can mend that.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            return x509.load_pem_x509_certificates(pem)
    except ValueError:
        if b"PRIVATE KEY-----" in pem and b"-----BEGIN CERTIFICATE-----" not in pem:
            raise EnvironmentFault(f"{file} is a private key; are `cert` and `key` exchanged?", path) from None
        raise EnvironmentFault(f"{file} has no certificate that can be read; it must be PEM (-----BEGIN CERTIFICATE-----)", path) from None


def check_key(file: Path, pem: bytes, cert: Path, leaf: x509.Certificate, path: KeyPath) -> None:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except TypeError:
        remedy = f"decrypt it once, `openssl pkey -in {file.name} -out plain.pem`, and protect the file by its mode"
        raise EnvironmentFault(
            f"the key in {file} is encrypted, and nobody is there at night to type its password; {remedy}", path
        ) from None
    except ValueError:
        raise EnvironmentFault(f"{file} has no private key that can be read; it must be PEM (-----BEGIN PRIVATE KEY-----)", path) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise EnvironmentFault(f"the key in {file} is not that of the certificate in {cert}", path)


def check_chain(file: Path, chain: list[x509.Certificate], path: KeyPath) -> None:
    """Each certificate is signed by the next one; clients give up on others, some of them only."""
    for number, (below, above) in enumerate(pairwise(chain), 1):
        if below.issuer != above.subject:
            sentence = f"{file}: certificate {number} is issued by {below.issuer.rfc4514_string()}, but the next one is of "
            raise EnvironmentFault(
                f"{sentence}{above.subject.rfc4514_string()}; put the server's first, then those that lead to the authority", path
            )


def read_authorities(file: Path, path: KeyPath) -> str:
    """PEM."""
    pem = read_file(file, path)
    parsed_chain(file, pem, path)
    text = pem.decode("ascii", "ignore")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError as error:
        raise EnvironmentFault(f"OpenSSL does not take {file}: {(error.reason or str(error)).lower().replace('_', ' ')}", path) from None
    return text


def names_of(leaf: x509.Certificate) -> tuple[str, ...]:
    """Those that a client may ask for; the subject's common name counts only where there are no others (RFC 6125, 6.4.4)."""
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        found = [str(attribute.value) for attribute in leaf.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    else:
        found = list(alternatives.get_values_for_type(x509.DNSName))
    return tuple(dict.fromkeys(name.lower() for name in found))


def is_expired(not_after: float, now: float) -> bool:
    return not_after <= now


def day_of(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")
