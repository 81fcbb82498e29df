"""Certificates and keys: what PEM files have, and whether it is right.

Three kinds of things are wrong with files. Such with which nobody can serve (no PEM, another's key, a chain that does not hold together):
EnvironmentFault. Dates: a certificate that has expired, or is not valid yet, can be served, and clients may make of it what they want;
these are doubts, and whoever reads decides (readings.py). And what is merely unusual, which is nobody's business.
"""

from __future__ import annotations

import ssl
import warnings
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.utils import CryptographyDeprecationWarning

from lbd.errors import EnvironmentFault
from lbd.master.ciphers import is_known
from lbd.proxy.tls_material import KeyPair, load_pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lbd.config.positions import KeyPath

__all__ = ["check_use", "day_of", "read_authorities", "read_pair"]

LARGEST = 1 << 20  # bytes of a PEM file; the largest bundle of authorities has a quarter of that


def read_pair(cert: Path, key: Path, path: KeyPath, now: float, prefix: str = "") -> tuple[KeyPair, list[EnvironmentFault]]:
    """With doubts about it; `prefix` is that of the two keys in the table at `path`. EnvironmentFault: what is wrong, in a sentence."""
    cert_path, key_path = (*path, f"{prefix}cert"), (*path, f"{prefix}key")
    chain_pem = read_file(cert, cert_path)
    key_pem = read_file(key, key_path)
    chain = parsed_chain(cert, chain_pem, cert_path)
    check_key(key, key_pem, cert, chain[0], key_path)
    with strange(cert, cert_path):
        check_chain(cert, chain, cert_path)
        # Clients need each of the chain: it is good while all of them are.
        not_before = max(each.not_valid_before_utc.timestamp() for each in chain)
        not_after = min(each.not_valid_after_utc.timestamp() for each in chain)
        pair = KeyPair(chain_pem, key_pem, names_of(chain[0]), not_before, not_after)
    return pair, doubts_about(cert, chain, cert_path, now)


def check_use(pair: KeyPair, ciphers: str, cert: Path, path: KeyPath) -> None:
    """OpenSSL would use it with this list, which may ask for a level of security for which a key is too short (@SECLEVEL)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        if is_known(ciphers):  # or the list is a fault of its own
            context.set_ciphers(ciphers)
        load_pair(context, pair)
    except ssl.SSLError as error:
        raise EnvironmentFault(f"OpenSSL does not take {cert}: {(error.reason or str(error)).lower().replace('_', ' ')}", path) from None


@contextmanager
def strange(file: Path, path: KeyPath) -> Iterator[None]:
    """Around everything that looks closely at what somebody else has made."""
    try:
        yield
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise EnvironmentFault(f"{file} is not understood: {error}; have it made anew", path) from None


def doubts_about(file: Path, chain: list[x509.Certificate], path: KeyPath, now: float) -> list[EnvironmentFault]:
    """Whether it is the time of each."""
    doubts = []
    for number, each in enumerate(chain, 1):
        which = f"the certificate in {file}" if number == 1 else f"certificate {number} of the chain in {file}"
        begin, end = each.not_valid_before_utc.timestamp(), each.not_valid_after_utc.timestamp()
        if end <= now:
            doubts.append(EnvironmentFault(f"{which} has expired on {day_of(end)}; renew it", path))
        elif begin > now:
            doubts.append(EnvironmentFault(f"{which} is not valid before {day_of(begin)}; is the clock right?", path))
    return doubts


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
    except (ValueError, UnsupportedAlgorithm):
        raise EnvironmentFault(f"{file} has no private key that can be read; it must be PEM (-----BEGIN PRIVATE KEY-----)", path) from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with strange(cert, path):
        shown = leaf.public_key().public_bytes(*form)
    if key.public_key().public_bytes(*form) != shown:
        raise EnvironmentFault(f"the key in {file} is not that of the certificate in {cert}", path)


def check_chain(file: Path, chain: list[x509.Certificate], path: KeyPath) -> None:
    """Each certificate is signed by the next one; clients give up on others, some of them only."""
    for number, (below, above) in enumerate(pairwise(chain), 1):
        if below.issuer != above.subject:
            sentence = f"{file}: certificate {number} is issued by {below.issuer.rfc4514_string()}, but the next one is of "
            raise EnvironmentFault(
                f"{sentence}{above.subject.rfc4514_string()}; put the server's first, then those that lead to the authority", path
            )
        if not is_signed_by(below, above):
            raise EnvironmentFault(
                f"{file}: certificate {number} is not signed by the next one, which has the right name but another key; take the chain "
                "that came with the certificate",
                path,
            )


def is_signed_by(below: x509.Certificate, above: x509.Certificate) -> bool:
    """The names fit. True, too, where the signature is of a kind that only clients know."""
    try:
        below.verify_directly_issued_by(above)
    except InvalidSignature:
        return False
    except (TypeError, ValueError, UnsupportedAlgorithm):
        pass
    return True


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


def day_of(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")
