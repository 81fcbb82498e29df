"""The admin listener of a running daemon."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.support import procfs
from tests.support.http import Downstream, get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG = """\
[lbd]
workers = 2
ready_delay = "1s"
[log]
access = "off"
[admin]
bind = "{admin}"
token = "{token}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
[cluster.web]
endpoints = ["{endpoint}"]
"""


class Rig:
    def __init__(self, directory: Path) -> None:
        self.port, self.admin_port = free_ports(2)
        self.origin = ScriptedOrigin()
        self.directory = directory
        self.lbd: LbdDaemon | None = None

    def text(self, token: str = "", admin: str = "") -> str:
        admin = admin or f"127.0.0.1:{self.admin_port}"
        return CONFIG.format(admin=admin, token=token, port=self.port, endpoint=self.origin.address)

    def start(self, token: str = "") -> LbdDaemon:
        self.lbd = start_lbd(self.text(token), self.directory)
        return self.lbd


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    try:
        yield rig
    finally:
        if rig.lbd is not None:
            rig.lbd.stop()
        rig.origin.stop()


def test_counts_are_exact_over_all_workers(rig: Rig) -> None:
    lbd = rig.start()
    for number in range(40):  # a connection each: both workers get some
        assert get(rig.port, "/status/404" if number % 4 == 0 else "/").status in (200, 404)
    wait_until(lambda: lbd.metric("lbd_downstream_connections", listener="web") == 0, "the connections to end")
    assert lbd.metric("lbd_requests_total", listener="web", cluster="web", code="200") == 30
    assert lbd.metric("lbd_requests_total", code="404") == 10
    assert lbd.metric("lbd_requests_total") == 40
    assert lbd.metric("lbd_request_duration_seconds_count") == 40
    assert lbd.metric("lbd_upstream_attempts_total", endpoint=rig.origin.address, outcome="ok") == 40
    opened = lbd.metric("lbd_upstream_connections_opened_total")
    assert opened + lbd.metric("lbd_upstream_connections_reused_total") == 40
    assert opened == rig.origin.connections
    assert lbd.metric("lbd_downstream_connections_total") == 40
    assert lbd.metric("lbd_endpoint_inflight") == 0
    assert lbd.metric("lbd_endpoint_up") == 1


def test_openmetrics_is_what_its_parser_expects(rig: Rig) -> None:
    rig.start()
    get(rig.port)
    answer = get(rig.admin_port, "/metrics", {"Accept": "application/openmetrics-text; version=1.0.0", "Host": "localhost"})
    assert answer.get("content-type").startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}  # type: ignore[no-untyped-call]
    assert {"lbd_requests", "lbd_request_duration_seconds", "lbd_build_info", "process_resident_memory_bytes"} <= families.keys()


def test_processes_are_told_with_their_pids_numbers(rig: Rig) -> None:
    lbd = rig.start()
    names = {series for series in lbd.metrics() if series.startswith("process_resident_memory_bytes")}
    assert names == {f'process_resident_memory_bytes{{process="{name}"}}' for name in ("master", "worker-0", "worker-1")}
    assert len(procfs.children(lbd.pid)) == 2


def test_the_api_tells_state_clusters_and_configuration(rig: Rig) -> None:
    lbd = rig.start()
    status = lbd.json("/api/v1/status")
    assert (status["state"], status["generation"], len(status["workers"])) == ("ready", 1, 2)
    (endpoint,) = lbd.json("/api/v1/clusters")["web"]["endpoints"]
    assert (endpoint["address"], endpoint["up"]) == (rig.origin.address, True)
    assert lbd.json("/api/v1/config?format=json")
    assert "[cluster.web]" in lbd.ask("/api/v1/config").decode()


def test_reload_by_the_api_reports_and_a_refused_one_changes_nothing(rig: Rig) -> None:
    lbd = rig.start()
    with Downstream(rig.admin_port) as admin:
        lbd.rewrite(rig.text() + "[cluster.more]\nendpoints = ['127.0.0.1:1']\n")
        answer = admin.ask("POST", "/api/v1/reload", {"Host": "localhost"})
        assert (answer.status, json.loads(answer.body)["result"]) == (200, "ok")
        lbd.rewrite(rig.text().replace("[cluster.web]", "[cluster.wub]"))
        answer = admin.ask("POST", "/api/v1/reload", {"Host": "localhost"})
        report = json.loads(answer.body)
        assert (answer.status, report["result"]) == (422, "failed")
        assert any("lbd.toml:" in error and "web" in error for error in report["errors"])
    assert get(rig.port).status == 200
    assert lbd.metric("lbd_reloads_total", result="ok") == 1
    assert lbd.metric("lbd_reloads_total", result="failed") == 1
    assert lbd.metric("lbd_config_generation") == 2


def test_a_token_guards_everything_but_the_probes(rig: Rig) -> None:
    lbd = rig.start(token="s3cret-token")
    assert get(rig.admin_port, "/healthz").status == 200
    assert get(rig.admin_port, "/metrics").status == 401
    answer = get(rig.admin_port, "/api/v1/config", {"Authorization": "Bearer s3cret-token"})
    assert answer.status == 200
    assert b"s3cret-token" not in answer.body
    assert "s3cret-token" not in lbd.log()


def test_web_pages_get_nothing(rig: Rig) -> None:
    rig.start()
    assert get(rig.admin_port, "/metrics", {"Host": "rebound.example"}).status == 403
    with Downstream(rig.admin_port) as admin:
        answer = admin.ask("POST", "/api/v1/reload", {"Host": "localhost", "Origin": "https://evil.example"})
    assert answer.status == 403


def test_readiness_ends_before_service_does(rig: Rig) -> None:
    lbd = rig.start()
    lbd.signal(signal.SIGTERM)
    wait_until(lambda: not lbd.is_ready(), "/readyz to turn", 0.9)
    answer = get(rig.admin_port, "/readyz")
    assert (answer.status, answer.body) == (503, b"not ready: draining\n")
    assert get(rig.port).status == 200, "within ready_delay new connections are still served"
    assert lbd.wait() == 0


def test_a_unix_socket_serves_too(rig: Rig) -> None:
    path = rig.directory / "admin.sock"
    lbd = rig.lbd = LbdDaemon(rig.text(admin=f"unix:{path}"), rig.directory)
    wait_until(path.exists, "the socket")
    wait_until(lambda: get(str(path), "/readyz").status == 200, "readiness")
    assert get(str(path), "/metrics", {"Host": "any.name"}).status == 200
    lbd.stop()


def test_admin_connections_that_stall_hold_up_nobody(rig: Rig) -> None:
    lbd = rig.start()
    stalled = [Downstream(rig.admin_port) for _ in range(70)]  # more than there are places
    try:
        for downstream in stalled:
            downstream.send(b"GET /metrics HTTP/1.1\r\n")
        assert get(rig.port).status == 200
        assert lbd.is_ready()
    finally:
        for downstream in stalled:
            downstream.close()


def test_a_scrape_of_a_thousand_endpoints_is_whole(rig: Rig) -> None:
    endpoints = ", ".join(f'"127.0.{number // 250}.{number % 250 + 1}:9"' for number in range(1000))
    lbd = rig.start()
    lbd.reload(rig.text() + f"[cluster.many]\nendpoints = [{endpoints}]\n")
    up = [series for series in lbd.metrics() if series.startswith('lbd_endpoint_up{cluster="many"')]
    assert len(up) == 1000
    assert os.path.exists(f"/proc/{lbd.pid}")
