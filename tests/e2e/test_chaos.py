"""Chaos under load: endpoints and workers die, the configuration changes, the daemon is told to stop; who asks must not notice."""

from __future__ import annotations

import faulthandler
import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.bench.loader import hold_connections
from tests.bench.singles import established
from tests.support.chaos import BUDGET_OF_WHO_COMES, ChangingText, at_rest
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import NginxOrigin
from tests.support.processes import LbdDaemon, start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.alone, pytest.mark.final, pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)]

WORKER_GROWTH = 8 << 20  # bytes that a worker may have grown by after a storm: allocators keep what they had at the height of it
MASTER_GROWTH = 8 << 20
IDENTITIES = 400_000  # `make soak` asks millions of times
IDENTITIES_SECONDS = 60  # on a slow machine fewer will do


@pytest.fixture(scope="module")
def origins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NginxOrigin]]:
    """Three, each a process of its own, so that one of them can be killed."""
    directory = tmp_path_factory.mktemp("origins")
    started = [NginxOrigin(directory, name=f"origin-{number}") for number in range(3)]
    yield started
    for origin in started:
        origin.stop()


def counters(lbd: LbdDaemon) -> dict[str, float]:
    """Everything that only ever grows."""
    endings = ("_total", "_count", "_bucket")
    return {name: value for name, value in lbd.metrics().items() if name.startswith("lbd_") and name.split("{")[0].endswith(endings)}


def check_growing(before: dict[str, float], after: dict[str, float]) -> None:
    shrunk = {name: (value, after.get(name)) for name, value in before.items() if after.get(name, -1.0) < value}
    assert not shrunk, f"counters went backwards: {shrunk}"


HEALTH = '[cluster.web.health]\npath = "/"\ninterval = "200ms"\ntimeout = "200ms"\nfall = 1\nrise = 1\n'


@pytest.mark.parametrize("health", ["", HEALTH], ids=["no checks", "checks"])
def test_killed_endpoints_fail_nothing(origins: list[NginxOrigin], tmp_path: Path, health: str) -> None:
    text = ChangingText([origin.port for origin in origins])
    with start_lbd(str(text) + health, tmp_path) as lbd:
        with IdLoad(text.port, connections=32, close=2, pipeline=10) as load:
            wait_until(lambda: load.counts().ok > 2_000, "enough requests for a fifth of them to be retries")
            for number in range(10):
                victim = origins[number % len(origins)]
                victim.stop()
                time.sleep(0.15)
                victim.start()
                time.sleep(0.15)
        load.counts().assert_clean(2_000)
        print(load.counts())
        assert lbd.metric("lbd_upstream_attempts_total") > lbd.metric("lbd_upstream_attempts_total", outcome="ok")  # it did happen
        at_rest(lbd)


def test_a_killed_worker_breaks_only_what_it_was_serving(origins: list[NginxOrigin], tmp_path: Path) -> None:
    text = ChangingText([origins[0].port])
    restarts: list[float] = []
    held = 0
    with start_lbd(str(text), tmp_path) as lbd:
        with IdLoad(text.port, connections=32, close=2) as load:
            before = counters(lbd)
            for number in range(5):
                goes_on(load)
                begun = time.monotonic()
                held += kill_worker(lbd, lbd.workers()[number % 2], text.port)
                restarts.append(time.monotonic() - begun)
                after = counters(lbd)
                check_growing(before, after)
                before = after
        counts = load.counts()
        print(f"{counts}, {held} connections held, successors after {[f'{seconds:.2f}' for seconds in restarts]} s")
        assert counts.failed == counts.broken <= held, counts
        assert counts.ok == counts.begun - counts.broken
        if min(restarts) > 3.0:  # half a second, on a machine with nothing else to do
            raise TimeoutError(f"successors came after {restarts} s")
        # The answer goes out first and is counted then; a kill may fall between the two.
        assert counts.ok - 5 <= lbd.metric("lbd_requests_total", code="200") <= counts.begun
        at_rest(lbd)


def goes_on(load: IdLoad) -> None:
    seen = load.counts().ok
    wait_until(lambda: load.counts().ok > seen + 500, "the load to go on")


def serving(lbd: LbdDaemon) -> int:
    return [worker["state"] for worker in lbd.json("/api/v1/status")["workers"]].count("serving")


def test_every_answer_goes_to_who_asked(origins: list[NginxOrigin], tmp_path: Path) -> None:
    """Some hundred thousand requests while the configuration changes, endpoints and workers die and pools are emptied. Nothing fails but
    what a dead worker held."""
    faulthandler.cancel_dump_traceback_later()  # pytest's, which takes a minute for a test that hangs
    text = ChangingText([origin.port for origin in origins], fewest=2, retry=BUDGET_OF_WHO_COMES)
    choose = random.Random(7)
    reloads = kills = deaths = held = 0
    with start_lbd(str(text), tmp_path) as lbd:
        with IdLoad(text.port, connections=32, requests=20_000, close=2, pipeline=10) as load:
            load.wait()
        kept = worker_of(lbd, 0)
        before = at_rest(lbd, workers=[kept])
        with IdLoad(text.port, connections=32, requests=IDENTITIES, seconds=IDENTITIES_SECONDS, close=2, pipeline=10) as load:
            while load.is_running():
                text.change()
                lbd.reload(str(text))
                reloads += 1
                time.sleep(0.2)
                if reloads % 5 == 0:
                    victim = choose.choice(origins)
                    victim.stop()
                    time.sleep(0.1)
                    victim.start()
                    kills += 1
                if reloads % 20 == 10:
                    held += kill_worker(lbd, worker_of(lbd, 1), text.port)
                    deaths += 1
        counts = load.counts()
        lbd.reload(text.calm())
        after = at_rest(lbd, workers=[kept])
        print(f"{counts}\n{reloads} reloads, {kills} kills, {deaths} dead workers, which held {held}\nbefore: {before}\nafter:  {after}")
        assert deaths > 0
        assert counts.failed == counts.broken, counts  # none mixed up, refused, or answered with an error
        assert counts.cut <= held, counts
        assert counts.ok == counts.begun - counts.broken > 30_000
        assert lbd.metric("lbd_faults_total") == 0
        assert lbd.metric("lbd_worker_restarts_total") == deaths
        assert worker_of(lbd, 0) == kept
        assert after.master_fds <= before.master_fds
        assert after.worker_fds <= before.worker_fds
        assert after.worker_rss <= before.worker_rss + WORKER_GROWTH
        assert after.master_rss <= before.master_rss + MASTER_GROWTH


def worker_of(lbd: LbdDaemon, slot: int) -> int:
    return int(lbd.json("/api/v1/status")["workers"][slot]["pid"])


def kill_worker(lbd: LbdDaemon, victim: int, port: int) -> int:
    """How many connections it held."""
    restarts = lbd.metric("lbd_worker_restarts_total")
    os.kill(victim, signal.SIGSTOP)  # so that what it holds can be counted
    held = established(victim, port)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: serving(lbd) == 2 and lbd.metric("lbd_worker_restarts_total") > restarts, "a successor")
    return held


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stop_under_load_answers_everything_that_was_begun(origins: list[NginxOrigin], tmp_path: Path, workers: int) -> None:
    text = ChangingText([origins[0].port], workers=workers)
    with start_lbd(str(text), tmp_path) as lbd, IdLoad(text.port, connections=32, post=10, body=20_000, close=20, pipeline=10) as load:
        goes_on(load)
        lbd.signal(signal.SIGTERM)
        assert lbd.wait(20) == 0
        assert "stopped: nothing was cut short" in lbd.log()
        wait_until(lambda: load.counts().refused > 0, "the load to find nobody at home")
        counts = load.stop()
        print(counts)
        assert counts.failed == counts.refused, counts


def test_connections_are_spread_over_workers(origins: list[NginxOrigin], tmp_path: Path) -> None:
    text = ChangingText([origins[0].port], workers=4)
    with start_lbd(str(text), tmp_path) as lbd, hold_connections(text.port, 1_000):
        held = [established(worker, text.port) for worker in lbd.workers()]
        print(held)
        assert sum(held) == 1_000
        assert max(held) <= 1.3 * 250
