"""Active health checks of a running daemon: endpoints that die, come back, start down, or are all dead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.http import get
from tests.support.http2_origin import Http2Origin
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.http import Message
    from tests.support.origins import Link

CONFIG = """\
[lbd]
workers = 2
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "web"
reason_header = true
[cluster.web]
endpoints = [{endpoints}]
slow_start = "0s"
outlier = {{ enabled = false }}
{cluster}
[cluster.web.health]
path = "/live"
interval = "100ms"
timeout = "500ms"
rise = 2
fall = 3
{health}
"""


class Patient(ScriptedOrigin):
    """An origin whose /live says what `status` is; everything else is served as ever."""

    def __init__(self, name: str) -> None:
        self.status = 200
        super().__init__(name, behave=self.live)

    def live(self, link: Link, message: Message) -> bool:
        is_probe = message.target.startswith("/live")
        link.answer(message, b"alive\n" if self.status == 200 else b"dead\n", self.status if is_probe else 200)
        return not is_probe

    @property
    def probes(self) -> int:
        return sum(request.target.startswith("/live") for request in self.requests)


class Ward:
    """Two origins behind one daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self.admin = free_ports(2)
        self.origins = [Patient("a"), Patient("b")]
        self.lbd: LbdDaemon | None = None

    def text(self, cluster: str = "", health: str = "") -> str:
        endpoints = ", ".join(f'"{origin.address}"' for origin in self.origins)
        return CONFIG.format(admin=self.admin, port=self.port, endpoints=endpoints, cluster=cluster, health=health)

    def start(self, cluster: str = "", health: str = "") -> LbdDaemon:
        self.lbd = start_lbd(self.text(cluster, health), self.directory)
        return self.lbd

    def up(self) -> list[bool]:
        assert self.lbd is not None
        return [bool(self.lbd.metric("lbd_endpoint_up", cluster="web", endpoint=origin.address)) for origin in self.origins]

    def wait_for(self, *up: bool) -> None:
        wait_until(lambda: self.up() == list(up), f"health {up}")

    def served_by(self, count: int = 20) -> set[str]:
        answers = [get(self.port) for _ in range(count)]
        assert {answer.status for answer in answers} == {200}
        return {answer.get("x-origin") for answer in answers}


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(tmp_path)
    try:
        yield ward
    finally:
        if ward.lbd is not None:
            ward.lbd.stop()
        for origin in ward.origins:
            origin.stop()


def test_an_endpoint_that_fails_its_checks_gets_nothing_until_it_passes_again(ward: Ward) -> None:
    lbd = ward.start()
    assert ward.served_by() == {"a", "b"}
    ward.origins[0].status = 503
    ward.wait_for(False, True)
    time.sleep(0.2)  # the workers are told at once, but by another way than we
    assert ward.served_by() == {"b"}
    endpoint = next(e for e in lbd.json("/api/v1/clusters")["web"]["endpoints"] if e["address"] == ward.origins[0].address)
    assert (endpoint["up"], endpoint["last_reason"]) == (False, "status 503, expected 200-399")
    ward.origins[0].status = 200
    ward.wait_for(True, True)
    time.sleep(0.2)
    assert ward.served_by() == {"a", "b"}
    lbd.wait_for_log(f"{ward.origins[0].address} is down after 3 checks: status 503, expected 200-399")
    lbd.wait_for_log(f"{ward.origins[0].address} is up after 2 checks: status 200")
    assert lbd.metric("lbd_health_checks_total", endpoint=ward.origins[0].address, result="status") >= 3


def test_a_dead_endpoint_costs_no_request(ward: Ward) -> None:
    ward.start()
    ward.origins[0].stop()
    assert ward.served_by() == {"b"}, "before the check has found out, retries see to it"
    ward.wait_for(False, True)
    ward.origins[0].start()
    ward.wait_for(True, True)


def test_probes_are_made_once_not_once_a_worker(ward: Ward) -> None:
    ward.start()
    before = ward.origins[0].probes
    time.sleep(1.5)
    assert 8 <= ward.origins[0].probes - before <= 18, "one each 100 ms, a tenth of jitter"


def test_when_all_are_down_requests_are_tried_all_the_same(ward: Ward) -> None:
    ward.start()
    for origin in ward.origins:
        origin.status = 503
    ward.wait_for(False, False)
    time.sleep(0.2)
    assert ward.served_by() == {"a", "b"}


def test_without_panic_a_dead_cluster_answers_why(ward: Ward) -> None:
    ward.start(cluster="panic = 0.0")
    for origin in ward.origins:
        origin.status = 503
    ward.wait_for(False, False)
    time.sleep(0.2)
    answer = get(ward.port)
    assert (answer.status, answer.get("x-lbd-reason")) == (503, "no_healthy_endpoint")


def test_an_endpoint_that_starts_down_gets_nothing_before_it_has_passed(ward: Ward) -> None:
    ward.origins[0].status = 503
    ward.start(cluster="panic = 0.0", health='initial = "down"')
    ward.wait_for(False, True)
    time.sleep(0.2)
    assert ward.served_by() == {"b"}


def test_health_survives_a_reload(ward: Ward) -> None:
    lbd = ward.start()
    ward.origins[0].status = 503
    ward.wait_for(False, True)
    lbd.reload(ward.text(cluster="[cluster.web.timeouts]\nresponse = '20s'"))
    assert ward.up() == [False, True]
    assert ward.served_by() == {"b"}
    lbd.reload(ward.text(health="expect_body = 'alive'"))  # another check: it starts from what the old one knew
    assert ward.up() == [False, True]
    assert ward.served_by() == {"b"}


def test_a_check_that_is_taken_away_takes_its_verdict_along(ward: Ward) -> None:
    lbd = ward.start()
    ward.origins[0].status = 503
    ward.wait_for(False, True)
    lbd.reload(ward.text().partition("[cluster.web.health]")[0])
    assert ward.up() == [True, True]
    assert ward.served_by() == {"a", "b"}


def test_a_body_can_be_asked_for(ward: Ward) -> None:
    lbd = ward.start(health='expect_body = "^alive"\nexpect_status = ["200", "503"]')
    assert ward.up() == [True, True]
    ward.origins[1].status = 503
    ward.wait_for(True, False)
    lbd.wait_for_log(r'the body matches "\^alive"')


EVERY_KIND = """\
[lbd]
workers = 1
[admin]
bind = "127.0.0.1:{admin}"
[listener.web]
bind = "127.0.0.1:{port}"
cluster = "http"
[cluster.http]
endpoints = ["{http}"]
health = {{ {check}, path = "/status/200" }}
[cluster.h2]
endpoints = ["{h2}"]
health = {{ {check}, protocol = "h2" }}
[cluster.grpc]
endpoints = ["{h2}"]
health = {{ {check}, protocol = "grpc", service = "\u00e9" }}
"""


def test_a_check_of_every_kind_sends_its_fields_as_utf_8(tmp_path: Path) -> None:
    """They once made every check fail in lbd itself, with an endpoint that stayed up whatever became of it."""
    port, admin = free_ports(2)
    with ScriptedOrigin() as http, Http2Origin() as h2:
        check = 'interval = "50ms", headers = { X-Name = ["\u00e9\u20ac", "caf\u00e9"] }'
        text = EVERY_KIND.format(admin=admin, port=port, http=http.address, h2=f"127.0.0.1:{h2.port}", check=check)
        with start_lbd(text, tmp_path) as lbd:
            wait_until(lambda: len({request.path for request in h2.requests}) == 2, "checks of h2 and grpc")
            wait_until(lambda: lbd.metric("lbd_health_checks_total", cluster="http", result="ok") >= 1, "checks of http")
            assert lbd.metric("lbd_health_checks_total", result="fault") == 0
        assert "in lbd itself" not in lbd.log()
        assert b"x-name: \xc3\xa9\xe2\x82\xac\r\nx-name: caf\xc3\xa9\r\n" in http.requests[0].raw.lower()
        assert {request.fields[b"x-name"] for request in h2.requests} == {"caf\u00e9".encode()}  # the last one
