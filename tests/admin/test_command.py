"""Commands as they come: paths, queries, forms and JSON, and what is wrong with them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st

from lbd.admin.command import Command, Fault, is_command, parse_command

PLACE = "/api/v1/clusters/web/endpoints/10.0.0.1:80"


def parse(path: str, query: str = "", body: object = b"") -> Command | str:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        return parse_command(path, query, content, "root")
    except Fault as fault:
        return f"{fault.status} {fault}"


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        (f"{PLACE}/drain", True),
        (f"{PLACE}/explode", True),  # parse_command() says what there is
        (f"{PLACE}/", False),
        (PLACE, False),
        ("/api/v1/clusters", False),
        ("/api/v1/clusters//endpoints/a:1/drain", False),
        ("/api/v1/clusters/web/endpoints//drain", False),
    ],
)
def test_what_is_a_command(path: str, is_one: bool) -> None:
    assert is_command(path) is is_one


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (f"{PLACE}/enable", "web/10.0.0.1:80"),
        ("/api/v1/clusters/web/endpoints/[::1]:80/enable", "web/[::1]:80"),
        ("/api/v1/clusters/web/endpoints/%5B::1%5D%3A80/enable", "web/[::1]:80"),
        ("/api/v1/clusters/web/endpoints/unix:/run/app.sock/enable", "web/unix:/run/app.sock"),
        ("/api/v1/clusters/web/endpoints/unix%3A%2Frun%2Fapp.sock/enable", "web/unix:/run/app.sock"),
        ("/api/v1/clusters/web/endpoints/unix:/run/endpoints/x/drain/enable", "web/unix:/run/endpoints/x/drain"),
    ],
)
def test_whom_it_is_about(path: str, place: str) -> None:
    command = parse(path)
    assert isinstance(command, Command)
    assert (command.verb, command.place, command.who) == ("enable", place, "root")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("for=1h&reason=new+disk&force=1", b""),
        ("", b"for=1h&reason=new+disk&force=true"),
        ("", {"for": "1h", "reason": "new disk", "force": True}),
        ("for=1h", {"reason": "new disk", "force": True}),
    ],
)
def test_settings_come_in_three_ways(query: str, body: object) -> None:
    assert parse(f"{PLACE}/drain", query, body) == Command("drain", "web", "10.0.0.1:80", 3600.0, 0, "new disk", True, "root")


@pytest.mark.parametrize(("by", "who"), [("", "root"), ("ann", "root (ann)"), ("root", "root")])
def test_whoever_asks_may_say_its_name(by: str, who: str) -> None:
    command = parse(f"{PLACE}/enable", "", {"by": by})
    assert isinstance(command, Command)
    assert command.who == who


@pytest.mark.parametrize("given", ["weight=7", {"weight": 7}, {"weight": "7"}])
def test_a_weight(given: object) -> None:
    assert parse(f"{PLACE}/weight", *((given,) if isinstance(given, str) else ("", given))) == Command(
        "weight", "web", "10.0.0.1:80", weight=7, who="root"
    )


def test_a_weight_of_the_configuration() -> None:
    assert parse(f"{PLACE}/weight", "weight=reset") == Command("weight", "web", "10.0.0.1:80", weight=0, who="root")


@pytest.mark.parametrize(
    ("verb", "body", "answer"),
    [
        ("drian", b"", '404 an endpoint has no "drian"; did you mean "drain"?'),
        ("close", b"", '404 an endpoint has no "close"; there is drain, enable, weight'),
        ("drain", b'{"for": ', "400 the body is no JSON ("),
        ("drain", b"[1]", '400 the body must be a JSON object like {"for": "1h"}, not an array'),
        ("drain", b'"for"', "400 the body must be a JSON object"),
        ("drain", b"for", "400 the body cannot be read; write it like for=1h&reason=disk"),
        ("drain", b"\xff\xfe", "400 the body cannot be read"),
        ("drain", b"[" * 50_000, "400 the body is no JSON"),
        ("drain", {"form": "1h"}, '422 drain takes no "form"; did you mean "for"?'),
        ("drain", {"weight": 1}, '422 drain takes no "weight"; there is for, reason, by, force'),
        ("enable", {"for": "1h"}, '422 enable takes no "for"; there is by'),
        ("enable", {"by": "a\x1bb"}, "422 by must be one line of 200 characters at most"),
        ("drain", {"for": 60}, '422 for: must be a duration like "250ms" or "30s", not an integer'),
        ("drain", {"for": "1"}, '422 for: "1" has no unit; write "1s" or "1ms"'),
        ("drain", {"for": "1 fortnight"}, '422 for: "1 fortnight" has an unknown unit'),
        ("drain", {"for": "0s"}, "422 for: "),
        ("drain", {"reason": 1}, "422 reason must be a string, not an integer"),
        ("drain", {"reason": "a\nb"}, "422 reason must be one line of 200 characters at most"),
        ("drain", {"reason": "a" * 201}, "422 reason must be one line of 200 characters at most"),
        ("drain", {"force": "perhaps"}, '422 force must be true or false, not "perhaps"'),
        ("drain", {"force": 1}, "422 force must be true or false, not 1"),
        ("weight", {}, '422 weight is missing; write a whole number from 1 to 65535, or "reset" for the configured one'),
        ("weight", {"weight": 0}, "422 weight is 0; to send an endpoint nothing, drain it"),
        ("weight", {"weight": 65536}, "422 weight is 65536; it must be from 1 to 65535"),
        ("weight", {"weight": -1}, "422 weight is -1; it must be from 1 to 65535"),
        ("weight", {"weight": 1.5}, "422 weight is 1.5; write a whole number"),
        ("weight", {"weight": True}, "422 weight is true; write a whole number"),
        ("weight", {"weight": "many"}, '422 weight is "many"; write a whole number'),
    ],
)
def test_what_cannot_be(verb: str, body: object, answer: str) -> None:
    found = parse(f"{PLACE}/{verb}", "", body)
    assert isinstance(found, str)
    assert found.startswith(answer), found


@pytest.mark.parametrize("name", ["a%0Ab", "a%1B%5B2J", "%00"])
def test_a_name_that_would_spoil_the_log(name: str) -> None:
    assert parse(f"/api/v1/clusters/web/endpoints/{name}/drain") == "400 the names of cluster and endpoint are of printable characters"
    assert parse(f"/api/v1/clusters/{name}/endpoints/a:1/drain") == "400 the names of cluster and endpoint are of printable characters"


def test_a_query_that_cannot_be_read() -> None:
    assert parse(f"{PLACE}/drain", "for") == "400 the query cannot be read; write it like for=1h&reason=disk"


@given(st.text(max_size=40), st.binary(max_size=60))
def test_whatever_comes_is_a_command_or_a_sentence(query: str, body: bytes) -> None:
    for verb in ("drain", "enable", "weight"):
        found = parse(f"{PLACE}/{verb}", query, body)
        assert isinstance(found, Command) or found[:3] in ("400", "422")
