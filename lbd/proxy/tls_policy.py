"""What a listener may be told about TLS. proxy/tls.py obeys it; the master reads the files (master/certificates.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Choice

__all__ = ["KeyPairPolicy", "ListenerTlsPolicy"]


@dataclass(frozen=True, slots=True)
class KeyPairPolicy:
    """One of the certificates that are chosen from by name."""

    cert: str  # a PEM file: the certificate, then those that lead from it to a known authority
    key: str  # a PEM file: its private key, not encrypted


@dataclass(frozen=True, slots=True)
class ListenerTlsPolicy:
    """`tls = { cert = "cert.pem", key = "key.pem" }`; a list of such pairs is read as `certificates`."""

    cert: str = ""
    key: str = ""
    certificates: tuple[KeyPairPolicy, ...] = ()  # more of them: the client's SNI chooses, exact names before wildcards
    # 1.0 and 1.1 are dead (RFC 8996); whoever cannot speak 1.2 cannot be helped.
    min_version: Annotated[str, Choice(("1.2", "1.3"))] = "1.2"
    ciphers: str = ""  # of TLS 1.2, in OpenSSL's words; "" is OpenSSL's own choice, which leaves out what is weak
    alpn: tuple[str, ...] = ("h2", "http/1.1")  # in the order of preference
    strict_sni: bool = False  # a client that names nobody we know, or nobody, is refused; otherwise it gets the first certificate
    client_ca: str = ""  # a PEM file: who may vouch for clients. "": clients are not asked for certificates
    verify: Annotated[str, Choice(("required", "optional"))] = "required"  # with client_ca

    def pairs(self) -> tuple[KeyPairPolicy, ...]:
        """All of them, the default first."""
        own = (KeyPairPolicy(self.cert, self.key),) if self.cert or self.key else ()
        return own + self.certificates
