"""A configuration as text again: the effective one, every key with the value in force.

    dump_toml(config)       what `lbd config` and the admin API show
    dump_tree(config)       the same as a tree, for JSON

Loaded again it gives an equal Config, but for its secrets (config/secret.py), which are masked. What is not set and has no value
of its own (a route's `path`, a cluster without health checks) is left out: there is nothing to write that would mean that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tomli_w

from lbd.config.fields import Field, fields_of
from lbd.config.secret import SECRETS, veiled
from lbd.config.text import escape
from lbd.config.units import duration_text, size_text
from lbd.policy import MASK, Duration, Size
from lbd.routing.conditions import PRESENT

if TYPE_CHECKING:
    from lbd.config.schema import Config

__all__ = ["dump_json", "dump_toml", "dump_tree", "grouped", "toml_text"]

Tree = dict[str, Any]


def dump_toml(config: Config) -> str:
    """TOML that lbd reads."""
    return toml_text(dump_tree(config))


def toml_text(tree: Tree) -> str:
    """A tree as TOML."""
    return tomli_w.dumps(plain(tree))


def dump_json(config: Config) -> Tree:
    """The same, as the JSON of the admin API has it."""
    return dump_tree(config)


def dump_tree(config: Config, *, only_changed: bool = False, with_secrets: bool = False) -> Tree:
    """`only_changed` leaves out what is as it would be without being written."""
    writer = Writer(only_changed, with_secrets)
    tree = {
        "lbd": writer.table(config.lbd),
        "log": writer.table(config.log),
        "admin": writer.table(config.admin),
        "listener": {policy.name: writer.table(policy) for policy in config.listeners},
        "cluster": {policy.name: writer.table(policy) for policy in config.clusters},
    }
    return {key: table for key, table in tree.items() if table}


class Writer:
    """Policies -> TOML values."""

    def __init__(self, only_changed: bool, with_secrets: bool) -> None:
        self._only_changed = only_changed
        self._with_secrets = with_secrets

    def table(self, policy: object) -> Tree:
        """Tables behind scalars, arrays of tables behind both: so no key is read as another table's."""
        kind: type = type(policy)
        parts: dict[str, Tree] = {"": {}, "table": {}, "tables": {}}
        for field in fields_of(kind):
            value = getattr(policy, field.name)
            if is_unset(field, value) or (self._only_changed and not field.is_required and value == field.default):
                continue
            if not self._with_secrets:
                value = MASK if (kind, field.name) in SECRETS else veiled(field, value)
            written = self._value(field, value)
            if written or value != field.default or field.form != "table":
                parts.get(field.form, parts[""])[field.key] = written
        return parts[""] | parts["table"] | parts["tables"]

    def _value(self, field: Field, value: Any) -> object:  # noqa: ANN401 - whatever a policy holds
        match field.form:
            case "table":
                return self.table(value)
            case "tables":
                return [self.table(item) for item in value]
            case "endpoints":
                return [self._endpoint(item) for item in value]
            case "workers":
                return value or "auto"
            case "strings" | "statuses":
                return list(value)
            case "conditions":
                return {name: True if text == PRESENT else text for name, text in value}
            case "pairs":
                return grouped(value)
            case "weights":
                return dict(value)
        return scalar(field, value)

    def _endpoint(self, endpoint: object) -> object:
        """Its address alone when there is nothing more to say."""
        changed = Writer(True, False).table(endpoint)
        return self.table(endpoint) if len(changed) > 1 else changed["address"]


def is_unset(field: Field, value: object) -> bool:
    """No TOML means this but that the key is not there: "", (), None, and the -1 of what another setting decides."""
    if field.is_required:
        return False
    if isinstance(field.mark, Duration | Size) and isinstance(value, int | float):
        return value < field.mark.minimum and value == field.default
    return value is None or (field.form not in ("bool", "workers", "integer", "float") and value in ("", ()) and value == field.default)


def scalar(field: Field, value: Any) -> object:  # noqa: ANN401 - whatever a policy holds
    if isinstance(field.mark, Duration):
        return duration_text(value)
    if isinstance(field.mark, Size):
        return size_text(value)
    return value


def grouped(pairs: tuple[tuple[str, str], ...]) -> Tree:
    """A name that is there twice has a list."""
    table: Tree = {}
    for name, text in pairs:
        table.setdefault(name, []).append(text)
    return {name: texts[0] if len(texts) == 1 else texts for name, texts in table.items()}


def plain(value: Any) -> Any:  # noqa: ANN401 - a tree
    """What reads best of what means the same: a list of one string is that string, for the writer gives each item a line of its own.
    And no string is taken for a variable of the environment when it is read again."""
    match value:
        case str():
            return escape(value)
        case [str(text)]:
            return escape(text)
        case list():
            return [plain(item) for item in value]
        case dict():
            return {key: plain(item) for key, item in value.items()}
    return value
