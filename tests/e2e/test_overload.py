"""Limits, queues and load shedding by real workers: never above a limit, everybody is answered, and in what order."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.counting_origin import CountingOrigin
from tests.support.http import Answer, Downstream, get, request_bytes
from tests.support.ports import free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIORITIES = ("low", "normal", "high", "critical")
PATIENT = 'queue = { size = 1000, timeout = "20s" }'
# Cluster -> its endpoint's keys, and its own.
CLUSTERS = {
    "five": ("max_requests = 5", PATIENT),
    "one": ("max_requests = 1", PATIENT),
    "whole": ("", f"limits = {{ max_requests = 5 }}\n{PATIENT}"),
    "connections": ("max_connections = 4", PATIENT),
    "short": ("max_requests = 1", 'queue = { size = 1, timeout = "1s" }'),
}


def config(
    workers: int,
    ports: list[int],
    origin: CountingOrigin,
    other: CountingOrigin,
    changes: dict[str, tuple[str, str]] | None = None,
    lbd: str = "",
) -> str:
    text = f'[lbd]\nworkers = {workers}\n{lbd}\n[admin]\nbind = "127.0.0.1:{ports[0]}"\n'
    text += f'[listener.web]\nbind = "127.0.0.1:{ports[1]}"\nreason_header = true\n'
    for cluster in CLUSTERS:
        for priority in PRIORITIES:
            text += f'[[listener.web.route]]\npath = "/{cluster}/{priority}"\nrewrite = {{ prefix = "/" }}\n'
            text += f'cluster = "{cluster}"\npriority = "{priority}"\n'
    for cluster, (endpoint, own) in (CLUSTERS | (changes or {})).items():
        address = f'address = "{(other if cluster == "connections" else origin).address}"'
        text += f"[cluster.{cluster}]\nendpoints = [{{ {', '.join(filter(None, (address, endpoint)))} }}]\n{own}\n"
    return text


@dataclass(frozen=True, slots=True)
class Lab:
    lbd: LbdDaemon
    origin: CountingOrigin
    other: CountingOrigin  # of the cluster "connections": nobody else has any there
    ports: list[int]

    @property
    def port(self) -> int:
        return self.ports[1]

    def cluster(self, name: str) -> dict[str, float]:
        found: dict[str, float] = self.lbd.json("/api/v1/clusters")[name]
        return found

    def wait_for_queue(self, name: str, count: int) -> None:
        wait_until(lambda: self.cluster(name)["queued"] == count, f"{count} in the queue of {name}")

    def wait_for_requests(self, count: int) -> None:
        wait_until(lambda: len(self.origin.targets) == count, f"{count} requests at the origin")


def lab_of(workers: int, directory: Path) -> Iterator[Lab]:
    ports = free_ports(2)
    with CountingOrigin() as origin, CountingOrigin() as other, start_lbd(config(workers, ports, origin, other), directory) as lbd:
        yield Lab(lbd, origin, other, ports)
        assert lbd.metric("lbd_faults_total") == 0
        clusters = lbd.json("/api/v1/clusters").values()
        assert [(cluster["inflight"], cluster["queued"]) for cluster in clusters] == [(0, 0)] * len(CLUSTERS)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from lab_of(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    yield from lab_of(1, tmp_path_factory.mktemp("one"))


@pytest.fixture(autouse=True)
def counts_anew(request: pytest.FixtureRequest) -> None:
    for name in ("one_worker", "two_workers"):
        if name in request.fixturenames:
            request.getfixturevalue(name).origin.reset()


def flood(lab: Lab, target: str, clients: int, each: int) -> list[Answer]:
    """What so many clients get, who ask one after the other."""

    def ask(_number: int) -> list[Answer]:
        with Downstream(lab.port, timeout=60) as downstream:
            return [downstream.ask("GET", target) for _ in range(each)]

    with ThreadPoolExecutor(clients) as pool:
        return [answer for answers in pool.map(ask, range(clients)) for answer in answers]


# Over all workers


@pytest.mark.parametrize("cluster", ["five", "whole"])
def test_never_more_requests_than_may_be_and_all_are_answered(two_workers: Lab, cluster: str) -> None:
    answers = flood(two_workers, f"/{cluster}/normal/slow/0.01", clients=50, each=4)
    assert [answer.status for answer in answers] == [200] * 200
    assert 2 <= two_workers.origin.most_requests <= 5 + 1  # one more for each other worker: they count without a lock
    assert two_workers.lbd.metric("lbd_queue_wait_seconds_count", cluster=cluster) > 0


def test_never_more_connections_than_may_be_and_none_is_hoarded(two_workers: Lab) -> None:
    answers = flood(two_workers, "/connections/normal/slow/0.01", clients=30, each=4)
    assert [answer.status for answer in answers] == [200] * 120
    assert two_workers.other.most_connections <= 4 + 1
    for _ in range(5):  # now with new connections, which either worker may get, whoever has the idle ones
        assert flood(two_workers, "/connections/normal/x", clients=4, each=1)[0].status == 200
    assert two_workers.other.most_connections <= 4 + 1


def test_who_finds_no_room_is_told_when_to_come_again(two_workers: Lab) -> None:
    lab = two_workers
    with Downstream(lab.port) as first:
        first.send(request_bytes("GET", "/short/normal/held"))
        lab.wait_for_requests(1)
        answers = flood(lab, "/short/normal/x", clients=12, each=1)
        lab.origin.release()
        assert first.final().status == 200
    assert {answer.status for answer in answers} == {503}
    assert {answer.get("retry-after") for answer in answers} == {"1"}
    told = [answer.get("x-lbd-reason") for answer in answers]
    assert set(told) == {"queue_full", "queue_timeout"}
    assert told.count("queue_timeout") <= 12 - told.count("queue_full")
    assert get(lab.port, "/short/normal/x").status == 200


def test_what_a_dead_worker_had_does_not_count(two_workers: Lab) -> None:
    lab = two_workers
    with Downstream(lab.port) as first:
        first.send(request_bytes("GET", "/one/normal/held"))
        lab.wait_for_requests(1)
        assert lab.cluster("one")["inflight"] == 1
        for pid in lab.lbd.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: lab.cluster("one")["inflight"] == 0, "nothing at work")
    lab.origin.release()
    wait_until(lab.lbd.is_ready, "successors")
    assert get(lab.port, "/one/normal/x").status == 200


# In a queue


def test_higher_priorities_go_first_and_equals_in_turn(one_worker: Lab) -> None:
    lab = one_worker
    with ExitStack() as stack:
        first = stack.enter_context(Downstream(lab.port))
        first.send(request_bytes("GET", "/one/normal/held"))
        lab.wait_for_requests(1)
        waiting = []
        for number, target in enumerate(("low/1", "normal/1", "low/2", "high/1", "normal/2", "high/2")):
            waiting.append(stack.enter_context(Downstream(lab.port)))
            waiting[-1].send(request_bytes("GET", f"/one/{target}?{target}"))
            lab.wait_for_queue("one", number + 1)
        shown = lab.cluster("one")
        assert (shown["inflight"], shown["connections"], shown["queued"]) == (1, 1, 6)
        assert lab.lbd.metric("lbd_queue_length", cluster="one") == 6
        lab.origin.release()
        assert [downstream.final().status for downstream in (first, *waiting)] == [200] * 7
    order = [target.partition("?")[2] for target in lab.origin.targets[1:]]
    assert order == ["high/1", "high/2", "normal/1", "normal/2", "low/1", "low/2"]


def test_a_client_that_leaves_has_left_the_queue(one_worker: Lab) -> None:
    lab = one_worker
    with Downstream(lab.port) as first, Downstream(lab.port) as second:
        first.send(request_bytes("GET", "/one/normal/held"))
        lab.wait_for_requests(1)
        with Downstream(lab.port) as gone:
            gone.send(request_bytes("GET", "/one/normal/gone"))
            lab.wait_for_queue("one", 1)
        lab.wait_for_queue("one", 0)
        second.send(request_bytes("GET", "/one/normal/second"))
        lab.wait_for_queue("one", 1)
        lab.origin.release()
        assert [first.final().status, second.final().status] == [200, 200]
    assert lab.origin.targets == ["/held", "/second"]


def test_who_waits_waits_through_a_reload_and_goes_by_its_limits(one_worker: Lab) -> None:
    lab = one_worker
    with Downstream(lab.port) as first, Downstream(lab.port) as second:
        first.send(request_bytes("GET", "/one/normal/held"))
        lab.wait_for_requests(1)
        second.send(request_bytes("GET", "/one/normal/second"))
        lab.wait_for_queue("one", 1)
        lab.lbd.reload(
            config(1, lab.ports, lab.origin, lab.other, {"one": ("max_requests = 1", 'queue = { size = 500, timeout = "20s" }')})
        )
        assert lab.cluster("one")["queued"] == 1
        lab.lbd.reload(config(1, lab.ports, lab.origin, lab.other, {"one": ("max_requests = 2", PATIENT)}))
        assert second.final().status == 200  # there is room now
        lab.origin.release()
        assert first.final().status == 200
    lab.lbd.reload(config(1, lab.ports, lab.origin, lab.other))


# Overload


def test_with_its_memory_used_up_a_worker_serves_what_matters(one_worker: Lab) -> None:
    lab = one_worker
    (worker,) = lab.lbd.workers()
    resident = int(Path(f"/proc/{worker}/statm").read_text().split()[1]) * 4096
    lab.lbd.reload(config(1, lab.ports, lab.origin, lab.other, lbd=f"overload = {{ memory = {int(resident / 0.975)} }}"))
    wait_until(lambda: lab.lbd.metric("lbd_shed_level") > 2, "two priorities refused")
    answers = {priority: get(lab.port, f"/five/{priority}/x") for priority in PRIORITIES}
    for priority in ("low", "normal"):
        answer = answers[priority]
        assert (answer.status, answer.get("x-lbd-reason"), answer.get("retry-after")) == (503, "overloaded", "2")
        assert answer.get("connection") == "close"
        assert lab.lbd.metric("lbd_shed_total", priority=priority) == 1
    assert answers["critical"].status == 200
    assert lab.lbd.is_ready()  # the admin listener is never refused anything
    lab.lbd.reload(config(1, lab.ports, lab.origin, lab.other))
    wait_until(lambda: lab.lbd.metric("lbd_shed_level") == 0, "nothing refused")
    assert [get(lab.port, f"/five/{priority}/x").status for priority in PRIORITIES] == [200] * 4
