"""How the endpoints of clusters with TLS are probed: as the workers speak to them (proxy/origination.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lbd.proxy.origination import host_of, upstream_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from lbd.cluster.health import SecuredCheck
    from lbd.proxy.tls_material import TlsMaterial

__all__ = ["ProbeTls"]


class ProbeTls:
    """`material(cluster)` is what has been read for it; `name(cluster, address)` what the configuration calls an endpoint."""

    def __init__(self, material: Callable[[str], TlsMaterial], name: Callable[[str, str], str]) -> None:
        self._material = material
        self._name = name
        self._made: dict[str, tuple[SecuredCheck, TlsMaterial, ssl.SSLContext]] = {}  # by cluster

    def __call__(self, check: SecuredCheck, address: str) -> tuple[ssl.SSLContext, str] | None:
        """And the name that the endpoint's certificate must have; None: no TLS is spoken with this one."""
        name = self._name(check.cluster, address)
        return None if name in check.plain else (self._context(check), check.tls.sni or host_of(name))

    def _context(self, check: SecuredCheck) -> ssl.SSLContext:
        """Made when it is first needed, or when something about it has changed: it takes milliseconds."""
        material = self._material(check.cluster)
        made = self._made.get(check.cluster)
        if made is None or made[0] != check or made[1] is not material:
            context = upstream_context(check.tls, material)
            context.set_alpn_protocols(["h2" if check.protocol in ("h2", "grpc") else "http/1.1"])
            made = self._made[check.cluster] = check, material, context
        return made[2]
