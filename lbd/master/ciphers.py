"""Lists of ciphers, looked at by the library that will have to use them.

OpenSSL leaves out what it does not know and complains only where nothing is left; whoever has mistyped one of two ciphers would not hear
of it before a client does. So each word is tried by itself. A word is a cipher or a kind of ciphers; after `!`, `-` or `+` it takes away
or moves what the words before have put there, and `@` is before orders (openssl-ciphers(1)).
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

from lbd.errors import EnvironmentFault

if TYPE_CHECKING:
    from lbd.config.positions import KeyPath

__all__ = ["check_ciphers", "is_known"]

SEPARATORS = re.compile(r"[:;, ]+")
TLS_1_3 = re.compile(r"TLS_[A-Z0-9]+_[A-Z0-9_]*SHA(256|384)")  # unlike those before they do not say with which key: no _WITH_
# Kinds that good lists take away and that OpenSSL has none of any more.
GONE = frozenset({
    "3DES", "DES", "EXP", "EXPORT", "EXPORT40", "EXPORT56", "FZA", "IDEA", "KRB5", "LOW", "MD5", "MEDIUM", "RC2", "RC4", "SEED", "SSLv2",
    "aDH", "aECDH", "aFZA", "aKRB5", "eFZA", "kDH", "kDHd", "kDHr", "kECDH", "kECDHe", "kECDHr", "kFZA", "kKRB5",
})  # fmt: skip


def check_ciphers(ciphers: str, path: KeyPath) -> list[EnvironmentFault]:
    """Doubts about the list in the table at `path`. EnvironmentFault: what is wrong with it."""
    path = (*path, "ciphers")
    words = [word for word in SEPARATORS.split(ciphers) if word]
    doubts = []
    for index, word in enumerate(words):
        name = word.lstrip("!-+")
        before = "ALL:" if word.startswith("@") else "-ALL:" if index else ""  # some words are known at the start only
        if is_known(before + name) or (name in GONE and name != word):
            continue
        if name != word:
            doubts.append(EnvironmentFault(f'OpenSSL knows no cipher "{name}", so that "{word}" changes nothing', path))
        elif word.startswith("@"):
            raise EnvironmentFault(f'OpenSSL knows no order "{word}"; there are @STRENGTH and @SECLEVEL=1, up to 5', path)
        elif TLS_1_3.fullmatch(word) and "_WITH_" not in word:
            raise EnvironmentFault(f'"{word}" is of TLS 1.3, whose ciphers cannot be chosen; only those of TLS 1.2 are named here', path)
        else:
            raise EnvironmentFault(f'OpenSSL knows no cipher "{word}"; `openssl ciphers` lists them, separated by colons', path)
    if ciphers and not is_known(ciphers):
        raise EnvironmentFault(f'"{ciphers}" leaves no cipher; `openssl ciphers` tells what a list comes to', path)
    return doubts


def is_known(ciphers: str) -> bool:
    """Something is left of it."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).set_ciphers(ciphers)
    except ssl.SSLError:
        return False
    return True
