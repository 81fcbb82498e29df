"""Reloads under load: whatever changes, and however often, no request is lost and nothing grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.chaos import BROKEN, ChangingText
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import NginxOrigin
from tests.support.ports import needs_filters
from tests.support.processes import start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.alone, pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)]

RELOADS = 200


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxOrigin]:
    with NginxOrigin(tmp_path_factory.mktemp("origin"), 3) as started:
        yield started


def test_200_reloads_under_load_fail_nothing(origin: NginxOrigin, tmp_path: Path) -> None:
    """Half of them change something: endpoints, routes, balances, pools, another listener; every twentieth file is broken."""
    text = ChangingText(origin.ports)
    broken = 0
    with start_lbd(str(text), tmp_path) as lbd, IdLoad(text.port, connections=32, post=10, body=20_000, close=5, pipeline=10) as load:
        for number in range(RELOADS):
            if number % 20 == 13:
                before = lbd.json("/api/v1/status")["generation"]
                lbd.reload(str(text) + BROKEN[broken % len(BROKEN)])
                broken += 1
                assert lbd.json("/api/v1/status")["generation"] == before
                continue
            if number % 2:
                text.change()
            lbd.reload(str(text))
        counts = load.stop().assert_clean(5_000)
        print(counts)
        assert lbd.metric("lbd_reloads_total", result="failed") == broken == RELOADS // 20
        assert lbd.metric("lbd_reloads_total", result="ok") == RELOADS - broken
        assert lbd.metric("lbd_config_generation") == RELOADS - broken + 1
        # Requests are counted by route, and those routes that left took their numbers along; the listener stayed.
        connections = lbd.metric("lbd_downstream_connections_total", listener="web")
        assert counts.reconnects <= connections <= counts.reconnects + 32  # the last of each are not replaced
        assert lbd.metric("lbd_faults_total") == 0
        assert lbd.metric("lbd_worker_restarts_total") == 0


@needs_filters
def test_a_listener_that_goes_loses_nobody(origin: NginxOrigin, tmp_path: Path) -> None:
    """Who has connected is answered; who comes later is refused, which is a clear word. Nobody is reset."""
    text = ChangingText(origin.ports)
    with start_lbd(str(text), tmp_path) as lbd, IdLoad(text.extra_port, connections=4, close=50, pause=5) as load:
        for _ in range(40):
            text.has_extra = not text.has_extra
            lbd.reload(str(text))
        text.has_extra = True
        lbd.reload(str(text))
        goes_on(load)
        counts = load.stop()
        print(counts)
        assert counts.failed == counts.refused > 0, counts


def goes_on(load: IdLoad) -> None:
    seen = load.counts().ok
    wait_until(lambda: load.counts().ok > seen + 100, "the load to go on")
