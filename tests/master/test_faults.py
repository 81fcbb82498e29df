"""Faults of the machine, all at once and with their places."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lbd.config.schema import load_config
from lbd.errors import EnvironmentFault
from lbd.master.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from lbd.config.positions import KeyPath

TEXT = """\
include = ["more.toml"]
[lbd]
user = "lbd"
[listener.web]
bind = [
    "127.0.0.1:8080",
    "127.0.0.1:8081",
]
cluster = "web"
"""
MORE = """\
[listener."a.b"]
bind = "127.0.0.1:8082"
cluster = "web"
[cluster.web]
endpoints = ["127.0.0.1:9000"]
"""


def fail(*sentences: str) -> None:
    faults = Faults()
    for sentence in sentences:
        with faults.gather():
            raise EnvironmentFault(sentence)
    faults.raise_all()


@pytest.mark.parametrize("sentences", [["one"], ["one", "two"], ["one", "two", "three"]])
def test_all_that_were_gathered_are_raised(sentences: Sequence[str]) -> None:
    outer = Faults()
    with outer.gather():
        fail(*sentences)
    assert [str(fault) for fault in outer.found] == sentences
    with pytest.raises(EnvironmentFault) as caught:
        outer.raise_all()
    assert str(caught.value) == "\n".join(sentences)
    assert [str(fault) for fault in caught.value.each()] == sentences


def test_without_a_fault_nothing_is_raised() -> None:
    faults = Faults()
    with faults.gather():
        pass
    faults.raise_all()


def test_what_is_no_fault_of_the_machine_is_not_gathered() -> None:
    faults = Faults()
    with pytest.raises(KeyError), faults.gather():
        raise KeyError
    assert not faults.found


@pytest.mark.parametrize(
    ("path", "place"),
    [
        (("lbd", "user"), "lb.toml:3: lbd.user: "),
        (("lbd", "group"), "lb.toml:2: lbd.group: "),  # not there: its table
        (("log", "file"), "lb.toml: log.file: "),  # nor its table
        (("listener", "web", "bind", 1), "lb.toml:7: listener.web.bind[2]: "),
        (("listener", "a.b", "bind"), 'more.toml:2: listener."a.b".bind: '),
        ((), ""),
    ],
)
def test_a_fault_is_told_with_its_place(path: KeyPath, place: str, tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(TEXT)
    (tmp_path / "more.toml").write_text(MORE)
    config = load_config(tmp_path / "lb.toml", {})
    [sentence] = config.describe(EnvironmentFault("the machine says no", path))
    assert sentence.replace(f"{tmp_path}/", "") == f"{place}the machine says no"


def test_places_of_endpoints_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "lb.toml").write_text(TEXT)
    (tmp_path / "more.toml").write_text(MORE)
    kept = load_config(tmp_path / "lb.toml", {}).places
    assert {path[0] for path in kept} == {"lbd", "listener"}
    assert ("listener", "web", "bind", 1) in kept
    assert ("listener", "web", "cluster") not in kept
