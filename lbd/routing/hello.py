"""A TLS ClientHello -> a route, for connections that are carried as they are: by the name asked for and the protocols offered.

The most specific name wins, as for requests (table.py): exact before the longest wildcard before none; then a route that names protocols
before one that does not; then file order. A connection without a hello, which is no TLS, is for routes that ask for neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lbd.routing.route import Route, RoutePolicy
from lbd.routing.table import domains_above, host_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lbd.wire.client_hello import ClientHello

__all__ = ["HelloTable", "PassthroughPolicy"]

ANY = b"*"


@dataclass(frozen=True, slots=True)
class PassthroughPolicy:
    """`[[listener.NAME.passthrough]]`: TLS connections that an HTTP listener does not end, but hands on as they are."""

    sni: tuple[str, ...] = ()  # exact or "*.example.com"
    alpn: tuple[str, ...] = ()  # one of these is offered; () is any
    cluster: str = ""
    name: str = ""  # "" becomes passthrough-1, passthrough-2, ... in file order

    def as_route(self) -> RoutePolicy:
        return RoutePolicy(name=self.name, sni=self.sni, alpn=self.alpn, cluster=self.cluster)


class HelloTable:
    """Immutable. `needs_hello`: some route asks for what only a hello tells."""

    __slots__ = ("_by_name", "_depth", "needs_hello", "routes")

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = tuple(routes)
        self.needs_hello = any(route.policy.sni or route.policy.alpn for route in self.routes)
        self._by_name: dict[bytes, list[Route]] = {}  # in order of preference
        self._depth = 0  # labels of the deepest wildcard
        for route in sorted(self.routes, key=lambda route: not route.policy.alpn):  # stable: file order is kept
            for name in route.policy.sni or ("*",):
                key = host_key(name)
                self._depth = max(self._depth, key.count(b".")) if key.startswith(b"*.") else self._depth
                self._by_name.setdefault(key, []).append(route)

    def match(self, hello: ClientHello | None) -> Route | None:
        """None: no route takes it."""
        for key in self._keys(hello.sni.encode() if hello is not None else b""):
            for route in self._by_name.get(key, ()):
                if not route.policy.alpn or (hello is not None and offers(hello.alpn, route.policy.alpn)):
                    return route
        return None

    def _keys(self, name: bytes) -> list[bytes]:
        return [name, *(b"*." + domain for domain in domains_above(name, self._depth)), ANY] if name else [ANY]


def offers(offered: Sequence[bytes], wanted: Sequence[str]) -> bool:
    return any(protocol.encode() in offered for protocol in wanted)
