"""The diff of a reload: a table of two configurations and what their report says."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from lbd.cluster.cluster import ClusterPolicy, EndpointPolicy, TimeoutPolicy
from lbd.config.schema import AdminPolicy, Config, DaemonPolicy
from lbd.master.binds import BindPolicy
from lbd.master.reload import ReloadReport, as_it_runs, compare, would_end_all
from lbd.proxy.listener import ListenerPolicy
from lbd.routing.route import RoutePolicy
from lbd.worker.log import LogPolicy

WEB = ListenerPolicy("web", ("127.0.0.1:8080",), routes=(RoutePolicy("a", path="/a", cluster="app"), RoutePolicy("b", cluster="app")))
APP = ClusterPolicy("app", (EndpointPolicy("10.0.0.1:80"), EndpointPolicy("10.0.0.2:80")))
OLD = Config("lb.toml", listeners=(WEB,), clusters=(APP,))
KEPT = "; kept 1 listener, 1 bind, 2 routes, 1 cluster, 2 endpoints"

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "nothing has changed" + KEPT),
    "a listener more": (
        {"listeners": (WEB, ListenerPolicy("new", ("127.0.0.1:9090",), cluster="app"))},
        "listeners +new; binds +127.0.0.1:9090" + KEPT,
    ),
    "no listener": (
        {"listeners": ()},
        "listeners -web; binds -127.0.0.1:8080; routes -web/a -web/b; kept 1 cluster, 2 endpoints; "
        "draining listener web, bind 127.0.0.1:8080",
    ),
    "a listener's backlog": (
        {"listeners": (replace(WEB, backlog=7),)},
        "listeners ~web (backlog); kept 1 bind, 2 routes, 1 cluster, 2 endpoints",
    ),
    "a bind moves to another listener": (
        {"listeners": (replace(WEB, name="www"),)},
        "listeners +www -web; binds ~127.0.0.1:8080; routes +www/a +www/b -web/a -web/b; kept 1 cluster, 2 endpoints; "
        "draining listener web",
    ),
    "a route's path": (
        {"listeners": (replace(WEB, routes=(replace(WEB.routes[0], path="/c"), WEB.routes[1])),)},
        "listeners ~web (routes); routes ~web/a (path); kept 1 bind, 1 route, 1 cluster, 2 endpoints",
    ),
    "an endpoint less, and one of another weight": (
        {"clusters": (replace(APP, endpoints=(EndpointPolicy("10.0.0.1:80", weight=5),)),)},
        "clusters ~app (endpoints); endpoints -app/10.0.0.2:80 ~app/10.0.0.1:80 (weight); kept 1 listener, 1 bind, 2 routes; "
        "draining endpoint app/10.0.0.2:80",
    ),
    "timeouts": (
        {"clusters": (replace(APP, timeouts=TimeoutPolicy(connect=9.0)),)},
        "clusters ~app (timeouts); kept 1 listener, 1 bind, 2 routes, 2 endpoints",
    ),
    "settings": (
        {"log": LogPolicy(level="debug"), "lbd": DaemonPolicy(drain_timeout=5.0)},
        "settings lbd.drain_timeout, log.level" + KEPT,
    ),
    "what needs a restart": (
        {"lbd": DaemonPolicy(workers=7, user="www"), "admin": AdminPolicy("127.0.0.1:1")},
        "nothing has changed" + KEPT + "; in force only after a restart: lbd.workers, lbd.user, admin.bind",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_line_for_the_log(case: str) -> None:
    changes, line = CASES[case]
    assert compare(OLD, replace(OLD, **changes), 2).line() == f"reloaded, generation 2: {line}"


def test_what_needs_a_restart_is_compared_with_what_runs() -> None:
    file = replace(OLD, lbd=DaemonPolicy(workers=7, drain_timeout=5.0), admin=AdminPolicy("127.0.0.1:1"))
    running = as_it_runs(OLD, file)
    assert running == replace(OLD, lbd=DaemonPolicy(drain_timeout=5.0))
    again = compare(running, file, 3)
    assert (again.settings, again.needs_restart) == ((), ("lbd.workers", "admin.bind"))
    back = compare(running, replace(OLD, lbd=DaemonPolicy(drain_timeout=9.0)), 3)
    assert (back.settings, back.needs_restart) == (("lbd.drain_timeout",), ())


def test_a_bind_that_was_opened_anew_is_not_kept() -> None:
    report = compare(OLD, OLD, 2).renewed([BindPolicy("127.0.0.1:8080", ("listener", "web", "bind"))], OLD)
    assert report.line() == "reloaded, generation 2: binds ~127.0.0.1:8080 (file); kept 1 listener, 2 routes, 1 cluster, 2 endpoints"
    assert report.warnings == ("lb.toml: listener.web.bind: the file of 127.0.0.1:8080 had gone, or was another's: lbd listens there anew",)
    assert compare(OLD, OLD, 2).renewed([], OLD) == compare(OLD, OLD, 2)


def test_a_file_without_listeners_closes_nothing() -> None:
    empty = Config("lb.toml")
    assert would_end_all(OLD, empty) == (
        "lb.toml: there is no listener, so that all that serve now would be closed; is the file complete? To serve nothing, stop lbd"
    )
    assert [would_end_all(old, new) for old, new in ((empty, empty), (empty, OLD), (OLD, OLD))] == [""] * 3


def test_the_report_for_the_admin_api() -> None:
    new = replace(OLD, clusters=(replace(APP, endpoints=(EndpointPolicy("10.0.0.1:80", weight=5),)),), lbd=DaemonPolicy(workers=7))
    report = json.loads(json.dumps(compare(OLD, new, 2).to_json()))
    assert report["result"] == "ok"
    assert report["generation"] == 2
    assert report["errors"] == []
    assert report["endpoints"] == {
        "added": [],
        "removed": ["app/10.0.0.2:80"],
        "changed": {"app/10.0.0.1:80": ["weight"]},
        "kept": [],
    }
    assert report["clusters"]["changed"] == {"app": ["endpoints"]}
    assert report["listeners"]["kept"] == ["web"]
    assert report["drains"] == ["endpoint app/10.0.0.2:80"]
    assert report["needs_restart"] == ["lbd.workers"]


@pytest.mark.parametrize(
    ("errors", "line"),
    [
        (("one",), "reload refused, generation 3 stays in force: 1 error"),
        (("one", "two"), "reload refused, generation 3 stays in force: 2 errors"),
    ],
)
def test_a_refused_reload(errors: tuple[str, ...], line: str) -> None:
    report = ReloadReport(3, errors)
    assert report.line() == line
    assert report.result == "failed"
    assert report.to_json()["errors"] == list(errors)
