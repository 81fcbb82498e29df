"""What leaves the configuration leaves the board, one change later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lbd import metrics
from lbd.worker import worker
from lbd.worker.messages import Endpoints
from lbd.worker.series import InUse
from tests.worker.rig import Rig, answering, states

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from lbd.metrics import Metric


def series_of(rig: Rig, metric: Metric) -> set[tuple[str, ...]]:
    return {labels for number, labels in rig.board.totals() if number == metric.number}


async def test_series_of_routes_clusters_and_endpoints_leave(tmp_path: Path) -> None:
    async with Rig(tmp_path) as rig:
        web, one, two = rig.listen(), await rig.origin("one"), await rig.origin("two")
        listener = web.listener("web", answering("fixed", "fixed"), cluster="all")
        rig.apply([replace(listener, routes=(), cluster="all")], {"all": [one.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
            rig.apply([replace(listener, routes=(), cluster="other")], {"other": [two.address]})
            assert await downstream.get("/") == (200, b"two")
            assert ("all", one.address, "ok") in series_of(rig, metrics.ATTEMPTS)  # who still runs may count
            rig.apply([replace(listener, routes=(), cluster="other")], {"other": [two.address]})
            assert await downstream.get("/") == (200, b"two")
        assert series_of(rig, metrics.ATTEMPTS) == {("other", two.address, "ok")}
        assert series_of(rig, metrics.REQUESTS) == {("web", "default", "other", "200")}
        assert rig.count(metrics.REQUESTS, "web", "default", "other", "200") == 2
        assert rig.count(metrics.DOWNSTREAM_TOTAL, "web") == 1


async def test_a_cluster_that_has_left_has_no_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its series stays for one more change, which may never come."""
    monkeypatch.setattr(worker, "SWEEP", 0.01)
    async with Rig(tmp_path) as rig:
        web, one, two = rig.listen(), await rig.origin("one"), await rig.origin("two")
        listener = web.listener("web", cluster="all")
        rig.apply([listener], {"all": [one.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
            await rig.until(lambda: rig.count(metrics.UPSTREAM_CONNECTIONS, "all", "idle") == 1)
            rig.apply([replace(listener, cluster="other")], {"other": [two.address]})
            assert rig.count(metrics.UPSTREAM_CONNECTIONS, "all", "idle") == 0


async def test_a_drained_endpoint_keeps_no_idle_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SWEEP", 0.01)
    async with Rig(tmp_path) as rig:
        web, one = rig.listen(), await rig.origin("one")
        rig.apply([web.listener("web", cluster="all")], {"all": [one.address]})
        async with web.connect() as downstream:
            assert await downstream.get("/") == (200, b"one")
            await rig.until(lambda: rig.count(metrics.UPSTREAM_CONNECTIONS, "all", "idle") == 1)
            (state,) = states(one.address)
            rig.worker.update_endpoints(Endpoints("all", (replace(state, drained=True),)))
            await rig.until(lambda: rig.count(metrics.UPSTREAM_CONNECTIONS, "all", "idle") == 0)
            assert (await downstream.get("/"))[0] == 503
            rig.worker.update_endpoints(Endpoints("all", (state,)))
            assert await downstream.get("/") == (200, b"one")


def test_what_belongs_to_nothing_in_particular_stays() -> None:
    nothing = InUse()
    assert nothing.keeps(metrics.BYTES.number, ("in", "upstream"))
    assert nothing.keeps(metrics.REJECTED.number, ("no_route",))
    assert nothing.keeps(10_000, ("a metric that this version does not know",))
    assert not nothing.keeps(metrics.REQUEST_DURATION.number, ("web", ""))
    assert not nothing.keeps(metrics.ATTEMPTS.number, ("all", "10.0.0.1:80", "ok"))
