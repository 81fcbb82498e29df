"""`lbd cert --dev NAME...`: a certificate to develop with, and the authority that vouches for it.

The authority's key is not kept: nobody can make it vouch for anything else, so there is little harm in trusting it.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault, Exit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["make_certificate", "write_certificate"]

LIFETIME = timedelta(days=397)  # browsers trust none that is valid for longer
TEXT = """\
wrote {directory}/ca.pem, cert.pem and key.pem: for {names}, valid until {end:%Y-%m-%d}, to develop with

  [listener.web]
  bind = "127.0.0.1:8443"
  tls = {{ cert = "{directory}/cert.pem", key = "{directory}/key.pem" }}

  curl --cacert {directory}/ca.pem https://{host}:8443/

A browser wants ca.pem among its authorities. Its own key is gone: it will never vouch for anything else.
"""


def make_certificate(names: Sequence[str], directory: Path) -> int:
    """The command; its exit code."""
    end = write_certificate(names, directory)
    host = f"[{names[0]}]" if ":" in names[0] else names[0].replace("*", "www")
    print(TEXT.format(directory=directory, names=", ".join(names), end=end, host=host), end="")
    return Exit.OK


def write_certificate(names: Sequence[str], directory: Path) -> datetime:
    """ca.pem, cert.pem and key.pem; until when they are good. EnvironmentFault: one cannot be written, or is there already."""
    import trustme  # half of a tenth of a second, and nobody else needs it

    end = datetime.now(UTC) + LIFETIME
    authority = trustme.CA(organization_name="lbd development")
    try:
        leaf = authority.issue_cert(*names, not_after=end)
    except ValueError as error:
        raise EnvironmentFault(
            f"no certificate can be made for {', '.join(names)}: {error}; write names like localhost or 127.0.0.1"
        ) from None
    files = {
        "ca.pem": (authority.cert_pem.bytes(), 0o644),
        "cert.pem": (b"".join(blob.bytes() for blob in leaf.cert_chain_pems), 0o644),
        "key.pem": (leaf.private_key_pem.bytes(), 0o600),
    }
    if there := [name for name in files if (directory / name).exists()]:
        raise EnvironmentFault(f"{directory / there[0]} is there already; choose another --dir, or remove it")
    for name, (content, mode) in files.items():
        write_new(directory / name, content, mode)
    return end


def write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
    except OSError as error:
        raise EnvironmentFault(f"cannot write {path}: {error.strerror}; choose another --dir") from None
