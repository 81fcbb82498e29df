"""The key of sticky cookies: where it comes from, and what it survives."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import trio

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.master import sticky_key as module
from lbd.master.state_directory import StateDirectory
from lbd.master.sticky_key import StickyKey, with_secret
from tests.support.patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest


class FullDirectory(StateDirectory):
    """On a disk without room."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.is_full = True
        self.tries = 0

    def write(self, name: str, content: bytes) -> bool:
        self.tries += 1
        return not self.is_full and super().write(name, content)


PLAIN = ClusterPolicy("plain", ())
OWN = ClusterPolicy("own", (), sticky=StickyPolicy(secret="o" * 16))
NEEDY = ClusterPolicy("needy", (), sticky=StickyPolicy())


def test_it_is_made_when_it_is_needed_and_kept(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    key = StickyKey(directory)
    assert key.given_to([PLAIN, OWN]) == ""
    assert not (tmp_path / "sticky.key").exists()
    text = key.given_to([PLAIN, NEEDY])
    assert re.fullmatch(r"[0-9a-f]{64}", text)
    assert key.given_to([PLAIN]) == text
    assert (tmp_path / "sticky.key").stat().st_mode & 0o777 == 0o600
    directory.close()
    again = StateDirectory(tmp_path)
    assert StickyKey(again).given_to([NEEDY]) == text
    again.close()


def test_without_a_state_directory_it_lasts_as_long_as_the_master(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "lbd.master"):
        key = StickyKey(StateDirectory(None))
        text = key.given_to([NEEDY])
        assert key.given_to([NEEDY]) == text
        assert StickyKey(StateDirectory(None)).given_to([NEEDY]) != text
    assert [record.message for record in caplog.records] == 2 * [
        "sticky sessions will not survive a restart: give their cluster a `secret`, or lbd a state_directory"
    ]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - a thread brings it about
        await trio.sleep(0.01)


async def test_a_key_that_cannot_be_written_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RETRY", 0.01)
    directory = FullDirectory(tmp_path)
    key = StickyKey(directory)
    text = key.given_to([NEEDY])
    assert key.given_to([NEEDY]) == text, "it is the key all the same"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(key.run)
        with trio.fail_after(PATIENCE):
            await until(lambda: directory.tries >= 3)
            directory.is_full = False
            await until((tmp_path / "sticky.key").exists)
            tries = directory.tries
            await trio.sleep(0.1)
        assert directory.tries == tries, "once is enough"
        nursery.cancel_scope.cancel()
    assert (tmp_path / "sticky.key").read_text() == text + "\n"
    assert not caplog.records, "the state directory has said what there is to say"
    directory.close()


async def test_who_has_a_successor_writes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.001)
    directory = FullDirectory(tmp_path)
    key = StickyKey(directory)
    key.given_to([NEEDY])
    key.retire()
    with trio.move_on_after(0.1):
        await key.run()
    assert directory.tries == 1
    directory.close()


def test_what_is_on_the_disk_comes_before_what_was_handed_on(tmp_path: Path) -> None:
    directory = StateDirectory(tmp_path)
    heir = StickyKey(directory)
    heir.inherit("a" * 64)
    assert (heir.heritage(), heir.given_to([NEEDY])) == ("a" * 64, "a" * 64)
    assert (tmp_path / "sticky.key").read_text() == "a" * 64 + "\n", "it is kept, now that it can be"
    other = StickyKey(directory)
    other.inherit("b" * 64)
    assert (other.given_to([NEEDY]), other.heritage()) == ("a" * 64, "a" * 64)
    directory.close()


def test_a_file_that_is_no_key_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "sticky.key").write_bytes(b"\0" * 100)
    directory = StateDirectory(tmp_path)
    text = StickyKey(directory).given_to([NEEDY])
    assert (tmp_path / "sticky.key").read_text() == text + "\n"
    assert (tmp_path / "sticky.key.bad").read_bytes() == b"\0" * 100
    directory.close()


def test_who_has_a_secret_keeps_it() -> None:
    plain, own, needy = with_secret([PLAIN, OWN, NEEDY], "k" * 64)
    assert plain is PLAIN
    assert own is OWN
    assert needy.sticky == StickyPolicy(secret="k" * 64)
