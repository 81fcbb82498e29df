"""A request -> its route, whatever the number of routes.

Theory. The most specific route wins: an exact path before the longest prefix before a regular expression (in file order) before no
path at all; among these an exact host before the longest wildcard before none; then more conditions; then file order. That is
a chain of lookups, most specific first: the exact path in a dict, then each prefix of the path in a dict, from the longest that any
route has; in each of them the host in a dict, then each domain above it; and only the routes that are left in such a cell
are asked one by one. Where these are many, the values that they demand leave few of them; of regular expressions, what they begin with
(shortlist.py). So a lookup costs by the depth of paths and domains that routes name, not by their number and not by the length of what a
client sends.

Warning: a path may have several readings, and then all must lead to the same route: see path.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lbd.errors import ProxyError, Side
from lbd.routing.path import is_suspect, pattern_key, readings
from lbd.routing.route import Route, RoutePolicy, split_authority
from lbd.routing.shortlist import FEW, Prefixes, Shortlist, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lbd.wire.message import RequestHead

__all__ = ["RoutingTable", "bare_host", "host_key", "prefix_key"]

NAME = re.compile(rb"[a-z0-9_-]+(\.[a-z0-9_-]+)*")  # "_" is in no host name, but in many a URL of an inner network
LITERAL = re.compile(rb"\[[0-9a-f:.]+\]")  # IPv6


class Group:
    """Routes of one path and one host. `routes` are in order of preference, unless there are many: then they are in `shortlist`."""

    __slots__ = ("prefixes", "routes", "shortlist")

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.shortlist: Shortlist | None = None
        self.prefixes: Prefixes | None = None  # of regular expressions

    def find(self, request: RequestHead) -> Route | None:
        """The first that holds."""
        for route in self.routes:
            if route.conditions is None or route.conditions.holds(request):
                return route
        return self.find_of_many(request) if self.shortlist is not None else None

    def find_of_many(self, request: RequestHead) -> Route | None:
        for _, route in self.shortlist.of(request):  # type: ignore[union-attr]
            if route.conditions is None or route.conditions.holds(request):
                return route
        return None

    def settle(self) -> None:
        """No route comes any more."""
        if len(self.routes) > FEW:
            self.shortlist, self.routes = Shortlist(list(enumerate(self.routes))), []


class HostCell:
    """Routes of one path, by host."""

    __slots__ = ("anywhere", "exact", "wildcard")

    def __init__(self) -> None:
        self.exact: dict[bytes, Group] = {}
        self.wildcard: dict[bytes, Group] = {}  # b"example.com" for "*.example.com"
        self.anywhere: Group | None = None

    def every_group(self) -> Iterator[Group]:
        yield from self.exact.values()
        yield from self.wildcard.values()
        if self.anywhere is not None:
            yield self.anywhere

    def groups(self, host: bytes, domains: Sequence[bytes]) -> list[Group]:
        """The routes that take this host, most specific first."""
        found = [self.exact[host]] if host in self.exact else []
        found += [self.wildcard[domain] for domain in domains if domain in self.wildcard]
        return [*found, self.anywhere] if self.anywhere is not None else found

    def find(self, host: bytes, domains: Sequence[bytes], request: RequestHead) -> Route | None:
        """The first of groups() that holds, without a list of them: this is every request's way."""
        if host in self.exact:
            group = self.exact[host]
            if route := group.find(request):
                return route
        if self.wildcard:
            for domain in domains:
                if domain in self.wildcard:
                    group = self.wildcard[domain]
                    if route := group.find(request):
                        return route
        return self.anywhere.find(request) if self.anywhere is not None else None


class RoutingTable:
    """Immutable once built; `only` is the route of a listener that has a single catch-all: nothing needs to be looked up."""

    __slots__ = (
        "_anywhere", "_domain_depth", "_exact", "_has_regexes", "_ignore_parameters", "_positions", "_prefix_depth", "_prefixes",
        "_regexes", "only", "routes",
    )  # fmt: skip

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes  # in file order
        self.only = routes[0] if len(routes) == 1 and is_catch_all(routes[0]) else None
        self._positions = {route: position for position, route in enumerate(routes)}
        self._exact: dict[bytes, HostCell] = {}
        self._prefixes: dict[bytes, HostCell] = {}
        self._regexes = HostCell()
        self._has_regexes = any(route.regex is not None for route in routes)
        self._anywhere = HostCell()
        self._prefix_depth = 0  # segments of the deepest prefix
        self._domain_depth = 0  # labels of the deepest wildcard
        self._ignore_parameters = not any(names_parameters(route.policy) for route in routes)

    @classmethod
    def build(cls, routes: Sequence[RoutePolicy], listener_name: str) -> RoutingTable:
        """ValueError for a pattern that cannot be: a broken regular expression, a path without a slash."""
        table = cls(tuple(Route(policy, listener_name) for policy in routes))
        table._index()
        return table

    def match(self, request: RequestHead) -> Route | None:
        """The route, or None; ProxyError (400) for a path that different upstreams would read differently, across routes."""
        if self.only is not None:
            return self.only
        host = request.authority
        if b":" in host or host.endswith(b"."):
            host = bare_host(host)
        if not is_suspect(request.path):
            return self._find(request.path, host, request)
        forms = readings(request.path, self._ignore_parameters)
        route = self._find(forms[0], host, request)
        for form in forms[1:]:
            if self._find(form, host, request) is not route:
                raise ProxyError(Side.DOWNSTREAM, "ambiguous_path", 400, "the path may be read as that of another route")
        return route

    def _find(self, path: bytes, host: bytes, request: RequestHead) -> Route | None:
        domains = domains_above(host, self._domain_depth) if self._domain_depth else ()
        if self._exact and (cell := self._exact.get(path)) and (route := cell.find(host, domains, request)):
            return route
        if self._prefixes:
            for prefix in prefixes_of(path, self._prefix_depth):
                if (cell := self._prefixes.get(prefix)) and (route := cell.find(host, domains, request)):
                    return route
        if self._has_regexes and (route := self._find_regex(path, host, domains, request)):
            return route
        return self._anywhere.find(host, domains, request)

    def _find_regex(self, path: bytes, host: bytes, domains: Sequence[bytes], request: RequestHead) -> Route | None:
        lists = [those for group in self._regexes.groups(host, domains) for those in group.prefixes.of(path, request)]  # type: ignore[union-attr]
        for _, route in in_order(lists):
            if route.regex.fullmatch(path) and (route.conditions is None or route.conditions.holds(request)):  # type: ignore[union-attr]
                return route
        return None

    def _index(self) -> None:
        for route in sorted(self.routes, key=self._preference):
            cell = self._cell(route)
            for host in route.policy.host or ("*",):
                key = host_key(host)
                if key == b"*":
                    group = cell.anywhere = cell.anywhere or Group()
                elif key.startswith(b"*."):
                    domain = key[2:]
                    group = cell.wildcard.setdefault(domain, Group())
                    self._domain_depth = max(self._domain_depth, domain.count(b".") + 1)
                else:
                    group = cell.exact.setdefault(key, Group())
                group.routes.append(route)
        for cell in (self._anywhere, *self._exact.values(), *self._prefixes.values()):
            for group in cell.every_group():
                group.settle()
        for group in self._regexes.every_group():
            group.prefixes = Prefixes([(self._positions[route], route) for route in group.routes])

    def _preference(self, route: Route) -> tuple[int, int]:
        """Among routes of the same path and host: more conditions first; regular expressions strictly in file order."""
        count = route.conditions.count if route.conditions is not None and route.regex is None else 0
        return (-count, self._positions[route])

    def _cell(self, route: Route) -> HostCell:
        policy = route.policy
        if policy.path_exact:
            return self._exact.setdefault(pattern_key(policy.path_exact), HostCell())
        if route.regex is not None:
            return self._regexes
        prefix = prefix_key(policy.path)
        if not prefix:
            return self._anywhere
        self._prefix_depth = max(self._prefix_depth, prefix.count(b"/"))
        return self._prefixes.setdefault(prefix, HostCell())


def prefix_key(path: str) -> bytes:
    """b"" for "/" and for no path at all: both take everything. "/v1/" is "/v1" (as in the Kubernetes Gateway API)."""
    return pattern_key(path).rstrip(b"/") if path else b""


def is_catch_all(route: Route) -> bool:
    policy = route.policy
    has_path = policy.path_exact or policy.path_regex or prefix_key(policy.path)
    return not has_path and route.conditions is None and all(host_key(host) == b"*" for host in policy.host)


def names_parameters(policy: RoutePolicy) -> bool:
    return any(";" in text for text in (policy.path, policy.path_exact, policy.path_regex))


def host_key(pattern: str) -> bytes:
    """A host of the configuration as it is compared: lower-case ASCII, without port and final dot; "*" and "*.domain" stay so."""
    if pattern == "*":
        return b"*"
    star, name = ("*.", pattern[2:]) if pattern.startswith("*.") else ("", pattern)
    try:
        host, port = split_authority(name.lower().encode("ascii" if name.isascii() else "idna"))
    except UnicodeError:
        host, port = b"", b""
    key = host.removesuffix(b".")
    if (port and not port.isdigit()) or not (NAME.fullmatch(key) or (LITERAL.fullmatch(key) and not star)):
        raise ValueError(f'"{pattern}" is not a host: write "example.com", "*.example.com", "[::1]" or "*"')
    return star.encode() + key


def bare_host(authority: bytes) -> bytes:
    """Without the port, and without the dot that ends an absolute name."""
    return (split_authority(authority)[0] if b":" in authority else authority).removesuffix(b".")


def domains_above(host: bytes, depth: int) -> list[bytes]:
    """b"a.b.example.com" -> [b"b.example.com", b"example.com", b"com"]; only those of up to `depth` labels."""
    domains = []
    at = len(host)
    for _ in range(depth):
        at = host.rfind(b".", 0, at)
        if at <= 0:
            break
        domains.append(host[at + 1 :])
    domains.reverse()
    return domains


def prefixes_of(path: bytes, depth: int) -> list[bytes]:
    """b"/a/b/c" -> [b"/a/b/c", b"/a/b", b"/a"]; only those of up to `depth` segments."""
    prefixes = []
    at = 0
    for _ in range(depth):
        at = path.find(b"/", at + 1)
        if at < 0:
            prefixes.append(path)
            break
        prefixes.append(path[:at])
    prefixes.reverse()
    return prefixes
