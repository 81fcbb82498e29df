"""What goes wrong in TLS, in words for a log."""

from __future__ import annotations

import errno
from ssl import SSLCertVerificationError, SSLError

__all__ = ["TlsError", "translated"]

# Where OpenSSL's own words lead astray.
SENTENCES = {"CALLBACK_FAILED": "it asks for a name that has no certificate (SNI)"}


class TlsError(OSError):
    """One side refuses the other, or what came is not TLS. `word` is OpenSSL's for it; `is_unverified`: it is about who they are."""

    def __init__(self, word: str, sentence: str, *, is_unverified: bool = False) -> None:
        OSError.__init__(self, errno.EPROTO, sentence)
        self.word = word
        self.is_unverified = is_unverified


def translated(error: SSLError) -> TlsError:
    """OpenSSL's words, without its file names and line numbers."""
    if isinstance(error, SSLCertVerificationError):
        return TlsError("CERTIFICATE_VERIFY_FAILED", error.verify_message.rstrip("."), is_unverified=True)
    word = error.reason or "FAILED"
    return TlsError(word, SENTENCES.get(word) or word.lower().replace("_", " "))
