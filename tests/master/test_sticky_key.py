"""The key of sticky cookies: where it comes from, and what it survives."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from lbd.cluster.cluster import ClusterPolicy
from lbd.cluster.sticky import StickyPolicy
from lbd.master.state_directory import StateDirectory
from lbd.master.sticky_key import StickyKey, with_secret

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

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
