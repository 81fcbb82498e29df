"""Retries and hedging against real sockets: what clients see of endpoints that die, hang, fail and dawdle, and what those see of it.

One daemon for all tests; each test has a cluster of its own, so that no budget and no ejection of one is the other's.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.support.grpc_origin import CODE, DETAILS, GrpcOrigin
from tests.support.http import Downstream, get
from tests.support.http2_origin import Http2Origin
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_port, free_ports
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.http import Message
    from tests.support.origins import Link

needs_load = pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)

PER_TRY = 0.3  # seconds, of the cluster "hung"
NO_OUTLIERS = "outlier = { enabled = false }"
# Cluster -> what its endpoints are, and its settings.
CLUSTERS = {
    "killed": ("moody", ""),
    "hung": ("moody", 'retry = { per_try = "300ms" }'),
    "refused": ("nobody", f"retry = {{ budget_min = 0 }}\n{NO_OUTLIERS}"),
    "careful": ("moody", f'retry = {{ on = ["connect", "reset", "timeout", 503], per_try = "300ms" }}\n{NO_OUTLIERS}'),
    "sparing": ("moody", f"retry = {{ budget_min = 0 }}\n{NO_OUTLIERS}"),
    "patient": ("one", f'retry = {{ on = ["connect", 503] }}\n{NO_OUTLIERS}'),
    "hedged": ("moody", f'retry = {{ hedge_after = "100ms", budget = 1.0 }}\n{NO_OUTLIERS}'),
    "h2": ("h2", f'protocol = "h2"\nretry = {{ on = ["connect", "refused-stream"] }}\n{NO_OUTLIERS}'),
    "h2hedged": ("h2", f'protocol = "h2"\nretry = {{ hedge_after = "100ms" }}\n{NO_OUTLIERS}'),
    "grpc": ("grpc", f'protocol = "h2"\nretry = {{ attempts = 1, on = ["connect", "grpc:failed-precondition"] }}\n{NO_OUTLIERS}'),
}


class Moody(ScriptedOrigin):
    """Does what `mood` says: "ok", "hang", "reset", "dawdle" (each twentieth request), or a status. `ids` counts x-id."""

    def __init__(self, name: str) -> None:
        self.mood = "ok"
        self.ids: Counter[str] = Counter()
        self.turn = 0
        self.attempts: list[str] = []
        super().__init__(name, behave=self.obey)

    def obey(self, link: Link, message: Message) -> bool:
        with self.lock:
            self.turn += 1
            turn = self.turn
            self.ids[message.get("x-id")] += 1
            self.attempts.append(message.get("x-request-attempt"))
        match self.mood:
            case "hang":
                link.pause(60.0)
                return False
            case "reset":
                link.reset()
            case "dawdle" if turn % 20 == 0 and not message.get("x-request-attempt"):  # two in a row are nobody's to mend
                link.pause(20.0)
            case "busy":
                self.mood = "ok"
                link.answer(message, b"busy\n", 503, "Retry-After: 1")
                return True
            case "503":
                link.answer(message, b"busy\n", 503)
                return True
        link.answer(message, message.get("x-id", "ok").encode())
        return True

    def become(self, mood: str) -> None:
        self.mood, self.turn = mood, 0
        self.ids.clear()
        self.attempts.clear()


@dataclass
class Lab:
    lbd: LbdDaemon
    ports: dict[str, int]
    moody: list[Moody]
    h2: list[Http2Origin]

    def attempts(self, cluster: str) -> float:
        return self.lbd.metric("lbd_upstream_attempts_total", cluster=cluster)

    def hedges(self, cluster: str, outcome: str) -> float:
        return self.lbd.metric("lbd_hedges_total", cluster=cluster, outcome=outcome)

    def slower_than(self, listener: str, seconds: str) -> float:
        """Requests that took longer; a bound of the histogram."""
        series = {name: value for name, value in self.lbd.metrics().items() if f'listener="{listener}"' in name}
        total = sum(value for name, value in series.items() if name.startswith("lbd_request_duration_seconds_count"))
        within = [v for name, v in series.items() if name.startswith("lbd_request_duration_seconds_bucket") and f'le="{seconds}"' in name]
        return total - sum(within)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lbd")
    ports = dict(zip(CLUSTERS, free_ports(len(CLUSTERS)), strict=True))
    with (
        Moody("a") as a, Moody("b") as b, Moody("c") as c, Http2Origin(name="x") as x, Http2Origin(name="y") as y,
        GrpcOrigin(directory) as calls,
    ):  # fmt: skip
        endpoints = {
            "moody": [a.address, b.address, c.address],
            "one": [a.address],
            "nobody": [f"127.0.0.1:{port}" for port in free_ports(3)],
            "h2": [f"127.0.0.1:{x.port}", f"127.0.0.1:{y.port}"],
            "grpc": [calls.address],
        }
        text = f'[lbd]\nworkers = 1\n[log]\naccess = "off"\n[admin]\nbind = "127.0.0.1:{free_port()}"\n'
        for name, (kind, settings) in CLUSTERS.items():
            text += f'[listener.{name}]\nbind = "127.0.0.1:{ports[name]}"\ncluster = "{name}"\nreason_header = true\n'
            text += f"[cluster.{name}]\nendpoints = {json.dumps(endpoints[kind])}\n{settings}\n"
        with start_lbd(text, directory) as lbd:
            yield Lab(lbd, ports, [a, b, c], [x, y])
            assert lbd.metric("lbd_faults_total") == 0


@pytest.fixture(autouse=True)
def _all_well(lab: Lab) -> None:
    for origin in lab.moody:
        if origin.listener is None:
            origin.start()
        origin.become("ok")


def timed_get(port: int, number: int) -> tuple[int, float]:
    began = time.perf_counter()
    answer = get(port, "/", {"x-id": f"g{number}"})
    assert answer.body == f"g{number}".encode() or answer.status != 200
    return answer.status, time.perf_counter() - began


def post(port: int, identity: str, timeout: float = 30.0) -> int:
    with Downstream(port, timeout) as downstream:
        return downstream.ask("POST", "/", {"x-id": identity}, b"once").status


# Endpoints that go


@needs_load
def test_an_endpoint_is_killed_under_load_and_no_client_sees_it(lab: Lab) -> None:
    with IdLoad(lab.ports["killed"], connections=32) as load:
        wait_until(lambda: load.counts().ok > 300, "some load")
        lab.moody[0].stop()
        before = load.counts().ok
        wait_until(lambda: load.counts().ok > before + 1000, "load without it")
    load.counts().assert_clean(1300)
    assert lab.lbd.metric("lbd_upstream_attempts_total", cluster="killed", endpoint=lab.moody[0].address, outcome="ok") > 0


def test_an_endpoint_hangs_under_load_and_costs_no_more_than_its_time(lab: Lab) -> None:
    """As many requests hang as it is sent before it is ejected, one in fifty here; they take as long as a try may, and a moment more."""

    def ask(identity: str) -> float:
        began = time.perf_counter()
        answer = get(lab.ports["hung"], "/", {"x-id": identity})
        assert (answer.status, answer.body) == (200, identity.encode())
        return time.perf_counter() - began

    def measure(name: str, pool: ThreadPoolExecutor) -> tuple[float, float]:
        """p99 and the longest, of 32 clients."""
        taken = sorted(pool.map(ask, (f"{name}-{number}" for number in range(640))))
        return taken[len(taken) * 99 // 100], taken[-1]

    with ThreadPoolExecutor(32) as pool:
        before, _ = measure("before", pool)
        lab.moody[1].mood = "hang"
        p99, longest = measure("hung", pool)
        after, _ = measure("after", pool)  # it is ejected
    hung = lab.lbd.metric("lbd_upstream_attempts_total", cluster="hung", outcome="response_timeout")
    print(f"p99 {before:.3f} s; with an endpoint that hangs {p99:.3f}, at most {longest:.3f}; then {after:.3f}. {hung:.0f} attempts hung")
    assert hung > 0
    assert p99 <= 2 * PER_TRY + 5 * max(before, after)  # of a machine that is slow; without `per_try` it would be 30 s
    assert lab.slower_than("hung", "5.0") == 0


def test_a_stopped_process_accepts_and_never_answers(lab: Lab) -> None:
    """The kernel accepts for it: as with SIGSTOP, only time tells."""
    held = lab.moody[2]
    held.stop()
    with socket.create_server(("127.0.0.1", held.port), backlog=16):  # nobody calls accept()
        for number in range(6):
            status, seconds = timed_get(lab.ports["careful"], number)
            assert (status, seconds < 10.0) == (200, True)
    assert lab.lbd.metric("lbd_upstream_attempts_total", cluster="careful", endpoint=held.address, outcome="response_timeout") >= 1


# When all fail


def test_all_endpoints_refuse_and_the_budget_keeps_attempts_down(lab: Lab) -> None:
    """budget_min = 0, so that the share is all there is; with the default of 3 a second, 30 at once may be more."""
    requests = 400
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: get(lab.ports["refused"]), range(requests)))
    assert {answer.status for answer in answers} == {502}
    assert {answer.get("x-lbd-reason") for answer in answers} == {"connect_refused"}
    attempts = lab.attempts("refused")
    assert 1.05 * requests < attempts <= 1.2 * requests
    denied = lab.lbd.metric("lbd_retries_denied_total", cluster="refused", reason="budget")
    assert denied > 0.5 * requests
    lab.lbd.wait_for_log(
        r"WARNING lbd.worker-0: cluster refused: the retry budget is used up \(budget = 0\.2, budget_min = 0\): \d+ attempt"
    )

    def told() -> tuple[float, float]:
        retry = lab.lbd.json("/api/v1/clusters")["refused"]["retry"]
        return retry["made"], retry["denied"]["budget"]

    wait_until(lambda: told() == (attempts - requests, denied), "the numbers of the API")


# What must not happen twice


@pytest.mark.final
def test_a_post_is_never_run_twice(lab: Lab) -> None:
    """Endpoints that reset, answer 503 and hang, having read it: whoever was asked, no other one is."""
    a, b, c = lab.moody
    a.become("reset")
    b.become("503")
    identities = [f"p{number}" for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(lambda identity: post(lab.ports["careful"], identity), identities))
    assert {502, 503} <= set(statuses) <= {200, 502, 503, 504}  # 504: the machine is slow
    seen = a.ids + b.ids + c.ids
    assert {seen[identity] for identity in identities} == {1}


def test_a_get_is_tried_elsewhere_after_the_same_failures(lab: Lab) -> None:
    a, b, c = lab.moody
    a.become("reset")
    b.become("503")
    assert {timed_get(lab.ports["careful"], number)[0] for number in range(6)} == {200}
    assert {"2", "3"} & set(c.attempts)


def test_retry_after_is_obeyed(lab: Lab) -> None:
    lab.moody[0].become("busy")
    status, seconds = timed_get(lab.ports["patient"], 1)
    assert status == 200
    assert seconds >= 1.0
    assert lab.moody[0].attempts == ["", "2"]


# Hedging


def test_hedging_cuts_the_tail_of_an_endpoint_that_dawdles_now_and_then(lab: Lab) -> None:
    for origin in lab.moody:
        origin.become("dawdle")
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: timed_get(lab.ports["hedged"], number), range(200)))
    assert {status for status, _ in results} == {200}
    assert max(seconds for _, seconds in results) < 15.0  # who dawdles takes 20 s
    assert lab.hedges("hedged", "won") >= 5


@pytest.mark.final
def test_hedging_never_doubles_a_post(lab: Lab) -> None:
    for origin in lab.moody:
        origin.become("ok")
        origin.behave = slowly
    try:
        before = lab.hedges("hedged", "won") + lab.hedges("hedged", "lost")
        with ThreadPoolExecutor(6) as pool:
            statuses = list(pool.map(lambda number: post(lab.ports["hedged"], f"q{number}"), range(12)))
        assert set(statuses) == {200}
        assert sum(len(origin.requests) for origin in lab.moody) > 0
        sent = Counter(message.get("x-id") for origin in lab.moody for message in origin.requests)
        assert {sent[f"q{number}"] for number in range(12)} == {1}
        assert lab.hedges("hedged", "won") + lab.hedges("hedged", "lost") == before
    finally:
        for origin in lab.moody:
            origin.behave = origin.obey


def slowly(link: Link, message: Message) -> bool:
    link.pause(0.5)
    link.answer(message, b"slow\n")
    return True


# HTTP/2 and gRPC


def test_a_refused_stream_is_tried_again_even_of_a_post(lab: Lab) -> None:
    for origin in lab.h2:
        origin.refusals = 1
    statuses = [post(lab.ports["h2"], f"r{number}") for number in range(6)] + [get(lab.ports["h2"]).status for _ in range(6)]
    assert set(statuses) == {200}
    assert [origin.refusals for origin in lab.h2] == [0, 0]


def test_the_loser_of_a_hedge_is_reset_and_its_connection_lives_on(lab: Lab) -> None:
    x, y = lab.h2
    y.released.set()
    try:
        assert get(lab.ports["h2hedged"]).status == 200
        assert get(lab.ports["h2hedged"]).status == 200  # both have a connection now
        connections = x.connections
        for _ in range(4):  # they take turns
            assert get(lab.ports["h2hedged"], "/hold").status == 200
        wait_until(lambda: 8 in {code for _, code in x.resets}, "CANCEL at the one that holds")
        assert get(lab.ports["h2hedged"]).status == 200
        assert x.connections == connections
        assert lab.hedges("h2hedged", "won") >= 1
    finally:
        y.released.clear()


def test_a_status_of_grpc_is_tried_again_and_the_last_one_is_the_clients(lab: Lab) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{lab.ports['grpc']}", [("grpc.enable_retries", 0)]) as channel:
        assert channel.unary_unary("/lab.Echo/Unary")(b"hello", timeout=20.0) == b"hello"
        assert lab.attempts("grpc") == 1
        with pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary("/lab.Echo/Fail")(b"", timeout=20.0)
        assert (caught.value.code(), caught.value.details()) == (CODE, DETAILS)
        assert lab.attempts("grpc") == 3
        assert lab.lbd.metric("lbd_upstream_attempts_total", cluster="grpc", outcome="upstream_status") == 1


# Reload


def test_a_reload_keeps_what_the_budget_has_counted(lab: Lab) -> None:
    """The requests of before still bear retries after it: so few as come then bear none."""
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda number: timed_get(lab.ports["sparing"], number), range(300)))
    assert {status for status, _ in results} == {200}
    lab.moody[0].stop()
    text = lab.lbd.config.read_text()
    lab.lbd.reload(text.replace("budget_min = 0", "budget_min = 0, attempts = 3"))
    assert {timed_get(lab.ports["sparing"], number)[0] for number in range(4)} == {200}
