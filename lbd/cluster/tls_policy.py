"""What a cluster may be told about TLS. proxy/origination.py obeys it; the master reads the files (master/certificates.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from lbd.policy import Choice

__all__ = ["ClusterTlsPolicy"]


@dataclass(frozen=True, slots=True)
class ClusterTlsPolicy:
    """`tls = true`, or `[cluster.NAME.tls]`. Who an endpoint is, is verified, unless somebody writes that it is not."""

    ca: str = ""  # a PEM file: who may vouch for endpoints; "" is whom the system trusts
    sni: str = ""  # the name that is asked for, and that the certificate must have; "" is each endpoint's own
    client_cert: str = ""  # a PEM file: what we show to endpoints that want to know who we are
    client_key: str = ""
    min_version: Annotated[str, Choice(("1.2", "1.3"))] = "1.2"
    ciphers: str = ""  # of TLS 1.2, in OpenSSL's words; "" is OpenSSL's own choice
    insecure_skip_verify: bool = False  # anybody may be the endpoint; warned of
