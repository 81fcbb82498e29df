"""What somebody probably meant: near misses, words of other balancers, keys that stand in the wrong table."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from lbd.config.fields import fields_of
from lbd.config.positions import dotted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lbd.config.positions import KeyPath

__all__ = ["closest", "foreign_balance", "old_tls", "unknown_key", "unknown_name"]

# What HAProxy, nginx, Envoy, Traefik and Caddy call it -> what we do; the first that the table has.
FOREIGN_KEYS = {
    "headers": "fields", "max_headers": "fields", "header_size": "head", "max_header_size": "head",
    "listen": "bind", "address": "bind", "addresses": "endpoints bind", "port": "bind", "listeners": "listener",
    "server": "endpoints listener", "servers": "endpoints listener", "backends": "endpoints cluster", "hosts": "endpoints host",
    "upstream": "cluster endpoints", "upstreams": "endpoints cluster", "backend": "cluster endpoints", "service": "cluster",
    "default_backend": "cluster", "frontend": "listener", "lb_policy": "balance", "algorithm": "balance", "lb": "balance",
    "policy": "balance", "routes": "route", "location": "route path", "match": "path", "regex": "path_regex", "path_prefix": "path",
    "prefix": "path", "path_beg": "path", "paths": "path", "exact": "path_exact", "domain": "host", "server_name": "host",
    "header": "headers", "health_check": "health", "healthcheck": "health", "check": "health", "inter": "interval", "url": "path",
    "uri": "path", "read_timeout": "response timeouts", "timeout": "timeouts", "maxconn": "connections max_requests",
    "max_conns": "max_requests", "keepalive_timeout": "keepalive idle_timeout", "client_max_body_size": "body max_body",
    "max_body_size": "max_body body", "allow_methods": "methods", "hash": "hash_key", "processes": "workers",
    "worker_processes": "workers", "threads": "workers", "grace": "drain_timeout", "code": "status", "grace_period": "drain_timeout",
    "shutdown_timeout": "drain_timeout", "access_log": "access", "error_log": "file", "retries": "attempts retry", "global": "lbd",
    "defaults": "lbd", "daemon": "lbd", "stickiness": "sticky", "session": "sticky", "stick": "sticky", "tags": "metadata",
    "labels": "metadata", "locality": "zone", "region": "zone", "overprovisioning_factor": "overprovision", "text": "body",
    "to": "location",
}  # fmt: skip
FOREIGN_BALANCES = {
    "leastconn": "least-requests", "leastrequest": "least-requests", "leastconnections": "least-requests", "rr": "round-robin",
    "wrr": "round-robin", "staticrr": "round-robin", "roundrobinweighted": "round-robin", "weightedroundrobin": "round-robin",
    "p2c": "power-of-two", "randomchoose": "power-of-two", "randomtwo": "power-of-two", "powerof2": "power-of-two",
    "iphash": "consistent-hash", "source": "consistent-hash", "hash": "consistent-hash", "ketama": "consistent-hash",
    "ringhash": "consistent-hash", "uri": "consistent-hash", "urihash": "consistent-hash", "header": "consistent-hash",
    "cookie": "consistent-hash", "ewma": "peak-ewma", "leasttime": "peak-ewma", "latency": "peak-ewma",
}  # fmt: skip
OLD_TLS = re.compile(r"sslv?[23](\.0)?|(tls ?v?)?1(\.[01])?")
LIST_LIMIT = 14  # how many keys a person reads


def closest(word: str, words: Iterable[str]) -> str:
    """The one that was probably meant; "" for none."""
    known = list(words)
    plain = {normal(each): each for each in reversed(known)}
    if normal(word) in plain:
        return plain[normal(word)]
    near = difflib.get_close_matches(word.lower(), known, 1, 0.6)
    return near[0] if near else ""


def normal(word: str) -> str:
    """least_conn, leastconn and least-conn are one mistake."""
    return word.lower().replace("_", "").replace("-", "")


def foreign_balance(word: str) -> str:
    return FOREIGN_BALANCES.get(normal(word), "")


def old_tls(word: str) -> bool:
    return OLD_TLS.fullmatch(word.lower()) is not None


def unknown_key(key: str, path: KeyPath, keys: Iterable[str], *, policy: type | None = None, parent: type | None = None) -> str:
    """`path` is the table's; `parent` the policy of the table around it."""
    known = list(keys)
    if key not in FOREIGN_KEYS and (near := closest(key, known)):
        return f'unknown key; did you mean "{near}"?'
    if foreign := next((each for each in FOREIGN_KEYS.get(key, "").split() if each in known), ""):
        return f'unknown key; here it is called "{foreign}"'
    for field in fields_of(policy) if policy is not None else ():
        if field.form == "table" and field.policy is not None and key in [inner.key for inner in fields_of(field.policy)]:
            return f"unknown key here; it belongs in [{dotted((*path, field.key))}]"
    if parent is not None and key in [field.key for field in fields_of(parent)]:
        if isinstance(path[-1], int):  # in one table of a list
            return f"unknown key here; it belongs in [{dotted(path[:-2])}], beside `{path[-2]}`"
        return f"unknown key here; it belongs in [{dotted(path[:-1])}], above [{dotted(path)}]"
    if near := closest(key, known):
        return f'unknown key; did you mean "{near}"?'
    if len(known) == 1:
        return f"unknown key; the only one here is {known[0]}"
    return "unknown key" + (f"; the keys here are {', '.join(known)}" if len(known) <= LIST_LIMIT else "")


def unknown_name(name: str, names: Iterable[str], kind: str) -> str:
    """For `cluster = "wbe"`."""
    known = sorted(names)
    if near := closest(name, known):
        return f'there is no {kind} "{name}"; did you mean "{near}"?'
    if len(known) == 1:
        return f'there is no {kind} "{name}"; the only one is {known[0]}'
    if known:
        return f'there is no {kind} "{name}"; there are {", ".join(known[:LIST_LIMIT])}' + (", ..." if len(known) > LIST_LIMIT else "")
    return f'there is no {kind} "{name}"; write a table [{kind}.{name}]'
