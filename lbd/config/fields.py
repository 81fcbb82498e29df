"""What a policy's annotations say about TOML: which keys a table has, and of what kind each is.

The shape of a field follows from its type; the few that TOML writes in a form of their own have a name in FORMS, which load.py
and dump.py both know.
"""

from __future__ import annotations

import dataclasses
import types
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.health import HealthPolicy
from lbd.cluster.retry_policy import RetryPolicy
from lbd.config.daemon import DaemonPolicy
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy

__all__ = ["Field", "fields_of", "is_policy"]

TOML_NAMES: dict[tuple[type, str], str] = {(ListenerPolicy, "routes"): "route"}
# What stands in the head of a table ([cluster.NAME]) or in another one ([lbd]), not in it.
IN_HEADERS: set[tuple[type, str]] = {(ListenerPolicy, "name"), (ClusterPolicy, "name"), (ClusterPolicy, "zone")}
FORMS: dict[tuple[type, str], str] = {
    (DaemonPolicy, "workers"): "workers",
    (ClusterPolicy, "endpoints"): "endpoints",
    (RoutePolicy, "headers"): "conditions",
    (RoutePolicy, "query"): "conditions",
    (HealthPolicy, "expect_status"): "statuses",
    (RetryPolicy, "on"): "statuses",
}


@dataclass(frozen=True, slots=True)
class Field:
    """One setting. `form` is one of: a form of FORMS, string, bool, integer, float, table, tables, strings, pairs, weights."""

    name: str
    key: str  # as TOML has it
    form: str
    mark: object  # of lbd/policy.py; None where there is none
    policy: type | None  # of form table and tables
    default: Any
    is_required: bool


def is_policy(kind: object) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


@cache
def fields_of(policy: type) -> tuple[Field, ...]:
    """In the order in which the policy has them."""
    hints = get_type_hints(policy, include_extras=True)
    found = []
    for field in dataclasses.fields(policy):
        if (policy, field.name) in IN_HEADERS:
            continue
        kind, mark = without_marks(hints[field.name])
        form, inner = form_of(kind)
        default = field.default if field.default_factory is MISSING else field.default_factory()
        key = TOML_NAMES.get((policy, field.name), field.name)
        form = FORMS.get((policy, field.name), form)
        found.append(Field(field.name, key, form, mark, inner, default, is_required=default is MISSING))
    return tuple(found)


def without_marks(kind: Any) -> tuple[Any, object]:  # noqa: ANN401 - an annotation
    if get_origin(kind) is Annotated:
        kind, *marks = get_args(kind)
        return kind, marks[0]
    if get_origin(kind) in (Union, types.UnionType):  # `HealthPolicy | None`
        return without_marks(next(option for option in get_args(kind) if option is not type(None)))
    return kind, None


def form_of(kind: Any) -> tuple[str, type | None]:  # noqa: ANN401 - an annotation
    scalars = {str: "string", bool: "bool", int: "integer", float: "float"}
    if kind in scalars:
        return scalars[kind], None
    if is_policy(kind):
        return "table", kind
    inner = get_args(kind)[0] if get_origin(kind) is tuple else None
    if inner is str:
        return "strings", None
    if is_policy(inner):
        return "tables", inner
    if inner == tuple[str, str]:
        return "pairs", None
    if inner == tuple[str, int]:
        return "weights", None
    raise TypeError(f"a setting of type {kind}: config/fields.py does not know how TOML would write it")
