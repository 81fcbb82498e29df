"""TLS towards a cluster's endpoints: with whom it is spoken, and who they must be.

An endpoint's certificate must be for its name: `sni`, or the name that the configuration has for it, which may be an address. Each
endpoint's last session is kept for the next connection to it, which is spared a signature on each side.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from lbd.core.tls import SessionKeeper, TlsStream
from lbd.core.tls_error import TlsError
from lbd.errors import Retry
from lbd.proxy.reasons import failure
from lbd.proxy.tls_material import VERSIONS, load_pair

if TYPE_CHECKING:
    from lbd.cluster.endpoint import Endpoint
    from lbd.cluster.tls_policy import ClusterTlsPolicy
    from lbd.core.stream import Stream
    from lbd.proxy.tls_material import TlsMaterial

__all__ = ["Origination", "upstream_context"]

PROTOCOLS = {"http1": ["http/1.1"], "h2": ["h2"], "auto": ["h2", "http/1.1"]}  # of ALPN
MAX_KEEPERS = 4096  # endpoints whose sessions are kept; where names resolve to ever new ones, the old must go


def upstream_context(policy: ClusterTlsPolicy, material: TlsMaterial) -> ssl.SSLContext:
    """ssl.SSLError or ValueError: `material` is not fit for `policy`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = VERSIONS[policy.min_version]
    context.options |= ssl.OP_NO_COMPRESSION
    if policy.ciphers:
        context.set_ciphers(policy.ciphers)
    if policy.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=material.authorities)
        if policy.ca:  # who was named is trusted, whoever vouches for them; may be an endpoint's own certificate
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for pair in material.pairs:
        load_pair(context, pair)
    return context


class Origination:
    """Of one cluster, or of several that want the same; `protocol` is theirs. ssl.SSLError or ValueError: as upstream_context()."""

    __slots__ = ("_context", "_keepers", "_protocol", "for_upgrades", "material", "policy")

    def __init__(self, policy: ClusterTlsPolicy, protocol: str, material: TlsMaterial) -> None:
        self.policy = policy
        self.material = material
        self._protocol = protocol
        self._context = upstream_context(policy, material)
        self._context.set_alpn_protocols(PROTOCOLS[protocol])
        # Where HTTP/2 may be chosen, it is not offered for a connection that is to become a tunnel: few endpoints know RFC 8441.
        self.for_upgrades = self if protocol != "auto" else Origination(policy, "http1", material)
        self._keepers: dict[tuple[str, str], SessionKeeper] = {}

    def is_for(self, policy: ClusterTlsPolicy, protocol: str, material: TlsMaterial) -> bool:
        return (policy, protocol, material) == (self.policy, self._protocol, self.material)

    async def secure(self, stream: Stream, endpoint: Endpoint) -> TlsStream:
        """Takes the stream over. ProxyError: there is no TLS with this endpoint, and nothing of a request was sent."""
        name = self.policy.sni or host_of(endpoint.name)
        tls = TlsStream(stream, self._context, name, self._keeper(name, endpoint.address), b"")
        try:
            await tls.handshake()
        except TlsError as error:
            tls.close()
            reason = "upstream_unverified" if error.is_unverified else "upstream_tls_failed"
            raise failure(reason, f"TLS with {endpoint.name}: {error.strerror}", Retry.UNSENT) from None
        except OSError as error:
            tls.close()
            message = f"TLS with {endpoint.name}: it broke the connection: {error.strerror}"
            raise failure("upstream_tls_failed", message, Retry.UNSENT) from None
        except BaseException:
            tls.close()
            raise
        return tls

    def _keeper(self, name: str, address: str) -> SessionKeeper:
        """Under the name too: who resumes a session is not verified anew."""
        keeper = self._keepers.get((name, address))
        if keeper is None:
            if len(self._keepers) >= MAX_KEEPERS:
                self._keepers.clear()
            keeper = self._keepers[name, address] = SessionKeeper()
        return keeper


def host_of(name: str) -> str:
    """ "app.internal:443", "10.0.0.1:443", "[::1]:443" without port and brackets. A unix socket has no name of its own."""
    if name.startswith("unix:"):
        return "localhost"
    return name.rpartition(":")[0].strip("[]")
