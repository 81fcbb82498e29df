"""Slow start of a running daemon: whoever comes back, by its checks or from an ejection, gets its share little by little.

Nothing here depends on how fast anything goes. A share is counted over many requests, and what it may be follows from how much time
has passed for certain, and how much at most.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.http import get
from tests.support.origins import ScriptedOrigin
from tests.support.ports import free_ports
from tests.support.processes import start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.http import Message
    from tests.support.origins import Link
    from tests.support.processes import LbdDaemon

WORKERS = 2
SECONDS = 12.0  # of slow start
LEAST = 0.1  # of cluster/slow_start.py
TICK = 2.0  # workers look at the time once a second, all in their turn
MARGIN = 0.06  # of a share: weights are whole twentieths, and each worker deals for itself
REQUESTS = 150
CONFIG = """\
[lbd]
workers = {workers}
[log]
access = "off"
[admin]
bind = "127.0.0.1:{admin}"
[listener.checked]
bind = "127.0.0.1:{checked}"
cluster = "checked"
[listener.noticed]
bind = "127.0.0.1:{noticed}"
cluster = "noticed"
[cluster.checked]
endpoints = {endpoints}
slow_start = "{seconds:g}s"
outlier = {{ enabled = false }}
health = {{ path = "/live", interval = "100ms", timeout = "10s", rise = 1, fall = 1 }}
[cluster.noticed]
endpoints = {endpoints}
slow_start = "{seconds:g}s"
outlier = {{ failures = 4, ejection = "1s", growth = 1.0, probes = 1 }}
"""


class Mortal(ScriptedOrigin):
    """Fails whatever it is asked while it is not well."""

    def __init__(self, name: str) -> None:
        self.is_well = True
        super().__init__(name, behave=self.answer)

    def answer(self, link: Link, message: Message) -> bool:
        link.answer(message, b"said\n", 200 if self.is_well else 503)
        return True


class Ward:
    def __init__(self, lbd: LbdDaemon, origins: list[Mortal], ports: dict[str, int]) -> None:
        self.lbd = lbd
        self.origins = origins
        self.ports = ports
        self.text = lbd.config.read_text()
        self.reloads = 1  # a connect timeout of 1 s is the default

    def endpoint(self, cluster: str) -> dict[str, Any]:
        """As the API has the first one."""
        found = self.lbd.json("/api/v1/clusters")[cluster]["endpoints"]
        return next(endpoint for endpoint in found if endpoint["address"] == self.origins[0].address)

    def spared_by(self, cluster: str) -> float:
        """Workers, as the metrics have it."""
        return self.lbd.metric("lbd_endpoint_slow_start", cluster=cluster, endpoint=self.origins[0].address)

    def attempts(self, cluster: str) -> float:
        return self.lbd.metric("lbd_upstream_attempts_total", cluster=cluster, endpoint=self.origins[0].address, outcome="ok")

    def share(self, cluster: str) -> float:
        """Of the first one, in many requests. The metrics count as the clients do."""
        before = self.attempts(cluster)
        answers = [get(self.ports[cluster]) for _ in range(REQUESTS)]
        assert {answer.status for answer in answers} == {200}
        counts = Counter(answer.get("x-origin") for answer in answers)
        # One more may be of before: an answer goes out first and is counted then.
        wait_until(lambda: 0 <= self.attempts(cluster) - before - counts["a"] <= 1, "the metrics to have counted the same")
        return counts["a"] / REQUESTS

    def reload(self) -> None:
        """With other settings of the clusters, each time."""
        self.reloads += 1
        timeouts = f'slow_start = "{SECONDS:g}s"\ntimeouts = {{ connect = "{self.reloads}s" }}'
        self.lbd.reload(self.text.replace(f'slow_start = "{SECONDS:g}s"', timeouts))

    def load_until(self, cluster: str, holds: Callable[[], bool], what: str) -> None:
        def loaded() -> bool:
            for _ in range(6):
                get(self.ports[cluster])
            return holds()

        wait_until(loaded, what)


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    origins = [Mortal(name) for name in "abc"]
    ports = dict(zip(("admin", "checked", "noticed"), free_ports(3), strict=True))
    endpoints = "[" + ", ".join(f'"{origin.address}"' for origin in origins) + "]"
    text = CONFIG.format(workers=WORKERS, endpoints=endpoints, seconds=SECONDS, **ports)
    with start_lbd(text, tmp_path_factory.mktemp("slow-start")) as lbd:
        yield Ward(lbd, origins, ports)
    for origin in origins:
        origin.stop()


def share_after(passed: float) -> float:
    """Beside two others that have all of theirs."""
    weight = min(1.0, LEAST + (1.0 - LEAST) * max(0.0, passed) / SECONDS)
    return weight / (2.0 + weight)


@pytest.mark.parametrize(("cluster", "state"), [("checked", "down"), ("noticed", "ejected")])
def test_who_comes_back_gets_a_share_that_grows(ward: Ward, cluster: str, state: str) -> None:
    assert ward.share(cluster) == pytest.approx(1 / 3, abs=MARGIN)
    assert ward.endpoint(cluster)["slow_start"] == 0
    ward.origins[0].is_well = False
    ward.load_until(cluster, lambda: ward.endpoint(cluster)["state"] == state, f"it to be {state}")
    earliest = time.monotonic()
    ward.origins[0].is_well = True
    ward.load_until(cluster, lambda: ward.endpoint(cluster)["slow_start"] == WORKERS, "its return to be known to all workers")
    latest = time.monotonic()
    assert ward.endpoint(cluster)["state"] == "up"

    shares = []
    for wait in (0.0, SECONDS / 3):
        if wait:
            ward.reload()  # it goes on from where it was
        time.sleep(wait)
        least = share_after(time.monotonic() - latest - TICK)
        shares.append(ward.share(cluster))
        most = share_after(time.monotonic() - earliest)
        print(f"{cluster}: {time.monotonic() - latest:.1f} s after its return a share of {shares[-1]:.3f}, of {least:.3f} to {most:.3f}")
        assert least - MARGIN <= shares[-1] <= most + MARGIN
        if time.monotonic() - earliest < SECONDS - TICK:
            assert ward.spared_by(cluster) == WORKERS

    wait_until(lambda: ward.spared_by(cluster) == 0, "it to have all of its share")
    assert time.monotonic() - earliest >= SECONDS, "not before its time"
    assert ward.endpoint(cluster)["slow_start"] == 0
    assert ward.share(cluster) == pytest.approx(1 / 3, abs=MARGIN)
