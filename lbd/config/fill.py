"""TOML values -> policies.

One loader for all of them: it walks a policy's fields (fields.py) and a table's keys together, and reports whatever does not fit,
each at its own line, instead of stopping at the first. What could not be read gets its default, so that the rest can
still be looked at; Report.is_sound() tells the checks that come later (rules.py) what not to believe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from lbd.cluster.tls_policy import ClusterTlsPolicy
from lbd.config.fields import Field, fields_of
from lbd.config.grammar import GRAMMARS, PAIR_GRAMMARS
from lbd.config.secret import SECRETS, guarded
from lbd.config.suggest import closest, foreign_balance, old_tls, unknown_key
from lbd.config.text import Expanded
from lbd.config.units import kind_of, parse_count, parse_duration, parse_ratio, parse_size
from lbd.policy import Choice, Count, Duration, Ratio, Secret, Size, Text
from lbd.proxy.tls_policy import ListenerTlsPolicy
from lbd.routing.conditions import PRESENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from lbd.config.positions import KeyPath
    from lbd.config.report import Report

__all__ = ["fill"]

T = TypeVar("T")
Pair = tuple[str, str]

WRITTEN = {
    "endpoints": 'write endpoints = ["10.0.0.1:9000"]',
    "bind": 'write bind = "0.0.0.0:8080"',
    "cert": 'write cert = "cert.pem"',
    "key": 'write key = "key.pem"',
    "address": 'write address = "10.0.0.1:9000"',
}
LISTED: dict[type | None, str] = {ListenerTlsPolicy: "certificates"}
SWITCHED: set[type | None] = {ClusterTlsPolicy}
EMPTY_LISTS = {
    "expect_status": 'the list is empty, so that no answer would do; write at least one, as in ["200-399"]',
    "on": 'the list is empty, so that nothing would be tried again; write attempts = 0 for that, or at least one, as in ["connect"]',
}
BOOLEANS = {"true": True, "false": False}


def fill(policy: type[T], table: object, path: KeyPath, report: Report, **given: object) -> T:
    """The policy that a table describes; `given` are fields that are not in it."""
    filled: T = Filler(report).table(policy, table, path, given)
    return filled


class Filler:
    """`report` gets every fault."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._forms: dict[str, Callable[[type, Field, object, KeyPath], object]] = {
            "string": self._string,
            "bool": self._bool,
            "integer": self._integer,
            "float": self._float,
            "strings": self._strings,
            "statuses": self._statuses,
            "pairs": self._pairs,
            "conditions": self._conditions,
            "weights": self._weights,
            "workers": self._workers,
            "endpoints": self._endpoints,
            "table": self._table,
            "tables": self._tables,
        }

    def table(self, policy: type | None, table: object, path: KeyPath, given: dict[str, object], owner: type | None = None) -> Any:  # noqa: ANN401
        """`owner` is the policy of the table around it."""
        assert policy is not None
        if not isinstance(table, dict):
            self._report.error(path, f"must be a table, not {kind_of(table)}")
            table = {}
        by_key = {field.key: field for field in fields_of(policy)}
        values = dict(given)
        for key, value in table.items():
            if field := by_key.get(key):
                values[field.name] = self._value(policy, field, value, (*path, key))
            else:
                self._report.error((*path, key), unknown_key(key, path, by_key, policy=policy, parent=owner))
        for field in by_key.values():
            if field.is_required and field.name not in values:
                if path not in self._report.broken:
                    self._report.error((*path, field.key), f"missing; {WRITTEN[field.key]}")
                values[field.name] = placeholder(field)
        return policy(**values)

    def _value(self, policy: type, field: Field, value: object, path: KeyPath) -> object:
        try:
            return self._forms[field.form](policy, field, value, path)
        except ValueError as error:
            self._report.error(path, str(error))
            return placeholder(field) if field.is_required else field.default

    def _table(self, owner: type, field: Field, value: object, path: KeyPath) -> object:
        """Where a list stands for one of its keys, tls = [{ cert, key }, ...], or a word for all of them, tls = true."""
        if field.policy in SWITCHED and not isinstance(value, dict):
            return self.table(field.policy, {}, path, {}) if self._bool(owner, field, value, path) else None
        if isinstance(value, list) and field.policy in LISTED:
            value = {LISTED[field.policy]: value}
        return self.table(field.policy, value, path, {}, owner)

    # Scalars

    def _string(self, policy: type, field: Field, value: object, _path: KeyPath) -> str:
        text = plain_string(value)
        if text == "" and (field.default == "" or (isinstance(value, Expanded) and not field.is_required)):
            return str(field.default)  # as if it were not there: ${NAME:-} leaves a key out
        if isinstance(field.mark, Choice):
            check_choice(text, field)
        elif isinstance(field.mark, Text) and callable(field.mark.parse):
            field.mark.parse(text)
        elif text == "":
            raise ValueError("must not be empty")
        if check := GRAMMARS.get((policy, field.name)):
            check(text)
        return Secret(text) if (policy, field.name) in SECRETS else text

    def _bool(self, _policy: type, _field: Field, value: object, _path: KeyPath) -> bool:
        if isinstance(value, Expanded):
            value = BOOLEANS.get(value, value)
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {kind_of(value)}")
        return value

    def _integer(self, _policy: type, field: Field, value: object, _path: KeyPath) -> int:
        if isinstance(field.mark, Size):
            return parse_size(value, field.mark)
        return parse_count(number_of(value), field.mark if isinstance(field.mark, Count) else Count())

    def _float(self, _policy: type, field: Field, value: object, _path: KeyPath) -> float:
        if isinstance(field.mark, Duration):
            return parse_duration(value, field.mark)
        return parse_ratio(number_of(value), field.mark if isinstance(field.mark, Ratio) else Ratio())

    def _workers(self, policy: type, field: Field, value: object, path: KeyPath) -> int:
        if value == "auto":
            return 0
        if isinstance(number_of(value), str):
            raise ValueError(f'"{value}" is neither "auto" nor a number')
        return self._integer(policy, field, value, path)

    # Lists

    def _strings(self, policy: type, field: Field, value: object, path: KeyPath) -> tuple[str, ...]:
        """One string is a list of one."""
        return self._list(value, path, lambda item, _path: self._item(policy, field, item), "a string or a list of strings")

    def _statuses(self, policy: type, field: Field, value: object, path: KeyPath) -> tuple[str, ...]:
        """Single ones may be written as numbers."""

        def read(item: object, _path: KeyPath) -> str:
            return self._item(policy, field, str(item) if isinstance(item, int) and not isinstance(item, bool) else item)

        found = self._list([value] if isinstance(value, int) and not isinstance(value, bool) else value, path, read, "a list of statuses")
        if not found and self._report.is_sound(path):
            raise ValueError(EMPTY_LISTS[field.name])
        return found

    def _item(self, policy: type, field: Field, value: object) -> str:
        text = plain_string(value)
        if not text:
            raise ValueError("must not be empty")
        if check := GRAMMARS.get((policy, field.name)):
            check(text)
        return text

    def _endpoints(self, _policy: type, field: Field, value: object, path: KeyPath) -> tuple[object, ...]:
        """Each a table, or its address alone."""

        def read(item: object, path: KeyPath) -> object:
            if not isinstance(item, str | dict):
                raise ValueError(f"must be an address or a table, not {kind_of(item)}")
            if isinstance(item, dict):
                return self.table(field.policy, item, path, {})
            address = next(inner for inner in fields_of(field.policy or type(None)) if inner.name == "address")
            assert field.policy is not None
            return field.policy(address=self._string(field.policy, address, item, path))

        return self._list(value, path, read, "a list of addresses")

    def _tables(self, policy: type, field: Field, value: object, path: KeyPath) -> tuple[object, ...]:
        if isinstance(value, dict):
            name = ".".join(str(part) for part in path)
            raise ValueError(f"there may be several; write [[{name}]], with two brackets")
        if not isinstance(value, list):
            raise ValueError(f"must be an array of tables, not {kind_of(value)}")
        return tuple(self.table(field.policy, item, (*path, index), {}, policy) for index, item in enumerate(value))

    def _list(self, value: object, path: KeyPath, read: Callable[[object, KeyPath], Any], wanted: str) -> tuple[Any, ...]:
        """Every item that can be read; a fault for each that cannot."""
        if isinstance(value, str):
            return (read(value, path),)
        if not isinstance(value, list):
            raise ValueError(f"must be {wanted}, not {kind_of(value)}")
        items: list[Any] = []
        for index, item in enumerate(value):
            try:
                items.append(read(item, (*path, index)))
            except ValueError as error:
                self._report.error((*path, index), str(error))
        return tuple(items)

    # Tables of things with names

    def _pairs(self, policy: type, field: Field, value: object, path: KeyPath) -> tuple[Pair, ...]:
        """{ name = "value" }; a list of values repeats the name."""
        return tuple(self._entries(policy, field, value, path, lambda item: as_list(item)))

    def _conditions(self, policy: type, field: Field, value: object, path: KeyPath) -> tuple[Pair, ...]:
        """{ name = "value" | "~regex" | true }; names of header fields in lower case."""

        def read(item: object) -> list[str]:
            if item is True:
                return [PRESENT]
            if not isinstance(item, str):
                raise ValueError(f'must be a string, "~" and a regular expression, or true (it is there), not {kind_of(item)}')
            return [item]

        found = self._entries(policy, field, value, path, read)
        if field.name != "headers":
            return tuple(found)
        seen: dict[str, str] = {}
        for name, _ in found:
            if (first := seen.setdefault(name.lower(), name)) != name:
                self._report.error((*path, name), f'the same field as "{first}": case does not count; keep one')
        return tuple((name.lower(), text) for name, text in found)

    def _entries(self, policy: type, field: Field, value: object, path: KeyPath, read: Callable[[object], list[str]]) -> list[Pair]:
        if not isinstance(value, dict):
            raise ValueError(f'must be a table like {{ name = "value" }}, not {kind_of(value)}')
        check = PAIR_GRAMMARS.get((policy, field.name))
        pairs: list[Pair] = []
        for name, item in value.items():
            try:
                for written in read(item):
                    text = guarded(policy, field.name, name, written)
                    if check:
                        check(name, text)
                    pairs.append((name, text))
            except ValueError as error:
                self._report.error((*path, name), str(error))
        return pairs

    def _weights(self, _policy: type, field: Field, value: object, path: KeyPath) -> tuple[tuple[str, int], ...]:
        if not isinstance(value, dict):
            raise ValueError(f"must be a table like {{ api = 95, api-next = 5 }}, not {kind_of(value)}")
        pairs = []
        for name, item in value.items():
            try:
                pairs.append((name, parse_count(number_of(item), Count(0, 1_000_000))))
            except ValueError as error:
                self._report.error((*path, name), str(error))
        return tuple(pairs)


def placeholder(field: Field) -> object:
    return "" if field.form == "string" else ()


def plain_string(value: object) -> str:
    """A str and nothing else: an Expanded has done its work."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string, not {kind_of(value)}")
    return str(value)


def as_list(value: object) -> list[str]:
    """Expanded ones stay what they are: `guarded` wants to know what came from the environment."""
    return [item if isinstance(item, str) else plain_string(item) for item in (value if isinstance(value, list) else [value])]


def number_of(value: object) -> object:
    """A number that came from the environment is text: "${WEIGHT}"."""
    if isinstance(value, Expanded):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return value


def check_choice(text: str, field: Field) -> None:
    assert isinstance(field.mark, Choice)
    if text in field.mark.words:
        return
    if field.name == "min_version" and old_tls(text):
        raise ValueError(f'there is no "{text}": below 1.2 TLS is broken and not spoken (RFC 8996); write "1.2" or "1.3"')
    meant = (foreign_balance(text) if field.name == "balance" else "") or closest(text, field.mark.words)
    words = [f'"{word}"' for word in field.mark.words]
    written = f"one of {', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
    raise ValueError(f'there is no "{text}"; ' + (f'did you mean "{meant}"?' if meant else f"write {written}"))
