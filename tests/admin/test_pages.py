"""Paths, methods, bodies and forms of the admin listener's answers."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from lbd.admin.command import Command, Fault
from lbd.admin.pages import Pages, Request
from tests.admin.views import FakeView

PAGES = ("/metrics", "/healthz", "/readyz", "/api/v1/status", "/api/v1/clusters", "/api/v1/config")


def ask(path: str, method: str = "GET", query: str = "", **fields: str) -> Request:
    return Request(method, path, query, {"host": "localhost", **{name.replace("_", "-"): value for name, value in fields.items()}})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", PAGES)
async def test_every_page_answers(path: str, method: str) -> None:
    answer = await Pages(FakeView(), "").answer(ask(path, method))
    assert answer.status == 200
    assert answer.body.endswith(b"\n"), "a terminal wants its prompt on a new line"


@pytest.mark.parametrize("state", ["starting", "draining", "no worker serves"])
async def test_not_ready_says_why(state: str) -> None:
    pages = Pages(FakeView(state=state), "")
    answer = await pages.answer(ask("/readyz"))
    assert (answer.status, answer.body) == (503, f"not ready: {state}\n".encode())
    assert (await pages.answer(ask("/healthz"))).status == 200, "the process lives all the same"


async def test_an_unknown_path_lists_the_known() -> None:
    answer = await Pages(FakeView(), "").answer(ask("/stats"))
    assert answer.status == 404
    assert all(path.encode() in answer.body for path in (*PAGES, "/api/v1/reload"))


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("POST", "/metrics", "GET, HEAD"), ("DELETE", "/api/v1/config", "GET, HEAD"), ("GET", "/api/v1/reload", "POST")],
)
async def test_a_wrong_method_names_the_right_ones(method: str, path: str, allow: str) -> None:
    answer = await Pages(FakeView(), "").answer(ask(path, method))
    assert answer.status == 405
    assert ("Allow", allow) in answer.fields


async def test_errors_under_api_are_json() -> None:
    answer = await Pages(FakeView(), "").answer(ask("/api/v2/status"))
    assert "there is no /api/v2/status" in json.loads(answer.body)["error"]


async def test_without_the_token_nothing_is_told_not_even_what_exists() -> None:
    pages = Pages(FakeView(), "secret")
    for path in ("/metrics", "/api/v1/config", "/nothing"):
        answer = await pages.answer(ask(path))
        assert answer.status == 401
        assert ("WWW-Authenticate", 'Bearer realm="lbd"') in answer.fields
    assert (await pages.answer(ask("/metrics", authorization="Bearer secret"))).status == 200


@pytest.mark.parametrize(
    ("accept", "query", "form"),
    [
        ("", "", "toml"),
        ("*/*", "", "toml"),
        ("application/json", "", "json"),
        ("text/html, application/json;q=0.9", "", "json"),
        ("", "format=json", "json"),
        ("application/json", "format=toml", "toml"),
    ],
)
async def test_the_configuration_comes_as_asked(accept: str, query: str, form: str) -> None:
    answer = await Pages(FakeView(), "").answer(ask("/api/v1/config", query=query, accept=accept))
    assert answer.content_type == f"application/{form}"
    assert answer.body.startswith(b"{" if form == "json" else b"[admin]")


@pytest.mark.parametrize("query", ["format=yaml", "format="])
async def test_an_unknown_form_is_said(query: str) -> None:
    answer = await Pages(FakeView(), "").answer(ask("/api/v1/config", query=query))
    assert answer.status == 400
    assert b"there are toml and json" in answer.body


@pytest.mark.parametrize(("report", "status"), [({"result": "ok"}, 200), ({"result": "failed", "errors": ["lb.toml:1: no"]}, 422)])
async def test_a_reload_answers_with_its_report(report: dict[str, Any], status: int) -> None:
    async def reload() -> dict[str, Any]:
        return report

    answer = await Pages(FakeView(on_reload=reload), "").answer(ask("/api/v1/reload", "POST"))
    assert (answer.status, json.loads(answer.body)) == (status, report)


@pytest.mark.parametrize(
    ("accept_encoding", "compressed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("gzip; q=1.0", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0", False),
        ("gzip;q=0.1", True),
        ("br", False),
        ("", False),
    ],
)
async def test_long_answers_are_compressed_when_asked(accept_encoding: str, compressed: bool) -> None:
    answer = await Pages(FakeView(), "").answer(ask("/metrics", accept_encoding=accept_encoding))
    assert (("Content-Encoding", "gzip") in answer.fields) is compressed
    text = gzip.decompress(answer.body) if compressed else answer.body
    assert b"# TYPE lbd_build_info gauge" in text


async def test_short_answers_are_not_compressed() -> None:
    answer = await Pages(FakeView(), "").answer(ask("/healthz", accept_encoding="gzip"))
    assert answer.body == b"ok\n"


COMMAND = "/api/v1/clusters/web/endpoints/10.0.0.1:80/drain"


def command(method: str = "POST", body: bytes = b"", query: str = "", *, is_unix: bool = True) -> Request:
    return Request(method, COMMAND, query, {"host": "localhost"}, is_unix, body, "root")


async def test_a_command_is_handed_on_with_who_gave_it() -> None:
    view = FakeView()
    answer = await Pages(view, "").answer(command(body=b'{"for": "1h"}', query="reason=disk"))
    assert (answer.status, json.loads(answer.body)) == (200, {"message": "done"})
    assert view.commands == [Command("drain", "web", "10.0.0.1:80", 3600.0, 0, "disk", False, "root")]


@pytest.mark.parametrize(
    ("request_", "status", "sentence"),
    [
        (command("GET"), 405, f"{COMMAND} takes POST, not GET"),
        (command("DELETE"), 405, f"{COMMAND} takes POST, not DELETE"),
        (
            command(is_unix=False),
            403,
            "changes are taken by the control socket (`lbd status` says where it is; without one, set [admin] control), "
            "or with a token: set [admin] token",
        ),
        (command(body=b"{"), 400, "the body is no JSON ("),
        (command(query="four=1h"), 422, 'drain takes no "four"; did you mean "for"?'),
    ],
)
async def test_a_command_that_cannot_be_taken(request_: Request, status: int, sentence: str) -> None:
    view = FakeView()
    answer = await Pages(view, "").answer(request_)
    assert answer.status == status
    assert json.loads(answer.body)["error"].startswith(sentence)
    assert view.commands == []


@pytest.mark.parametrize(("status", "fields"), [(404, ()), (409, ()), (503, (("Retry-After", "5"),))])
async def test_a_command_that_is_refused_says_why(status: int, fields: tuple[tuple[str, str], ...]) -> None:
    answer = await Pages(FakeView(fault=Fault(status, "because")), "").answer(command())
    assert (answer.status, json.loads(answer.body), answer.fields) == (status, {"error": "because"}, fields)


@pytest.mark.parametrize(
    ("query", "status", "found"),
    [
        ("", 200, ["api", "web"]),
        ("cluster=web", 200, ["web"]),
        ("cluster=web&cluster=api", 200, ["api", "web"]),
        ("cluster=wbe", 404, ["error"]),
        ("cluster=web&cluster=", 404, ["error"]),
    ],
)
async def test_clusters_are_told_of_as_asked(query: str, status: int, found: list[str]) -> None:
    answer = await Pages(FakeView(), "").answer(ask("/api/v1/clusters", query=query))
    assert (answer.status, list(json.loads(answer.body))) == (status, found)
