"""Ejections: findings come in, changes go out, on trio's virtual clock."""

from __future__ import annotations

import logging

import pytest
import trio

from lbd import metrics
from lbd.cluster.outlier import OutlierPolicy
from lbd.master.ejections import Ejections
from lbd.worker.messages import Suspect

pytestmark = pytest.mark.usefixtures("autojump_clock")

NOON = 1_800_014_400.0  # 12:00:00 UTC
POLICY = OutlierPolicy(ejection=30.0, probes=2)


class Ward:
    """Ejections, and what they say to whom."""

    def __init__(self, addresses: list[str], policy: OutlierPolicy = POLICY) -> None:
        self.began = trio.current_time()
        self.told: list[tuple[float, str, int]] = []  # when, "e0 out", on trial with so many
        self.down: set[str] = set()
        self.totals: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        self.scrapes = 0
        self.ejections = Ejections(self.changed, lambda _cluster, address: address not in self.down, self.look, self.wall_clock)
        self.ejections.update({"web": (policy, True, addresses)})

    def wall_clock(self) -> float:
        return NOON + self.now()

    def now(self) -> float:
        return round(trio.current_time() - self.began, 3)

    def changed(self, cluster: str, addresses: list[str]) -> None:
        assert cluster == "web"
        for address in addresses:
            word = f"{address} {'out' if self.ejections.is_ejected(cluster, address) else 'in'}"
            self.told.append((self.now(), word, self.ejections.trial(cluster, address)))

    def look(self) -> dict[tuple[int, tuple[str, ...]], list[int]]:
        self.scrapes += 1
        return {series: list(cells) for series, cells in self.totals.items()}

    def count(self, address: str, ok: int, failed: int) -> None:
        for number, label, amount in ((metrics.ATTEMPTS, "ok", ok + failed), (metrics.ENDPOINT_FAILURES, "error", failed)):
            self.totals.setdefault((number.number, ("web", address, label)), [0])[0] += amount

    def hear(self, address: str, kind: str, sentence: str = "5 failures in a row, the last: connect_refused") -> None:
        self.ejections.hear(Suspect("web", address, kind, sentence))

    def numbers(self) -> dict[str, float]:
        return {f"{name} {' '.join(labels.values())}": value for name, labels, value in self.ejections.metrics()}


async def test_out_and_in_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with trio.open_nursery() as nursery:
        ward = Ward(["e0", "e1", "e2"])
        nursery.start_soon(ward.ejections.run)
        await trio.sleep(5)
        ward.hear("e0", "gateway")
        assert ward.ejections.why("web", "e0") == "ejected for 30 s since 12:00:05 UTC: 5 failures in a row, the last: connect_refused"
        ward.hear("e0", "gateway", "the other worker has noticed, too")
        ward.hear("e0", "proved")  # what was under way
        await trio.sleep(31)
        assert ward.ejections.why("web", "e0").startswith(
            "on trial since 12:00:35 UTC, 0 of 2 requests have succeeded; it was ejected for: 5"
        )
        ward.hear("e0", "proved")
        ward.hear("e0", "probe", "it failed again on trial: status 503")
        assert ward.ejections.why("web", "e0") == "ejected for 60 s since 12:00:36 UTC: it failed again on trial: status 503; the 2nd time"
        await trio.sleep(61)
        ward.hear("e0", "proved")
        ward.hear("e0", "proved")
        assert ward.ejections.why("web", "e0") == ""
        nursery.cancel_scope.cancel()
    assert ward.told == [(5.0, "e0 out", 0), (35.0, "e0 in", 2), (36.0, "e0 out", 0), (96.0, "e0 in", 2), (97.0, "e0 in", 0)]
    assert ward.numbers() == {"lbd_endpoint_ejections_total web e0 gateway": 1.0, "lbd_endpoint_ejections_total web e0 probe": 1.0}
    assert [record.getMessage() for record in caplog.records] == [
        "cluster web: e0 is ejected for 30 s since 12:00:05 UTC: 5 failures in a row, the last: connect_refused",
        "cluster web: e0 is on trial: 2 requests at once until 2 have succeeded",
        "cluster web: e0 is ejected for 60 s since 12:00:36 UTC: it failed again on trial: status 503; the 2nd time",
        "cluster web: e0 is on trial: 2 requests at once until 2 have succeeded",
        "cluster web: e0 is back: its trial has succeeded",
    ]


async def test_who_may_not_go_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    ward = Ward(["e0", "e1", "e2"])
    ward.hear("e0", "gateway")
    ward.ejections.risen("web", "e0")
    ward.hear("e0", "probe")
    for _ in range(3):
        ward.hear("e1", "gateway", "it fails")
    assert ward.told == [(0.0, "e0 out", 0), (0.0, "e0 out", 0)]
    assert ward.numbers()["lbd_ejections_refused_total web no_room"] == 3.0
    assert [record.getMessage() for record in caplog.records][2:] == [
        "cluster web: e1 stays, though it should be ejected: it fails; 1 are out, and max_ejected allows no more"
    ]


async def test_a_rolling_restart(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever was down first is well again when the next one goes, and gets the requests that fail there."""
    caplog.set_level(logging.INFO)
    ward = Ward(["e0", "e1"])
    ward.hear("e0", "gateway")
    await trio.sleep(5)
    ward.hear("e1", "gateway")
    ward.hear("e0", "proved")
    ward.hear("e0", "proved")
    await trio.sleep(1)
    ward.hear("e1", "gateway")
    assert ward.told == [(0.0, "e0 out", 0), (5.0, "e0 in", 2), (5.0, "e0 in", 0), (6.0, "e1 out", 0)]
    assert "cluster web: e0 is on trial before its time: others fail, too" in [record.getMessage() for record in caplog.records]


async def test_everybody_fails(caplog: pytest.LogCaptureFixture) -> None:
    ward = Ward(["e0", "e1", "e2", "e3"])
    for address in ("e0", "e1"):
        ward.hear(address, "gateway")
        ward.ejections.risen("web", address)
        ward.hear(address, "probe")
    for _ in range(20):
        await trio.sleep(1)
        for address in ("e2", "e3"):
            ward.hear(address, "gateway", "it fails")
    assert ward.told[-2:] == [(11.0, "e0 in", 0), (11.0, "e1 in", 0)]
    assert {name: value for name, value in ward.numbers().items() if "refused" in name} == {
        "lbd_ejections_refused_total web no_room": 21.0,
        "lbd_ejections_refused_total web amnesty": 19.0,
    }
    assert [record.getMessage() for record in caplog.records][-1] == (
        "cluster web: nearly all fail, which is no trouble of endpoints: 2 are used again, and none is ejected for 30 s"
    )


async def test_errors_on_trial_matter_to_whom_was_ejected_for_them() -> None:
    ward = Ward(["e0", "e1", "e2", "e3"])
    ward.hear("e0", "gateway")
    ward.hear("e1", "error")
    for address in ("e0", "e1"):
        ward.ejections.risen("web", address)
        ward.hear(address, "probe_error", "it failed again on trial: status 500")
        ward.hear(address, "probe_error", "it failed again on trial: status 500")
    assert [word for _, word, _ in ward.told] == ["e0 out", "e1 out", "e0 in", "e1 out"]
    assert ward.ejections.trial("web", "e0") == 0


@pytest.mark.parametrize(
    "finding",
    [
        Suspect("nothing", "e0", "gateway", "x"),
        Suspect("web", "nobody", "gateway", "x"),
        Suspect("web", "e0", "anything", "x"),
        Suspect("web", "e0", "probe", "x"),
        Suspect("web", "e0", "proved", "x"),
    ],
)
async def test_what_means_nothing_changes_nothing(finding: Suspect) -> None:
    ward = Ward(["e0", "e1", "e2"])
    ward.ejections.hear(finding)
    assert (ward.told, ward.numbers()) == ([], {})


async def test_who_stands_out_is_ejected() -> None:
    addresses = [f"e{i}" for i in range(6)]
    async with trio.open_nursery() as nursery:
        ward = Ward(addresses)
        ward.count("e1", 0, 100_000)  # last week
        nursery.start_soon(ward.ejections.run)
        await trio.sleep(15)
        for address in addresses:
            ward.count(address, 200, 100 if address == "e4" else 0)
        await trio.sleep(10)
        assert ward.told == [(20.0, "e4 out", 0)]
        assert ward.ejections.why("web", "e4").endswith("66.7% of its 300 requests succeeded, against 94.4% in the mean of all")
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    assert ward.scrapes == 5
    assert ward.numbers() == {"lbd_endpoint_ejections_total web e4 success_rate": 1.0}


async def test_nobody_is_compared_where_it_would_not_be_fair() -> None:
    async with trio.open_nursery() as nursery:
        ward = Ward([f"e{i}" for i in range(4)])
        ward.ejections.update({"web": (POLICY, True, ["e0", "e1"]), "hash": (POLICY, False, [f"e{i}" for i in range(9)])})
        nursery.start_soon(ward.ejections.run)
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    assert ward.scrapes == 0


async def test_a_reload_keeps_what_stays() -> None:
    ward = Ward(["e0", "e1", "e2"])
    ward.hear("e0", "gateway")
    ward.ejections.update({"web": (POLICY, True, ["e0", "e1", "e3"]), "new": (POLICY, True, ["e0"])})
    assert ward.ejections.is_ejected("web", "e0")
    assert not ward.ejections.is_ejected("new", "e0"), "another cluster's endpoint, though the address is the same"
    ward.ejections.update({"web": (OutlierPolicy(enabled=False), True, ["e0", "e1", "e3"])})
    assert [word for _, word, _ in ward.told] == ["e0 out", "e0 in"]
    ward.ejections.update({})
    assert (ward.numbers(), ward.ejections.why("web", "e0"), ward.ejections.trial("web", "e0")) == ({}, "", 0)


async def test_a_workers_words_steer_no_terminal() -> None:
    ward = Ward(["e0", "e1"])
    ward.hear("e0", "gateway", "5 failures\n\x1b[2J")
    assert ward.ejections.why("web", "e0") == "ejected for 30 s since 12:00:00 UTC: 5 failures\\n\\x1b[2J"
