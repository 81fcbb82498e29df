"""Endpoints that requests fail at, of a running daemon: they go, for a while, and not too many of them; and a cluster's breaker.

One daemon with two workers for all tests. Its clusters have the same three origins, and differ in how long an ejection lasts.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.http import Message
    from tests.support.origins import Link
    from tests.support.processes import LbdDaemon

CONFIG = """\
[lbd]
workers = 2
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.quick]
bind = "127.0.0.1:{quick}"
cluster = "quick"
[listener.slow]
bind = "127.0.0.1:{slow}"
cluster = "slow"
[listener.guarded]
bind = "127.0.0.1:{guarded}"
cluster = "guarded"
reason_header = true
[cluster.quick]
endpoints = {endpoints}
slow_start = "0s"
outlier = {{ failures = 4, ejection = "1s", growth = 1.0, probes = 1 }}
timeouts = {{ response = "300ms" }}
[cluster.slow]
endpoints = {endpoints}
outlier = {{ failures = 4, ejection = "1h", ejection_max = "1h" }}
[cluster.guarded]
endpoints = {endpoints}
outlier = {{ enabled = false }}
breaker = {{ volume = 5, open = "1s", probes = 1 }}
"""


class Moody(ScriptedOrigin):
    """Does what `mood` says: "ok", "reset", "hang", or a status."""

    def __init__(self, name: str) -> None:
        self.mood = "ok"
        super().__init__(name, behave=self.obey)

    def obey(self, link: Link, message: Message) -> bool:
        if self.mood == "reset":
            link.reset()
        if self.mood == "hang":
            link.pause(1.0)
            return False
        link.answer(message, b"moody\n", 200 if self.mood == "ok" else int(self.mood))
        return True


class Ward:
    def __init__(self, lbd: LbdDaemon, origins: list[Moody], ports: dict[str, int]) -> None:
        self.lbd = lbd
        self.origins = origins
        self.ports = ports

    def endpoint(self, cluster: str, origin: Moody) -> dict[str, Any]:
        found = self.lbd.json("/api/v1/clusters")[cluster]["endpoints"]
        return next(endpoint for endpoint in found if endpoint["address"] == origin.address)

    def ejections(self, cluster: str, origin: Moody) -> float:
        return self.lbd.metric("lbd_endpoint_ejections_total", cluster=cluster, endpoint=origin.address)

    def load_until(self, cluster: str, holds: Any, what: str) -> None:  # noqa: ANN401 - a function without arguments
        def loaded() -> bool:
            for _ in range(6):
                get(self.ports[cluster])
            return bool(holds())

        wait_until(loaded, what, timeout=30.0)

    def served_by(self, cluster: str, count: int = 24) -> set[str]:
        answers = [get(self.ports[cluster]) for _ in range(count)]
        assert {answer.status for answer in answers} == {200}
        return {answer.get("x-origin") for answer in answers}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    origins = [Moody(name) for name in ("a", "b", "c")]
    names = ("admin", "quick", "slow", "guarded")
    ports = dict(zip(names, free_ports(4), strict=True))
    endpoints = "[" + ", ".join(f'"{origin.address}"' for origin in origins) + "]"
    with start_lbd(CONFIG.format(endpoints=endpoints, **ports), tmp_path_factory.mktemp("outlier")) as lbd:
        yield Ward(lbd, origins, ports)
    for origin in origins:
        origin.stop()


@pytest.fixture
def ward(daemon: Ward) -> Iterator[Ward]:
    """Everybody is well, before and after."""
    yield daemon
    for origin in daemon.origins:
        origin.mood = "ok"


@pytest.mark.parametrize(
    ("mood", "words"),
    [("503", "status 503"), ("reset", "upstream_(reset|closed)"), ("hang", "response_timeout")],
)
def test_who_fails_goes_and_comes_back_when_it_is_well(mood: str, words: str, ward: Ward) -> None:
    bad = ward.origins[0]
    ward.load_until("quick", lambda: ward.served_by("quick") == {"a", "b", "c"}, "everybody")
    before, start = ward.ejections("quick", bad), len(ward.lbd.log())
    bad.mood = mood
    ward.load_until("quick", lambda: ward.ejections("quick", bad) > before, "an ejection")
    words = f"4 failures in a row, the last: {words}"
    ward.lbd.wait_for_log(rf"cluster quick: {bad.address} is ejected for 1 s since [0-9:]+ UTC: {words}", start=start)
    ward.load_until("quick", lambda: ward.ejections("quick", bad) > before + 1, "another one, of a trial that fails")
    assert ward.lbd.metric("lbd_endpoint_ejections_total", cluster="quick", endpoint=bad.address, cause="probe") >= 1
    bad.mood = "ok"
    ward.load_until("quick", lambda: ward.endpoint("quick", bad)["state"] == "up", "its return")
    ward.load_until("quick", lambda: ward.served_by("quick") == {"a", "b", "c"}, "everybody again")
    assert ward.endpoint("quick", bad)["why"] == ""
    ward.lbd.wait_for_log(f"cluster quick: {bad.address} is back: its trial has succeeded", start=start)


def test_one_bad_page_ejects_nobody(ward: Ward) -> None:
    """A status of 500 is an answer, and the others fail as often."""
    for origin in ward.origins:
        origin.mood = "500"
    before = [ward.ejections("quick", origin) for origin in ward.origins]
    for _ in range(40):
        assert get(ward.ports["quick"]).status == 500
    assert [ward.ejections("quick", origin) for origin in ward.origins] == before
    assert ward.lbd.metric("lbd_endpoint_failures_total", cluster="quick", kind="error") >= 40


def test_never_too_many(ward: Ward) -> None:
    for origin in ward.origins[:2]:  # were it all, it would be no trouble of endpoints, and after ten seconds there would be an amnesty
        origin.mood = "503"
    # On trial it fails again; or both workers have it fail four times in a row, before either has heard of a trial.
    words = (
        r"ejected for 3600 s since .{8} UTC: (it failed again on trial|4 failures in a row, the last): status 503; the [2-9](nd|rd|th) time"
    )

    def outs() -> list[Moody]:
        return [origin for origin in ward.origins if re.fullmatch(words, ward.endpoint("slow", origin)["why"])]

    ward.load_until("slow", outs, "an ejection that lasts, although one of the others is no better")
    assert ward.lbd.metric("lbd_ejections_refused_total", cluster="slow", why="no_room") > 0
    cluster = ward.lbd.json("/api/v1/clusters")["slow"]
    states = [endpoint["state"] for endpoint in cluster["endpoints"]]
    assert (states.count("ejected"), cluster["panic"]) == (1, False), "one of three is all that half allows"
    for origin in ward.origins:
        origin.mood = "ok"
    (out,) = outs()
    assert out.name not in ward.served_by("slow")
    assert ward.lbd.metric("lbd_endpoint_up", cluster="slow", endpoint=out.address) == 0
    assert ward.lbd.metric("lbd_endpoint_state", cluster="slow", endpoint=out.address, state="ejected") == 1

    ward.lbd.reload()
    assert ward.endpoint("slow", out)["state"] == "ejected", "a reload keeps it"
    assert out.name not in ward.served_by("slow")

    for pid in ward.lbd.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: ward.lbd.metric("lbd_worker_restarts_total") >= 2 and ward.lbd.is_ready(), "their successors")
    wait_until(lambda: all(worker["state"] == "serving" for worker in ward.lbd.json("/api/v1/status")["workers"]), "them to serve")
    assert out.name not in ward.served_by("slow"), "it is the master who knows"


def test_a_breaker(ward: Ward) -> None:
    port = ward.ports["guarded"]
    for origin in ward.origins:
        origin.mood = "503"
    seen: list[tuple[int, str, str]] = []

    def refused() -> bool:
        answers = [get(port) for _ in range(8)]
        seen.extend((answer.status, answer.get("x-lbd-reason"), answer.get("retry-after")) for answer in answers)
        return all(answer.get("x-lbd-reason") == "circuit_open" for answer in answers)

    wait_until(refused, "both workers' breakers to open", timeout=30.0)
    assert {status for status, _, _ in seen} == {503}
    assert {after for _, reason, after in seen if reason == "circuit_open"} <= {"1", "2"}
    assert ward.lbd.metric("lbd_breaker_trips_total", cluster="guarded") >= 2
    assert ward.lbd.metric("lbd_rejected_total", reason="circuit_open") >= 8
    assert ward.lbd.json("/api/v1/clusters")["quick"]["breaker"] is None
    # Each worker tries again after a while, and opens again.
    sentence = r"the breaker is (open|half-open) in [12] of 2 workers, so .*"
    wait_until(lambda: bool(re.fullmatch(sentence, ward.lbd.json("/api/v1/clusters")["guarded"]["why"])), "the sentence of the breaker")
    ward.lbd.wait_for_log("cluster guarded: the breaker opens, requests are refused: ")
    for origin in ward.origins:
        origin.mood = "ok"
    ward.load_until("guarded", lambda: ward.lbd.metric("lbd_breaker_state", cluster="guarded", state="closed") == 2, "both to close")
    assert ward.lbd.json("/api/v1/clusters")["guarded"]["breaker"] == {"closed": 2, "open": 0, "half_open": 0}
    assert ward.lbd.json("/api/v1/clusters")["guarded"]["why"] == ""
    assert ward.served_by("guarded") == {"a", "b", "c"}
