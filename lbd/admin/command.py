"""What an operator wants of an endpoint, read from a request.

    POST /api/v1/clusters/CLUSTER/endpoints/ENDPOINT/drain      for, reason, by, force
    POST /api/v1/clusters/CLUSTER/endpoints/ENDPOINT/enable     by
    POST /api/v1/clusters/CLUSTER/endpoints/ENDPOINT/weight     weight, for, reason, by

The settings stand in the query, or in the body, as a form (curl -d for=1h) or as a JSON object. ENDPOINT is as in the configuration,
"app.internal:80" or "unix:/run/app.sock", or one of its addresses; it may be percent-encoded. Whatever is wrong is a Fault with a
sentence: 400 where the request cannot be read, 422 where it asks for what cannot be.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, unquote

from lbd.config.suggest import closest
from lbd.config.units import kind_of, parse_duration
from lbd.policy import Duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["VERBS", "Command", "Fault", "is_command", "parse_command"]

# The settings that each verb takes.
VERBS: dict[str, tuple[str, ...]] = {
    "drain": ("for", "reason", "by", "force"),
    "enable": ("by",),
    "weight": ("weight", "for", "reason", "by"),
}
PLACE = re.compile(r"/api/v1/clusters/([^/]+)/endpoints/(.+)/([a-z]+)")
SPAN = Duration(minimum=1.0)
LEAST_WEIGHT, GREATEST_WEIGHT = 1, 65535  # as in the configuration
RESET = "reset"  # as a weight: the configuration's
TEXT_LIMIT = 200  # characters of a reason and of a name: they are shown in a line

Settings = dict[str, object]


class Command(NamedTuple):
    """`seconds` is 0 where there is no end, `weight` 0 for the one of the configuration; `who` is for the log and whoever reads it."""

    verb: str
    cluster: str
    endpoint: str
    seconds: float = 0.0
    weight: int = 0
    reason: str = ""
    force: bool = False
    who: str = ""

    @property
    def place(self) -> str:
        return f"{self.cluster}/{self.endpoint}"


class Fault(Exception):
    """It cannot be done; `status` is the answer's."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def is_command(path: str) -> bool:
    return PLACE.fullmatch(path) is not None


def parse_command(path: str, query: str, body: bytes, who: str) -> Command:
    """Of a path of which is_command() is true."""
    match = PLACE.fullmatch(path)
    assert match is not None
    cluster, endpoint, verb = unquote(match[1]), unquote(match[2]), match[3]
    if verb not in VERBS:
        raise Fault(404, f'an endpoint has no "{verb}"; {hint(verb, VERBS)}')
    if not (cluster.isprintable() and endpoint.isprintable()):
        raise Fault(400, "the names of cluster and endpoint are of printable characters")
    settings = {**_of_form(query, "query"), **_of_body(body)}
    for key in settings:
        if key not in VERBS[verb]:
            raise Fault(422, _unknown(key, verb))
    return Command(
        verb,
        cluster,
        endpoint,
        _seconds(settings),
        _weight(settings) if verb == "weight" else 0,
        _line(settings, "reason"),
        _force(settings),
        who_by(who, _line(settings, "by")),
    )


def _of_form(text: str, where: str) -> Settings:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=20, errors="strict"))
    except ValueError:
        raise Fault(400, f"the {where} cannot be read; write it like for=1h&reason=disk") from None


def _of_body(body: bytes) -> Settings:
    body = body.strip()
    if not body.startswith((b"{", b"[", b'"')):
        return _of_form(body.decode("latin-1"), "body")
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Fault(400, f'the body is no JSON ({error}); write it like {{"for": "1h"}}') from None
    if not isinstance(tree, dict):
        raise Fault(400, f'the body must be a JSON object like {{"for": "1h"}}, not {kind_of(tree)}')
    return tree


def _unknown(key: str, verb: str) -> str:
    return f'{verb} takes no "{key}"; {hint(key, VERBS[verb])}'


def hint(word: str, words: Iterable[str]) -> str:
    near = closest(word, words)
    return f'did you mean "{near}"?' if near else f"there is {', '.join(words)}"


def _seconds(settings: Settings) -> float:
    if "for" not in settings:
        return 0.0
    try:
        return parse_duration(settings["for"], SPAN)
    except ValueError as error:
        raise Fault(422, f"for: {error}") from None


def _weight(settings: Settings) -> int:
    given = settings.get("weight")
    if given == RESET:
        return 0
    if isinstance(given, str) and given.isascii() and given.isdecimal() and len(given) < 10:
        given = int(given)
    if given is None or isinstance(given, bool) or not isinstance(given, int):
        what = "is missing" if given is None else f"is {json.dumps(given)}"
        raise Fault(
            422, f'weight {what}; write a whole number from {LEAST_WEIGHT} to {GREATEST_WEIGHT}, or "{RESET}" for the configured one'
        )
    if given == 0:
        raise Fault(422, "weight is 0; to send an endpoint nothing, drain it")
    if not LEAST_WEIGHT <= given <= GREATEST_WEIGHT:
        raise Fault(422, f"weight is {given}; it must be from {LEAST_WEIGHT} to {GREATEST_WEIGHT}")
    return given


def _line(settings: Settings, key: str) -> str:
    given = settings.get(key, "")
    if not isinstance(given, str):
        raise Fault(422, f"{key} must be a string, not {kind_of(given)}")
    if len(given) > TEXT_LIMIT or not given.isprintable():
        raise Fault(422, f"{key} must be one line of {TEXT_LIMIT} characters at most")
    return given


def who_by(who: str, by: str) -> str:
    """What we know of whoever asks, and in brackets what it says of itself: root (ann)."""
    return f"{who} ({by})" if by and by != who else who


def _force(settings: Settings) -> bool:
    given = settings.get("force", False)
    words: Mapping[object, bool] = {"true": True, "1": True, "false": False, "0": False}
    if isinstance(given, str) and given in words:
        return words[given]
    if not isinstance(given, bool):
        raise Fault(422, f"force must be true or false, not {json.dumps(given)[:TEXT_LIMIT]}")
    return given
