"""Control at work: overlays end in their time, are kept over restarts, and a sick disk holds up nobody."""

from __future__ import annotations

import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from lbd.admin.command import Command, Fault
from lbd.discovery.resolve import ResolvedEndpoint
from lbd.master import control as module
from lbd.master.commands import Member
from lbd.master.control import Control, named
from lbd.master.overlay import Named, Standing
from lbd.master.state_directory import StateDirectory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

NOW = 1_795_888_800.0
A, B = ResolvedEndpoint("app:80", "10.0.0.1:80", 5), ResolvedEndpoint("b:80", "10.0.0.2:80")
MEMBERS = {"web": [Member(named(A)), Member(named(B))]}
NAMED = {"web": [named(A), named(B)]}
DRAIN = Command("drain", "web", "app:80", 60.0, who="root", reason="disk")
ENABLE = Command("enable", "web", "app:80", who="root")


def wall() -> float:
    return NOW + trio.current_time()


class Rig:
    def __init__(self, directory: StateDirectory) -> None:
        self.told: list[str] = []
        self.control = Control(directory, self.told.append, wall)

    def standing(self) -> tuple[bool, int]:
        return self.control.standings("web")(A)

    async def obey(self, command: Command) -> dict[str, Any]:
        return await self.control.obey(command, MEMBERS)


@asynccontextmanager
async def at_work(directory: StateDirectory) -> AsyncIterator[Rig]:
    rig = Rig(directory)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.control.run)
        yield rig
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("autojump_clock")
async def test_a_drain_is_told_at_once_and_ends_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with at_work(StateDirectory(None)) as rig:
        answer = await rig.obey(DRAIN)
        assert (rig.told, rig.standing()) == (["web"], Standing(True, 5))
        assert answer["message"].startswith("web/app:80 is drained until 2026-11-28 18:01:00 UTC")
        assert answer["overlay"]["remaining_seconds"] == 60.0
        assert (answer["changed"], answer["addresses"], answer["warnings"]) == (True, ["10.0.0.1:80"], [module.FORGOTTEN])
        await trio.sleep(59.9)
        assert rig.standing()[0]
        await trio.sleep(0.2)
        assert (rig.told, rig.standing()) == (["web", "web"], Standing(False, 5))
    assert [record.getMessage() for record in caplog.records] == [
        "web/app:80 is drained until 2026-11-28 18:01:00 UTC; nothing is in flight there; 1 of 2 endpoints remain (by root: disk)",
        "its time is up: drain of web/app:80 until 2026-11-28 18:01:00 UTC (by root: disk)",
    ]


@pytest.mark.usefixtures("autojump_clock")
async def test_a_command_that_changes_nothing_tells_nobody(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with at_work(StateDirectory(None)) as rig:
        answer = await rig.obey(ENABLE)
        assert (answer["changed"], answer["warnings"], answer["overlay"]) == (False, [], None)
        with pytest.raises(Fault, match="there is no cluster"):
            await rig.obey(ENABLE._replace(cluster="wbe"))
        assert rig.told == []
    refused = 'refused: enable of wbe/app:80 (by root): there is no cluster "wbe"; did you mean "web"?'
    assert [record.getMessage() for record in caplog.records] == ["web/app:80 was not drained; nothing has changed (by root)", refused]


@pytest.mark.usefixtures("autojump_clock")
async def test_a_clock_that_is_set_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = 0.0
    rig = Rig(StateDirectory(None))
    rig.control.overlays.clock = lambda: wall() + step
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rig.control.run)
        await rig.obey(DRAIN._replace(seconds=3600.0))
        step = 4000.0
        await trio.sleep(module.LOOK + 0.1)
        assert rig.standing() == Standing(False, 5)
        nursery.cancel_scope.cancel()


async def test_what_is_answered_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    directory = StateDirectory(tmp_path)
    async with at_work(directory) as rig:
        assert (await rig.obey(DRAIN._replace(seconds=0.0)))["warnings"] == []
        assert (await rig.obey(Command("weight", "web", "b:80", 3600.0, 7, who="uid 7")))["warnings"] == []
    directory.close()
    directory = StateDirectory(tmp_path)
    again = Rig(directory)
    assert again.standing() == Standing(True, 5)
    assert again.control.standings("web")(B) == Standing(False, 7)
    assert "still in force: drain of web/app:80 (by root: disk)" in [record.getMessage() for record in caplog.records]
    async with at_work(directory) as rig:
        assert (await rig.obey(ENABLE))["warnings"] == []
    assert Rig(directory).standing() == Standing(False, 5)
    directory.close()


async def test_what_ended_while_nobody_ran_ends_at_the_start(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    async with at_work(directory) as rig:
        await rig.obey(DRAIN)
    later = Rig(directory)
    later.control.overlays.clock = lambda: NOW + 1e6
    async with trio.open_nursery() as nursery:
        nursery.start_soon(later.control.run)
        with trio.fail_after(10):
            while b"app:80" in (directory.read(module.FILE) or b"app:80"):  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert later.told == ["web"]
    directory.close()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"version": 1, "overlays": [', b'{"version": 9}', b"[]"])
def test_a_broken_file_is_set_aside(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / module.FILE).write_bytes(content)
    directory = StateDirectory(tmp_path)
    assert len(Rig(directory).control.overlays) == 0
    assert (tmp_path / f"{module.FILE}.bad").read_bytes() == content
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    directory.close()


class SickDirectory(StateDirectory):
    """A disk that fails, or does not answer before `heal`."""

    def __init__(self, path: Path, *, hangs: bool = False) -> None:
        super().__init__(path)
        self.heal = threading.Event()
        self.hangs = hangs
        self.tries = 0

    def write(self, name: str, content: bytes) -> bool:
        self.tries += 1
        if self.hangs:
            self.heal.wait(60.0)
        return super().write(name, content) if self.heal.is_set() else False


@pytest.mark.usefixtures("autojump_clock")
async def test_a_disk_that_hangs_delays_an_answer_and_nothing_else(tmp_path: Path) -> None:
    directory = SickDirectory(tmp_path, hangs=True)
    async with at_work(directory) as rig:
        answer = await rig.obey(DRAIN)
        assert trio.current_time() == module.PATIENCE
        assert (answer["warnings"], rig.standing()) == ([module.UNSAVED], Standing(True, 5))
        await trio.sleep(100)
        assert rig.standing() == Standing(False, 5), "its end does not wait for the disk either"
        assert directory.tries <= 1, "nobody writes beside one who writes"
        directory.heal.set()
    directory.close()


async def test_a_write_that_failed_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    directory = SickDirectory(tmp_path)
    async with at_work(directory) as rig:
        with trio.fail_after(10):  # it does not take its whole patience
            assert (await rig.obey(DRAIN))["warnings"] == [module.UNSAVED]
            directory.heal.set()
            while directory.read(module.FILE) is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
    directory.close()


async def test_after_an_upgrade_the_successor_writes(tmp_path: Path) -> None:
    directory = SickDirectory(tmp_path)
    directory.heal.set()
    async with at_work(directory) as rig:
        await rig.obey(DRAIN)
        rig.control.retire()
        rig.control.overlays.drop(rig.control.overlays)
        rig.control._change()
        await trio.testing.wait_all_tasks_blocked()
        assert directory.tries == 1
    assert b"app:80" in (directory.read(module.FILE) or b"")
    directory.close()


@pytest.mark.usefixtures("autojump_clock")
async def test_an_overlay_without_its_endpoint_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    async with at_work(StateDirectory(None)) as rig:
        await rig.obey(DRAIN)
        without = {"web": [named(B)]}
        rig.control.look_at(without)
        assert "drain of web/app:80 until 2026-11-28 18:01:00 UTC (by root: disk): no such endpoint is there now" in caplog.text
        (shown,) = rig.control.snapshot(without)["overlays"]
        assert (shown["endpoint"], shown["dormant"], shown["reason"]) == ("app:80", True, "disk")
        assert not rig.control.snapshot(NAMED)["overlays"][0]["dormant"]
        assert [each["kind"] for each in rig.control.of("web", named(A))] == ["drain"]
        assert rig.control.of("web", named(B)) == []


@pytest.mark.usefixtures("autojump_clock")
async def test_who_has_drained_it_is_a_sentence() -> None:
    async with at_work(StateDirectory(None)) as rig:
        assert rig.control.why_drained("web", named(A)) == ""
        await rig.obey(DRAIN)
        sentence = "drained by root since 2026-11-28 18:00:00 UTC until 2026-11-28 18:01:00 UTC: disk"
        assert rig.control.why_drained("web", named(A)) == sentence
        assert rig.control.why_drained("web", named(B)) == ""
        await rig.obey(DRAIN._replace(seconds=0.0, reason=""))
        assert rig.control.why_drained("web", named(A)) == "drained by root since 2026-11-28 18:00:00 UTC"


@pytest.mark.usefixtures("autojump_clock")
async def test_numbers() -> None:
    async with at_work(StateDirectory(None)) as rig:
        await rig.obey(DRAIN)
        found = {(name, labels.get("endpoint", "")): value for name, labels, value in rig.control.metrics(NAMED)}
    assert found == {("lbd_overlays", ""): 1.0, ("lbd_endpoint_drained", A.address): 1.0, ("lbd_endpoint_drained", B.address): 0.0}


def test_an_endpoint_without_a_name_is_called_by_its_address() -> None:
    assert named(ResolvedEndpoint("", "10.0.0.1:80", 3)) == Named("10.0.0.1:80", "10.0.0.1:80", 3)
