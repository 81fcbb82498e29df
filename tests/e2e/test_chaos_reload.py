"""Reloads under load: whatever changes, and however often, no request is lost and nothing grows."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.chaos import BROKEN, SHAPE, ChangingText
from tests.support.idload import NO_COMPILER, IdLoad, find_compiler
from tests.support.origins import NginxOrigin
from tests.support.ports import may_filter, needs_filters
from tests.support.processes import start_lbd, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.alone, pytest.mark.final, pytest.mark.skipif(find_compiler() is None, reason=NO_COMPILER)]

RELOADS = 200


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxOrigin]:
    with NginxOrigin(tmp_path_factory.mktemp("origin"), 3) as started:
        yield started


def test_200_reloads_under_load_fail_nothing(origin: NginxOrigin, tmp_path: Path) -> None:
    """Half of them change endpoints, routes or binds, as their own reports say, and some of these balances and pools too; every twentieth
    file is broken. The listener under load has a second bind that comes and goes, with clients wherever it is there."""
    text = ChangingText(origin.ports)
    broken = came = 0
    changed: Counter[str] = Counter()
    with (
        start_lbd(str(text), tmp_path) as lbd,
        IdLoad(text.port, connections=32, post=10, body=20_000, close=5, pipeline=10) as load,
        IdLoad(text.second_port, connections=4, close=20, pause=5) as second,
    ):
        for number in range(RELOADS):
            if number % 20 == 12:
                before = lbd.json("/api/v1/status")["generation"]
                lbd.reload(str(text) + BROKEN[broken % len(BROKEN)])
                broken += 1
                assert lbd.json("/api/v1/status")["generation"] == before
                continue
            if number % 2:
                had_second = text.has_second
                text.change()
                came += text.has_second and not had_second
            lbd.reload(str(text))
            changed.update(changed_by(lbd.json("/api/v1/status")["last_reload"]))
        text.has_second = True
        lbd.reload(str(text))
        goes_on(second)
        counts, others = load.stop().assert_clean(5_000), second.stop()
        print(f"{counts}, at the second bind {others}; changed {dict(changed)}")
        assert changed["any"] >= RELOADS // 2
        assert min(changed[kind] for kind in SHAPE) >= RELOADS // 8
        assert others.failed == others.refused > 0 or not may_filter(), others  # while it is not there
        assert lbd.metric("lbd_reloads_total", result="failed") == broken == RELOADS // 20
        assert lbd.metric("lbd_reloads_total", result="ok") == RELOADS - broken + 1
        assert lbd.metric("lbd_config_generation") == RELOADS - broken + 2
        # Requests are counted by route, and those routes that left took their numbers along; the listener stayed.
        connections = lbd.metric("lbd_downstream_connections_total", listener="web")
        reconnects = counts.reconnects + others.reconnects
        assert reconnects <= connections <= reconnects + 32 + 4 * (came + 1)  # the last, and those after a refusal, replace none
        assert lbd.metric("lbd_faults_total") == 0
        assert lbd.metric("lbd_worker_restarts_total") == 0


def changed_by(report: dict[str, Any]) -> list[str]:
    """Which of SHAPE it says are others now, and "any" if there is one."""
    kinds = [kind for kind in SHAPE if any(report[kind][how] for how in ("added", "removed", "changed"))]
    return [*kinds, "any"] if kinds else []


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
