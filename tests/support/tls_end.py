"""A client of TLS on a scripted end of the playbook."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

from tests.support.certificates import client_context

if TYPE_CHECKING:
    from tests.support.certificates import Authority
    from tests.support.script import End

__all__ = ["TlsEnd"]


class TlsEnd:
    """`end >> hello()`, then `await shake()`, then `await ask(data)`."""

    def __init__(self, end: End, authority: Authority, *alpn: str) -> None:
        self.end = end
        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl = client_context(authority.file, alpn=alpn).wrap_bio(self._came, self._goes, server_hostname="a.example")

    def hello(self) -> bytes:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.ssl.do_handshake()
        return self._goes.read()

    async def shake(self) -> None:
        """The rest of the handshake, the hello being there. ssl.SSLError: there will be none."""
        while True:
            self._came.write(await self.end.read())
            try:
                self.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        self.end >> self._goes.read()

    async def ask(self, data: bytes) -> bytes:
        self.ssl.write(data)
        self.end >> self._goes.read()
        while True:
            try:
                return self.ssl.read(1 << 16)
            except ssl.SSLWantReadError:
                self._came.write(await self.end.read())
